"""Several processes that train one model, started by torchrun: one per GPU with NCCL, or on CPUs with gloo.

    join(torch.device("cuda", 0))                 # the others of the launch; alone, nothing happens
    rank(), world()

Without torchrun every function here does what a lone process needs, so that callers need no second path.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from w2v.answers import Batch, Losses, Model
from w2v.errors import InputError

Given = ParamSpec("Given")
Value = TypeVar("Value")

# Processes may wait hours for a message while one of them decodes a corpus. Within a step they wait minutes at most.
MESSAGE_TIMEOUT, STEP_TIMEOUT = timedelta(hours=24), timedelta(minutes=30)
_messages = None  # the group through which Python objects travel; None: the only group there is


def is_launched() -> bool:
    """Whether torchrun, or another launcher of its kind, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device: torch.device) -> None:
    """Join the process group that the launcher's environment describes."""
    global _messages
    if not is_launched() or dist.is_initialized():
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", timeout=STEP_TIMEOUT, device_id=device)
        _messages = dist.new_group(backend="gloo", timeout=MESSAGE_TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=MESSAGE_TIMEOUT)


def leave() -> None:
    """Leave the process group, at a command's end."""
    global _messages
    if dist.is_initialized():
        dist.destroy_process_group()
        _messages = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """This process's number on its machine, hence its GPU's."""
    return int(os.environ.get("LOCAL_RANK", 0))


def on_one_machine() -> bool:
    """Whether all processes of the launch run here, as far as its launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world())) == world()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_peer_gone(error: Exception) -> bool:
    """Whether an error only says that another process of the group has ended: in gloo's words, or in NCCL's."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
    return world() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def from_first(value: Value) -> Value:
    """The first process's value of a small picklable thing, in all of them."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_messages, device=torch.device("cpu"))
    return box[0]


def gather(value: Value) -> list[Value]:
    """Every process's value of a small picklable thing, by rank, in all of them."""
    values = [value]
    if dist.is_initialized():
        values = [value] * world()  # to be replaced
        dist.all_gather_object(values, value, group=_messages)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. Every step may ask: it is one small message, and no GPU is waited for."""
    if not dist.is_initialized():
        return flag
    box = torch.tensor(int(flag))
    dist.all_reduce(box, dist.ReduceOp.MAX, group=_messages)
    return bool(box)


class RefusedByFirstError(InputError):
    """The InputError that the first process met, in each of the others. The first one tells the user."""


def _by_first(function: Callable[[], Value]) -> Value:
    """function()'s value in the first process, or its InputError, sent to all."""
    value: Value | None = None
    error: InputError | None = None
    if rank() == 0:
        try:
            value = function()
        except InputError as refused:
            error = refused
    message = from_first(None if error is None else str(error))
    if error is not None:
        raise error
    if message is not None:
        raise RefusedByFirstError(message)
    return cast(Value, value)


def by_first(function: Callable[Given, Value]) -> Callable[Given, Value]:
    """Decorator: the first process alone runs `function`, all wait for it and receive its (picklable) value.

    Where it raises InputError the others raise RefusedByFirstError, an InputError too: all end, and none waits.
    """

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        return from_first(_by_first(lambda: function(*args, **kwargs)))

    return run


def after_first(function: Callable[[], Value]) -> Value:
    """function()'s value in every process. The first calls it first; the others call it then, and find its files.

    Where the first raises InputError the others raise RefusedByFirstError.
    """
    value = _by_first(function)
    return value if rank() == 0 else function()


def sum_over_ranks(value: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


class _Losses(nn.Module):
    """A model whose forward pass is its losses: what DistributedDataParallel wraps."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        return self.model.losses(batch)


def replicate(model: Model) -> nn.Module:
    """batch -> model.losses(batch), whose gradients all processes average while the backward pass still runs.

    Parameters that do not require a gradient now stay out of it for good: replicate anew when that changes.
    """
    losses = _Losses(model)
    if world() == 1:
        return losses
    return DistributedDataParallel(losses, broadcast_buffers=False, gradient_as_bucket_view=True)


def send_gradients(replica: nn.Module, on: bool) -> None:
    """Whether the next forward and backward pass of a replica shares its gradients, or adds them up here."""
    if isinstance(replica, DistributedDataParallel):
        replica.require_backward_grad_sync = on  # what its no_sync() sets


class _Touch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *[None] * ctx.count


def with_all_parameters(loss: Tensor, model: Model) -> Tensor:
    """`loss` with every trainable parameter in its graph, also those that LayerDrop left out, at no cost.

    DistributedDataParallel waits for each parameter it knows. `find_unused_parameters` searches the graph for those
    without a gradient, and fails together with checkpointing (transformers#11452, pytorch#42793). An edge without a
    gradient makes the search unnecessary: DDP then sums zeros. (With several processes AdamW moves a layer whose
    gradient is zeros on by its momentum. In one process such a layer has no gradient, and AdamW leaves it as it is.)
    """
    return loss if world() == 1 else _Touch.apply(loss, *(p for p in model.parameters() if p.requires_grad))
