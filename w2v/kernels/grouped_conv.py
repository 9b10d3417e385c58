"""The positional convolution: 1,024 channels in 16 groups, 128 taps wide.

As a sum over taps it is 17 MFLOP per frame, and grouped kernels run it far below the rate of a matrix product. Between
Fourier transforms it is one small product per frequency, a thirtieth of the arithmetic, differentiable as it is and as
precise as fp32 convolutions are. `benchmarks.parts` times it on either device.

Shapes: B batch, T frames, D channels, G groups, K taps, N transform length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.kernels.device import is_traced, on_gpu

LENGTH_STEP = 32  # transforms of a few lengths only: each is planned once
LARGEST_FACTOR = 7  # of a length: beyond it cuFFT takes a slower algorithm
CPU_ROWS = 4  # rows that make up for transforming the weights, at 16 and at 64 channels per group


def same_conv1d(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """x (B, D, T), weight (D, D / G, K), bias (D,) -> (B, D, T), zeros beyond both ends.

    An even kernel looks K / 2 frames back and K / 2 - 1 ahead: torch's padding of K / 2 without its last frame.
    """
    # Exported graphs keep the operator, and the look at the number of rows would pin it for them.
    if not is_traced() and (on_gpu(x) or len(x) >= CPU_ROWS):
        return fft_conv1d(x, weight, bias, groups)
    return F.conv1d(x, weight, bias, padding=weight.shape[2] // 2, groups=groups)[:, :, : x.shape[2]]


def fft_conv1d(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The same through the frequency domain, in fp32 whatever x is; returns x's dtype."""
    frames, back = x.shape[2], weight.shape[2] // 2
    # Long enough that what a window reads beyond either end is zeros.
    length = transform_length(frames + back)
    with torch.autocast(x.device.type, enabled=False):
        spectrum = torch.fft.rfft(x.float().unflatten(1, (groups, -1)), length)  # (B, G, D / G, N / 2 + 1)
        response = torch.fft.rfft(weight.float().unflatten(0, (groups, -1)), length)  # (G, D / G, D / G, N / 2 + 1)
        product = torch.einsum("bgif,goif->bgof", spectrum, response.conj())
        # Frame t of the transform's output starts its window at t: ours start K / 2 earlier.
        out = torch.fft.irfft(product, length).roll(back, -1)[..., :frames]
        return (out.flatten(1, 2) + bias[:, None]).to(x.dtype)


def transform_length(least: int) -> int:
    """The next multiple of LENGTH_STEP that has no prime factor beyond LARGEST_FACTOR."""
    steps = -(-least // LENGTH_STEP)
    while not _is_smooth(steps):
        steps += 1
    return steps * LENGTH_STEP


def _is_smooth(number: int) -> bool:
    for factor in range(2, LARGEST_FACTOR + 1):
        while number % factor == 0:
            number //= factor
    return number == 1
