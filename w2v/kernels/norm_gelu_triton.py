"""LayerNorm over channels and then exact (erf) GELU, as one Triton kernel; see w2v.kernels.norm_gelu.

Shapes: N rows (all leading dimensions), C channels, P programs of a kernel.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Programs share out the rows, so that each reads the weights once and the backward pass leaves few sums to add up.
# 16 of one warp fit on each of an H100's 132 multiprocessors at once.
PROGRAMS = 2048


def fused_norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x (..., C) of fp32, bf16 or fp16, any float weight (C,) and bias (C,) -> (..., C) of x's dtype."""
    with torch.cuda.device_of(x):  # Triton launches on the current device
        return _NormGELU.apply(x.contiguous(), weight.contiguous(), bias.contiguous(), eps)


class _NormGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.eps = eps
        out = torch.empty_like(x)
        grid, rows, sizes = _launch(x, elements=1024)
        _forward_kernel[grid](x, weight, bias, out, rows, eps, **sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        gradient = torch.empty_like(x)
        grid, rows, sizes = _launch(x, elements=512)
        sums = torch.empty(2, *grid, len(weight), dtype=torch.float32, device=x.device)
        _backward_kernel[grid](x, weight, bias, upstream.contiguous(), gradient, *sums, rows, ctx.eps, **sizes)
        # Programs adding to one sum would do so in another order each time: they have one each.
        weight_gradient, bias_gradient = sums.sum(1)
        return gradient, weight_gradient.to(weight.dtype), bias_gradient.to(bias.dtype), None


def _launch(x: Tensor, elements: int) -> tuple[tuple[int], int, dict[str, int]]:
    """Grid, N, and the sizes that a kernel is compiled for. elements: how many numbers of x a warp holds at a time."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    block = 1 << (channels - 1).bit_length()  # Triton's blocks are powers of two
    # Rows of up to 512 lie in one warp, which sums them without shared memory: two 16-byte loads per thread in bf16.
    warps = max(block // 512, 1)
    tile = warps * elements // block  # rows at a time
    programs = min(-(-rows // tile), PROGRAMS // warps)
    return (programs,), rows, {"channels": channels, "block": block, "tile": tile, "num_warps": warps}


@triton.jit
def _upper_tail(x: tl.tensor) -> tl.tensor:
    """Probability that a normal variable exceeds x, for x >= 0, within 1e-7: GELU(z) = max(z, 0) - |z| tail(|z|).

    Its logarithm (base 2) is a polynomial, fitted on [0, 6.5] for the least error of the tail itself; beyond, it falls
    ever faster. Compiled for an H100 the forward kernel takes 21 instructions per number of x; with Triton's erf it
    takes 41, and by its datasheet that GPU issues at most 40 while its memory moves the 4 bytes.
    """
    log = -1.52291307e-6
    log = log * x + 2.50805260e-5
    log = log * x - 1.25113540e-4
    log = log * x - 2.67827389e-4
    log = log * x + 7.21307751e-3
    log = log * x - 5.25856800e-2
    log = log * x - 4.59182769e-1
    log = log * x - 1.15110791
    log = log * x - 0.999999940
    return tl.exp2(log)


@triton.jit
def _standardise(
    x: tl.tensor, is_channel: tl.tensor, channels: tl.constexpr, eps: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Rows of mean 0 and variance 1, and what scaled them: x (tile, block) -> (tile, block), (tile, 1)."""
    # First the mean: E[x^2] - E[x]^2 has no digits left where the mean is large, and x is in registers anyway.
    # div_rn: a GPU's own division is off by a digit, which a row without variance would have scaled by 316.
    x = tl.where(is_channel, x - tl.div_rn(tl.sum(x, 1, keep_dims=True), channels), 0.0)
    scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / channels + eps)
    return x * scale, scale


# N changes from batch to batch: specialised on its value, kernels would be compiled again in mid-training.
@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x: tl.tensor,  # (N, C)
    weight: tl.tensor,  # (C,)
    bias: tl.tensor,  # (C,)
    out: tl.tensor,  # (N, C)
    rows: tl.tensor,
    eps: tl.tensor,
    channels: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
) -> None:
    row, channel = tl.arange(0, tile)[:, None], tl.arange(0, block)[None, :]
    is_channel = channel < channels
    weights = tl.load(weight + channel, mask=is_channel, other=0.0).to(tl.float32)
    biases = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    for first in range(tl.program_id(0).to(tl.int64) * tile, rows, tl.num_programs(0) * tile):
        at = first * channels + row * channels + channel
        mask = is_channel & (row < rows - first)
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        normal, _ = _standardise(values, is_channel, channels, eps)
        z = normal * weights + biases
        size = tl.abs(z)
        tl.store(out + at, tl.maximum(z, 0.0) - size * _upper_tail(size), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    x: tl.tensor,  # (N, C)
    weight: tl.tensor,  # (C,)
    bias: tl.tensor,  # (C,)
    upstream: tl.tensor,  # (N, C) gradient with respect to the output
    gradient: tl.tensor,  # (N, C) out: with respect to x
    weight_sums: tl.tensor,  # (P, C) out: with respect to the weight, over the rows of one program
    bias_sums: tl.tensor,  # (P, C) out
    rows: tl.tensor,
    eps: tl.tensor,
    channels: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
) -> None:
    row, channel = tl.arange(0, tile)[:, None], tl.arange(0, block)[None, :]
    is_channel = channel < channels
    weights = tl.load(weight + channel, mask=is_channel, other=0.0).to(tl.float32)
    biases = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    weight_sum = tl.zeros([tile, block], tl.float32)
    bias_sum = tl.zeros([tile, block], tl.float32)
    for first in range(tl.program_id(0).to(tl.int64) * tile, rows, tl.num_programs(0) * tile):
        at = first * channels + row * channels + channel
        mask = is_channel & (row < rows - first)
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        change = tl.load(upstream + at, mask=mask, other=0.0).to(tl.float32)

        normal, scale = _standardise(values, is_channel, channels, eps)
        z = normal * weights + biases
        tail = _upper_tail(tl.abs(z))
        density = 0.398942280 * tl.exp2(-0.721347520 * z * z)  # of the normal distribution
        change *= tl.where(z > 0, 1 - tail, tail) + z * density  # now with respect to z
        weight_sum += change * normal
        bias_sum += change

        # Neither a row's mean nor its variance can change: take those directions out of the gradient.
        change *= weights
        mean = tl.sum(change, 1, keep_dims=True) / channels
        slope = tl.sum(change * normal, 1, keep_dims=True) / channels
        tl.store(gradient + at, (change - mean - normal * slope) * scale, mask=mask)
    at = tl.program_id(0) * channels + channel
    tl.store(weight_sums + at, tl.sum(weight_sum, 0, keep_dims=True), mask=is_channel)
    tl.store(bias_sums + at, tl.sum(bias_sum, 0, keep_dims=True), mask=is_channel)
