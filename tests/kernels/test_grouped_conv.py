"""The convolution through the frequency domain = torch's, forward and gradients.

Run: pytest tests/kernels/test_grouped_conv.py
"""

import pytest
import torch
import torch.nn.functional as F

from w2v.kernels.grouped_conv import fft_conv1d, same_conv1d


@pytest.mark.parametrize(
    ("batch", "width", "groups", "taps", "frames"),
    [
        (2, 64, 4, 128, 250),
        (1, 32, 2, 128, 1),
        (3, 24, 3, 32, 130),
        (1, 16, 16, 31, 64),
        (2, 16, 1, 128, 1000),
        (1, 8, 2, 128, 64),
        (1, 8, 2, 31, 17),
    ],
)
def test_fft_equals_convolution(batch, width, groups, taps, frames):
    torch.manual_seed(0)
    x = torch.randn(batch, width, frames, requires_grad=True)
    weight = torch.randn(width, width // groups, taps, requires_grad=True)
    bias = torch.randn(width, requires_grad=True)
    wanted = F.conv1d(x, weight, bias, padding=taps // 2, groups=groups)[..., :frames]
    noise = torch.randn_like(wanted)
    for out in (fft_conv1d(x, weight, bias, groups), same_conv1d(x, weight, bias, groups)):
        assert (out - wanted).abs().max() <= 2e-6 * wanted.abs().max()
        pairs = zip(
            *(torch.autograd.grad(o, (x, weight, bias), noise, retain_graph=True) for o in (out, wanted)), strict=True
        )
        for ours, theirs in pairs:
            assert (ours - theirs).norm() <= 2e-6 * theirs.norm()
    with torch.no_grad():
        torch.testing.assert_close(same_conv1d(x, weight, bias, groups), wanted, atol=0, rtol=0)


@pytest.mark.parametrize(("clips", "per_group", "fourier"), [(1, 16, True), (3, 64, False), (4, 64, True)])
def test_a_cpu_transforms_where_enough_clips_share_the_weights(clips, per_group, fourier, monkeypatch):
    monkeypatch.setattr("w2v.kernels.grouped_conv.fft_conv1d", lambda *_: "fourier")
    x, weight, bias = torch.randn(clips, per_group, 9), torch.randn(per_group, per_group, 8), torch.zeros(per_group)
    assert (same_conv1d(x, weight, bias, 1) == "fourier") is fourier
    with torch.no_grad():
        assert isinstance(same_conv1d(x, weight, bias, 1), torch.Tensor)


def test_fft_keeps_half_precision_outside_and_fp32_within():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 16, 50).bfloat16(), torch.randn(16, 4, 128), torch.randn(16)
    with torch.autocast("cpu", torch.bfloat16):
        out = fft_conv1d(x, weight, bias, 4)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, same_conv1d(x.float(), weight, bias, 4).bfloat16(), atol=0.1, rtol=0.02)


@pytest.mark.cuda
def test_on_a_gpu():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 64, 300), torch.randn(64, 16, 128), torch.randn(64)
    out = same_conv1d(*(t.cuda() for t in (x, weight, bias)), 4).cpu()
    torch.testing.assert_close(out, same_conv1d(x, weight, bias, 4), atol=1e-3, rtol=1e-4)
