"""Attention within each clip that also looks at how far keys are from a query (Shaw et al. 2018, relative keys).

The score of a query and a key is q . (k + e) / sqrt(K), with e a row of a table by their distance. All q . e are one
small product with the table, and each score picks its own from it; a table row for each pair, as the formula reads,
would be 576 MB a layer for 30 s of speech.

Shapes: R rows of N frames as the layout has them, H heads, K width of a head, P distances, B clips, T frames.
"""

from dataclasses import replace

import torch
from torch import Tensor

from w2v.kernels.attention import dense_attention
from w2v.kernels.device import on_gpu
from w2v.layout import Layout, Packed, Padded

ROW = 16  # frames; attention's kernels want aligned rows, and torch.compile a graph for each way they are not


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, left: int, layout: Layout, dropout: float
) -> Tensor:
    """q, k, v (R, N, H, K) -> (R, N, H, K).

    table (P, K): one row for each distance from `left` frames back to P - 1 - left ahead, as (key - query); keys that
    are further away count as those.
    """
    if isinstance(layout, Padded):
        bias = _by_distance(q, table, left).masked_fill(~layout.real[:, None, None, :], -torch.inf)
        return dense_attention(q, k, v, bias, dropout)
    if on_gpu(q):  # one launch on padded rows beats many small ones
        layout = _aligned(layout)
        rows = Padded.of(layout.lengths, layout.longest)
        q, k, v = (layout.rows(x) for x in (q, k, v))
        return layout.stream(relative_attention(q, k, v, table, left, rows, dropout))
    clips = zip(*(x.split(layout.sizes, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([dense_attention(q, k, v, _by_distance(q, table, left), dropout) for q, k, v in clips], dim=1)


def _aligned(layout: Packed) -> Packed:
    """The same clips in rows of a multiple of ROW frames: one graph, whatever the longest clip of a batch is."""
    longest = (layout.longest + ROW - 1) // ROW * ROW
    slots = layout.slots + layout.slots // layout.longest * (longest - layout.longest)
    return replace(layout, longest=longest, slots=slots)


def _by_distance(q: Tensor, table: Tensor, left: int) -> Tensor:
    """What distances add to the scores: q (B, T, H, K), table (P, K) -> (B, H, T, T)."""
    scores = (q.transpose(1, 2) * q.shape[3] ** -0.5) @ table.to(q.dtype).T  # (B, H, T, P)
    place = torch.arange(q.shape[1], device=q.device)
    distance = (place - place[:, None]).clamp(-left, len(table) - 1 - left) + left  # (T, T)
    return scores.gather(3, distance.expand(*scores.shape[:2], -1, -1))
