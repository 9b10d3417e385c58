"""Clips of noise as long as those of Common Voice, and the batches that a step takes of them."""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from recipes.data_settings import SAMPLES
from w2v.audio import SAMPLE_RATE, seconds_of
from w2v.data.loading import ClipDataset

VOCABULARY = 40
LABELS_PER_SECOND = 12  # about what Turkish Common Voice has
EPOCH = 200  # batches of the epoch that the measured ones come from: four mega-batches of full size


def ctc_label(seconds: float, rng: np.random.Generator) -> list[int]:
    """Random characters for so many seconds."""
    return rng.integers(0, VOCABULARY - 1, max(1, int(seconds * LABELS_PER_SECOND))).tolist()


class NoiseClip(NamedTuple):
    name: str
    samples: int


@dataclass
class Speech:
    """Noise in place of a corpus, and the batches of it that one rank steps through, as lists of clip numbers.

    label: seconds and a generator -> the label ids of a clip.
    """

    label: Callable[[float, np.random.Generator], list[int]] = ctc_label
    clips: list[NoiseClip] = field(default_factory=list)
    audio: dict[NoiseClip, np.ndarray] = field(default_factory=dict)  # (samples,) int16
    labels: list[list[int]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)

    def add_batch(self, durations: list[float], rng: np.random.Generator) -> None:
        first = len(self.clips)
        for seconds in durations:
            clip = NoiseClip(f"noise-{len(self.clips)}", round(seconds * SAMPLE_RATE))
            self.clips.append(clip)
            self.audio[clip] = rng.integers(-8000, 8000, clip.samples, dtype=np.int16)
            self.labels.append(self.label(seconds, rng))
        self.batches.append(list(range(first, len(self.clips))))

    def dataset(self, config, pad: bool = False) -> ClipDataset:
        """Its batches for a model of this config. pad: rows padded to the longest clip, as peers want them."""
        collate = partial(config.collate, pad=True) if pad and not config.pads else config.collate
        return ClipDataset(collate, self.audio, self.clips, self.labels)

    @property
    def seconds(self) -> float:
        return sum(clip.samples for clip in self.clips) / SAMPLE_RATE

    def samples(self, numbers: list[int]) -> list[int]:
        return [self.clips[i].samples for i in numbers]

    def by_count(self, seed: int = 0) -> list[list[int]]:
        """The same clips in equally many batches, each of as many clips (or one more), drawn at random."""
        order = np.random.default_rng(seed).permutation(len(self.clips))
        return [part.tolist() for part in np.array_split(order, len(self.batches))]


def draw_speech(
    mix: str,
    mean_seconds: float | None,
    clips: int | None,
    batch_seconds: float | None,
    steps: int,
    rank: int = 0,
    world: int = 1,
    label: Callable[[float, np.random.Generator], list[int]] = ctc_label,
) -> Speech:
    """Batches for `steps` steps, those of one step alike on all ranks, drawn evenly from short ones and long ones.

    Give `clips` or `batch_seconds`, as the flags of these names. mean_seconds: None for the mix's own. label: see
    Speech.
    """
    rng = random.Random(0)
    lengths = [mean_seconds or 5.0]
    if mix == "common-voice":
        lengths = sorted(filter(None, map(seconds_of, (SAMPLES / "tr" / "clips").glob("*.mp3"))))
        scale = mean_seconds / statistics.mean(lengths) if mean_seconds else 1.0
        lengths = [scale * seconds for seconds in lengths]
    if clips is None:
        assert batch_seconds is not None  # one of the two is given
        clips = max(1, round(batch_seconds / statistics.mean(lengths)))
    durations = rng.choices(lengths, k=clips * max(EPOCH, 2 * steps * world))
    batches = group_by_length(durations, clips, batch_seconds, rng)
    batches.sort(key=lambda batch: -durations[batch[0]])
    together = [batches[i : i + world] for i in range(0, len(batches) - world + 1, world)]
    chosen = [together[(2 * i + 1) * len(together) // (2 * steps)] for i in range(steps)]
    rng.shuffle(chosen)
    speech, noise = Speech(label), np.random.default_rng(rank)
    for by_rank in chosen:
        speech.add_batch([durations[i] for i in by_rank[rank]], noise)
    return speech


def draw_clips(seconds: float) -> tuple[list[np.ndarray], list[list[int]]]:
    """One batch of so many seconds of the Common Voice mix: int16 waveforms and labels."""
    speech = draw_speech("common-voice", None, None, seconds, 1)
    return [speech.audio[clip] for clip in speech.clips], speech.labels


def group_by_length(
    durations: list[float], per_batch: int, batch_seconds: float | None, rng: random.Random
) -> list[list[int]]:
    """An epoch's batches as transformers' LengthGroupedSampler makes them: shuffled, cut into mega-batches, each of
    them sorted from long to short and cut into batches.

    With batch_seconds a batch holds as many clips as fit, at least one, and the rest of a mega-batch is left out.
    """
    order = rng.sample(range(len(durations)), len(durations))
    mega = per_batch * max(1, min(len(order) // (4 * per_batch), 50))
    batches: list[list[int]] = []
    for first in range(0, len(order), mega):
        group = sorted(order[first : first + mega], key=lambda i: -durations[i])
        if batch_seconds is None:
            batches += [group[i : i + per_batch] for i in range(0, len(group), per_batch)]
            continue
        cut: list[list[int]] = [[]]
        for i in group:
            if cut[-1] and sum(durations[j] for j in [*cut[-1], i]) > batch_seconds:
                cut.append([])
            cut[-1].append(i)
        batches += cut[:-1] or cut
    return batches
