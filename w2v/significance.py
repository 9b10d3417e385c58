"""How sure an error rate is, and a difference of two: the bootstrap over speakers.

Method: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. The
paper draws segments whose errors do not depend on each other. Clips of one speaker succeed and fail together, so a
segment here is all that a speaker says.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
COVERED = 0.95  # of an interval
FEWEST_GROUPS = 2  # of a single one every draw is the same
DRAWN_AT_ONCE = 4_000_000  # numbers of a block of draws: 32 MB


@dataclass(frozen=True)
class Comparison:
    """B against A on the same clips. A difference below 0 says that B makes fewer errors."""

    difference: float  # rate of B - rate of A
    low: float | None  # of the 95 % interval of the difference; None where there are not two groups
    high: float | None
    p_value: float | None  # two-sided
    better: float | None  # share of the draws in which B has the lower rate: their "probability of improvement"


def groups_of(speakers: list[str]) -> np.ndarray:
    """Each clip's speaker -> each clip's group, (N,) numbers from 0. A clip without a speaker ("") has its own."""
    names = [(name, -1) if name else ("", i) for i, name in enumerate(speakers)]
    numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def interval(
    errors: np.ndarray, lengths: np.ndarray, groups: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """The 95 % interval of sum(errors) / sum(lengths): the middle of what draws of groups give.

    errors, lengths, groups: (N,), one a clip. Every group has a length. None where there are not two groups.
    """
    rates = _resample(np.stack([errors, lengths]), groups, seed, resamples)
    return None if rates is None else _middle(rates[:, 0] / rates[:, 1])


def compare(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    lengths: np.ndarray,
    groups: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> Comparison:
    """The paired bootstrap: both systems are measured on the same drawn groups, and the differences are looked at.

    The p-value is twice the smaller share of draws whose difference is on one side of 0 or is 0, with one draw more on
    that side (Davison and Hinkley 1997, section 4.2), so it is never 0: 1,000 draws show no p-value below .002.
    """
    difference = float((errors_b.sum() - errors_a.sum()) / lengths.sum())
    sums = _resample(np.stack([errors_b - errors_a, lengths]), groups, seed, resamples)
    if sums is None:
        return Comparison(difference, None, None, None, None)
    drawn = sums[:, 0] / sums[:, 1]
    smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(smaller)) / (1 + resamples))
    return Comparison(difference, *_middle(drawn), p_value, float((drawn < 0).mean()))


def _resample(values: np.ndarray, groups: np.ndarray, seed: int, resamples: int) -> np.ndarray | None:
    """The sums of each row of `values` (K, N) over G groups drawn with replacement, (resamples, K)."""
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < FEWEST_GROUPS:
        return None
    by_group = np.stack([np.bincount(groups, weights=row, minlength=count) for row in values], axis=1)  # (G, K)
    draw = np.random.default_rng(seed)
    block = max(1, DRAWN_AT_ONCE // count)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([by_group[draw.integers(count, size=(size, count))].sum(1) for size in sizes])


def _middle(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
