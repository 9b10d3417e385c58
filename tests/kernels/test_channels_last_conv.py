"""Convolution as matrix products = torch's, forward and gradients.

Run: pytest tests/kernels/test_channels_last_conv.py
"""

import pytest
import torch
import torch.nn.functional as F

from w2v.kernels import channels_last_conv
from w2v.kernels.channels_last_conv import conv1d_channels_last


def draw(samples: int, kernel: int, c_in: int):
    torch.manual_seed(0)
    shapes = (2, samples, c_in), (6, c_in, kernel), (6,)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    ("kernel", "stride", "c_in"), [(10, 5, 1), (3, 2, 4), (2, 2, 4), (8, 4, 3), (5, 2, 3), (7, 3, 2), (2, 3, 2)]
)
@pytest.mark.parametrize("samples", [40, 41, 43])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("as_image", [True, False])
def test_equals_conv1d(kernel, stride, c_in, samples, has_bias, as_image, monkeypatch):
    monkeypatch.setattr(channels_last_conv, "by_onednn", lambda x, weight: as_image)
    images, conv2d = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda image, *rest: images.append(image) or conv2d(image, *rest))
    x, weight, bias = draw(samples, kernel, c_in)
    inputs = (x, weight, bias) if has_bias else (x, weight)
    bias = bias if has_bias else None
    out, wanted = conv1d_channels_last(x, weight, bias, stride), F.conv1d(x.transpose(1, 2), weight, bias, stride)
    wanted = wanted.transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    assert out.is_contiguous()  # the norm behind it reads channels in a row
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in images) and len(images) == as_image
    noise = torch.randn_like(wanted)
    for ours, theirs in zip(*(torch.autograd.grad(o, inputs, noise) for o in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [10, 15, 40, 41, 44])
def test_rows_of_the_waveform_fill_16_taps_on_a_gpu(samples, monkeypatch):
    """Zeros behind the taps, and behind the samples: not a frame more, and the weights' gradient has 10 taps."""
    monkeypatch.setattr(channels_last_conv, "on_gpu", lambda x: True)
    rows = []
    run = channels_last_conv._Conv.apply
    monkeypatch.setattr(channels_last_conv._Conv, "apply", lambda x, *rest: rows.append(x.shape) or run(x, *rest))
    x, weight, bias = draw(samples, 10, 1)
    out, wanted = conv1d_channels_last(x, weight, bias, 5), F.conv1d(x.transpose(1, 2), weight, bias, 5)
    wanted = wanted.transpose(1, 2)
    assert rows == [(2, (samples - 10) // 5 + 1, 16)]
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    noise, inputs = torch.randn_like(wanted), (x, weight, bias)
    for ours, theirs in zip(*(torch.autograd.grad(o, inputs, noise) for o in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_input_in_another_memory_order():
    x, weight, bias = draw(41, 3, 4)
    transposed = x.detach().transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(
        conv1d_channels_last(transposed, weight, bias, 2), conv1d_channels_last(x, weight, bias, 2)
    )


def test_frozen_weights_pass_the_gradient_on():
    x, weight, bias = draw(41, 3, 4)
    out = conv1d_channels_last(x, weight.detach(), bias.detach(), 2)
    wanted = F.conv1d(x.transpose(1, 2), weight, bias, 2).transpose(1, 2)
    ours, theirs = (torch.autograd.grad(o.square().sum(), x)[0] for o in (out, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_autocast_computes_in_half_precision_with_fp32_gradients():
    x, weight, bias = draw(41, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv1d_channels_last(x, weight, bias, 2)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().square().sum(), (x, weight, bias))
    wanted = F.conv1d(x.transpose(1, 2), weight, bias, 2)
    for ours, theirs in zip(gradients, torch.autograd.grad(wanted.square().sum(), (x, weight, bias)), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()
