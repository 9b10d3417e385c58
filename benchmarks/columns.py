"""What benchmarks.step_time times: one column for each implementation, with its step, its batches and its records."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.common import StageClock, size_in_bytes
from benchmarks.flops import batch_flops
from benchmarks.speech import Speech
from benchmarks.subjects import Subject
from w2v.answers import Batch
from w2v.data.loading import ClipDataset, load_ahead, read_ahead
from w2v.models.w2v_bert_config import PAIR, Wav2Vec2BertConfig

STAGES = {
    "step": ("data", "forward", "backward", "optimiser"),
    "inference": ("data", "forward"),
    "evaluation": ("data", "hearing"),
}


@dataclass(frozen=True)
class Work:
    """What every column does, with which model and clips."""

    what: str  # one of STAGES
    subject: Subject
    speech: Speech
    checkpointing: bool = False
    encoder_trained: bool = False

    @property
    def trains(self) -> bool:
        return self.what == "step"

    @property
    def layers(self) -> int:
        return sum(map(len, self.subject.model.parts.stacks))

    @property
    def layerdrop(self) -> float:
        return max(stack.layerdrop for stack in self.subject.model.parts.stacks) if self.trains else 0.0

    def flops(self, numbers: list[int], layers: int) -> int | None:
        """Of the batch of these clips, with so many layers left."""
        samples, labels = self.speech.samples(numbers), [len(self.speech.labels[i]) for i in numbers]
        return batch_flops(self.subject.model.config, samples, labels, layers, self.trains, self.encoder_trained)

    def spread(self, inputs: Any) -> int | None:
        """The samples that a batch stands for, padding included; None for waveforms that are not yet one."""
        if isinstance(inputs, list):
            return None
        tensor = inputs.inputs if isinstance(inputs, Batch) else next(iter(inputs.values()))
        config: Any = self.subject.model.config
        if isinstance(config, Wav2Vec2BertConfig):
            return tensor.shape[0] * tensor.shape[1] * PAIR
        return tensor.shape[0] * config.window if tensor.dim() == 3 else tensor.numel()


@dataclass
class Record:
    """What one step of one implementation left behind."""

    clock: StageClock
    speech_samples: int
    batch_samples: int | None  # padding included
    flops: int | None
    layers: int
    memory: int | None


@dataclass
class Column:
    """One implementation: its step, its batches and the steps it has done."""

    name: str
    precision: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer | None  # None: it does not train
    step: Callable[[Any, int, StageClock], None]  # on what its dataset yields: a Batch, a peer's dict, waveforms
    dataset: Any
    batches: list[list[int]]  # clip numbers of its measured steps
    together: bool = False  # its gradients travel between ranks
    records: list[Record] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of an evaluation
    loader: Iterator[Any] = field(default_factory=lambda: iter(()))

    def load(self, order: list[list[int]], device: torch.device) -> None:
        """Read these batches next. A peer's are copied to a GPU in turn with its work, as its trainer does."""
        load = load_ahead if isinstance(self.dataset, ClipDataset) else read_ahead
        self.loader = load(self.dataset, order, device)

    @property
    def gradient_bytes(self) -> int:
        return size_in_bytes(p for p in self.model.parameters() if p.requires_grad) if self.optimizer else 0

    @property
    def held_bytes(self) -> int:
        """What lies in memory between its steps; DistributedDataParallel keeps the gradients' buckets."""
        by_parameter = self.optimizer.state.values() if self.optimizer else []
        state = [value for values in by_parameter for value in values.values()]
        held = size_in_bytes([*self.model.parameters(), *(x for x in state if isinstance(x, torch.Tensor))])
        return held + (self.gradient_bytes if self.together else 0)

    @property
    def static_bytes(self) -> int:
        return self.held_bytes + (0 if self.together else self.gradient_bytes)


def on_device(inputs: Any, device: torch.device) -> Any:
    """Waveforms stay where they are."""
    if isinstance(inputs, list):
        return inputs
    if isinstance(inputs, Batch):
        return inputs.to(device)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
