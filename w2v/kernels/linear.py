"""Linear maps, on AMD's CPUs through oneDNN.

torch leaves products in fp32 to MKL. On a CPU by AMD that is slower than oneDNN, which torch holds too: MKL takes 1.7
to 2.5 times as long over large products on Zen 5, whose AVX-512 it does not use, and 1.07 to 1.12 times on Zen 4. On
CPUs by Intel, on GPUs and in half precision these are torch's own maps. Within
torch.backends.mkldnn.flags(enabled=False) all products are MKL's.

oneDNN sums over all channels in one go, MKL over 192 at a time and then over the sums, which halves the rounding error.
A model in training takes the faster way. In evaluation the map is F.linear's to the last bit: on Zen 5 by oneDNN 192
channels at a time, 1.3 to 1.8 times as fast as MKL, on older CPUs, where that gains nothing, by MKL.

Shapes: C channels in, O channels out.
"""

import math
import platform
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.kernels.device import is_traced
from w2v.kernels.torch_private import has_onednn_linear, is_observed, onednn_linear

CPUINFO = Path("/proc/cpuinfo")  # Linux says a processor's maker nowhere else
# A call costs oneDNN 20 microseconds more, and to read the weights for a few rows more than it saves.
LEAST_ROWS, LEAST_WORK = 64, 2**24  # multiply-adds
SLICE = 192  # channels that MKL sums at a time
TILE = 512, 1024  # rows and columns of the result that stay in the cache between slices
ZEN_5 = 26  # the family of the first CPUs by AMD with AVX-512 of full width


class Linear(nn.Linear):
    """nn.Linear by the function below."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.training)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, training: bool = False) -> Tensor:
    """F.linear: x (..., C), weight (O, C), bias (O,) -> (..., O); in training only as near as rounding allows."""
    if by_onednn(x, weight) and (training or slices_pay()):
        return _OneDNN.apply(x, weight, bias, training)
    return F.linear(x, weight, bias)


def joined_linear(x: Tensor, maps: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """x (..., C) -> what each of the maps, all with a bias, makes of it, as one product; the parameters stay apart.

    A GPU fills better with it, and launches less.
    """
    weight, bias = torch.cat([each.weight for each in maps]), torch.cat([each.bias for each in maps])
    return linear(x, weight, bias, maps[0].training).split([each.out_features for each in maps], dim=-1)


@cache
def mkl_is_slow() -> bool:
    """Whether torch's products in fp32 are MKL's on a CPU by AMD, and oneDNN's are at hand."""
    return torch.backends.mkl.is_available() and has_onednn_linear() and "AuthenticAMD" in _cpu()


@cache
def slices_pay() -> bool:
    """Whether oneDNN's products of few channels at a time are still faster than MKL's, and their bits are its."""
    family = re.search(r"family\s*:?\s*(\d+)", _cpu(), re.IGNORECASE)
    is_zen_5 = family is not None and int(family[1]) >= ZEN_5
    return is_zen_5 and torch.backends.cpu.get_cpu_capability() == "AVX512"  # a virtual machine may hide it


def _cpu() -> str:
    """What the system says of the processor."""
    return CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else platform.processor()


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether to take oneDNN for x (..., C) and a weight that each row of it meets whole, of any shape."""
    if x.device.type != "cpu" or not (x.dtype == weight.dtype == torch.float32) or is_traced() or is_observed():
        return False
    rows = math.prod(x.shape[:-1])
    if rows < LEAST_ROWS or rows * weight.numel() < LEAST_WORK or torch.is_autocast_enabled("cpu"):
        return False
    return mkl_is_slow() and bool(torch.backends.mkldnn.enabled)


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor:
        of_x, of_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return onednn_linear(x, weight, bias) if training else _by_slices(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (of_x, of_weight, of_bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            linear(gradient, weight.T, training=True) if of_x else None,
            _weight_gradient(rows, x.flatten(0, -2)) if of_weight else None,
            rows.sum(0) if of_bias else None,
            None,
        )


def _by_slices(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's map, its sums in the order of MKL's: equal to F.linear on a CPU by AMD, to the last bit.

    Not so for odd numbers of channels below 384, and for a few columns where there are more than two threads.
    """
    channels = x.shape[-1]
    size = -(-channels // 2) if SLICE < channels < 2 * SLICE else SLICE  # MKL, too, halves what is not two slices
    out = x.new_empty(*x.shape[:-1], len(weight))
    rows, columns = TILE
    x_tiles = [tile.split(size, dim=1) for tile in _tiles(x.flatten(0, -2), rows)]
    out_columns = _tiles(out.flatten(0, -2), columns, dim=1)
    biases = len(out_columns) * [None] if bias is None else _tiles(bias, columns)
    for weight_tile, bias_tile, out_column in zip(_tiles(weight, columns), biases, out_columns, strict=True):
        weight_parts = [part.contiguous() for part in weight_tile.split(size, dim=1)]
        for x_parts, out_tile in zip(x_tiles, _tiles(out_column, rows), strict=True):
            so_far = onednn_linear(x_parts[0], weight_parts[0], bias_tile)
            for x_part, weight_part in zip(x_parts[1:], weight_parts[1:], strict=True):
                so_far = onednn_linear(x_part, weight_part, None, plus=so_far)
            out_tile.copy_(so_far)
    return out


def _tiles(x: Tensor, most: int, dim: int = 0) -> Sequence[Tensor]:
    """Parts of at most so many rows, all about as large: for a few rows oneDNN sums in another order."""
    return x.tensor_split(-(-x.shape[dim] // most), dim)


def _weight_gradient(rows: Tensor, inputs: Tensor) -> Tensor:
    """Gradients (R, O) and inputs (R, C) of R rows -> (O, C). The longer side of the two as columns is faster."""
    if rows.shape[1] > inputs.shape[1]:
        return linear(inputs.T, rows.T, training=True).T
    return linear(rows.T, inputs.T, training=True)
