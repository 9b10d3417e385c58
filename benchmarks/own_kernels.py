"""The project's own Triton kernels, compiled for a GPU that need not be there.

What w2v.kernels launches is called as ever, on the CPU, with a stand-in for each kernel that compiles it for the
arguments of the call and runs nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from benchmarks.generated import CARDS, Card, Resources, resources_of

NAMES = {
    "ctc_triton": ("_emission_kernel", "_path_kernel", "_gradient_kernel"),
    "norm_gelu_triton": ("_forward_kernel", "_backward_kernel"),
}


class CompileOnly:
    """Stands in for a kernel and compiles it for a card, for whatever it is called with; `asm` holds the outcome."""

    def __init__(self, kernel: Any, card: Card = CARDS["h100"]):
        self.kernel, self.card = kernel, card
        self.asm: dict[str, Any] = {}

    def __getitem__(self, grid: object) -> "CompileOnly":
        return self

    def __call__(self, *args: object, num_warps: int, **named: object) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from triton.runtime.jit import mangle_type

        given = dict(zip(self.kernel.arg_names, args, strict=False)) | named
        constants = {p.name: given[p.name] for p in self.kernel.params if p.is_constexpr}
        types = {name: "constexpr" if name in constants else mangle_type(arg) for name, arg in given.items()}
        # What Triton learns of addresses when it launches: torch's are multiples of 16.
        pointers = [i for i, kind in enumerate(types.values()) if kind.startswith("*")]
        source = ASTSource(self.kernel, types, constants, {(i,): [["tt.divisibility", 16]] for i in pointers})
        target = GPUTarget("cuda", self.card.number, 32)
        self.asm = triton.compile(source, target, {"num_warps": num_warps}).asm

    @property
    def resources(self) -> Resources:
        return resources_of(self.asm["cubin"], self.kernel.__name__)


@contextmanager
def compiled_only(module: ModuleType, card: Card = CARDS["h100"]) -> Iterator[dict[str, CompileOnly]]:
    """Within it, a call of the module's functions compiles its kernels: -> them, by name."""
    kernels = {name: CompileOnly(getattr(module, name), card) for name in NAMES[module.__name__.rpartition(".")[2]]}
    with ExitStack() as stack:
        for name, kernel in kernels.items():
            stack.enter_context(mock.patch.object(module, name, kernel))
        yield kernels


def own_kernels(card: Card) -> list[Resources]:
    """Of all kernels at the sizes of XLSR-53: 512 channels, 40 characters, 60 labels."""
    from w2v.kernels import ctc_triton, norm_gelu_triton

    half = torch.bfloat16 if card.capability >= (8, 0) else torch.float16
    found = []
    with compiled_only(norm_gelu_triton, card) as kernels:
        x = torch.randn(8, 512, dtype=half, requires_grad=True)
        norm_gelu_triton.fused_norm_gelu(x, torch.ones(512), torch.zeros(512), 1e-5).sum().backward()
        found += [kernel.resources for kernel in kernels.values()]
    with compiled_only(ctc_triton, card) as kernels:
        logits = torch.randn(1, 250, 40, requires_grad=True)
        labels, sizes = torch.ones(1, 60, dtype=torch.long), [torch.tensor([n]) for n in (250, 60)]
        ctc_triton.fused_ctc_losses(logits, sizes[0], labels, sizes[1], 0).sum().backward()
        found += [kernel.resources for kernel in kernels.values()]
    return found
