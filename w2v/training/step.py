"""One optimiser step, in the pieces that a training loop shows and a benchmark times:

    step.begin(number)                            # randomness, learning rates, what trains
    total = step.total_weight(batches)            # of the effective batch
    for batch in batches:                         # micro-batches of this rank
        losses = step.losses(batch, last=batch is batches[-1])
        step.backward(losses, total)
    result = step.update()

A Batch (w2v.answers) holds the clips of one micro-batch: `inputs`, their `layout`, `labels` (B, U), `weights` (B,),
`samples` (B numbers) and `names`, on the host until `losses` moves it. The loss of an effective batch is the sum of
its clips' losses divided by the sum of their weights, over micro-batches and ranks: neither accumulation nor the
number of ranks changes what a clip counts. For CTC every clip weighs 1, and its loss is divided by its labels' number.

A step with a loss or a gradient that is not finite, on any rank, changes nothing. TrainStep does not wait for the GPU:
what a step measured stays there. `was_skipped` waits for one step.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from w2v.answers import Batch, Losses, Model
from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError
from w2v.precision import autocast
from w2v.training.distributed import rank, replicate, send_gradients, sum_over_ranks, with_all_parameters, world
from w2v.training.optim import clip_and_update

# Of a parameter, in fp32: AdamW's two moments, and its place in DistributedDataParallel's buckets.
MOMENT_BYTES, BUCKET_BYTES = 8, 4


@dataclass
class StepResult:
    """What a step did on this rank. Its tensors are on the device: reading one waits for the work queued there."""

    number: int  # of the step, from 0
    losses: Tensor  # (C,) of the step's C clips
    names: list[str]  # (C,) of the clips
    weights: list[float]  # (C,) of the clips
    counts: dict[str, Tensor]  # scalars by name: frames, blank_frames, labels
    grad_norm: Tensor  # scalar, before clipping, over all ranks
    updated: Tensor  # scalar bool on its way to the host: whether the norm was finite, and the weights moved
    finished: torch.cuda.Event | None  # after the copy of `updated`; None on a CPU


class TrainStep:
    """The state of training: a model, its optimiser, and what a step's number decides.

    model: of any family (it has `losses` and `parts`), in training mode on its device. optimizer: fused; the learning
    rate of each parameter group is its peak. lr_factor: step number -> factor on the peak rates. head_warmup_steps:
    number of first steps that train the head alone (fairseq's freeze-finetune-updates). mask_from: number of first
    steps without SpecAugment: masks prolong CTC's plateau of blanks.
    seed: dropout and masks of a step follow from it, the rank and the step's number; LayerDrop's draws are the same on
    all ranks, which then have equally many layers to compute. A resumed run needs no generator's state.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.AdamW,
        lr_factor: Callable[[int], float],
        precision: str = "fp32",
        max_grad_norm: float = 1.0,
        head_warmup_steps: int = 0,
        seed: int = 0,
        mask_from: int = 0,
    ):
        if not optimizer.defaults.get("fused"):  # which clips, and skips a step, in the kernel that updates
            raise InputError("`optimizer` must be AdamW with fused=True, as w2v.training.optim.adamw makes it")
        self.model, self.optimizer, self.lr_factor = model, optimizer, lr_factor
        self.precision, self.max_grad_norm = precision, max_grad_norm
        self.head_warmup_steps, self.seed, self.mask_from = head_warmup_steps, seed, mask_from
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        head = {id(p) for p in model.parts.head.parameters()}
        self._body = [p for p in model.parameters() if p.requires_grad and id(p) not in head]
        self._replica: nn.Module | None = None  # batch -> model.losses(batch); with several ranks under DDP
        self._layerdrop = torch.Generator()
        for stack in model.parts.stacks:
            stack.generator = self._layerdrop
        self._seen: list[tuple[Batch, Losses]] = []  # micro-batches of this step
        self._number = 0

    def begin(self, number: int) -> None:
        """Seed the generators, set the learning rates and freeze or unfreeze the body for step `number`, from 0."""
        # A string seed is hashed: neighbouring numbers give unrelated draws.
        torch.manual_seed(random.Random(f"{self.seed}-{number}-{rank()}").getrandbits(63))
        self._layerdrop.manual_seed(random.Random(f"{self.seed}-{number}").getrandbits(63))
        for group, peak in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * self.lr_factor(number)
        body_trains = number >= self.head_warmup_steps
        if self._replica is None or any(p.requires_grad != body_trains for p in self._body):
            for parameter in self._body:
                parameter.requires_grad_(body_trains)
            # DDP knows the parameters that required a gradient when it was made.
            self._replica = replicate(self.model)
        self._seen, self._number = [], number

    def total_weight(self, batches: list[Batch]) -> float | Tensor:
        """What the clips of these micro-batches, and of all other ranks', weigh together."""
        weight = sum(sum(batch.weights) for batch in batches)
        # full() fills on the device; a tensor() copied there would wait for the step before.
        return weight if world() == 1 else sum_over_ranks(torch.full((), weight, device=self.device))

    def losses(self, batch: Batch, last: bool) -> Losses:
        """The forward pass of a micro-batch. Ranks exchange gradients in the last one's backward pass only."""
        assert self._replica is not None  # begin() made it
        send_gradients(self._replica, on=last)
        masks = no_masks(self.model) if self._number < self.mask_from else nullcontext()
        with memory_errors_explained(batch), masks, autocast(self.precision, self.device):
            losses = self._replica(batch.to(self.device))
        self._seen.append((batch, losses._replace(values=losses.values.detach())))
        return losses

    def backward(self, losses: Losses, total_weight: float | Tensor) -> None:
        """Add a micro-batch's gradients to the step's."""
        # DDP averages gradients over ranks; their sum is needed, hence world().
        loss = with_all_parameters(losses.values.sum() * world() / total_weight, self.model)
        loss = loss * (1 + 0 * loss.detach())  # one that is not finite makes all gradients so, whatever its own are
        with memory_errors_explained(self._seen[-1][0]):
            self.scaler.scale(loss).backward()

    def update(self) -> StepResult:
        """Clip the gradients, move the weights, and say what the step did."""
        with memory_errors_explained(self._seen[-1][0]):
            grad_norm = clip_and_update(self.optimizer, self.scaler, self.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.cat([losses.values for _, losses in self._seen])
        counts: Counter = Counter()
        for _, micro in self._seen:
            counts.update(micro.counts)
        updated = torch.isfinite(grad_norm).to("cpu", non_blocking=True)
        on_gpu = self.device.type == "cuda"
        return StepResult(
            self._number,
            losses,
            [name for batch, _ in self._seen for name in batch.names],
            [weight for batch, _ in self._seen for weight in batch.weights],
            dict(counts),
            grad_norm,
            updated,
            torch.cuda.current_stream(self.device).record_event() if on_gpu else None,
        )


def was_skipped(result: StepResult) -> bool:
    """Whether the step changed nothing, the same on all ranks. Waits for that step, not for later ones."""
    if result.finished is not None:
        result.finished.synchronize()
    return not bool(result.updated)


def without_loss(result: StepResult) -> list[str]:
    """The names of this rank's clips whose loss is not finite."""
    losses = zip(result.names, result.losses.tolist(), strict=True)
    return [name for name, loss in losses if not math.isfinite(loss)]


def try_batch(step: TrainStep, batch: Batch) -> None:
    """Forward and backward without an update, to see whether a batch fits; leaves no trace in weights or randomness.

    It takes what the worst step will: no layer is dropped, a second pass finds the gradients of the first, as with
    accumulation, and room is reserved for AdamW's moments, which are allocated at the first update, and for DDP's
    buckets. Raises InputError where the GPU's memory does not hold it all.
    """
    devices = [step.device] if step.device.type == "cuda" else []
    parameters = sum(p.numel() for group in step.optimizer.param_groups for p in group["params"])
    reserved = (0 if step.optimizer.state else MOMENT_BYTES) + (BUCKET_BYTES if world() > 1 else 0)
    with torch.random.fork_rng(devices), memory_errors_explained(batch), no_layer_dropped(step.model):
        held = torch.empty(reserved * parameters, dtype=torch.uint8, device=step.device)
        on_device = batch.to(step.device)
        for _ in range(2):
            with autocast(step.precision, step.device):
                losses = step.model.losses(on_device)
            losses.values.sum().backward()
        del held
    step.optimizer.zero_grad(set_to_none=True)


@contextmanager
def no_layer_dropped(model: Model) -> Iterator[None]:
    """Within it, LayerDrop leaves every layer in."""
    stacks = model.parts.stacks
    rates = [stack.layerdrop for stack in stacks]
    try:
        for stack in stacks:
            stack.layerdrop = 0.0
        yield
    finally:
        for stack, rate in zip(stacks, rates, strict=True):
            stack.layerdrop = rate


@contextmanager
def no_masks(model: Any) -> Iterator[None]:
    """Within it, SpecAugment masks nothing: the modules that draw masks ask the config that they hold."""
    held = [(m, m.config) for m in model.modules() if hasattr(getattr(m, "config", None), "apply_spec_augment")]
    try:
        for module, config in held:
            module.config = replace(config, apply_spec_augment=False)
        yield
    finally:
        for module, config in held:
            module.config = config


@contextmanager
def memory_errors_explained(batch: Batch) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into an InputError that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(
            f"a batch must fit into GPU memory, {len(batch)} clips of up to {max(batch.samples) / SAMPLE_RATE:.1f} s "
            "do not; lower `batch_seconds` or `max_seconds`, or use `gradient_checkpointing` on"
        ) from None
