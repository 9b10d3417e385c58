"""The convolution through the frequency domain = torch's, forward and gradients.

Run: pytest tests/kernels/test_grouped_conv.py
"""

import pytest
import torch
import torch.nn.functional as F

from w2v.kernels.grouped_conv import fft_conv1d, same_conv1d, transform_length


@pytest.mark.parametrize(
    ("batch", "width", "groups", "taps", "frames"),
    [
        (2, 64, 4, 128, 250),
        (1, 32, 2, 128, 1),
        (3, 24, 3, 32, 130),
        (1, 16, 16, 31, 64),
        (4, 16, 1, 128, 1000),
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


def test_fft_keeps_half_precision_outside_and_fp32_within():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 16, 50).bfloat16(), torch.randn(16, 4, 128), torch.randn(16)
    with torch.autocast("cpu", torch.bfloat16):
        out = fft_conv1d(x, weight, bias, 4)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, same_conv1d(x.float(), weight, bias, 4).bfloat16(), atol=0.1, rtol=0.02)


@pytest.mark.parametrize(("rows", "transformed"), [(3, False), (4, True)])
def test_a_cpu_transforms_where_enough_rows_share_the_weights(rows, transformed, monkeypatch):
    monkeypatch.setattr("w2v.kernels.grouped_conv.fft_conv1d", lambda *_: "transformed")
    out = same_conv1d(torch.randn(rows, 16, 9), torch.randn(16, 4, 8), torch.zeros(16), 4)
    assert isinstance(out, str) is transformed


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 64, 300).to(dtype), torch.randn(64, 16, 128), torch.randn(64)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = same_conv1d(*(t.cuda() for t in (x, weight, bias)), 4).cpu()
    assert out.dtype == dtype
    wanted = same_conv1d(x.float(), weight, bias, 4)
    tolerance = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-2, "rtol": 1e-3}
    torch.testing.assert_close(out.float(), wanted, **tolerance)


def test_transforms_have_few_lengths_of_small_factors():
    lengths = {transform_length(least) for least in range(65, 1565)}  # clips of up to 30 s
    assert all(length % 32 == 0 for length in lengths)
    assert len(lengths) <= 28
    for length in lengths:
        for factor in (2, 3, 5, 7):
            while length % factor == 0:
                length //= factor
        assert length == 1, "cuFFT has kernels for these factors alone"
    assert [transform_length(n) for n in (64, 65, 321, 352, 353, 385)] == [64, 96, 384, 384, 384, 448]
