"""Clips packed end to end = padded = alone: logits, losses, gradients, masks.

Run: pytest tests/test_packing.py
"""

import dataclasses

import numpy as np
import pytest
import torch

import w2v
from w2v.errors import InputError
from w2v.layout import Packed, Padded, map_tensors

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
    frames = config.frames(torch.tensor(lengths))
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
    padded, packed = config.collate(waveforms, labels, pad=True), config.collate(waveforms, labels)
    assert packed.inputs.shape[1] < padded.inputs.numel()

    out, wanted = model(packed, **given), model(padded, **given)
    assert out.logits.shape == wanted.logits.shape
    assert torch.equal(out.logit_lengths, wanted.logit_lengths)
    for row, frames in enumerate(out.logit_lengths):
        one = {
            "time_mask": given["time_mask"][row : row + 1, :frames],
            "feature_mask": given["feature_mask"][row][None],
        }
        alone = model(config.collate(waveforms[row : row + 1], pad=True), **one).logits[0]
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
    masked = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_feature_prob": 0.2}
    small_config = dataclasses.replace(small_config, **masked)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    waveforms, labels = clips([30_000, 20_000, 9_000])
    results = []
    for pad in (True, False):
        torch.manual_seed(5)
        results.append(losses_of(model, small_config.collate(waveforms, labels, pad=pad)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    torch.manual_seed(6)
    assert not torch.allclose(losses_of(model, small_config.collate(waveforms, labels)), results[0])


def test_places_in_the_stream():
    layout = w2v.XLSR_53.collate([np.ones(n, np.float32) for n in (720, 400, 1041)]).layout
    assert layout.sizes == [2, 1, 3]
    assert layout.lengths.tolist() == [2, 1, 3]
    assert layout.frames.tolist() == [0, 1, 3, 5, 6, 7]
    assert layout.offsets.tolist() == [0, 2, 3, 6]
    assert layout.slots.tolist() == [0, 1, 3, 6, 7, 8]
    stream = torch.arange(1.0, 7.0)[None, :, None]
    rows = layout.rows(stream)
    assert rows[..., 0].tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert torch.equal(layout.stream(rows), stream)
    moved = map_tensors(layout, lambda tensor: tensor.to("meta"))
    assert isinstance(moved, Packed)
    assert moved.frames.is_meta and moved.slots.is_meta and moved.offsets.is_meta
    assert moved.sizes == layout.sizes


def test_padded_rows_end_in_zeros():
    layout = Padded.of(torch.tensor([2, 3]), 3)
    rows = layout.rows(torch.ones(2, 3, 4))
    assert rows.sum(dim=2).tolist() == [[4, 4, 0], [4, 4, 4]]
    assert layout.rows(torch.ones(2, 3)).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert layout.stream(rows) is rows
    assert layout.select(rows) is rows


def test_clips_are_packed_where_the_model_allows_it():
    waveforms = [np.ones(3000, np.float32), np.ones(2000, np.float32)]
    assert isinstance(w2v.XLSR_53.collate(waveforms).layout, Packed)
    assert isinstance(w2v.XLSR_53.collate(waveforms, pad=True).layout, Padded)
    assert isinstance(w2v.BASE.collate(waveforms).layout, Padded)
    for config in (w2v.XLSR_53, w2v.BASE):
        with pytest.raises(InputError, match="at least"):
            config.collate([np.ones(300, np.float32)])


@pytest.mark.cuda
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_packed_equals_padded_on_a_gpu(precision):
    """fp32 attends on padded rows, bf16 through FlashAttention."""
    config = configs()["xlsr"]
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(config).cuda().train()
    waveforms, labels = clips(XLSR_LENGTHS)
    close = {"atol": 1e-4, "rtol": 1e-4} if precision == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    results = []
    for pad in (True, False):
        batch = config.collate(waveforms, labels, pad=pad).to("cuda")
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            out = model(batch)
        real = torch.arange(out.logits.shape[1], device="cuda") < out.logit_lengths[:, None]
        results.append((out.logits[real], gradients(model, out.logits[real].square())))
    (padded, padded_gradients), (packed, packed_gradients) = results
    torch.testing.assert_close(packed, padded, **close)
    for name, gradient in padded_gradients.items():
        if not name.endswith("k_proj.bias"):
            assert (packed_gradients[name] - gradient).norm() <= 2 * close["rtol"] * gradient.norm(), name
