"""Linear maps by oneDNN = torch's own, forward and gradients; and when which is taken.

Run: pytest tests/kernels/test_linear.py
"""

import platform

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from w2v.kernels import linear as module
from w2v.kernels.linear import Linear, joined_linear, linear
from w2v.kernels.torch_private import has_onednn_linear, onednn_linear

SHAPES = [(100, 24, 56), (128, 96, 72), (70, 40, 200)]  # rows, C, O: either side the longer one


@pytest.fixture
def slow_mkl(monkeypatch) -> list[torch.Size]:
    """A CPU on which oneDNN is taken; -> the shapes of x that it was given."""
    if not has_onednn_linear():
        pytest.skip("this build of torch has no oneDNN")
    given: list[torch.Size] = []

    def noted(x, weight, bias):
        given.append(x.shape)
        return onednn_linear(x, weight, bias)

    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(module, "onednn_linear", noted)
    monkeypatch.setattr(module, "LEAST_WORK", 0)
    return given


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_equals_torchs_own_in_values_gradients_and_their_gradients(slow_mkl, rows, inputs, outputs, has_bias):
    torch.manual_seed(0)
    x = torch.randn(2, rows, inputs, dtype=torch.float64, requires_grad=True)
    weight = (torch.randn(outputs, inputs, dtype=torch.float64) / inputs**0.5).requires_grad_()
    bias = torch.randn(outputs, dtype=torch.float64, requires_grad=True) if has_bias else None
    found = {}
    for name, of, dtype in (("wanted", F.linear, torch.float64), ("ours", linear, torch.float32)):
        given = [t for t in (x, weight, bias) if t is not None]
        out = of(*(t.to(dtype) for t in given))
        first = torch.autograd.grad(out.sin().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(each.cos().sum() for each in first), given)
        found[name] = [out, *first, *second]
    assert slow_mkl and slow_mkl[0] == x.shape
    for ours, wanted in zip(found["ours"], found["wanted"], strict=True):
        assert ours.shape == wanted.shape and (ours - wanted).norm() <= 1e-5 * wanted.norm()


def test_views_of_other_strides_are_read_right(slow_mkl):
    torch.manual_seed(0)
    whole, wide = torch.randn(32, 3, 70), torch.randn(24, 64)
    x, weight = whole.transpose(1, 2)[:, ::2, :2], wide[:, 1:3]  # neither dense nor in order
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    expanded = torch.randn(1, 1, 24).expand(4, 64, 24).requires_grad_()
    linear(expanded, wide.T).sum().backward()  # the gradient of a sum is one number, expanded
    torch.testing.assert_close(expanded.grad, wide.T.sum(0).expand(4, 64, 24))
    assert len(slow_mkl) == 3  # two forward passes and a gradient of x


WEIGHTS = {
    "dense": torch.randn(24, 64),
    "T": torch.randn(64, 24).T,
    "gaps": torch.randn(24, 128)[:, ::2],
    "one number": torch.randn(1, 1).expand(24, 64),
}


@pytest.mark.skipif(not has_onednn_linear(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_reach_onednn_dense(monkeypatch, weight):
    """Its kernels take dense weights and their transposes; with others it falls back to a loop, and says nothing."""
    given = []
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, weight, *rest: given.append(weight))
    onednn_linear(torch.randn(80, 64), weight, None)
    assert torch.equal(given[0], weight) and 1 in given[0].stride()
    assert sorted(given[0].stride()) in ([1, 24], [1, 64])
    assert (given[0] is weight) == (weight.stride() in ((64, 1), (1, 24)))


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_no_product(slow_mkl, frozen):
    tensors = {"x": torch.randn(80, 72), "weight": torch.randn(88, 72), "bias": torch.randn(88)}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name != frozen)
    linear(**tensors).square().sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is None] == [frozen]
    assert len(slow_mkl) == (3 if frozen == "bias" else 2)


@pytest.mark.parametrize("frozen, kept", [("x", "x"), ("weight", "weight"), ("bias", "both")])
def test_what_no_gradient_needs_is_not_kept(slow_mkl, frozen, kept):
    """An adapter's training, where nearly all weights are frozen, lives by it."""
    tensors = {"x": torch.randn(80, 72), "weight": torch.randn(88, 72), "bias": torch.randn(88)}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name != frozen)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        linear(**tensors)
    wanted = [tensors["x"], tensors["weight"]] if kept == "both" else [tensors[kept]]
    assert [any(tensor is one for one in wanted) for tensor in saved] == [True] * len(wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_each_clip_by_vmap(slow_mkl):
    torch.manual_seed(0)
    layer, clips = Linear(8, 6), torch.randn(3, 80, 8)

    def loss(weight, x):
        return linear(x, weight, layer.bias).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.weight.detach(), clips)
    wanted = torch.stack([torch.func.grad(loss)(layer.weight.detach(), clip) for clip in clips])
    torch.testing.assert_close(found, wanted)


def test_a_row_is_the_same_beside_other_rows(slow_mkl):
    torch.manual_seed(0)
    x, layer = torch.randn(500, 96), Linear(96, 80)
    whole = layer(x)
    for rows in (64, 65, 200, 333):
        assert torch.equal(layer(x[:rows]), whole[:rows])


def test_taken_for_many_rows_in_fp32_on_a_slow_mkl_only(slow_mkl, monkeypatch):
    layer = Linear(8, 8)
    many = torch.randn(module.LEAST_ROWS, 8)
    for x in (many[1:], many[0], many[:0], many.double(), many.bfloat16()):
        assert linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype)).dtype == x.dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(many).dtype == torch.bfloat16
    torch.compile(layer, backend="eager")(many)  # who traces it sees torch's own map
    torch.export.export(layer, (many,))
    assert slow_mkl == []
    layer(many)
    assert slow_mkl == [many.shape]
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        layer(many)
    monkeypatch.setattr(module, "mkl_is_slow", lambda: False)
    layer(many)
    assert slow_mkl == [many.shape]


def test_small_products_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    x, weight = torch.empty(4, 64, 256), torch.empty(256, 256)
    assert (
        module.by_onednn(x, weight) and not module.by_onednn(x[:3], weight) and not module.by_onednn(x[:, 1:], weight)
    )


@pytest.mark.parametrize(
    "cpu, mkl, onednn, slow",
    [
        ("vendor_id\t: AuthenticAMD\n", True, True, True),
        ("vendor_id\t: GenuineIntel\n", True, True, False),
        ("AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD", True, True, True),
        ("AMD64 Family 6 Model 85 Stepping 7, GenuineIntel", True, True, False),
        ("vendor_id\t: AuthenticAMD\n", False, True, False),
        ("vendor_id\t: AuthenticAMD\n", True, False, False),
    ],
)
def test_mkl_is_slow_on_amds_cpus(monkeypatch, cpu, mkl, onednn, slow):
    monkeypatch.setattr(module, "_cpu", lambda: cpu)
    monkeypatch.setattr(module, "has_onednn_linear", lambda: onednn)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert module.mkl_is_slow.__wrapped__() is slow


def test_the_processors_maker_is_read(tmp_path, monkeypatch):
    """/proc/cpuinfo where there is one; elsewhere, as on Windows, what platform says."""
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD")
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    assert "AuthenticAMD" in module._cpu()
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\n")
    assert module._cpu() == "vendor_id : GenuineIntel\n"


def test_joined_maps_are_each_map_by_itself():
    torch.manual_seed(0)
    maps, x = [nn.Linear(24, width) for width in (16, 8, 16)], torch.randn(2, 5, 24, requires_grad=True)
    inputs = [x, *(p for each in maps for p in each.parameters())]
    out, wanted = joined_linear(x, maps), [each(x) for each in maps]
    assert [each.shape for each in out] == [(2, 5, 16), (2, 5, 8), (2, 5, 16)]
    upstream = [torch.randn_like(each) for each in wanted]
    for ours, theirs in zip(out, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(*(torch.autograd.grad(o, inputs, upstream) for o in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_map_beside_trained_ones_gets_no_gradient():
    maps, x = [nn.Linear(4, 4) for _ in range(3)], torch.randn(3, 4)
    maps[1].requires_grad_(False)
    torch.cat(joined_linear(x, maps)).sum().backward()
    assert [each.weight.grad is None for each in maps] == [False, True, False]
