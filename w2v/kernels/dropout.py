"""Dropout, with cheaper random numbers on the CPU.

On a CPU torch draws one 53-bit double per element on one core, which took a third of a training step of XLSR-53. A keep
decision needs far fewer bits: four elements share one 64-bit draw, so that p holds to within 2^-17. The draws come from
numpy's SFC64, many times as fast as torch's Mersenne twister, with a seed from torch's generator.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.kernels.device import is_traced, on_gpu


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p). Any shape."""
    if on_gpu(x) or is_traced() or p == 1.0:
        return F.dropout(x, p)
    return x * keep_mask(x.shape, p, x.dtype)


def keep_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """1 / (1 - p) with probability 1 - p, else 0; p < 1, on the CPU."""
    elements = shape.numel()
    seed = int(torch.empty((), dtype=torch.int64).random_())
    draws = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-elements // 4)).view(np.int16))
    return (draws[:elements].view(shape) >= round(p * 65536) - 32768).to(dtype).mul_(1 / (1 - p))


class Dropout(nn.Module):
    """nn.Dropout by the function above."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p > 0 else x
