"""Triton's kernels on the CPU: run by its interpreter."""

import pytest

triton = pytest.importorskip("triton")
pytest.importorskip("triton.experimental.gluon")  # the interpreter imports it late; it must see an unpatched language

import triton.language as tl  # noqa: E402
from triton.runtime import interpreter  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402


def interpret(monkeypatch, module, kernels: tuple[str, ...]) -> None:
    """Run a module's kernels with numpy for the rest of a test.

    TRITON_INTERPRET=1 would have to be set before anything imports Triton, and holds for the whole process.
    """
    for place in (tl, tl.standard, module):
        for name, function in list(vars(place).items()):
            if isinstance(function, JITFunction):
                interpreted = interpreter.InterpretedFunction(function.fn)
                # Called through an InterpretedFunction, a helper would patch the language once more, for good.
                monkeypatch.setattr(place, name, interpreted if name in kernels else interpreted.rewrite())
    # It patches the modules that a kernel's globals name; the helpers in tl.standard need this one too.
    monkeypatch.setattr(module, "core", tl.core, raising=False)

    # A scalar is an array of one element there, which numpy 2.4 no longer takes for a bound of range().
    patch_tensor = interpreter._patch_lang_tensor

    def with_index(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)


def needs_cuobjdump() -> None:
    try:
        _ = triton.knobs.nvidia.cuobjdump.path
    except RuntimeError as missing:
        pytest.skip(str(missing))
