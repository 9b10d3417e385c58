"""The code that torch.compile makes for a GPU, made without one.

Dynamo traces a layer's Python, AOTAutograd writes its backward graph, Inductor turns both into Triton kernels, and
Triton compiles those for a GPU by its number. None of them needs the GPU itself, but torch asks a driver on the way:
autograd's engine refuses tensors on a GPU that is not there. So the graphs are traced with tensors of shapes without
numbers on the CPU, while the library takes its ways for a GPU (`gpu_ways`); then each tensor of a finished graph is
said to lie on the GPU, and Inductor is told the properties of a card.

What a card could do otherwise: autocast on it runs LayerNorm in fp32 and picks other attention kernels than on a CPU,
which `gpu_ways` imitates; Inductor reads the properties that `Card` has, and with its default settings it times nothing
on the card to choose between kernels. tests/benchmarks/test_offline.py holds what can be held without a card.
"""

import copy
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._inductor import compile_fx
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensor

from w2v.errors import InputError

GPU = torch.device("cuda", 0)
LAUNCH = r"^ +(?:\w+ = )?(?:(triton_\w+)\.run|(extern_kernels\.\w+)|((?:torch\.ops\.)?aten\.[\w.]+))\("
# FlashAttention 2 launches one kernel forward and three backward: sums of rows, the gradients, their cast.
KERNELS_OF = {"_flash_attention_backward": 3, "_scaled_dot_product_flash_attention_backward": 3}


class Card(NamedTuple):
    """What Inductor and Triton ask of a GPU, and its two rates."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int  # bytes that a block may ask for
    product_rate: float  # FLOP/s of a large half-precision product
    memory_rate: float  # bytes/s of a large copy, read and written
    rates_are: str  # where the two come from

    @property
    def number(self) -> int:
        return 10 * self.capability[0] + self.capability[1]


CARDS = {
    "h100": Card("NVIDIA H100", (9, 0), 132, 232_448, 798e12, 3.0e12, "as published by others"),
    "a100": Card("NVIDIA A100", (8, 0), 108, 166_912, 0.8 * 312e12, 0.9 * 2.04e12, "80 and 90 % of the datasheet's"),
    "t4": Card("Tesla T4", (7, 5), 40, 65_536, 0.6 * 65e12, 0.8 * 0.32e12, "60 and 80 % of the datasheet's"),
}


class Launch(NamedTuple):
    kernel: str
    kind: str  # "triton": written by Inductor; "product"; "attention"; "other"
    kernels: int


class Generated(NamedTuple):
    """A graph's code, and what it moves."""

    backward: bool
    source: str
    bytes: int  # read and written by all of its launches, at the sizes of the first call

    @property
    def launches(self) -> list[Launch]:
        """In order, from the module's `call`."""
        body = self.source[self.source.index("def call(") :]
        return [_launch(*each.groups()) for each in re.finditer(LAUNCH, body, re.MULTILINE)]

    def count(self, kind: str | None = None) -> int:
        """Kernels that one run of the graph launches, of one kind or all."""
        return sum(each.kernels for each in self.launches if kind in (None, each.kind))


def _launch(triton: str | None, product: str | None, operator: str | None) -> Launch:
    if triton or product:
        return Launch(triton or product or "", "triton" if triton else "product", 1)
    assert operator is not None
    name = operator.removeprefix("torch.ops.").split(".")[1]
    return Launch(name, "attention" if "attention" in name else "other", KERNELS_OF.get(name, 1))


@contextmanager
def generating(card: Card) -> Iterator[list[Generated]]:
    """Within it, what torch.compile is asked for is written for the card and runs as it was traced.

    -> forward and backward of each graph, as they are made. Made for tensors without numbers, under `gpu_ways`.
    """
    made: list[Generated] = []
    whole: Any = compile_fx.compile_fx

    def inner(graph: torch.fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Callable:
        made.append(_write(graph, inputs, card, options))
        return compile_fx.make_boxed_func(graph.forward)

    def compiler(graph: torch.fx.GraphModule, inputs: Sequence[Any], **_: Any) -> Any:
        return whole(graph, inputs, inner_compile=inner)

    torch._dynamo.reset()
    with _no_caches(), mock.patch.object(compile_fx, "compile_fx", compiler):
        yield made
    torch._dynamo.reset()


class _CodeError(Exception):
    """Carries the code out and ends Inductor once the code is there: what follows would load it on the card."""

    def __init__(self, source: str, moved: int):
        self.source, self.moved = source, moved


def _write(graph: torch.fx.GraphModule, inputs: Sequence[Any], card: Card, options: dict[str, Any]) -> Generated:
    def stop(lowering: GraphLowering) -> None:
        wrapper, _ = lowering.codegen()
        nodes = lowering.scheduler.nodes
        raise _CodeError(wrapper.value, sum(node.get_read_write_buffers_sizes() for node in nodes))

    graph = _on_the_gpu(graph)
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    inputs = [node.meta["val"] if isinstance(x, Tensor) else x for node, x in zip(holders, inputs, strict=True)]
    with mock.patch.object(GraphLowering, "compile_to_module", stop), pretend(card):
        try:
            compile_fx.compile_fx_inner(graph, inputs, **options)
        except Exception as error:
            causes = [error, getattr(error, "inner_exception", None), error.__cause__, error.__context__]
            written = next((each for each in causes if isinstance(each, _CodeError)), None)
            if written is None:
                raise
            return Generated(bool(options.get("is_backward")), written.source, written.moved)
    raise RuntimeError("Inductor wrote no code")


def _on_the_gpu(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy of a graph in which every tensor says that it lies on the GPU."""
    graph = copy.deepcopy(graph)

    def moved(x: Any) -> Any:
        if isinstance(x, FakeTensor):
            x.fake_device = GPU
        return GPU if isinstance(x, torch.device) else x

    for node in graph.graph.nodes:
        pytree.tree_map(moved, node.meta.get("val"))
        node.args, node.kwargs = pytree.tree_map(moved, node.args), pytree.tree_map(moved, dict(node.kwargs))
    return graph


@contextmanager
def gpu_ways(card: Card) -> Iterator[None]:
    """Within it, the library takes the ways that it takes on that card, on tensors of the CPU.

    Kernels of our own count as one operation: what they compute is replaced by something of the same shapes.
    """

    def layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # on a GPU its results are fp32
            x = x.float()
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def sdpa(q: Tensor, k: Tensor, v: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False) -> Tensor:
        if attn_mask is None and card.capability >= (8, 0) and q.dtype != torch.float32:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal)[0]
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, -torch.inf)
            attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True, dropout_p, is_causal)[0]

    def ctc(logits: Tensor, *_: object) -> Tensor:
        return logits.float().logsumexp(2).sum(1)

    rand = torch.rand

    def drawn(*shape: Any, **options: Any) -> Any:  # LayerDrop draws numbers on the host: here it drops no layer
        return 1.0 if shape == ([],) and "device" not in options else rand(*shape, **options)

    def has_flash(q: Tensor) -> bool:
        return card.capability >= (8, 0) and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0

    with ExitStack() as stack:
        for place, stand_in in {
            "torch.rand": drawn,
            "torch.nn.LayerNorm.forward": layer_norm,
            "torch.nn.functional.scaled_dot_product_attention": sdpa,
            "w2v.kernels.attention.has_flash": has_flash,
            "w2v.kernels.attention.on_gpu": lambda x: True,
            "w2v.kernels.relative_attention.on_gpu": lambda x: True,
            "w2v.kernels.grouped_conv.on_gpu": lambda x: True,
            "w2v.kernels.channels_last_conv.on_gpu": lambda x: True,
            "w2v.kernels.dropout.on_gpu": lambda x: True,
            "w2v.models.w2v_bert.on_gpu": lambda x: True,
            "w2v.models.whisper.on_gpu": lambda x: True,
            "w2v.models.ctc_answers.ctc_losses": ctc,  # its kernel reads nothing back, torch's does
        }.items():
            stack.enter_context(mock.patch(place, stand_in))
        yield


@contextmanager
def pretend(card: Card) -> Iterator[None]:
    """Within it, torch and Triton believe that the card is there, as far as writing code for it needs that."""
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget

    properties = SimpleNamespace(
        name=card.name,
        major=card.capability[0],
        minor=card.capability[1],
        multi_processor_count=card.multiprocessors,
        regs_per_multiprocessor=65_536,
        max_threads_per_multi_processor=1024 if card.number == 75 else 2048,
        max_threads_per_block=1024,
        warp_size=32,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=card.shared_memory,
        gcnArchName="",
    )

    class Driver:
        get_current_device = staticmethod(lambda: 0)
        get_active_torch_device = staticmethod(lambda: GPU)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", card.number, 32))

    def always(value: Any) -> staticmethod:
        return staticmethod(lambda *_, **__: value)

    with ExitStack() as stack:
        answers: dict[Any, dict[str, Any]] = {
            torch.cuda: {
                "get_device_capability": card.capability,
                "get_device_properties": properties,
                "current_device": 0,
                "device_count": 1,
                "synchronize": None,
            },
            CudaInterface: {
                "get_device_properties": properties,
                "get_compute_capability": card.number,
                "is_bf16_supported": card.capability >= (8, 0),
                "is_available": True,
            },
            CudaInterface.Worker: {"get_device_properties": properties},
        }
        for place, names in answers.items():
            for name, value in names.items():
                stack.enter_context(mock.patch.object(place, name, always(value)))
        stack.enter_context(mock.patch("torch._inductor.scheduler.has_triton", lambda *_: True))
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", Driver()))
        yield


@contextmanager
def _no_caches() -> Iterator[None]:
    """Code from an earlier call would come back without a word, and threads compile nothing here."""
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    settings: tuple[Any, Any] = inductor, functorch
    with (
        settings[0].patch(compile_threads=1, fx_graph_cache=False, use_static_cuda_launcher=False),
        settings[1].patch(enable_autograd_cache=False),
    ):
        yield


class Resources(NamedTuple):
    """What a compiled kernel asks of a multiprocessor."""

    kernel: str
    registers: int  # of a thread
    spilled: int  # bytes of a thread that did not fit


def resources_of(binary: bytes, kernel: str) -> Resources:
    """What cuobjdump says of a cubin. InputError where Triton came without it."""
    import triton

    try:
        tool = triton.knobs.nvidia.cuobjdump.path
    except RuntimeError as missing:
        raise InputError(
            f"counting registers needs cuobjdump, which Triton's wheel holds on Linux: {missing}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        done = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump said {done.stdout!r}")
    return Resources(kernel, int(found[1]), int(found[2]) + int(found[3]))


def inductor_kernels(generated: Generated, card: Card) -> list[Resources]:
    """Each kernel of a graph's code, compiled for the card; of its configurations the one with most registers."""
    worst = []
    for name, source in re.findall(r"async_compile\.triton\('(\w+)', '''\n(.*?)\n'''", generated.source, re.S):
        no_driver = mock.patch("torch._inductor.runtime.triton_helpers.set_driver_to_gpu", lambda: None)
        with tempfile.TemporaryDirectory() as folder, pretend(card), _no_caches(), no_driver:
            file = Path(folder) / f"{name}.py"  # Triton reads a kernel's source from its file
            file.write_text(source, encoding="utf-8")
            space = {"__file__": str(file), "__name__": name}
            exec(compile(source, str(file), "exec"), space)
            tuner: Any = space[name]
            binaries = [tuner._precompile_config(config).kernel.asm["cubin"] for config in tuner.configs]
        worst.append(max((resources_of(binary, name) for binary in binaries), key=lambda each: each[1:][::-1]))
    return worst
