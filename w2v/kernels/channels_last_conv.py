"""Unpadded 1-d convolution of channels-last activations, as matrix products.

Keeping channels last saves the two transposes around every LayerNorm, and whole strides of taps are one product on a
reshaped view: only the single-channel waveform is unfolded, where that copy is cheap. The products add up in
place, forward and backward; autograd would fill and add a tensor of the input's size for every window. On CPUs by AMD
oneDNN's convolution is faster forward than MKL's products, and slower backward (docs/PERFORMANCE.md).

Shapes: B batch, S frames in, T frames out, C channels in, O channels out, K taps.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.kernels.device import is_traced, on_gpu
from w2v.kernels.linear import by_onednn


def conv1d_channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """x (B, S, C), weight (O, C, K), bias (O,) -> (B, T, O)."""
    if is_traced():  # graphs to export know nothing of in-place sums
        return _plain(x, weight, bias, stride)
    if x.shape[2] == 1:  # the taps of one channel become the channels of one tap
        x, taps = x.squeeze(2), weight.shape[2]
        if on_gpu(x):  # rows of 10 taps, 20 bytes in bf16, would take a slow kernel: zeros make them a multiple of 16
            taps = -(-taps // 16) * 16
            x = F.pad(x, (0, taps - weight.shape[2]))
            weight = F.pad(weight, (0, taps - weight.shape[2]))
        x, weight, stride = x.unfold(1, taps, stride), weight.transpose(1, 2), 1
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, weight))
        bias = bias if bias is None else bias.to(x.dtype)
    return _Conv.apply(x.contiguous(), weight, bias, stride)  # a group norm leaves its output transposed


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    return F.conv1d(x.transpose(1, 2), weight, bias, stride).transpose(1, 2)


def _as_image(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Of images one row high: in two dimensions torch lets oneDNN read channels last as they are."""
    image, kernel = x.transpose(1, 2)[:, :, None], weight[:, :, None].contiguous(memory_format=torch.channels_last)
    return F.conv2d(image, kernel, bias, (1, stride))[:, :, 0].transpose(1, 2)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        taps = weight.permute(2, 1, 0).contiguous()  # (K, C, O): a tap's channels lie next to each other, as in x
        ctx.save_for_backward(x, taps)
        ctx.stride, ctx.has_bias = stride, bias is not None
        if by_onednn(x, weight):
            return _as_image(x, weight, bias, stride)
        frames = (x.shape[1] - len(taps)) // stride + 1
        out = x.new_empty(len(x), frames, taps.shape[2])
        for row, row_out in zip(x, out, strict=True):
            so_far = x.new_zeros(taps.shape[2]) if bias is None else bias
            for window, part in _windows(row, taps, stride, frames):
                so_far = torch.addmm(so_far, window, part, out=row_out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, taps), stride, frames = ctx.saved_tensors, ctx.stride, gradient.shape[1]
        gradient = gradient.contiguous()
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_taps = torch.empty_like(taps) if ctx.needs_input_grad[1] else None
        # The first window overwrites, so its place is not filled with zeros. On large activations that takes time.
        written = frames * stride if len(taps) >= stride else 0
        if of_x is not None:
            of_x[:, written:] = 0.0
        for i, row in enumerate(gradient):
            if of_x is not None:
                for j, (window, part) in enumerate(_windows(of_x[i], taps, stride, frames)):
                    torch.addmm(window, row, part.T, beta=int(j > 0), out=window)
            if of_taps is not None:  # each window has taps of its own
                for window, part in _windows(x[i], of_taps, stride, frames):
                    torch.addmm(part, window.T, row, beta=int(i > 0), out=part)
        of_bias = gradient.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return of_x, None if of_taps is None else of_taps.permute(2, 1, 0), of_bias, None


def _windows(row: Tensor, taps: Tensor, stride: int, frames: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of views, (T, n) of row (S, C) and (n, O) of taps (K, C, O), whose products add up to the convolution."""
    whole = len(taps) - len(taps) % stride
    for first in range(0, whole, stride):
        window = row[first : first + frames * stride].view(frames, -1)
        yield window, taps[first : first + stride].flatten(0, 1)
    for tap in range(whole, len(taps)):
        yield row[tap : tap + (frames - 1) * stride + 1 : stride], taps[tap]
