"""Linear maps by oneDNN = torch's own, forward and gradients, in evaluation to the last bit; and when which is taken.

Run: pytest tests/kernels/test_linear.py
"""

import dataclasses
import math
import platform
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import w2v
from w2v.kernels import linear as module
from w2v.kernels.linear import Linear, joined_linear, linear, mkl_is_slow, slices_pay
from w2v.kernels.torch_private import has_onednn_linear, onednn_linear
from w2v.models.families import FAMILIES
from w2v.models.w2v_bert_config import W2V_BERT_TINY
from w2v.models.whisper import WhisperConfig

SHAPES = [(100, 24, 56), (128, 96, 72), (70, 40, 200), (70, 400, 30)]  # rows, C, O: either side the longer one


# With other kernels than those of AVX-512 oneDNN sums in other orders, and so does MKL on CPUs by Intel.
zen_5 = pytest.mark.skipif(not (mkl_is_slow() and slices_pay()), reason="bits are promised on Zen 5 with AVX-512")


@pytest.fixture
def slow_mkl(monkeypatch) -> list[torch.Size]:
    """A CPU on which oneDNN is taken, in evaluation too; -> the shapes of x that it was given."""
    if not has_onednn_linear():
        pytest.skip("this build of torch has no oneDNN")
    given: list[torch.Size] = []

    def noted(x, *rest, **named):
        given.append(x.shape)
        return onednn_linear(x, *rest, **named)

    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(module, "slices_pay", lambda: True)
    monkeypatch.setattr(module, "onednn_linear", noted)
    monkeypatch.setattr(module, "LEAST_WORK", 0)
    return given


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_equals_torchs_own_in_values_gradients_and_their_gradients(slow_mkl, rows, inputs, outputs, has_bias, training):
    torch.manual_seed(0)
    x = torch.randn(2, rows, inputs, dtype=torch.float64, requires_grad=True)
    weight = (torch.randn(outputs, inputs, dtype=torch.float64) / inputs**0.5).requires_grad_()
    bias = torch.randn(outputs, dtype=torch.float64, requires_grad=True) if has_bias else None
    found = {}
    ours = partial(linear, training=training)
    for name, of, dtype in (("wanted", F.linear, torch.float64), ("ours", ours, torch.float32)):
        given = [t for t in (x, weight, bias) if t is not None]
        out = of(*(t.to(dtype) for t in given))
        first = torch.autograd.grad(out.sin().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(each.cos().sum() for each in first), given)
        found[name] = [out, *first, *second]
    assert slow_mkl[0] == (x.shape if training else (2 * rows, min(inputs, module.SLICE)))
    for ours, wanted in zip(found["ours"], found["wanted"], strict=True):
        assert ours.shape == wanted.shape and (ours - wanted).norm() <= 1e-5 * wanted.norm()


CHANNELS = [24, 192, 256, 382, 384, 400, 512, 1031, 2048]  # up to a slice, between one and two, with and without a rest


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@zen_5
@pytest.mark.parametrize("rows, outputs", [((64,), 40), ((3, 171), 1025), ((2, 300), 24)])
@pytest.mark.parametrize("channels", CHANNELS)
def test_in_evaluation_equals_torchs_own_to_the_last_bit(slow_mkl, one_thread, channels, rows, outputs):
    """A model's logits are those that others' code computes from the same weights.

    For a few columns MKL's bits depend on the number of threads, ours do not.
    """
    torch.manual_seed(0)
    x, layer = torch.randn(*rows, channels), Linear(channels, outputs).eval()
    for bias in (layer.bias, None):
        assert torch.equal(linear(x, layer.weight, bias), F.linear(x, layer.weight, bias))
    assert len(slow_mkl) >= 2 * math.ceil(channels / module.SLICE)  # in tiles


@zen_5
def test_in_evaluation_rounding_is_half_as_large(slow_mkl):
    torch.manual_seed(0)
    x, weight = torch.randn(200, 2048), torch.randn(96, 2048)
    exact = F.linear(x.double(), weight.double())
    training, evaluation = ((linear(x, weight, None, mode) - exact).norm() for mode in (True, False))
    assert evaluation < 0.6 * training


def test_views_of_other_strides_are_read_right(slow_mkl):
    torch.manual_seed(0)
    whole, wide = torch.randn(32, 3, 70), torch.randn(24, 64)
    x, weight = whole.transpose(1, 2)[:, ::2, :2], wide[:, 1:3]  # neither dense nor in order
    for training in (True, False):
        torch.testing.assert_close(linear(x, weight, training=training), F.linear(x, weight))
    expanded = torch.randn(1, 1, 24).expand(4, 64, 24).requires_grad_()
    linear(expanded, wide.T, training=True).sum().backward()  # the gradient of a sum is one number, expanded
    torch.testing.assert_close(expanded.grad, wide.T.sum(0).expand(4, 64, 24))
    assert len(slow_mkl) == 6  # a forward pass, one in three tiles, another one and its gradient of x


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


def test_gradients_of_each_clip_by_vmap(slow_mkl):
    """torch.func's transforms see torch's own map: of a foreign operator vmap would make a loop."""
    torch.manual_seed(0)
    layer, clips = Linear(8, 6), torch.randn(3, 80, 8)

    def loss(weight, x):
        return linear(x, weight, layer.bias).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.weight.detach(), clips)
    assert slow_mkl == []
    wanted = torch.stack([torch.func.grad(loss)(layer.weight.detach(), clip) for clip in clips])
    torch.testing.assert_close(found, wanted)


@zen_5
@pytest.mark.parametrize("training, channels", [(True, 96), (False, 96), (False, 480), (False, 2048)])
def test_a_row_is_the_same_beside_other_rows(slow_mkl, training, channels):
    """In training oneDNN takes 480 channels at once where rows are many, and in two parts where they are few."""
    torch.manual_seed(0)
    x, layer = torch.randn(1100, channels), Linear(channels, 80).train(training)
    whole = layer(x)
    for rows in (64, 65, 200, 513, 1025):
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
    monkeypatch.setattr(module, "slices_pay", lambda: False)
    layer.eval()(many)
    assert slow_mkl == [many.shape]
    layer.train()
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


AMD = "vendor_id\t: AuthenticAMD\ncpu family\t: "


@pytest.mark.parametrize(
    "cpu, mkl, onednn, slow, by_slices",  # with AVX-512
    [
        (AMD + "26\nmodel\t\t: 2\n", True, True, True, True),
        (AMD + "25\nmodel\t\t: 97\n", True, True, True, False),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\n", True, True, False, False),
        ("AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD", True, True, True, True),
        ("AMD64 Family 23 Model 2 Stepping 1, AuthenticAMD", True, True, True, False),
        ("Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", True, True, False, False),
        ("", True, True, False, False),
        (AMD + "26\n", False, True, False, True),
        (AMD + "26\n", True, False, False, True),
    ],
)
def test_mkl_is_slow_on_amds_cpus(monkeypatch, cpu, mkl, onednn, slow, by_slices):
    monkeypatch.setattr(module, "_cpu", lambda: cpu)
    monkeypatch.setattr(module, "has_onednn_linear", lambda: onednn)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert module.mkl_is_slow.__wrapped__() is slow
    for capability in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda now=capability: now)
        assert module.slices_pay.__wrapped__() is (by_slices and capability == "AVX512")


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


BERT = dataclasses.replace(W2V_BERT_TINY, num_hidden_layers=1, layerdrop=0.0, hidden_size=32, intermediate_size=48)
WHISPER = WhisperConfig(
    d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=100,
)  # fmt: skip
WAV2VEC2 = dataclasses.replace(w2v.TINY, num_hidden_layers=1, layerdrop=0.0, adapter_attn_dim=8)
CONFIGS = {"wav2vec2": WAV2VEC2, "wav2vec2-bert": BERT, "whisper": WHISPER}


@pytest.mark.parametrize("family, config", CONFIGS.items(), ids=CONFIGS)
def test_models_tell_their_maps_whether_they_train(slow_mkl, monkeypatch, family, config):
    """In training all products are oneDNN's, gradients too; in evaluation where slices do not pay none is."""
    torchs_own = []

    def noted(x, *rest):
        torchs_own.append(x.shape)
        return F.linear(x, *rest)

    monkeypatch.setattr(module, "F", SimpleNamespace(linear=noted))
    monkeypatch.setattr(module, "slices_pay", lambda: False)
    monkeypatch.setattr(module, "LEAST_ROWS", 0)
    model = FAMILIES[family].model(config)
    labels = [[1, 2, 3], [4, 5]]
    batch = config.collate([torch.randn(n).numpy() for n in (16_000, 20_000)], labels)
    model.train().losses(batch).values.sum().backward()
    assert len(slow_mkl) >= 8 and not torchs_own
    slow_mkl.clear()
    model.eval().losses(batch)
    assert len(torchs_own) >= 8 and not slow_mkl
