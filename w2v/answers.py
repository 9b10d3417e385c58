"""What a family of models takes and answers, as plain types.

The training step, inference, preparation and export know these and no family. docs/ARCHITECTURE.md lists the questions.

Shapes: B clips, T frames, V vocabulary, U labels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from w2v.layout import Layout, Packed, map_tensors


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips as one family's model hears them, made by its config's `collate`; their labels and names."""

    inputs: Tensor  # wav2vec 2.0: float32 waveforms, padded (B, S) or packed (1, S); Whisper: log-mel (B, M, N)
    layout: Layout  # where each clip's frames lie
    samples: list[int]  # of each clip, at 16 kHz
    labels: Tensor  # (B, U) int64, padded with 0
    label_lengths: Tensor  # (B,) int64
    weights: list[float]  # (B,) what each clip counts in the loss; known before the forward pass
    names: list[str]
    written: Packed | None = None  # where each clip's labels lie in `labels`, for a model that writes them in turn
    heard: Tensor | None = None  # (B, T, D), the output of an encoder that is frozen, kept from before
    allowed: Tensor | None = None  # (B, V) bool, which tokens a clip's text is made of; None: any

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device; a copy from pinned memory to a GPU does not wait."""
        # The way back must wait: the host would read its memory before the copy has arrived.
        ahead = torch.device(device).type == "cuda"
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> "Batch":
        return map_tensors(self, Tensor.pin_memory)


def pad_labels(labels: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Label ids of each clip -> labels (B, U) int64 padded with 0, and their lengths (B,)."""
    padded = pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in labels], batch_first=True)
    return padded, torch.tensor([len(ids) for ids in labels])


class Losses(NamedTuple):
    """What is minimised: the sum of `values` over an effective batch, divided by the sum of its `Batch.weights`."""

    values: Tensor  # (B,) float32
    counts: dict[str, Tensor]  # scalars by name, for the log: frames, blank_frames, labels


class Emissions(NamedTuple):
    """Frame posteriors. Alignment, language models and the joining of chunks use only this."""

    log_probs: Tensor  # (B, T, V) float32
    lengths: Tensor  # (B,) int64, real frames of each row
    seconds_per_frame: float


class HiddenStates(NamedTuple):
    """What goes into the first layer of what hears, then what comes out of each, N + 1 of N layers."""

    layers: list[Tensor]  # (B, T, D) each; the last is after the norm that stands behind the layers, where one does
    lengths: Tensor  # (B,) int64, real frames of each row
    seconds_per_frame: float


class Stack(Protocol):
    """Layers that run in turn; see w2v.models.stack."""

    layerdrop: float
    checkpointing: bool
    generator: torch.Generator | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> nn.Module: ...

    def __iter__(self) -> Iterator[nn.Module]: ...


class Parts(NamedTuple):
    """The parts of a model that recipes treat apart."""

    head: nn.Module  # new where the vocabulary is
    frozen: tuple[nn.Module, ...]  # what recipes freeze by default
    stacks: tuple[Stack, ...]  # whose layers are compiled, checkpointed and dropped
    encoder: nn.Module | None = None  # what hears, apart from the part that writes
    below: tuple[nn.Module | nn.Parameter, ...] = ()  # what lies below the first layer


class Config(Protocol):
    """What is asked of any family's config; docs/ARCHITECTURE.md has the rest."""

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""

    @property
    def pads(self) -> bool:
        """Whether the rows of a batch are as long as its longest clip."""

    def frames(self, samples: int) -> int:
        """Of a clip."""

    def cost(self, samples: int) -> float:
        """Seconds that a clip counts in a batch's budget."""

    def collate(
        self, waveforms: list[np.ndarray], labels: list[list[int]] | None = None, names: list[str] | None = None
    ) -> Batch:
        """int16 or float32 waveforms (samples,) at 16 kHz -> Batch."""


class Model(Protocol):
    """What is asked of any family's model: it is an nn.Module with these answers."""

    training: bool

    @property
    def config(self) -> Config: ...

    @property
    def parts(self) -> Parts: ...

    def __call__(self, batch: Batch) -> Any:
        """A family's own output."""

    def losses(self, batch: Batch) -> Losses:
        """What is minimised."""

    def hidden_states(self, batch: Batch) -> HiddenStates:
        """What the layers give, of what hears."""

    def save_pretrained(self, directory: str | Path) -> None:
        """A folder in transformers' layout."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = True) -> object: ...

    def eval(self) -> object: ...


class FrameModel(Model, Protocol):
    """A model that gives frame posteriors, as CTC's do."""

    def emissions(self, batch: Batch) -> Emissions: ...


class WindowCache(Protocol):
    """What a layer of a writing model keeps of its windows and of what was written."""

    def keep(self, rows: Tensor, clips: Tensor | None) -> None:
        """Go on with these rows of tokens, and with these windows; None: with all of them."""


Cache = TypeVar("Cache", bound=WindowCache)


class Suppressed(Protocol):
    """Token ids that a model never writes, or never first; the latest first timestamp, in steps of 20 ms."""

    @property
    def suppress_tokens(self) -> Sequence[int]: ...

    @property
    def begin_suppress_tokens(self) -> Sequence[int]: ...

    @property
    def max_initial_timestamp_index(self) -> int: ...


class WritingConfig(Config, Protocol):
    @property
    def vocab_size(self) -> int: ...

    @property
    def max_target_positions(self) -> int:
        """The most tokens of a text, its prompt included."""

    @property
    def window(self) -> int:
        """Samples that are heard at once."""

    @property
    def generation(self) -> Suppressed: ...


class WritingModel(Model, Protocol[Cache]):
    """A model that writes its text token by token, as Whisper does. R rows of tokens: one or several a window."""

    emissions: None

    @property
    def config(self) -> WritingConfig: ...

    def hear(self, batch: Batch) -> Tensor:
        """The encoder's output (B, T, D)."""

    def start(self, heard: Tensor) -> list[Cache]:
        """The encoder's output (B, T, D) -> each layer's cache."""

    def read(self, tokens: Tensor, cache: list[Cache]) -> Tensor:
        """The next tokens (R, U) -> (R, U, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """What `read` gave (..., D) -> (..., V), of the token that comes next."""

    def looks(self, tokens: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """One window's tokens (1, U) and encoder output (1, T, D) -> where they look (A, U, T); (1, U, D)."""


@dataclass(frozen=True)
class GenerateOptions:
    """How a model that writes its text token by token does so. Names and numbers are openai/whisper's."""

    beam: int = 1  # sequences kept side by side; 1: the likeliest token each time
    temperatures: tuple[float, ...] = (0.0,)  # tried in turn while a text looks wrong; above 0 tokens are drawn
    timestamps: bool = False  # write when each phrase begins and ends
    compression_ratio: float = 2.4  # text compresses better: it repeats itself, so the next temperature is tried
    log_probability: float = -1.0  # mean of the tokens' below: unsure, so the next temperature is tried
    no_speech: float = 0.6  # probability above, of an unsure text: silence
    earlier_text: bool = True  # a long recording's windows read what was written before them
    prompt: str = ""  # read before each window as if it had been said: names and spelling to expect
    chunked: bool = False  # a long recording is cut at pauses and written side by side: faster, less exact


# For recordings of any kind. For measuring, and in training, the likeliest text is taken as it is.
TRANSCRIBING = GenerateOptions(temperatures=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


@dataclass(frozen=True)
class DecodeOptions:
    """How `model.decode` turns a batch into text."""

    words: bool = False  # also give each word's times and confidence
    search: "Search | None" = None  # for models with frame posteriors; None: the likeliest token of each frame
    generate: GenerateOptions = GenerateOptions()  # for models without


@dataclass(frozen=True)
class Word:
    text: str
    start: float  # seconds from the clip's start
    end: float
    confidence: float  # 0 to 1


@dataclass(frozen=True)
class Hypothesis:
    """What a model heard in one clip."""

    text: str
    tokens: list[int]
    score: float  # log-probability
    words: list[Word] = field(default_factory=list)  # where DecodeOptions.words asked for them


# Frame posteriors, and whether words are asked for -> the likeliest texts of each clip, best first.
Search = Callable[[Emissions, bool], list[list[Hypothesis]]]
