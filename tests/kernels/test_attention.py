"""Attention of padded rows and packed streams, with and without dropout.

Run: pytest tests/kernels/test_attention.py
"""

import pytest
import torch
import torch.nn.functional as F

from w2v.kernels.attention import attention
from w2v.kernels.dropout import keep_mask
from w2v.layout import Packed, Padded


def split(stream: torch.Tensor):
    return stream.split(CLIPS["sizes"], dim=1)


def whole(frames: int) -> Padded:
    return Padded.of(torch.tensor([frames]), frames)


def inputs(rows: int, frames: int):
    torch.manual_seed(0)
    return [torch.randn(rows, frames, 2, 8, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("masked", [False, True])
def test_own_cpu_path_is_attention(masked):
    """A probability too small to drop anything still takes the path that dropout takes."""
    q, k, v = inputs(3, 7)
    layout = Padded.of(torch.tensor([7, 4, 1] if masked else [7, 7, 7]), 7)
    out = attention(q, k, v, layout, dropout=1e-9)
    key_mask = layout.real[:, None, None, :]
    wanted = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=key_mask)
    wanted = wanted.transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    noise = torch.randn_like(out)
    for ours, theirs in zip(*(torch.autograd.grad(x, (q, k, v), noise) for x in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_dropout_drops_weights_and_keeps_the_mean():
    q, k, v = inputs(1, 5)
    torch.manual_seed(1)
    draws = torch.stack([attention(q, k, v, whole(5), dropout=0.2).detach() for _ in range(4000)])
    assert draws.std(dim=0).min() > 0.01
    torch.testing.assert_close(draws.mean(dim=0), attention(q, k, v, whole(5), 0.0).detach(), atol=0.05, rtol=0)


CLIPS = {"starts": [0, 4, 5], "sizes": [4, 1, 4]}


def test_packed_clips_see_themselves_alone():
    q, k, v = inputs(1, 9)
    out = attention(q, k, v, Packed.of(**CLIPS), 0.0)
    for clip, result in zip(zip(*map(split, (q, k, v)), strict=True), split(out), strict=True):
        torch.testing.assert_close(result, attention(*clip, whole(clip[0].shape[1]), 0.0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dropout", [1e-9, 0.5])
def test_packed_dropout_on_a_cpu_and_its_gradients(dropout):
    """Against autograd through the definition, with the same weights dropped."""
    q, k, v = inputs(1, 9)
    torch.manual_seed(1)
    out = attention(q, k, v, Packed.of(**CLIPS), dropout)
    torch.manual_seed(1)
    keep = keep_mask(torch.Size([2 * sum(n * n for n in CLIPS["sizes"])]), dropout, torch.float32)
    assert (keep == 0).any() == (dropout == 0.5)
    wanted = []
    keeps = keep.split([2 * n * n for n in CLIPS["sizes"]])
    for clip, kept in zip(zip(*map(split, (q, k, v)), strict=True), keeps, strict=True):
        q_clip, k_clip, v_clip = (x[0].transpose(0, 1) for x in clip)  # (H, T, K)
        weights = (q_clip @ k_clip.mT / 8**0.5).softmax(-1)
        wanted.append((weights * kept.view(weights.shape)) @ v_clip)
    wanted = torch.cat(wanted, dim=1).transpose(0, 1)[None]
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    noise = torch.randn_like(out)
    for ours, theirs in zip(*(torch.autograd.grad(x, (q, k, v), noise) for x in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_packed_dropout_in_half_precision_keeps_dtypes():
    q, k, v = (x.detach().bfloat16().requires_grad_() for x in inputs(1, 9))
    out = attention(q, k, v, Packed.of(**CLIPS), 1e-9)
    gradients = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    assert out.dtype == torch.bfloat16 and all(x.dtype == torch.bfloat16 for x in gradients)
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    wanted = attention(*exact, Packed.of(**CLIPS), 1e-9)
    assert (out - wanted).norm() <= 0.02 * wanted.norm()
    for ours, theirs in zip(gradients, torch.autograd.grad(wanted.square().sum(), exact), strict=True):
        assert (ours - theirs).norm() <= 0.05 * theirs.norm()
