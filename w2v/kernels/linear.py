"""Linear maps, on AMD's CPUs through oneDNN.

torch leaves products in fp32 to MKL. On a CPU by AMD that is slower than oneDNN, which torch holds too: MKL takes 1.7
to 2.5 times as long over large products on Zen 5, whose AVX-512 it does not use, and 1.07 to 1.12 times on Zen 4. On
CPUs by Intel, on GPUs and in half precision these are torch's own maps. oneDNN's rounding errors are others, and twice
as large. Within torch.backends.mkldnn.flags(enabled=False) all products are MKL's.

Shapes: C channels in, O channels out.
"""

import math
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.kernels.device import is_traced
from w2v.kernels.torch_private import has_onednn_linear, onednn_linear

CPUINFO = Path("/proc/cpuinfo")  # Linux says a processor's maker nowhere else
# A call costs oneDNN 20 microseconds more, and to read the weights for a few rows more than it saves.
LEAST_ROWS, LEAST_WORK = 64, 2**24  # multiply-adds


class Linear(nn.Linear):
    """nn.Linear by the function below."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: x (..., C), weight (O, C), bias (O,) -> (..., O)."""
    if by_onednn(x, weight):
        return _OneDNN.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def joined_linear(x: Tensor, maps: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """x (..., C) -> what each of the maps, all with a bias, makes of it, as one product; the parameters stay apart.

    A GPU fills better with it, and launches less.
    """
    weight, bias = torch.cat([each.weight for each in maps]), torch.cat([each.bias for each in maps])
    return linear(x, weight, bias).split([each.out_features for each in maps], dim=-1)


@cache
def mkl_is_slow() -> bool:
    """Whether torch's products in fp32 are MKL's on a CPU by AMD, and oneDNN's are at hand."""
    return torch.backends.mkl.is_available() and has_onednn_linear() and "AuthenticAMD" in _cpu()


def _cpu() -> str:
    """What the system says of the processor."""
    return CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else platform.processor()


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether to take oneDNN for x (..., C) and a weight that each row of it meets whole, of any shape."""
    if x.device.type != "cpu" or not (x.dtype == weight.dtype == torch.float32) or is_traced():
        return False
    rows = math.prod(x.shape[:-1])
    if rows < LEAST_ROWS or rows * weight.numel() < LEAST_WORK or torch.is_autocast_enabled("cpu"):
        return False
    return mkl_is_slow() and bool(torch.backends.mkldnn.enabled)


class _OneDNN(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return onednn_linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        (x, weight, _), (of_x, of_weight, _) = inputs, ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (of_x, of_weight, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            linear(gradient, weight.T) if of_x else None,
            _weight_gradient(rows, x.flatten(0, -2)) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _weight_gradient(rows: Tensor, inputs: Tensor) -> Tensor:
    """Gradients (R, O) and inputs (R, C) of R rows -> (O, C). The longer side of the two as columns is faster."""
    if rows.shape[1] > inputs.shape[1]:
        return linear(inputs.T, rows.T).T
    return linear(rows.T, inputs.T)
