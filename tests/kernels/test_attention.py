"""Attention of padded rows and packed streams, with and without dropout.

Run: pytest tests/kernels/test_attention.py
"""

import pytest
import torch
import torch.nn.functional as F

from w2v.kernels.attention import attention
from w2v.packing import Packing


def inputs(rows: int, frames: int):
    torch.manual_seed(0)
    return [torch.randn(rows, frames, 2, 8, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("masked", [False, True])
def test_own_cpu_path_is_attention(masked):
    """A probability too small to drop anything still takes the path that dropout takes."""
    q, k, v = inputs(3, 7)
    key_mask = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None])[:, None, None, :] if masked else None
    out = attention(q, k, v, key_mask, dropout=1e-9)
    wanted = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=key_mask)
    wanted = wanted.transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    noise = torch.randn_like(out)
    for ours, theirs in zip(*(torch.autograd.grad(x, (q, k, v), noise) for x in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_dropout_drops_weights_and_keeps_the_mean():
    q, k, v = inputs(1, 5)
    torch.manual_seed(1)
    draws = torch.stack([attention(q, k, v, None, dropout=0.2).detach() for _ in range(4000)])
    assert draws.std(dim=0).min() > 0.01
    torch.testing.assert_close(draws.mean(dim=0), attention(q, k, v, None, 0.0).detach(), atol=0.05, rtol=0)


def test_packed_clips_see_themselves_alone():
    q, k, v = inputs(1, 9)
    packing = Packing.of([0, 4, 5], [4, 1, 4])
    out = attention(q, k, v, packing, 0.0)
    for start, end in ((0, 4), (4, 5), (5, 9)):
        alone = attention(*(x[:, start:end] for x in (q, k, v)), None, 0.0)
        torch.testing.assert_close(out[:, start:end], alone, atol=1e-6, rtol=1e-6)
