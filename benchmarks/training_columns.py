"""The columns of benchmarks.step_time that train: ours, ours alone under torchrun, and a peer's."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from benchmarks.columns import Column, Work, on_device
from benchmarks.common import StageClock
from benchmarks.peer_step import Peer, PeerDataset, PeerStep, compile_regions, peer_optimizer
from recipes.console import say
from w2v.answers import Batch
from w2v.errors import InputError
from w2v.precision import autocast
from w2v.training import distributed
from w2v.training.compile import compile_and_try
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

LEARNING_RATE = 1e-5
LOSS_TOLERANCE = 1e-4  # relative, in fp32
HALF_TOLERANCE = 1e-2  # of a peer whose attention knows half precision only


def training_columns(work: Work, peer: Peer | None, ours: str, theirs: list[str]) -> list[Column]:
    """Ours first, then the peer's, one for each precision, all of the same weights. ours, theirs: precisions."""
    model = work.subject.model
    alone = [copy.deepcopy(model)] if distributed.world() > 1 else []
    columns = [our_column(work, "w2v", model, ours)]
    columns += [our_column(work, "w2v-alone", copied, ours) for copied in alone]
    return columns + (peer_columns(work, peer, theirs) if peer else [])


@contextmanager
def by_itself() -> Iterator[None]:
    """A rank's step without the other ranks: nothing is sent, nobody is waited for."""
    with (
        mock.patch("w2v.training.distributed.world", lambda: 1),
        mock.patch("w2v.training.step.world", lambda: 1),
    ):
        yield


def our_column(work: Work, name: str, model: Any, precision: str) -> Column:
    """What recipes.cv_finetune runs, but for the data: packed batches, TrainStep, compiled layers on a GPU."""
    for stack in model.parts.stacks:
        stack.checkpointing = work.checkpointing
    if not work.encoder_trained:
        for part in model.parts.frozen:
            part.requires_grad_(False)
    optimizer = adamw(model.train(), LEARNING_RATE, (0.9, 0.999), 0.0)
    train_step = TrainStep(model, optimizer, lambda _: 1.0, precision)
    speech = work.speech
    dataset = speech.dataset(model.config)
    if train_step.device.type == "cuda":
        longest = max(speech.batches, key=lambda batch: max(speech.samples(batch)))
        compile_and_try(train_step, [dataset[longest], dataset[longest[:1]]], say)

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

    is_alone = name == "w2v-alone"
    together = not is_alone and distributed.world() > 1
    return Column(name, precision, model, optimizer, alone if is_alone else step, dataset, speech.batches, together)


def peer_columns(work: Work, peer: Peer, precisions: list[str]) -> list[Column]:
    if not work.encoder_trained and work.subject.model.parts.frozen:
        peer.freeze_encoder()
    checkpointing = work.checkpointing or peer.as_run
    if checkpointing:
        peer.model.gradient_checkpointing_enable({"use_reentrant": False})
    if peer.compiled:
        compile_regions(peer, checkpointing)
    device, optimizer = next(peer.model.parameters()).device, peer_optimizer(peer, LEARNING_RATE)
    dataset = PeerDataset(work.speech.dataset(work.subject.model.config, pad=True), peer.inputs)
    return [
        Column(
            peer.named(precision, precisions),
            precision,
            peer.model,
            optimizer,
            PeerStep(peer, optimizer, precision, device),
            dataset,
            work.speech.by_count() if peer.as_run else work.speech.batches,
            distributed.world() > 1,
        )
        for precision in precisions
    ]


def losses_with_dropout_off(work: Work, peer: Peer | None, device: torch.device) -> dict[str, float]:
    """Each one's fp32 loss of the first batch; InputError where they differ: then there is nothing to compare."""
    model, speech = work.subject.model.eval(), work.speech
    first, config = speech.batches[0], model.config
    half = peer is not None and peer.half_only
    losses = {}
    # cuDNN's convolutions would round to tf32, and ours, which are matrix products, not.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        if peer:
            inputs = on_device(peer.inputs(speech.dataset(config, pad=True)[first]), device)
            with autocast("bf16" if half else "fp32", device):
                losses[peer.name] = float(peer.loss(peer.model.eval(), inputs))
            peer.model.train()
        for way, pad in (("padded", True), ("packed", False)):
            if pad or not config.pads:
                batch = speech.dataset(config, pad)[first].to(device)
                losses[f"w2v, {way}"] = float(model.losses(batch).values.sum() / sum(batch.weights))
    model.train()
    say("loss with dropout off: " + "; ".join(f"{name} {loss:.6f}" for name, loss in losses.items()))
    wanted = losses["w2v, padded"]
    for name, loss in losses.items():
        tolerance = HALF_TOLERANCE if half and not name.startswith("w2v") else LOSS_TOLERANCE
        if not abs(loss - wanted) <= tolerance * abs(wanted):
            raise InputError(f"the losses must agree before timing, got {losses}; run the parity tests")
    return losses
