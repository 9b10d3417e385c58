"""The implementations that benchmarks.step_time times: ours and a peer, each with its step and its batches."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from benchmarks.common import Speech, StageClock, size_in_bytes
from benchmarks.peers import (
    Peer,
    PeerDataset,
    PeerStep,
    build_peer,
    compile_regions,
    freeze_encoder,
    peer_optimizer,
)
from recipes.console import say
from w2v.answers import Batch
from w2v.ctc import ctc_loss
from w2v.errors import InputError
from w2v.models.wav2vec2 import Wav2Vec2ForCTC
from w2v.models.wav2vec2_config import CONFIGS
from w2v.training import distributed
from w2v.training.compile import compile_and_try
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

LEARNING_RATE = 1e-5
LOSS_TOLERANCE = 1e-4  # relative, in fp32


@dataclass
class Record:
    """What one step of one implementation left behind."""

    clock: StageClock
    speech_samples: int
    batch_samples: int  # padding included
    flops: int
    layers: int
    memory: int | None


@dataclass
class Column:
    """One implementation: its step, its batches and the steps it has done."""

    name: str
    precision: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[Any, int, StageClock], None]  # on what its dataset yields: a Batch, or a peer's dict
    dataset: Any
    together: bool = False  # its gradients travel between ranks
    records: list[Record] = field(default_factory=list)
    loader: Iterator[Any] = field(default_factory=lambda: iter(()))

    @property
    def gradient_bytes(self) -> int:
        return size_in_bytes(p for p in self.model.parameters() if p.requires_grad)

    @property
    def held_bytes(self) -> int:
        """What lies in memory between its steps; DistributedDataParallel keeps the gradients' buckets."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        held = size_in_bytes([*self.model.parameters(), *(x for x in state if isinstance(x, torch.Tensor))])
        return held + (self.gradient_bytes if self.together else 0)

    @property
    def static_bytes(self) -> int:
        return self.held_bytes + (0 if self.together else self.gradient_bytes)


@contextmanager
def by_itself():
    """A rank's step without the other ranks: nothing is sent, nobody is waited for."""
    with (
        mock.patch("w2v.training.distributed.world", lambda: 1),
        mock.patch("w2v.training.step.world", lambda: 1),
    ):
        yield


def our_column(args, name: str, model: Wav2Vec2ForCTC, precision: str, speech: Speech) -> Column:
    """What recipes.cv_finetune runs, but for the data: packed batches, TrainStep, compiled layers on a GPU."""
    for stack in model.parts.stacks:
        stack.checkpointing = args.checkpointing == "on"
    if not args.train_feature_encoder:
        for part in model.parts.frozen:
            part.requires_grad_(False)
    optimizer = adamw(model.train(), LEARNING_RATE, (0.9, 0.999), 0.0)
    train_step = TrainStep(model, optimizer, lambda _: 1.0, precision)
    dataset = speech.dataset(model.config)
    if train_step.device.type == "cuda":
        compile_and_try(train_step, dataset[max(speech.batches, key=lambda batch: max(speech.samples(batch)))], say)

    def step(batch: Batch, number: int, clock: StageClock) -> None:
        train_step.begin(number)
        total = train_step.total_weight([batch])
        losses = train_step.losses(batch, last=True)
        clock("forward")
        train_step.backward(losses, total)
        clock("backward")
        train_step.update()
        clock("optimiser")

    def alone(batch: Batch, number: int, clock: StageClock) -> None:
        with by_itself():
            step(batch, number, clock)

    if name == "w2v-alone":
        return Column(name, precision, model, optimizer, alone, dataset)
    return Column(name, precision, model, optimizer, step, dataset, distributed.world() > 1)


def peer_columns(args, peer: Peer, precisions: list[str], speech: Speech) -> list[Column]:
    """One for each precision, all of the same weights."""
    device = next(peer.model.parameters()).device
    if not args.train_feature_encoder:
        freeze_encoder(peer)
    if args.checkpointing == "on":
        peer.model.gradient_checkpointing_enable({"use_reentrant": False})
    if peer.compiled:
        compile_regions(peer, args.checkpointing == "on")
    optimizer = peer_optimizer(peer, LEARNING_RATE)
    dataset = PeerDataset(speech.dataset(CONFIGS[args.model], pad=True), peer.inputs)
    return [
        Column(
            peer.name + (f"-{precision}" if precision != precisions[0] else ""),
            precision,
            peer.model,
            optimizer,
            PeerStep(peer, optimizer, precision, device),
            dataset,
            distributed.world() > 1,
        )
        for precision in precisions
    ]


def build_columns(
    args, model: Wav2Vec2ForCTC, speech: Speech, precisions: list[str], device: torch.device
) -> tuple[list[Column], dict[str, float]]:
    """-> ours first, then the peer's, and the losses on which they agree. precisions: as asked, and as ours runs."""
    peer = None if args.peer == "none" else build_peer(args.peer, model)
    losses = losses_with_dropout_off(model, peer, speech, device)
    alone = [copy.deepcopy(model)] if distributed.world() > 1 else []

    columns = [our_column(args, "w2v", model, precisions[1], speech)]
    columns += [our_column(args, "w2v-alone", copied, precisions[1], speech) for copied in alone]
    if peer:
        columns += peer_columns(args, peer, list(dict.fromkeys(precisions)), speech)
    return columns, losses


def losses_with_dropout_off(
    model: Wav2Vec2ForCTC, peer: Peer | None, speech: Speech, device: torch.device
) -> dict[str, float]:
    """Each one's fp32 loss of the first batch; InputError where they differ: then there is nothing to compare."""
    first, losses = speech.batches[0], {}
    ways = {"padded": True, "packed": False} if not model.config.pads else {"padded": True}
    # cuDNN's convolutions would round to tf32, and ours, which are matrix products, not.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        if peer:
            inputs = on_device(peer.inputs(speech.dataset(model.config, pad=True)[first]), device)
            losses[peer.name] = float(peer.loss(peer.model.eval(), inputs))
            peer.model.train()
        for way, pad in ways.items():
            batch = speech.dataset(model.config, pad)[first].to(device)
            losses[f"w2v, {way}"] = float(ctc_loss(model.eval()(batch), batch.labels, batch.label_lengths))
    say("loss with dropout off: " + "; ".join(f"{name} {loss:.6f}" for name, loss in losses.items()))
    wanted = losses["w2v, padded"]
    if not all(abs(loss - wanted) <= LOSS_TOLERANCE * abs(wanted) for loss in losses.values()):
        raise InputError(f"the losses must agree before timing, got {losses}; run the parity tests")
    return losses


def on_device(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Batch):
        return inputs.to(device)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
