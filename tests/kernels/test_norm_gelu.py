"""The fused LayerNorm and GELU against torch's in float64, in Triton's interpreter and, where there is one, on a GPU.

Run: pytest tests/kernels/test_norm_gelu.py [--device cuda]
"""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from triton_interpreter import interpret, needs_cuobjdump

from benchmarks.own_kernels import compiled_only
from w2v.kernels import norm_gelu as dispatch
from w2v.kernels import norm_gelu_triton as kernels

KERNELS = ("_forward_kernel", "_backward_kernel")
EPS = 1e-5


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch) -> str:
    monkeypatch.setattr(kernels, "PROGRAMS", 4)  # so that one has several tiles of few rows
    if request.param == "cuda":
        return "cuda"
    interpret(monkeypatch, kernels, KERNELS)
    return "cpu"


@pytest.fixture(autouse=True)
def poison():
    """Fill new tensors with NaN: an element that a kernel forgot shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and a gradient with respect to the output."""
    torch.manual_seed(0)
    channels = shape[-1]
    x, upstream = (torch.randn(shape, dtype=dtype) for _ in range(2))
    return 2 * x + 1, 1 + 0.5 * torch.randn(channels), torch.randn(channels), upstream


def run(function, x: Tensor, weight: Tensor, bias: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, and the gradients with respect to x, weight and bias."""
    inputs = [value.detach().requires_grad_() for value in (x, weight, bias)]
    out = function(*inputs, EPS)
    return [value.cpu() for value in (out.detach(), *torch.autograd.grad(out, inputs, upstream))]


def assert_equal(args: tuple[Tensor, ...], device: str, tolerance: float = 2e-6):
    """Relative to the largest number of each result; a half-precision one may be rounded once on top."""
    results = run(kernels.fused_norm_gelu, *(value.to(device) for value in args))
    wanted = run(dispatch.reference_norm_gelu, *(value.double() for value in args))
    x, weight, bias, _ = args
    for result, want, like in zip(results, wanted, (x, x, weight, bias), strict=True):
        assert (result.shape, result.dtype) == (like.shape, like.dtype)
        rounding = 0.0 if like.dtype == torch.float32 else torch.finfo(like.dtype).eps
        rounding /= 1 if device == "cpu" else 2  # the interpreter truncates to bf16
        scale = float(want.abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(result.double(), want, rtol=rounding, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "channels"), [(75, 32), (37, 33), (37, 48), (35, 96), (9, 512), (3, 2048)])
def test_output_and_gradients(rows, channels, dtype, device):
    assert_equal(draw(rows, channels, dtype=dtype), device)


def test_one_row_and_more_dimensions(device):
    assert_equal(draw(96), device)
    assert_equal(draw(2, 1, 5, 96, dtype=torch.float16), device)


def test_gelu_is_exact_everywhere(device):
    """Weights of zero leave GELU of the biases, and its derivative as the gradient of the biases."""
    x, weight, _, upstream = draw(1, 2048)
    z = torch.linspace(-14, 14, 2048)
    out, _, _, slope = run(kernels.fused_norm_gelu, *(value.to(device) for value in (x, 0 * weight, z, upstream)))
    exact = z.double().requires_grad_()
    want = torch.nn.functional.gelu(exact)
    want.sum().backward()
    torch.testing.assert_close(out[0].double(), want.detach(), rtol=5e-7, atol=2e-7)
    torch.testing.assert_close(slope.double(), exact.grad * upstream[0].double(), rtol=1e-6, atol=1e-6)
    # Digits that 1 + erf(z) would lose, and bf16 has room for.
    tail = (z < 0) & (z > -5)
    torch.testing.assert_close(out[0, tail].double(), want[tail].detach(), rtol=2**-7, atol=0)


def test_a_mean_far_from_zero(device):
    """E[x^2] - E[x]^2 in fp32 would be off by several times the variance."""
    x, *others = draw(3, 512)
    assert_equal((x + 10_000, *others), device, tolerance=2e-3)


def test_rows_without_variance_give_the_bias(device):
    x, weight, bias, _ = draw(5, 96)
    out = kernels.fused_norm_gelu(*(value.to(device) for value in (torch.ones_like(x), weight, bias)), EPS)
    torch.testing.assert_close(out.cpu(), torch.nn.functional.gelu(bias).expand(5, 96), rtol=1e-5, atol=1e-6)


def test_nan_stays_in_its_row(device):
    x, weight, bias, upstream = draw(5, 96)
    x[2, 7] = torch.nan
    args = (value.to(device) for value in (x, weight, bias, upstream))
    out, gradient, *sums = run(kernels.fused_norm_gelu, *args)
    for rows in (out, gradient):
        assert rows.isnan().all(1).tolist() == [False, False, True, False, False]
        assert rows.isnan().any(1).tolist() == [False, False, True, False, False]
    assert all(value.isnan().all() for value in sums)


def test_other_memory_orders(device):
    x, weight, bias, upstream = draw(96, 11, dtype=torch.bfloat16)
    weight, bias = torch.randn(2, 96, 2)[..., 0]
    assert_equal((x.T, weight, bias, upstream.T), device)
    assert_equal((torch.randn(4, 6, 96)[::2, 1:], weight, bias, torch.ones(1, 1, 1).expand(2, 5, 96)), device)


def test_no_rows(device):
    out, gradient, *sums = run(kernels.fused_norm_gelu, *(value.to(device) for value in draw(2, 0, 48)))
    assert out.shape == gradient.shape == (2, 0, 48)
    assert all(value.shape == (48,) and not value.any() for value in sums)


def test_the_same_bits_twice(device):
    args = [value.to(device) for value in draw(19, 96)]
    for first, second in zip(*(run(kernels.fused_norm_gelu, *args) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def test_keeps_its_arguments_for_the_backward_pass_and_nothing_without_one(device):
    x, weight, bias, _ = (value.to(device) for value in draw(5, 96))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value), lambda _: None):
        kernels.fused_norm_gelu(x, weight, bias, EPS)
        assert not kept
        kernels.fused_norm_gelu(x, weight.requires_grad_(), bias, EPS)
    assert [value.data_ptr() for value in kept] == [value.data_ptr() for value in (x, weight, bias)]


def test_the_kernel_runs_where_it_can(monkeypatch):
    monkeypatch.setattr(dispatch, "use_triton", lambda x: x.is_cuda)
    x = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(5, 512))
    assert dispatch._has_kernel(x)
    assert dispatch._has_kernel(SimpleNamespace(**vars(x) | {"dtype": torch.float32}))
    for other in ({"is_cuda": False}, {"dtype": torch.float64}, {"shape": (5, 4096)}):
        assert not dispatch._has_kernel(SimpleNamespace(**vars(x) | other))
    for module, state in ((torch.compiler, "is_compiling"), (torch.onnx, "is_in_onnx_export")):
        with monkeypatch.context() as patch:
            patch.setattr(module, state, lambda: True)
            assert not dispatch._has_kernel(x)


def test_on_a_cpu_it_is_torch():
    x, weight, bias, _ = draw(5, 96)
    want = torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (96,), weight, bias, 0.1))
    assert torch.equal(dispatch.norm_gelu(x, weight, bias, eps=0.1), want)


@pytest.mark.parametrize("channels", [512, 2048])
def test_kernels_compile_for_hopper(channels):
    """Without a GPU: 16 bytes per access, nothing spilled or called, registers for 16 programs at a time."""
    needs_cuobjdump()
    with compiled_only(kernels) as compiled:
        run(kernels.fused_norm_gelu, *draw(3, channels, dtype=torch.bfloat16))
    for name, kernel in compiled.items():
        assert kernel.resources.spilled == 0, name
        assert kernel.resources.registers <= 65536 // (16 * 32), name
        ptx = kernel.asm["ptx"]
        accesses = re.findall(r"\b(?:ld|st)\.global\S*", ptx)
        assert accesses and all(".v4.b32" in access for access in accesses), (name, accesses)
        assert ".func" not in ptx
        assert ("bar.sync" in ptx) == (channels > 512)


@pytest.mark.cuda
@pytest.mark.parametrize(("rows", "channels"), [(20_003, 512), (50_001, 96), (9_001, 1920)])
def test_sizes_of_real_batches(rows, channels):
    """Sums over many rows are of fp32 on both sides; with all programs, twice, to the last bit."""
    args = draw(rows, channels, dtype=torch.bfloat16)
    assert_equal(args, "cuda", tolerance=1e-5)
    args = [value.cuda() for value in args]
    for first, second in zip(*(run(kernels.fused_norm_gelu, *args) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


@pytest.mark.cuda
def test_under_autocast_and_in_the_public_function():
    x, weight, bias, upstream = (value.cuda() for value in draw(999, 512, dtype=torch.bfloat16))
    assert dispatch._has_kernel(x)
    wanted = run(dispatch.reference_norm_gelu, x.double(), weight.double(), bias.double(), upstream.double())
    with torch.autocast("cuda", torch.bfloat16):
        results = run(dispatch.norm_gelu, x, weight, bias, upstream)
    assert [value.dtype for value in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for result, want in zip(results, wanted, strict=True):
        atol = 1e-5 * float(want.abs().max())
        torch.testing.assert_close(result.double(), want, rtol=2**-8, atol=atol)


@pytest.mark.cuda
def test_more_numbers_than_32_bits_count():
    rows = 2**31 // 512 + 3
    if torch.cuda.mem_get_info()[0] < 3 * rows * 1024:
        pytest.skip("needs 13 GB of GPU memory")
    x, weight, bias, _ = (value.cuda() for value in draw(3, 512, dtype=torch.bfloat16))
    many = x[:1].repeat(rows, 1)
    many[-3:] = x
    out = kernels.fused_norm_gelu(many, weight, bias, EPS)
    assert torch.equal(out[-3:], kernels.fused_norm_gelu(x, weight, bias, EPS))
