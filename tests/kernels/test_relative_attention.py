"""Attention with relative keys against its formula, pair by pair.

Run: pytest tests/kernels/test_relative_attention.py
"""

import pytest
import torch

from w2v.kernels import relative_attention as module
from w2v.kernels.relative_attention import relative_attention
from w2v.layout import Packed, Padded

SIZES = [9, 1, 4]
LEFT, RIGHT = 3, 1


def inputs(frames: int = sum(SIZES)):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, frames, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    return q, k, v, torch.randn(LEFT + RIGHT + 1, 8, dtype=torch.float64, requires_grad=True)


def by_the_formula(q, k, v, table):
    """One clip (1, T, H, K), each pair of frames with its own key: q . (k + e) / sqrt(K)."""
    out = torch.zeros_like(v)
    for head in range(q.shape[2]):
        for i in range(q.shape[1]):
            scores = torch.stack(
                [
                    q[0, i, head] @ (k[0, j, head] + table[min(max(j - i, -LEFT), RIGHT) + LEFT])
                    for j in range(q.shape[1])
                ]
            )
            weights = (scores / q.shape[3] ** 0.5).softmax(0)
            out[0, i, head] = weights @ v[0, :, head]
    return out


def packed() -> Packed:
    return Packed.of([0, 9, 10], SIZES)


def all_clips(q, k, v, table):
    return torch.cat(
        [by_the_formula(*clip, table) for clip in zip(*(x.split(SIZES, 1) for x in (q, k, v)), strict=True)], 1
    )


@pytest.mark.parametrize("dropout", [0.0, 1e-9], ids=["without dropout", "with the path of dropout"])
@pytest.mark.parametrize("kind", ["packed", "padded", "on a GPU"])
def test_it_is_the_formula_forward_and_backward(kind, dropout, monkeypatch):
    q, k, v, table = inputs()
    layout = packed()
    if kind == "on a GPU":  # rows of 16 frames, though the longest clip has 9
        monkeypatch.setattr(module, "on_gpu", lambda x: True)
        rows = []
        monkeypatch.setattr(Packed, "rows", lambda self, x, way=Packed.rows: rows.append(way(self, x)) or rows[-1])
        out = relative_attention(q, k, v, table, LEFT, layout, dropout)
        assert {x.shape for x in rows} == {(3, 16, 2, 8)}
    elif kind == "packed":
        out = relative_attention(q, k, v, table, LEFT, layout, dropout)
    else:
        rows = Padded.of(layout.lengths, layout.longest)
        out = layout.stream(relative_attention(*(layout.rows(x) for x in (q, k, v)), table, LEFT, rows, dropout))
    wanted = all_clips(q, k, v, table)
    torch.testing.assert_close(out, wanted)
    noise = torch.randn_like(out)
    for ours, theirs in zip(*(torch.autograd.grad(x, (q, k, v, table), noise) for x in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-6)


def test_a_clip_longer_than_all_distances_and_one_shorter():
    for frames in (2, 40):
        q, k, v, table = inputs(frames)
        out = relative_attention(q, k, v, table, LEFT, Packed.of([0], [frames]), 0.0)
        torch.testing.assert_close(out, by_the_formula(q, k, v, table))


@pytest.mark.slow
def test_dropout_drops_weights_and_keeps_the_mean():
    q, k, v, table = (x.detach().float() for x in inputs())
    draws = torch.stack([relative_attention(q, k, v, table, LEFT, packed(), 0.2) for _ in range(3000)])
    assert draws[:, :, 0].std(dim=0).min() > 0.01
    wanted = relative_attention(q, k, v, table, LEFT, packed(), 0.0)
    torch.testing.assert_close(draws.mean(dim=0), wanted, atol=0.06, rtol=0)


def test_queries_of_half_precision_meet_a_table_of_single():
    q, k, v, table = (x.detach() for x in inputs())
    out = relative_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), table.float(), LEFT, packed(), 0.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), all_clips(q, k, v, table), atol=0.05, rtol=0.05)
