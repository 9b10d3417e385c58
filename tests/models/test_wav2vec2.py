"""Invariants of the model itself, without a peer.

Run: pytest tests/models/test_wav2vec2.py
"""

import dataclasses

import pytest
import torch

import w2v
from w2v.errors import InputError


def test_frames_per_sample():
    assert w2v.XLSR_53.hop == 320
    assert w2v.XLSR_53.receptive_field == 400
    lengths = torch.tensor([400, 16_000, 320_000, 719, 720])
    assert w2v.XLSR_53.frames(lengths).tolist() == [1, 49, 999, 1, 2]


@pytest.mark.parametrize("train", [False, True])
def test_a_rows_output_does_not_depend_on_its_batch(small_config, train):
    """Layer-norm models, dropout off: padded with anything, or alone, the same logits and the same gradient."""
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small_config).train(train)
    lengths = torch.tensor([30_000, 17_001, 4_000])
    waveforms = torch.randn(3, 30_000)
    noise = waveforms.clone()
    noise[torch.arange(30_000) >= lengths[:, None]] = 1e4  # what lies behind a clip must not matter
    out, loud = model(waveforms, lengths), model(noise, lengths)
    for row, n in enumerate(lengths):
        alone = model(waveforms[row : row + 1, :n]).logits[0]
        frames = out.logit_lengths[row]
        assert alone.shape[0] == frames
        for other in (out, loud):
            torch.testing.assert_close(other.logits[row, :frames], alone, atol=1e-5, rtol=1e-5)


def test_group_norm_output_depends_on_padding_by_construction():
    config = dataclasses.replace(w2v.BASE, num_hidden_layers=1)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    waveforms = torch.randn(1, 8000)
    padded = torch.nn.functional.pad(waveforms, (0, 8000))
    with torch.no_grad():
        alone, beside = model(waveforms).logits, model(padded, torch.tensor([8000])).logits[:, :24]
    assert (alone - beside).abs().max() > 1e-3


def test_training_draws_masks_and_layerdrop_evaluation_does_not(small_config):
    config = dataclasses.replace(small_config, apply_spec_augment=True, mask_time_prob=0.3, layerdrop=0.0)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(config)
    waveforms = torch.randn(1, 32_000)
    model.eval()
    assert torch.equal(model(waveforms).logits, model(waveforms).logits)
    model.train()
    assert not torch.equal(model(waveforms).logits, model(waveforms).logits)
    dropped = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, layerdrop=1.0)).train()
    hidden = []
    dropped.wav2vec2.encoder.layers[0].register_forward_hook(lambda *_: hidden.append(1))
    dropped(waveforms)
    assert not hidden, "a dropped layer does no work"


def test_logits_are_float32_under_autocast(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = model(torch.randn(1, 16_000))
    assert out.logits.dtype == torch.float32


def test_freezing_the_encoder_stops_its_gradients(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    model.parts.frozen[0].requires_grad_(False)
    model(torch.randn(1, 16_000)).logits.sum().backward()
    assert all(p.grad is None for p in model.wav2vec2.feature_extractor.parameters())
    assert model.wav2vec2.feature_projection.projection.weight.grad is not None


def test_a_clip_without_a_frame_is_refused(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config)
    with pytest.raises(InputError, match="samples for one frame"):
        model(torch.randn(2, 16_000), torch.tensor([16_000, 100]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"conv_dim": (1, 2)},
        {"hidden_size": 130},
        {"num_conv_pos_embedding_groups": 7},
        {"feat_extract_norm": "batch"},
        {"layerdrop": 1.5},
    ],
)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(w2v.TINY, **wrong)
