"""torch.compile for a model's layers on a GPU, and a first try of the worst batch and of a lone clip."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from w2v.answers import Batch, Model
from w2v.errors import InputError
from w2v.kernels.device import use_triton
from w2v.kernels.torch_private import compile_modules, compiling_quietly, is_compiled
from w2v.training.step import TrainStep, try_batch


def layers_of(model: Model) -> list[nn.Module]:
    return [layer for stack in model.parts.stacks for layer in stack]


def compile_layers(model: Model, on: bool) -> None:
    """Fuse each layer's small kernels with torch.compile, one graph for all layers and lengths.

    Layer by layer: LayerDrop and checkpointing then stay outside, and it compiles once instead of once per layer. It is
    worth its minute on a GPU; on a CPU it was slower than eager (docs/PERFORMANCE.md).
    """
    compile_modules(layers_of(model), on)


def eagerly(model: Model) -> AbstractContextManager:
    """A context in which compiled layers run as they are written: evaluation then makes no graphs of its own."""
    compiled = any(is_compiled(layer) for layer in layers_of(model))
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def compile_and_try(step: TrainStep, batches: Sequence[Batch], say: Callable[[str], None]) -> None:
    """On a GPU: compile the layers, where that works here, and run these batches: what fails, fails in minute one.

    batches: the worst, and a lone clip. Where a family computes rows, torch.compile takes a size of 1 as a constant,
    and a lone clip has a graph of its own, which is made here rather than in mid-training.
    say: receives what people should know. Raises InputError where the batch does not fit the GPU's memory.
    """
    if not use_triton(next(step.model.parameters())):
        say("Triton does not run here: the loss and the encoder's norms take torch's slower kernels")
    say("compiling the transformer's layers for this GPU, about a minute")
    reason = ""
    try:
        compile_layers(step.model, True)
        with compiling_quietly():
            try_batches(step, batches)
    except InputError:
        raise
    except Exception as error:  # no compiler here, or one that cannot: eager does the same, slower
        reason = str(error).strip().split("\n")[0] or type(error).__name__
    if reason:  # only here is the memory of the failed try free again: the error held it
        say(f"going on without compiled layers, which do not work here: {reason}")
        compile_layers(step.model, False)
        try_batches(step, batches)


def try_batches(step: TrainStep, batches: Sequence[Batch]) -> None:
    for batch in batches:
        try_batch(step, batch)
