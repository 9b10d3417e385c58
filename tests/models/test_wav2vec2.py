"""Invariants of the model itself, without a peer.

Run: pytest tests/models/test_wav2vec2.py
"""

import dataclasses

import numpy as np
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


def test_configs_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        w2v.XLSR_53.hidden_dropout = 0.5


def test_the_body_takes_what_the_recogniser_takes(small_config):
    """A Batch, packed or padded, or waveforms and lengths: the same hidden states for the real frames."""
    torch.manual_seed(0)
    model = w2v.Wav2Vec2Model(small_config).eval()
    clips = [np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate((20_000, 9_000))]
    packed, padded = small_config.collate(clips), small_config.collate(clips, pad=True)
    with torch.no_grad():
        hidden, lengths = model(packed)
        assert hidden.shape == (2, small_config.frames(20_000), small_config.hidden_size)
        assert lengths.tolist() == [small_config.frames(20_000), small_config.frames(9_000)]
        for other in (model(padded), model(padded.inputs, torch.tensor(padded.samples))):
            assert torch.equal(other.frame_lengths, lengths)
            torch.testing.assert_close(other.last_hidden_state, hidden, atol=1e-5, rtol=1e-5)


def test_losses_count_what_the_log_needs(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    batch = small_config.collate([np.ones(20_000, np.float32), np.ones(9_000, np.float32)], [[1, 2, 2], [3]])
    values, counts = model.losses(batch)
    assert values.shape == (len(batch.weights),) == (2,)
    assert counts["frames"] == small_config.frames(20_000) + small_config.frames(9_000)
    assert counts["labels"] == 4
    torch.testing.assert_close(values.mean(), w2v.ctc_loss(model(batch), batch.labels, batch.label_lengths))


def test_ctc_loss_honours_the_configs_zero_infinity(small_config):
    torch.manual_seed(0)
    waveform = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    for zero, wanted in ((False, torch.inf), (True, 0.0)):
        model = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, ctc_zero_infinity=zero))
        batch = small_config.collate([waveform], [[1] * 50])  # more labels than frames
        assert w2v.ctc_loss(model(batch), batch.labels, batch.label_lengths) == wanted
        assert model.losses(batch).values == wanted


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_posteriors_of_a_batch_are_those_of_each_clip_alone(small_config, norm):
    """Group-norm models too: their first norm runs over time, so inference takes the clips one by one."""
    stable = norm == "layer"
    config = dataclasses.replace(small_config, feat_extract_norm=norm, do_stable_layer_norm=stable)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    clips = [np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate((20_000, 9_000))]
    with torch.no_grad():
        log_probs, lengths, seconds = model.emissions(config.collate(clips))
        assert seconds == 0.04
        for row, clip in enumerate(clips):
            alone = model(config.collate([clip])).logits.log_softmax(-1)[0]
            torch.testing.assert_close(log_probs[row, : lengths[row]], alone, atol=1e-5, rtol=1e-5)
