"""What we use of torch's private names is still there, and still does what we use it for.

Run: pytest tests/kernels/test_torch_private.py
"""

import ast
import inspect
import logging
import re
import warnings

import pytest
import torch
from conftest import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from w2v.kernels import torch_private

# torch._x, torch.cpu._x, aten._x, module._compiled_x, and what an optimiser does not document
PRIVATE = re.compile(r"torch(\.\w+)*\._(?!_)\w+|aten\._\w+|\._compiled_\w+|\.grad_scale\b")


def test_private_names_stand_in_one_file():
    for folder in ("w2v", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "torch_private.py":
                code = ast.unparse(ast.parse(file.read_text(encoding="utf-8")))  # without comments
                if file.parent.name == "weights":  # what others' pickles hold, and are refused or read for
                    code = re.sub(r"torch\._(utils\.|utils |tensor )\w+|torch\._utils _rebuild_\(", "", code)
                assert not PRIVATE.search(code), (file, PRIVATE.search(code))


def test_flash_attention_keeps_its_signature():
    schema = torch.ops.aten._flash_attention_forward.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names[:10] == ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
                          "return_debug_mask"]  # fmt: skip
    assert schema.returns[0].name == "output"


def test_softmax_backward_is_that_of_softmax():
    x = torch.randn(3, 5, requires_grad=True)
    out, upstream = x.softmax(-1), torch.randn(3, 5)
    (wanted,) = torch.autograd.grad(out, x, upstream)
    torch.testing.assert_close(torch_private.softmax_backward(upstream, out.detach()), wanted)


@pytest.mark.skipif(not torch_private.has_onednn_linear(), reason="this build of torch has no oneDNN")
def test_onednn_adds_what_it_is_given():
    x, weight, bias, plus = torch.randn(64, 8), torch.randn(6, 8), torch.randn(6), torch.randn(64, 6)
    found = torch_private.onednn_linear(x, weight, bias, plus=plus)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias) + plus)


def test_who_sees_each_operator_is_known():
    seen = []

    def loss(x):
        seen.append(torch_private.is_observed())
        return x.sin().sum()

    x = torch.ones(2, requires_grad=True)
    loss(x)
    checkpoint(loss, x, use_reentrant=False).backward()
    assert not any(seen)
    with FakeTensorMode():
        loss(torch.ones(2))
    with FlopCounterMode(display=False):
        loss(x)
    torch.vmap(loss)(torch.ones(3, 2))
    torch.func.grad(loss)(torch.ones(2))
    assert seen == [False] * 3 + [True] * 4


def test_bf16_question_has_an_answer():
    assert torch_private.cpu_has_bf16_products() in (True, False)


def test_fused_adamw_divides_gradients():
    weights = []
    for divisor in (None, 4.0):
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.grad = torch.full((3,), 2.0)
        optimizer = torch.optim.AdamW([parameter], lr=0.1, eps=1.0, fused=True)
        if divisor:
            torch_private.divide_gradients_in_update(optimizer, torch.tensor(divisor))
        else:
            parameter.grad /= 4.0
        optimizer.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(*weights)


def test_compiling_can_be_taken_back():
    before = torch._dynamo.config.specialize_float, torch._dynamo.config.recompile_limit
    module = torch.nn.Linear(2, 2)
    try:
        torch_private.compile_modules([module], True)
        assert torch_private.is_compiled(module)
        torch_private.compile_modules([module], False)
        assert not torch_private.is_compiled(module)
        assert torch._dynamo.config.specialize_float is True
    finally:
        torch._dynamo.config.specialize_float, torch._dynamo.config.recompile_limit = before
    with pytest.raises(AttributeError):  # a misspelt setting is refused: those above exist
        torch._dynamo.config.recompile_limits = 1


def test_compiling_says_only_what_its_user_can_act_on(recwarn, caplog):
    shapes = logging.getLogger("torch.utils._sympy.interp")
    before = shapes.level
    with torch_private.compiling_quietly():
        warnings.warn("TensorFloat32 tensor cores available but not enabled.", stacklevel=2)
        shapes.warning("failed while executing pow_by_natural")
        warnings.warn("this layer is slow", stacklevel=2)
        shapes.error("shapes do not agree")
    assert [str(each.message) for each in recwarn] == ["this layer is slow"]
    assert [record.getMessage() for record in caplog.records] == ["shapes do not agree"]
    assert shapes.level == before


def test_torch_still_warns_in_those_words():
    from torch._inductor import compile_fx
    from torch.utils._sympy import interp

    assert "TensorFloat32 tensor cores" in inspect.getsource(compile_fx)
    assert interp.log.name == "torch.utils._sympy.interp"
