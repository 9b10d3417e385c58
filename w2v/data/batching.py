"""Which clips go into which batch: bucketed by length, the same on every machine, resumable by a step number.

sampler = BatchSampler(lengths, batch_seconds=80, accumulation=2, seed=42)
for step in sampler.epoch(3):                 # one optimiser step
    for batch in step:                        # its micro-batches on this rank, lists of clip numbers
"""

import random
from collections.abc import Sequence

from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError

# Clips are sorted by length within a window of this many batches: little padding, yet a new mix each epoch.
BATCHES_PER_WINDOW = 50
# Attention grows with the square of a clip's length: a batch of clips this long costs twice its seconds.
QUADRATIC_SECONDS = 60.0


def batch_cost(longest: float, clips: int) -> float:
    """Seconds of memory and work that a padded batch stands for: length x clips, with a quadratic term."""
    return clips * longest * (1 + longest / QUADRATIC_SECONDS)


class BatchSampler:
    """Divides an epoch into optimiser steps of micro-batches.

    lengths: samples of each clip. Exactly one of batch_seconds (padded seconds per micro-batch, see batch_cost) and
    batch_clips (a fixed number). accumulation: micro-batches per rank and step. Every clip is used once per epoch; all
    ranks have equally many micro-batches, for which the largest ones are halved where the count does not divide.
    Epochs are drawn from (seed, epoch) alone, so nothing but the step number needs saving.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_seconds: float | None = None,
        batch_clips: int | None = None,
        accumulation: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        if (batch_seconds is None) == (batch_clips is None):
            raise InputError("give either batch_seconds or batch_clips, not both and not neither")
        longest = max(lengths, default=0) / SAMPLE_RATE
        if batch_seconds is not None and batch_cost(longest, 1) > batch_seconds:
            raise InputError(
                f"--batch-seconds must hold the longest clip: {longest:.1f} s needs {batch_cost(longest, 1):.1f}, got "
                f"{batch_seconds:g}; raise it or lower --max-seconds"
            )
        if len(lengths) < world:
            raise InputError(f"training on {world} ranks needs at least {world} clips, got {len(lengths)}")
        self.lengths = list(lengths)
        self.batch_seconds, self.batch_clips = batch_seconds, batch_clips
        self.accumulation, self.seed, self.rank, self.world = accumulation, seed, rank, world

    def epoch(self, number: int) -> list[list[list[int]]]:
        """-> steps of micro-batches of clip numbers, this rank's share. The last step may be smaller."""
        batches = self._batches(number)
        mine = batches[self.rank :: self.world]
        return [mine[i : i + self.accumulation] for i in range(0, len(mine), self.accumulation)]

    def worst_batch(self) -> list[int]:
        """The costliest micro-batch, to be tried before training: out of memory then comes in minute one.

        Of the first epoch and of all clips in order of length; batches of later epochs stay within the same budget.
        """
        order = sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i])
        return max(self._cut(order) + self._batches(0), key=self._cost)

    def _batches(self, number: int) -> list[list[int]]:
        rng = random.Random(f"{self.seed}-{number}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        window = BATCHES_PER_WINDOW * self._clips_per_batch()
        batches = []
        for first in range(0, len(order), window):
            batches += self._cut(sorted(order[first : first + window], key=lambda i: -self.lengths[i]))
        rng.shuffle(batches)
        while len(batches) % self.world:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            clips = batches[largest]
            batches[largest : largest + 1] = [clips[0::2], clips[1::2]]
        return batches

    def _clips_per_batch(self) -> int:
        if self.batch_clips is not None:
            return self.batch_clips
        mean = sum(self.lengths) / len(self.lengths) / SAMPLE_RATE
        return max(1, round(self.batch_seconds / batch_cost(mean, 1)))

    def _cut(self, order: list[int]) -> list[list[int]]:
        """Clips in descending length -> batches within the budget."""
        batches: list[list[int]] = []
        for i in order:
            if batches and self._fits([*batches[-1], i]):
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def _fits(self, batch: list[int]) -> bool:
        if self.batch_clips is not None:
            return len(batch) <= self.batch_clips
        return self._cost(batch) <= self.batch_seconds

    def _cost(self, batch: list[int]) -> float:
        return batch_cost(self.lengths[batch[0]] / SAMPLE_RATE, len(batch))
