"""Attention within each clip, over padded rows or over a packed stream.

Shapes: R rows of N frames as the layout has them, H heads, K width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2v.kernels.device import on_gpu
from w2v.kernels.dropout import keep_mask
from w2v.kernels.torch_private import flash_attention, softmax_backward
from w2v.layout import Layout, Padded


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Softmax attention of each clip to itself, q, k, v (R, N, H, K) -> (R, N, H, K)."""
    if isinstance(layout, Padded):
        return dense_attention(q, k, v, layout.real[:, None, None, :], dropout)
    if has_flash(q):
        # squeeze(0) is a view; [0] would cost three copies in the backward pass.
        q, k, v = (x.squeeze(0) for x in (q, k, v))
        return flash_attention(q, k, v, layout.offsets, layout.longest, dropout)[None]
    if on_gpu(q):  # fp32, or a GPU from before FlashAttention: one launch on padded rows beats many small ones
        rows = Padded.of(layout.lengths, layout.longest)
        q, k, v = (layout.rows(x) for x in (q, k, v))
        return layout.stream(attention(q, k, v, rows, dropout))
    if dropout:
        return _ClipByClip.apply(q, k, v, layout.sizes, dropout)
    clips = zip(*(x.split(layout.sizes, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([dense_attention(q, k, v, None, 0.0) for q, k, v in clips], dim=1)


def has_flash(q: Tensor) -> bool:
    """Whether FlashAttention's variable-length kernels take such queries."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return q.is_cuda and half and q.shape[-1] % 8 == 0 and _is_ampere_or_later(q.device)


@torch.compiler.assume_constant_result
def _is_ampere_or_later(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention of each row to itself, q, k, v (B, T, H, K) -> the same.

    mask: boolean, True = a key that counts, or numbers that are added to the scores; broadcast to (B, H, T, T).
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    if dropout and not on_gpu(q):
        # torch's own CPU kernel has no dropout: it would take these steps too, with slower random numbers.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B, H, T, T)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(dim=-1)
        out = (weights * keep_mask(weights.shape, dropout, weights.dtype)) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2)


class _ClipByClip(torch.autograd.Function):
    """What `dense_attention` does to each clip of a stream with dropout on a CPU, q, k, v (1, F, H, K) -> (1, F, H, K).

    For short clips autograd's overhead exceeds the products, so all clips are one autograd function.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: list[int], dropout: float) -> Tensor:
        ctx.lengths, ctx.scale = lengths, q.shape[3] ** -0.5
        q, k, v = (_heads_first(x) for x in (q, k, v))
        sizes = [len(q) * frames**2 for frames in lengths]
        keeps = keep_mask(torch.Size([sum(sizes)]), dropout, torch.float32).split(sizes)
        keeps = [keep.view(len(q), frames, frames) for keep, frames in zip(keeps, lengths, strict=True)]
        weights, out = [], []
        for q_clip, k_clip, v_clip, keep in zip(*(x.split(lengths, dim=1) for x in (q, k, v)), keeps, strict=True):
            weights.append(_product(q_clip, k_clip.mT, ctx.scale).softmax(dim=-1, dtype=torch.float32))  # (H, T, T)
            out.append((weights[-1] * keep).to(v.dtype) @ v_clip)
        ctx.save_for_backward(q, k, v, *weights, *keeps)
        return torch.cat(out, dim=1).transpose(0, 1)[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v, *saved), lengths = ctx.saved_tensors, ctx.lengths
        weights, keeps = saved[: len(lengths)], saved[len(lengths) :]
        clips = zip(*(x.split(lengths, dim=1) for x in (q, k, v, _heads_first(gradient))), weights, keeps, strict=True)
        of_q, of_k, of_v = [], [], []
        for q_clip, k_clip, v_clip, upstream, weight, keep in clips:
            of_v.append((weight * keep).to(v.dtype).mT @ upstream)
            of_weight = (upstream @ v_clip.mT) * keep
            of_scores = softmax_backward(of_weight, weight).to(q.dtype)
            of_q.append(_product(of_scores, k_clip, ctx.scale))
            of_k.append(_product(of_scores.mT, q_clip, ctx.scale))
        return *(torch.cat(x, dim=1).transpose(0, 1)[None] for x in (of_q, of_k, of_v)), None, None


def _heads_first(x: Tensor) -> Tensor:
    """(1, F, H, K) -> (H, F, K)."""
    return x[0].transpose(0, 1).contiguous()


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)
