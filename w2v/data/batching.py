"""Which clips go into which batch: bucketed by length, the same on every machine, resumable by a step number.

costs = [config.cost(audio.samples(clip)) for clip in clips]
sampler = BatchSampler(costs, batch_seconds=80, accumulation=2, seed=42, pads=config.pads)
for step in sampler.epoch(3):                 # one optimiser step
    for batch in step:                        # its micro-batches on this rank, lists of clip numbers
"""

import random
from collections.abc import Iterable, Sequence

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
    accumulation: micro-batches per rank and step. Every clip is used once per epoch. All ranks have equally many
    micro-batches: where their number does not divide, the largest are halved, or, where there are too few clips for
    that, the two cheapest become one. Epochs are drawn from (seed, epoch) alone: only the step number needs saving.
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
    ):
        if (batch_seconds is None) == (batch_clips is None):
            raise InputError("give either batch_seconds or batch_clips, not both and not neither")
        if batch_seconds is not None and max(costs, default=0.0) > batch_seconds:
            raise InputError(
                f"`batch_seconds` must hold the longest clip, which counts as {max(costs):.1f} s, got "
                f"{batch_seconds:g}; raise it or lower `max_seconds`"
            )
        if len(costs) < world:
            raise InputError(f"training on {world} ranks needs at least {world} clips, got {len(costs)}")
        self.costs = list(costs)
        self.batch_seconds, self.batch_clips = batch_seconds, batch_clips
        self.accumulation, self.seed, self.rank, self.world = accumulation, seed, rank, world
        self.pads = pads

    def epoch(self, number: int) -> list[list[list[int]]]:
        """-> steps of micro-batches of clip numbers, this rank's share. The last step may be smaller."""
        batches = self._batches(number)
        mine = batches[self.rank :: self.world]
        return [mine[i : i + self.accumulation] for i in range(0, len(mine), self.accumulation)]

    def worst_batch(self) -> list[int]:
        """The costliest micro-batch, to be tried before training: out of memory then comes in minute one.

        Of the first epoch and of all clips in order of cost. Later epochs stay within the same budget, unless there are
        so few clips for the ranks that two batches become one.
        """
        return max(self._cut(range(len(self.costs))) + self._batches(0), key=self._cost)

    def _batches(self, number: int) -> list[list[int]]:
        rng = random.Random(f"{self.seed}-{number}")
        order = list(range(len(self.costs)))
        rng.shuffle(order)
        window = BATCHES_PER_WINDOW * self._clips_per_batch()
        batches = []
        for first in range(0, len(order), window):
            batches += self._cut(order[first : first + window])
        rng.shuffle(batches)
        enough_to_halve = len(order) >= -(-len(batches) // self.world) * self.world
        while len(batches) % self.world:
            if enough_to_halve:
                largest = max(range(len(batches)), key=lambda i: len(batches[i]))
                clips = batches[largest]
                batches[largest : largest + 1] = [clips[0::2], clips[1::2]]
            else:
                one, other = sorted(range(len(batches)), key=lambda i: self._cost(batches[i]))[:2]
                batches[one] += batches[other]
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
