"""Triton's kernels on the CPU: run by its interpreter, or compiled for a GPU that is not there."""

import subprocess

import pytest

triton = pytest.importorskip("triton")
pytest.importorskip("triton.experimental.gluon")  # the interpreter imports it late; it must see an unpatched language

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime import interpreter  # noqa: E402
from triton.runtime.jit import JITFunction, mangle_type  # noqa: E402


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


class CompileOnly:
    """Stands in for a kernel and compiles it for an H100, for whatever it is called with; `asm` holds the outcome."""

    def __init__(self, kernel: JITFunction):
        self.kernel, self.asm = kernel, None

    def __getitem__(self, grid):
        return self

    def __call__(self, *args, num_warps: int, **named):
        args = dict(zip(self.kernel.arg_names, args, strict=False)) | named
        constants = {p.name: args[p.name] for p in self.kernel.params if p.is_constexpr}
        types = {name: "constexpr" if name in constants else mangle_type(arg) for name, arg in args.items()}
        # What Triton learns of addresses when it launches: torch's are multiples of 16.
        pointers = [i for i, kind in enumerate(types.values()) if kind.startswith("*")]
        source = ASTSource(self.kernel, types, constants, {(i,): [["tt.divisibility", 16]] for i in pointers})
        self.asm = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": num_warps}).asm

    def resources(self, folder) -> str:
        """What cuobjdump says of its registers and its stack, which spills would use."""
        binary = folder / self.kernel.__name__
        binary.write_bytes(self.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", binary]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needs_cuobjdump() -> None:
    try:
        _ = triton.knobs.nvidia.cuobjdump.path
    except RuntimeError as missing:
        pytest.skip(str(missing))
