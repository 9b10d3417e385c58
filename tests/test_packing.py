"""Clips packed end to end = padded = alone: logits, losses, gradients, masks.

Run: pytest tests/test_packing.py
"""

import dataclasses

import numpy as np
import pytest
import torch

import w2v
from w2v.errors import InputError
from w2v.packing import Packing, pack_samples

# One frame, whole hops, just below and above a frame's end: every way a clip can meet its successor.
XLSR_LENGTHS = [400, 16_000, 719, 720, 9 * 320 + 79, 9 * 320 + 80, 24_080]


def clips(lengths: list[int]):
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    labels = [rng.integers(0, 30, max(1, n // 4000)).tolist() for n in lengths]
    return waveforms, labels


def configs() -> dict[str, w2v.Wav2Vec2Config]:
    """All random parts off; TINY's frames are of 640 samples, XLSR-53's of 320, and MMS has adapters."""
    off = dict.fromkeys(
        (
            "hidden_dropout",
            "attention_dropout",
            "activation_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
        ),
        0.0,
    )
    small = {"num_hidden_layers": 2, "vocab_size": 32, "pad_token_id": 31, "apply_spec_augment": False, **off}
    tiny = dataclasses.replace(w2v.TINY, **small)
    narrow = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "conv_dim": (64,) * 7}
    xlsr = dataclasses.replace(w2v.XLSR_53, **small, **narrow)
    return {"tiny": tiny, "xlsr": xlsr, "adapters": dataclasses.replace(xlsr, adapter_attn_dim=8)}


def masks(config: w2v.Wav2Vec2Config, model: w2v.Wav2Vec2ForCTC, lengths: list[int]) -> dict[str, torch.Tensor]:
    frames = model.wav2vec2.frame_lengths(torch.tensor(lengths))
    real = torch.arange(int(frames.max())) < frames[:, None]
    generator = torch.Generator().manual_seed(1)
    return {
        "time_mask": (torch.rand(real.shape, generator=generator) < 0.2) & real,
        "feature_mask": torch.rand(len(lengths), config.hidden_size, generator=generator) < 0.1,
    }


def gradients(model: w2v.Wav2Vec2ForCTC, losses: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    losses.sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def losses_of(model, batch: w2v.Batch, **masks) -> torch.Tensor:
    out = model(batch, **masks)
    return w2v.ctc_losses(out.logits, out.logit_lengths, batch.labels, batch.label_lengths, out.blank_id)


@pytest.mark.parametrize("name", configs())
def test_packed_equals_padded_equals_alone(name):
    config = configs()[name]
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(config).train()
    lengths = [n * config.hop // 320 if name == "tiny" else n for n in XLSR_LENGTHS]
    lengths = [max(n, config.receptive_field) for n in lengths]
    waveforms, labels = clips(lengths)
    given = masks(config, model, lengths)
    padded, packed = w2v.collate(waveforms, labels), w2v.collate(waveforms, labels, pack_for=config)
    assert packed.waveforms.shape[1] < padded.waveforms.numel()

    out, wanted = model(packed, **given), model(padded, **given)
    assert out.logits.shape == wanted.logits.shape
    assert torch.equal(out.logit_lengths, wanted.logit_lengths)
    for row, frames in enumerate(out.logit_lengths):
        one = {
            "time_mask": given["time_mask"][row : row + 1, :frames],
            "feature_mask": given["feature_mask"][row][None],
        }
        alone = model(w2v.collate(waveforms[row : row + 1]), **one).logits[0]
        assert alone.shape[0] == frames
        for other in (wanted.logits[row, :frames], alone):
            torch.testing.assert_close(out.logits[row, :frames], other, atol=1e-5, rtol=1e-5)

    losses, wanted = losses_of(model, packed, **given), losses_of(model, padded, **given)
    torch.testing.assert_close(losses, wanted, atol=1e-5, rtol=1e-5)
    alignable = torch.isfinite(wanted)
    assert alignable.sum() >= 5
    ours, theirs = gradients(model, losses[alignable]), gradients(model, losses_of(model, padded, **given)[alignable])
    assert set(ours) == set(theirs)
    for parameter, gradient in theirs.items():
        if not parameter.endswith("k_proj.bias"):  # exactly zero but for rounding
            assert (ours[parameter] - gradient).norm() <= 1e-4 * gradient.norm(), parameter


def test_masks_drawn_do_not_depend_on_packing(small_config):
    small_config.apply_spec_augment, small_config.mask_time_prob, small_config.mask_feature_prob = True, 0.3, 0.2
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    waveforms, labels = clips([30_000, 20_000, 9_000])
    results = []
    for pack_for in (None, small_config):
        torch.manual_seed(5)
        results.append(losses_of(model, w2v.collate(waveforms, labels, pack_for=pack_for)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    torch.manual_seed(6)
    assert not torch.allclose(losses_of(model, w2v.collate(waveforms, labels, pack_for=small_config)), results[0])


def test_places_in_the_stream():
    starts, packing = pack_samples([720, 400, 1041], hop=320, receptive_field=400)
    assert starts == [0, 960, 1600]
    assert packing.lengths == [2, 1, 3]
    assert packing.frames.tolist() == [0, 1, 3, 5, 6, 7]
    assert packing.offsets.tolist() == [0, 2, 3, 6]
    assert packing.slots.tolist() == [0, 1, 3, 6, 7, 8]
    stream = torch.arange(1.0, 7.0)[None, :, None]
    padded = packing.unpack(stream)
    assert padded[..., 0].tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert torch.equal(packing.pack(padded), stream)
    assert isinstance(packing.to("cpu"), Packing)


def test_refusals(small_config):
    with pytest.raises(InputError, match="at least"):
        w2v.collate([np.ones(300, np.float32)], pack_for=small_config)
    with pytest.raises(InputError, match="packing needs"):
        w2v.collate([np.ones(3000, np.float32)], pack_for=w2v.BASE)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_packed_equals_padded_on_a_gpu(precision):
    """fp32 goes clip by clip, bf16 through FlashAttention."""
    config = configs()["xlsr"]
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(config).cuda().train()
    waveforms, labels = clips(XLSR_LENGTHS)
    close = {"atol": 1e-4, "rtol": 1e-4} if precision == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    results = []
    for pack_for in (None, config):
        batch = w2v.collate(waveforms, labels, pack_for=pack_for).to("cuda")
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            out = model(batch)
        real = torch.arange(out.logits.shape[1], device="cuda") < out.logit_lengths[:, None]
        results.append((out.logits[real], gradients(model, out.logits[real].square())))
    (packed, packed_gradients), (padded, padded_gradients) = results
    torch.testing.assert_close(packed, padded, **close)
    for name, gradient in padded_gradients.items():
        if not name.endswith("k_proj.bias"):
            assert (packed_gradients[name] - gradient).norm() <= 2 * close["rtol"] * gradient.norm(), name
