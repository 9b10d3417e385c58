"""Which clips go into which batch: bucketed by length, the same on every machine, resumable by a step number.

costs = [config.cost(audio.samples(clip)) for clip in clips]
sampler = BatchSampler(costs, batch_seconds=80, accumulation=2, seed=42, pads=config.pads)
for step in sampler.epoch(3):                 # one optimiser step
    for batch in step:                        # its micro-batches on this rank, lists of clip numbers
"""

import math
import random
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from w2v.errors import InputError

# Clips are sorted by cost within a window of this many batches: clips of a batch are then about equally long, which
# leaves little padding where rows are needed, and yet every epoch has a new mix.
BATCHES_PER_WINDOW = 50


def batch_cost(costs: Sequence[float], pads: bool) -> float:
    """What clips of these costs stand for in one batch; pads: rows are as long as the longest clip."""
    return len(costs) * max(costs) if pads else sum(costs)


def cut(clips: Iterable[int], costs: Sequence[float], budget: float, pads: bool) -> list[list[int]]:
    """Clips by number -> batches within the budget, from the costliest clips to the cheapest."""
    batches: list[list[int]] = []
    spent = 0.0
    for i in sorted(clips, key=lambda i: -costs[i]):
        cost = costs[batches[-1][0]] if pads and batches else costs[i]  # of one more clip in the last batch
        if not batches or spent + cost > budget:
            batches.append([])
            spent, cost = 0.0, costs[i]
        batches[-1].append(i)
        spent += cost
    return batches


class BatchSampler:
    """Divides an epoch into optimiser steps of micro-batches.

    costs: what each clip stands for in a batch's budget, in seconds: a family's config.cost. Exactly one of
    batch_seconds (the budget of a micro-batch, see batch_cost) and batch_clips (a fixed number). pads: config.pads.
    accumulation: micro-batches per rank and step. Every clip is used once per epoch; times: or so often on average, a
    clip of 2.3 twice or three times, and in no batch twice unless two become one. begin: the clips of the
    first begin_epochs, each once, where they have not all. All ranks have equally many
    micro-batches: where their number does not divide, the largest are halved, or, where there are too few clips for
    that, the two cheapest become one. Epochs are drawn from (seed, epoch) alone: only the step number needs saving.
    processes: how many ranks the run began with, where it goes on with `world` of them: every step keeps its clips,
    and `world` ranks share them.
    """

    def __init__(
        self,
        costs: Sequence[float],
        batch_seconds: float | None = None,
        batch_clips: int | None = None,
        accumulation: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        pads: bool = False,
        processes: int | None = None,
        times: Sequence[float] | None = None,
        begin: Sequence[int] | None = None,
        begin_epochs: int = 1,
    ):
        if (batch_seconds is None) == (batch_clips is None):
            raise InputError("give either batch_seconds or batch_clips, not both and not neither")
        if batch_seconds is not None and max(costs, default=0.0) > batch_seconds:
            raise InputError(
                f"`batch_seconds` must hold the longest clip, which counts as {max(costs):.1f} s, got "
                f"{batch_seconds:g}; raise it or lower `max_seconds`"
            )
        most = max(world, processes or world)
        if len(costs if begin is None else begin) < most:
            clips = f"{len(costs)}" if begin is None else f"{len(begin)} in the first epochs"
            raise InputError(f"training on {most} ranks needs at least {most} clips, got {clips}")
        self.costs = list(costs)
        self.batch_seconds, self.batch_clips = batch_seconds, batch_clips
        self.accumulation, self.seed, self.rank, self.world = accumulation, seed, rank, world
        self.pads, self.processes, self.times = pads, processes or world, times
        self.begin, self.begin_epochs = begin, begin_epochs

    def epoch(self, number: int) -> list[list[list[int]]]:
        """-> steps of micro-batches of clip numbers, this rank's share. The last step may be smaller.

        InputError where a step has fewer clips than there are ranks.
        """
        return [step[self.rank :: self.world] for step in self._steps(number)]

    def _steps(self, number: int) -> list[list[list[int]]]:
        """-> steps of micro-batches of clip numbers, those of all ranks."""
        batches, size = self._batches(number), self.processes * self.accumulation  # micro-batches of a step
        steps = [batches[first : first + size] for first in range(0, len(batches), size)]
        fewest = min(sum(map(len, step)) for step in steps)
        if fewest < self.world:
            raise InputError(
                f"{self.world} processes cannot share the steps of this run, the smallest has {fewest} clips; use at "
                f"most {fewest}"
            )
        return [self._shared(step, self.world) for step in steps]

    def worst_batch(self) -> list[int]:
        """The costliest micro-batch, to be tried before training: out of memory then comes in minute one.

        Of the first epoch and of all clips in order of cost. Later epochs stay within the same budget, unless there are
        so few clips for the ranks that two batches become one.
        """
        first = [batch for step in self._steps(0) for batch in step]
        return max(self._cut(range(len(self.costs))) + first, key=self._cost)

    def _batches(self, number: int) -> list[list[int]]:
        rng = random.Random(f"{self.seed}-{number}")
        begin = self.begin if number < self.begin_epochs else None
        order = list(range(len(self.costs)) if begin is None else begin)
        rng.shuffle(order)
        window = BATCHES_PER_WINDOW * self._clips_per_batch()
        if self.times is None or begin is not None:
            windows = [order[first : first + window] for first in range(0, len(order), window)]
        else:
            copies = self._copies(order, self.times)
            order = [i for i in order for _ in range(copies[i])]
            most = max(-(-len(order) // window), *copies.values())
            windows = [order[first::most] for first in range(most)]  # the copies of a clip go to different ones
        batches = []
        for clips in windows:
            batches += self._cut(clips)
        rng.shuffle(batches)
        return self._shared(batches, self.processes)

    def _copies(self, order: list[int], times: Sequence[float]) -> dict[int, int]:
        """How often each clip comes in an epoch: clips of equal `times` together as often as they say, to within one.

        order: of the epoch, which decides who of them comes once more.
        """
        alike = sorted(order, key=lambda i: times[i])
        ends = accumulate((times[i] for i in alike), initial=0.5)
        return {i: math.floor(end) - math.floor(begin) for i, (begin, end) in zip(alike, pairwise(ends), strict=True)}

    def _shared(self, batches: list[list[int]], ranks: int) -> list[list[int]]:
        """The same clips in as many batches as `ranks` can take in turn, none of them empty."""
        batches = list(batches)
        enough_to_halve = sum(map(len, batches)) >= -(-len(batches) // ranks) * ranks
        while len(batches) % ranks:
            if enough_to_halve:
                largest = max(range(len(batches)), key=lambda i: len(batches[i]))
                clips = batches[largest]
                batches[largest : largest + 1] = [clips[0::2], clips[1::2]]
            else:
                one, other = sorted(range(len(batches)), key=lambda i: self._cost(batches[i]))[:2]
                batches[one] = batches[one] + batches[other]
                del batches[other]
        return batches

    def _clips_per_batch(self) -> int:
        if self.batch_clips is not None:
            return self.batch_clips
        assert self.batch_seconds is not None  # one of the two is given
        return max(1, round(self.batch_seconds * len(self.costs) / sum(self.costs)))

    def _cut(self, clips: Sequence[int]) -> list[list[int]]:
        """Clips -> batches, from the longest clips to the shortest."""
        if self.batch_seconds is not None:
            return cut(clips, self.costs, self.batch_seconds, self.pads)
        assert self.batch_clips is not None  # one of the two is given
        order = sorted(clips, key=lambda i: -self.costs[i])
        return [order[first : first + self.batch_clips] for first in range(0, len(order), self.batch_clips)]

    def _cost(self, batch: list[int]) -> float:
        return batch_cost([self.costs[i] for i in batch], self.pads)
