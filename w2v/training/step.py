"""One optimiser step: what recipes run and benchmarks time.

The loss of an effective batch is the sum over its clips of loss_i / U_i, divided by N, the clips of the whole batch
over ranks and micro-batches. Neither accumulation nor the number of ranks changes it.

Nothing here waits for the GPU: what a step measured stays there until somebody looks.
"""

import math
import random
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from w2v.audio import SAMPLE_RATE
from w2v.ctc import ctc_losses
from w2v.data.collate import Batch
from w2v.errors import InputError
from w2v.training.distributed import rank, replicate, sum_over_ranks, with_all_parameters, world
from w2v.training.optim import clip_and_update

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_precision(name: str, device: torch.device) -> str:
    """The default, "auto", is bf16 where the hardware multiplies it natively, fp16 on older GPUs, fp32 on other CPUs.

    torch.cuda.is_bf16_supported() counts emulation; native bf16 starts at compute capability 8.0. A CPU without
    AVX512-BF16 or AMX emulates it too, at a third of the speed of fp32 (benchmarks.parts): there "bf16" is fp32,
    which is the more precise one as well.
    """
    if name not in PRECISIONS:
        raise InputError(f"--precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs a GPU, got the CPU; use bf16 or fp32")
    if device.type == "cpu" and name in ("auto", "bf16"):
        return "bf16" if has_bf16_products() else "fp32"
    if name != "auto":
        return name
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def has_bf16_products() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The mixed-precision context for a forward pass; weights, gradients and the loss stay fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


@dataclass
class StepResult:
    """What a step did, as tensors still on the device: reading them waits for the step to end."""

    losses: Tensor  # (N,) loss_i / U_i of each clip on this rank
    names: list[str]  # (N,) of the clips
    grad_norm: Tensor  # scalar, before clipping
    blank_frames: Tensor  # scalar, frames whose likeliest token is the blank
    frames: Tensor  # scalar, real frames
    labels: Tensor  # scalar, label characters
    all_finite: Tensor  # scalar bool on its way to the host: whether every loss is
    finished: torch.cuda.Event | None  # has it arrived? None: it has


class TrainStep:
    """step(batches, number) -> StepResult: forward and backward over the micro-batches, clip, update.

    model: a Wav2Vec2ForCTC in training mode on `device`. lr_factor: step number -> factor on the peak rate.
    head_warmup_steps: so many first steps train the head alone, the body rests (fairseq's freeze-finetune-updates).
    seed: dropout and masks of a step follow from it, the rank and the step's number; LayerDrop's coins are the same
    on all ranks, which then have equally many layers to compute. A resumed run needs no generator's state.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr: float,
        lr_factor: Callable[[int], float],
        precision: str = "fp32",
        max_grad_norm: float = 1.0,
        head_warmup_steps: int = 0,
        seed: int = 0,
    ):
        self.model, self.optimizer = model, optimizer
        self.lr, self.lr_factor = lr, lr_factor
        self.precision, self.max_grad_norm = precision, max_grad_norm
        self.head_warmup_steps, self.seed = head_warmup_steps, seed
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._body = [p for p in model.wav2vec2.parameters() if p.requires_grad]
        self._replica: nn.Module | None = None  # the model as all ranks share it
        self.passed: Callable[[str], None] = lambda stage: None  # where a benchmark puts its clock
        self._layerdrop = model.wav2vec2.encoder.layerdrop_generator = torch.Generator()

    def __call__(self, batches: list[Batch], number: int) -> StepResult:
        self._seed(number)
        self._choose_trained(number)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.lr_factor(number)
        clips = self._clips_on_all_ranks(batches)
        losses, blanks, frames, labels = [], [], [], []
        for i, batch in enumerate(batches):
            with self._gradients_stay_here(unless=i == len(batches) - 1):
                batch = batch.to(self.device)
                out, batch_losses = self.losses(batch)
                # Ranks average their gradients, and the mean over clips wants their sum.
                loss = with_all_parameters(batch_losses.sum() * world() / clips, self.model)
                self.passed("forward")
                self.scaler.scale(loss).backward()
                self.passed("backward")
            losses.append(batch_losses.detach())
            with torch.no_grad():
                real = torch.arange(out.logits.shape[1], device=self.device) < out.logit_lengths[:, None]
                blanks.append(((out.logits.argmax(-1) == out.blank_id) & real).sum())
            frames.append(out.logit_lengths.sum())
            labels.append(batch.label_lengths.sum())
        grad_norm = clip_and_update(self.optimizer, self.scaler, self.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.passed("optimiser")
        losses = torch.cat(losses)
        all_finite = torch.isfinite(losses).all().to("cpu", non_blocking=True)
        finished = torch.cuda.current_stream().record_event() if self.device.type == "cuda" else None
        return StepResult(
            losses,
            [name for batch in batches for name in batch.names],
            grad_norm,
            torch.stack(blanks).sum(),
            torch.stack(frames).sum(),
            torch.stack(labels).sum(),
            all_finite,
            finished,
        )

    def losses(self, batch: Batch) -> tuple:
        """-> the model's CTCOutput and (B,) loss_i / U_i of a batch on the device."""
        with autocast(self.precision, self.device):
            out = (self._replica or self.model)(batch)
        zero_infinity = self.model.config.ctc_zero_infinity
        return out, ctc_losses(
            out.logits, out.logit_lengths, batch.labels, batch.label_lengths, out.blank_id, zero_infinity
        )

    def _seed(self, number: int) -> None:
        torch.manual_seed(random.Random(f"{self.seed}-{number}-{rank()}").getrandbits(63))
        self._layerdrop.manual_seed(random.Random(f"{self.seed}-{number}").getrandbits(63))

    def _choose_trained(self, number: int) -> None:
        body_trains = number >= self.head_warmup_steps
        if self._replica is None or any(p.requires_grad != body_trains for p in self._body):
            for parameter in self._body:
                parameter.requires_grad_(body_trains)
            self._replica = replicate(self.model)

    def _clips_on_all_ranks(self, batches: list[Batch]) -> int | Tensor:
        clips = sum(len(batch) for batch in batches)
        # full() fills on the device; a tensor() copied there would wait for the step before.
        return clips if world() == 1 else sum_over_ranks(torch.full((), float(clips), device=self.device))

    def _gradients_stay_here(self, unless: bool):
        """Only the last micro-batch's backward pass sends gradients around: they are summed up by then."""
        return nullcontext() if unless or world() == 1 else self._replica.no_sync()


def check_finite(result: StepResult) -> None:
    """InputError naming the clips whose loss is not finite. Waits for that step, not for what was queued after it."""
    if result.finished is not None:
        result.finished.synchronize()
    if bool(result.all_finite):
        return
    losses = result.losses.tolist()
    bad = [name for name, loss in zip(result.names, losses, strict=True) if not math.isfinite(loss)]
    raise InputError(
        f"the loss must be finite, it is not for {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}; look at these "
        "clips, lower --lr, or use --precision fp32"
    )


def try_batch(step: TrainStep, batch: Batch) -> None:
    """Forward and backward without an update, to see whether a batch fits; leaves no trace in weights or randomness.

    Raises InputError where the GPU's memory does not hold it.
    """
    devices = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices), out_of_memory_is_the_users(batch):
        _, losses = step.losses(batch.to(step.device))
        losses.sum().backward()
    step.optimizer.zero_grad(set_to_none=True)


@contextmanager
def out_of_memory_is_the_users(batch: Batch):
    """Turn a GPU's out-of-memory error into an InputError that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        longest = int(batch.waveform_lengths.max()) / SAMPLE_RATE
        raise InputError(
            f"a batch must fit into GPU memory, {len(batch)} clips of up to {longest:.1f} s do not; lower "
            "--batch-seconds or --max-seconds, or use --gradient-checkpointing on"
        ) from None
