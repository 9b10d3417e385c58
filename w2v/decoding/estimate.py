"""n-gram models from text: interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998) as KenLM's lmplz does it.

    corpus = Corpus()
    for line in lines:
        corpus.add(line.split(" "))
    estimate = estimate_ngram(corpus, order=5)

Each n-gram of a position becomes a number: that of the n-gram without its last word and the last word, sorted together.
So counts, contexts and suffixes are sums over sorted arrays, one order after the other, and no dictionary of n-grams is
held. Equal to lmplz, except that its histogram takes the raw count for the very last n-gram of an order.

Shapes: P positions of the corpus, W words, n n-grams of an order.
"""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from w2v.decoding.ngram import BOS, EOS, SPECIAL, UNK, NGram, Order, assemble
from w2v.errors import InputError

FALLBACK = (0.5, 1.0, 1.5)  # discounts of an order whose counts cannot give them: lmplz --discount_fallback
MOST_ORDER = 10


class Corpus:
    """Sentences as numbers of words, each with how many times it counts."""

    def __init__(self):
        self._id_of: defaultdict[str, int] = defaultdict()
        self._id_of.default_factory = self._id_of.__len__
        for word in SPECIAL:
            self._id_of[word]
        self._ids, self._lengths, self._weights = array("i"), array("i"), array("i")

    def add(self, words: Sequence[str], weight: int = 1) -> None:
        """InputError for a word that stands for the start, the end, or what is unknown."""
        if special := next((word for word in words if word in SPECIAL), None):
            raise InputError(f"a text must not hold {special} as a word, a language model adds it itself; take it out")
        self._ids.append(BOS)
        self._ids.extend(map(self._id_of.__getitem__, words))
        self._ids.append(EOS)
        self._lengths.append(len(words) + 2)
        self._weights.append(weight)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def words(self) -> list[str]:
        return list(self._id_of)

    @property
    def tokens(self) -> int:
        """Words in all, without starts and ends."""
        return len(self._ids) - 2 * len(self)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids (P,) int32, positions left in the sentence from each on (P,) int32, weights (P,) int32."""
        lengths = np.frombuffer(self._lengths, np.int32)
        ends = np.repeat(np.cumsum(lengths, dtype=np.int64), lengths)
        left = (ends - np.arange(len(ends))).astype(np.int32)
        weights = np.repeat(np.frombuffer(self._weights, np.int32), lengths)
        return np.frombuffer(self._ids, np.int32), left, weights


@dataclass(frozen=True)
class Discounts:
    """What an order's counts of 1, 2, and 3 or more are lowered by."""

    values: tuple[float, float, float]
    lacking: str = ""  # why these are the fallback

    def of(self, adjusted: np.ndarray) -> np.ndarray:
        return np.array([0.0, *self.values])[np.minimum(adjusted, 3)]


@dataclass(frozen=True)
class Estimate:
    ngram: NGram
    discounts: list[Discounts]  # of each order
    pruned: list[int]  # n-grams that were left out of each order


@dataclass
class _Counts:
    """The n-grams of one order."""

    keys: np.ndarray  # (n,) int64, ascending: number of the n-gram without its last word x W + last word
    raw: np.ndarray  # (n,) int64
    suffixes: np.ndarray  # (n,) int32: number of the n-gram without its first word, in the order below


def check_shape(order: int, prune: Sequence[int]) -> None:
    """InputError for an order outside 1 to 10, and for pruning that is not 0 for words, falls, or is too long."""
    if not 1 <= order <= MOST_ORDER:
        raise InputError(f"`order` must be from 1 to {MOST_ORDER}, got {order}")
    if not prune or prune[0] != 0 or any(a > b for a, b in pairwise(prune)) or len(prune) > order:
        raise InputError(
            f"`prune` must begin with 0, because words are not left out, must not fall, and has at most `order` "
            f"({order}) numbers, got {' '.join(map(str, prune)) or 'none'}"
        )


def estimate_ngram(corpus: Corpus, order: int, prune: Sequence[int] = (0,)) -> Estimate:
    """The n-grams up to `order`, or up to the longest there are.

    prune: n-grams with at most that count are left out, for each order from 1 up; the last number counts for the rest.
    InputError for no text, and where `check_shape` refuses the order or the pruning.
    """
    check_shape(order, prune)
    if not corpus.tokens:
        raise InputError("a text must hold words, this one has none; give another")
    thresholds = [*prune, *[prune[-1]] * (order - len(prune))]
    counts = _count(corpus, order)
    size = len(corpus.words)
    starts_with_bos = [np.arange(size) == BOS]
    for each in counts[1:]:
        starts_with_bos.append(starts_with_bos[-1][each.keys // size])
    discounts: list[Discounts] = []
    pruned: list[int] = []
    orders: list[Order] = []
    lower, is_kept, numbers, first = np.empty(0), np.empty(0, bool), np.empty(0, np.int64), 0
    for n, mine in enumerate(counts):
        adjusted = mine.raw
        if n + 1 < len(counts):
            before = np.bincount(counts[n + 1].suffixes, minlength=len(mine.raw))
            adjusted = np.where(starts_with_bos[n], mine.raw, before)
        if n == 0:
            adjusted = np.where(np.isin(np.arange(size), [UNK, BOS]), 0, adjusted)
        discounts.append(_discounts(adjusted))
        kept = mine.raw > thresholds[n] if thresholds[n] else np.ones(len(mine.raw), bool)
        pruned.append(int((~kept).sum()))
        taken = np.where(kept, discounts[-1].of(adjusted), adjusted)  # from the context's n-grams, for the lower order
        parents = mine.keys // size if n else np.zeros(size, np.int64)
        sums = np.bincount(parents, adjusted, minlength=max(1, len(lower)))
        gamma = np.bincount(parents, taken, minlength=len(sums)) / np.maximum(sums, 1)
        below = lower[mine.suffixes] if n else 1 / (size - 1)  # <s> is no word that can come
        probs = (adjusted - taken) / sums[parents] + gamma[parents] * below
        if n:
            has_any = np.bincount(parents[kept], minlength=len(sums)) > 0
            backoffs = np.where(has_any, np.log10(np.maximum(gamma, 1e-30)), 0.0)
            orders[-1] = orders[-1]._replace(log10_backoffs=backoffs[is_kept].astype(np.float32))
        log10 = np.log10(probs[kept])
        if n == 0:
            log10[BOS] = 0.0
        words = (mine.keys % size)[kept]
        node_of = first + numbers  # of the order below
        orders.append(
            Order(
                node_of[parents[kept]] if n else parents,
                words,
                log10.astype(np.float32),
                np.zeros(len(words), np.float32),
                node_of[mine.suffixes[kept]] if n else np.zeros(size, np.int64),
            )
        )
        first += int(is_kept.sum()) if n else 1
        lower, is_kept, numbers = probs, kept, np.cumsum(kept) - 1
    while len(orders) > 1 and not len(orders[-1].words):  # all were pruned
        orders.pop()
    return Estimate(assemble(corpus.words, orders), discounts, pruned)


def _count(corpus: Corpus, order: int) -> list[_Counts]:
    """The n-grams of each order that end at any word or sentence end; they may begin with <s>."""
    ids, left, weights = corpus.arrays()
    size = len(corpus.words)
    ends = ids != BOS
    raw = np.bincount(ids[ends], weights[ends], minlength=size).astype(np.int64)
    counts = [_Counts(np.arange(size), raw, np.zeros(0, np.int32))]
    numbers = ids  # (P,) of the n-gram that begins at each position
    for n in range(2, order + 1):
        begins = np.flatnonzero(left >= n)
        if not len(begins):
            break
        keys = numbers[begins].astype(np.int64) * size + ids[begins + n - 1]
        keys, which = np.unique(keys, return_inverse=True)
        suffixes = np.empty(len(keys), np.int32)
        suffixes[which] = numbers[begins + 1]
        raw = np.bincount(which, weights[begins], minlength=len(keys)).astype(np.int64)
        counts.append(_Counts(keys, raw, suffixes))
        numbers = np.zeros(len(ids), np.int32)
        numbers[begins] = which
    return counts


def _discounts(adjusted: np.ndarray) -> Discounts:
    """From how many n-grams have a count of 1, 2, 3 and 4."""
    t = [int((adjusted == k).sum()) for k in range(1, 5)]
    if 0 in t[:3]:
        return Discounts(FALLBACK, f"no n-gram has a count of {t.index(0) + 1}")
    y = t[0] / (t[0] + 2 * t[1])
    values = tuple(k - (k + 1) * y * t[k] / t[k - 1] for k in (1, 2, 3))
    if not all(0 <= value <= k for k, value in enumerate(values, 1)):
        return Discounts(FALLBACK, f"{', '.join(map(str, t))} n-grams have counts of 1, 2, 3, 4")
    return Discounts((values[0], values[1], values[2]))
