"""What benchmarks do with a peer, whatever its model: its batches, its training step, compiling it, equal draws."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from benchmarks.common import StageClock
from w2v.answers import Batch
from w2v.data.loading import ClipDataset
from w2v.precision import autocast
from w2v.training import distributed
from w2v.training.optim import adamw

Inputs = dict[str, Tensor]
Write = Callable[[list[np.ndarray]], list[str]]  # int16 waveforms (samples,) of one batch -> texts


@dataclass
class Peer:
    name: str
    model: Any  # an nn.Module of the peer's own class
    encoder: nn.Module  # its convolutions, or what hears
    inputs: Callable[[Batch], Inputs]  # what its collator makes of a padded batch
    loss: Callable[[nn.Module, Inputs], Tensor]  # of the model, or of what wraps it
    hear: Callable[[Inputs], object]  # logits, or the ids that it writes
    writer: Callable[[Any, str], Write] | None = None  # our tokenizer, a precision -> how its recipes evaluate
    layers: list[nn.Module] = field(default_factory=list)  # of its transformer
    convolutions: list[nn.Module] = field(default_factory=list)
    other_regions: list[nn.Module] = field(default_factory=list)  # worth a graph of their own too

    @property
    def compiled(self) -> bool:
        """Whether it is to be timed under torch.compile."""
        return self.name.endswith("-compiled")

    @property
    def as_run(self) -> bool:
        """Whether it is to be timed as most people run it."""
        return self.name.endswith("-as-run")

    @property
    def half_only(self) -> bool:
        """Whether its attention knows half precision only, as FlashAttention does."""
        return self.name.endswith("-flash")

    def named(self, precision: str, precisions: list[str]) -> str:
        """Of one of its columns; the first is the one that was asked for."""
        return self.name + (f"-{precision}" if precision != precisions[0] else "")

    def freeze_encoder(self) -> None:
        freeze = getattr(self.model, "freeze_feature_encoder", None)
        if freeze is not None:
            freeze()
        else:
            self.encoder.requires_grad_(False)


class PeerDataset(torch.utils.data.Dataset):
    """A dataset of padded batches in a peer's terms."""

    def __init__(self, padded: ClipDataset, inputs: Callable[[Batch], Inputs]):
        self.padded, self.inputs = padded, inputs

    def __getitem__(self, numbers: list[int]) -> Inputs:
        return self.inputs(self.padded[numbers])

    def __len__(self) -> int:
        return len(self.padded)


def compile_regions(peer: Peer, checkpointing: bool) -> None:
    """torch.compile over transformers' model, region by region, in the way benchmarks/peers.py describes."""
    torch._dynamo.config.specialize_float = True  # as for our layers: probabilities do not vary
    torch._dynamo.config.recompile_limit = 64  # its convolutions and layers count as one function
    trained = any(p.requires_grad for p in peer.encoder.parameters())
    recomputed = ([*peer.layers, *peer.convolutions] if trained else peer.layers) if checkpointing else []
    peer.model.gradient_checkpointing_disable()
    for module in [*peer.convolutions, *peer.other_regions, *peer.layers]:
        # What module.compile() does, but for the checkpoint.
        call = torch.compile(module._call_impl, dynamic=True)
        module._compiled_call_impl = partial(checkpoint, call, use_reentrant=False) if module in recomputed else call


class PeerStep:
    """The step of transformers' Trainer: forward with labels under autocast, backward, clip, update."""

    def __init__(self, peer: Peer, optimizer: torch.optim.Optimizer, precision: str, device: torch.device):
        self.peer, self.optimizer, self.precision, self.device = peer, optimizer, precision, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.net = peer.model
        if distributed.world() > 1:
            self.net = DistributedDataParallel(peer.model, find_unused_parameters=True)

    def __call__(self, inputs: Inputs, number: int, clock: StageClock) -> None:
        with autocast(self.precision, self.device):
            loss = self.peer.loss(self.net, inputs)
        clock("forward")
        self.scaler.scale(loss).backward()
        clock("backward")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.peer.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        clock("optimiser")


def peer_optimizer(peer: Peer, lr: float) -> torch.optim.AdamW:
    return adamw(peer.model, lr, (0.9, 0.999), 0.0)


def note_losses(peer: Peer) -> list[float]:
    """-> a list that gets the peer's loss at each step from now on."""
    noted: list[float] = []
    loss_of = peer.loss

    def loss(net: nn.Module, inputs: Inputs) -> Tensor:
        value = loss_of(net, inputs)
        noted.append(value.item())
        return value

    peer.loss = loss
    return noted


@contextmanager
def same_layers_dropped(number: int | None) -> Iterator[list[float]]:
    """LayerDrop's draws of step `number`, the same for every implementation; yields those drawn so far.

    None: no layer is dropped.

    Ours and transformers' draw torch.rand([]) once per layer, torchaudio torch.rand(1); transformers' draws nothing
    where the probability is 0.
    """
    generator, drawn, rand = random.Random(number), [], torch.rand

    def draw(*shape, **options) -> Tensor:
        if shape not in (([],), (1,)):
            return rand(*shape, **options)
        drawn.append(1.0 if number is None else generator.random())
        return torch.full((1,) if shape == (1,) else (), drawn[-1])

    with mock.patch.object(torch, "rand", draw):
        yield drawn
