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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from w2v.decoding.ngram import BOS, EOS, SPECIAL, NGram, Order, assemble
from w2v.errors import InputError

FALLBACK = (0.5, 1.0, 1.5)  # discounts of an order whose counts cannot give them: lmplz --discount_fallback
MOST_ORDER = 10


class Corpus:
    """Sentences as numbers of words, each with how many times it counts."""

    def __init__(self) -> None:
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

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Ids (P,) int32, positions left in the sentence from each on (P,) int32, weights (P,) int32; None: all 1."""
        lengths, weights = np.frombuffer(self._lengths, np.int32), np.frombuffer(self._weights, np.int32)
        left = np.full(len(self._ids), -1, np.int32)  # one less at each position, and anew where a sentence begins
        left[0] = lengths[0]
        left[np.cumsum(lengths[:-1], dtype=np.int64)] = lengths[1:] - 1
        np.cumsum(left, out=left)
        repeated = np.repeat(weights, lengths) if (weights != 1).any() else None
        return np.frombuffer(self._ids, np.int32), left, repeated


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
    orders, discounts, pruned = _smooth(_count(corpus, order), len(corpus.words), thresholds)
    return Estimate(assemble(corpus.words, orders), discounts, pruned)


def _smooth(
    counted: Iterator[_Counts], size: int, thresholds: Sequence[int]
) -> tuple[list[Order], list[Discounts], list[int]]:
    """Counts -> probabilities, order by order: an order needs those of the order below and the suffixes of the next.

    Arrays are those of an order or of the one below it, so that a large text needs little more memory than its model.
    """
    orders: list[Order] = []
    discounts: list[Discounts] = []
    pruned: list[int] = []
    # Of the order below, for each n-gram: p, its node in the model, whether it is in the model. Below the unigrams
    # lies one n-gram, the empty one, and p is that of any word without knowledge: <s> is no word that can come.
    lower, nodes, in_model, first = np.array([1 / (size - 1)]), np.zeros(1, np.int32), np.ones(1, bool), 1
    after_bos = np.zeros(1, bool)
    mine: _Counts | None = next(counted)
    while mine is not None:
        longer, n = next(counted, None), len(orders)
        parents = (mine.keys // size).astype(np.int32)
        after_bos = after_bos[parents] if n else np.arange(size) == BOS
        adjusted = mine.raw
        if longer is not None:
            adjusted = np.where(after_bos, mine.raw, np.bincount(longer.suffixes, minlength=len(mine.raw)))
        discounts.append(_discounts(adjusted))
        kept = mine.raw > thresholds[n] if n else np.ones(size, bool)
        pruned.append(int((~kept).sum()))
        taken = np.where(kept, discounts[-1].of(adjusted), adjusted)  # from the context's n-grams, for the lower order
        sums = np.bincount(parents, adjusted, minlength=len(lower))
        gamma = np.bincount(parents, taken, minlength=len(lower)) / np.maximum(sums, 1)
        probs = (adjusted - taken) / sums[parents]
        probs += gamma[parents] * lower[mine.suffixes]
        del adjusted, taken
        if n:
            is_context = np.bincount(parents[kept], minlength=len(lower)) > 0
            # gamma is 0 where no n-gram of a context is discounted; a file cannot hold its logarithm.
            backoffs = np.where(is_context, np.log10(np.maximum(gamma, 1e-30)), 0.0)
            orders[-1] = orders[-1]._replace(log10_backoffs=backoffs[in_model].astype(np.float32))
        log10 = np.log10(probs[kept]).astype(np.float32)
        if n == 0:
            log10[BOS] = 0.0
        words = (mine.keys % size)[kept].astype(np.int32)
        backoffs = np.zeros(len(words), np.float32)
        orders.append(Order(nodes[parents[kept]], words, log10, backoffs, nodes[mine.suffixes[kept]]))
        lower, nodes, in_model = probs, np.cumsum(kept, dtype=np.int32) + np.int32(first - 1), kept
        first += len(words)
        mine = longer
    while len(orders) > 1 and not len(orders[-1].words):  # all were pruned
        orders.pop()
    return orders, discounts, pruned


def _count(corpus: Corpus, order: int) -> Iterator[_Counts]:
    """The n-grams of each order that end at any word or sentence end; they may begin with <s>."""
    ids, left, weights = corpus.arrays()
    size = len(corpus.words)
    ends = ids != BOS
    raw = np.bincount(ids[ends], None if weights is None else weights[ends], minlength=size).astype(np.int64)
    yield _Counts(np.arange(size), raw, np.zeros(size, np.int32))
    numbers = ids.copy()  # (P,) of the n-gram that begins at each position
    for n in range(2, order + 1):
        at = slice(len(ids) - n + 1)
        begins = left[at] >= n
        if not begins.any():
            break
        keys = numbers[at][begins].astype(np.int64)
        keys *= size
        keys += ids[n - 1 :][begins]
        keys, which = _numbered(keys)
        raw = np.bincount(which, None if weights is None else weights[at][begins]).astype(np.int64)
        suffixes = np.empty(len(keys), np.int32)
        suffixes[which] = numbers[1:][: len(begins)][begins]
        numbers[at][begins] = which
        del which
        yield _Counts(keys, raw, suffixes)
        del keys, raw, suffixes


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys (P,) -> each once, ascending, and its place there for each key, (P,) int32. np.unique takes more memory."""
    by_key = np.argsort(keys)
    keys = keys[by_key]
    is_new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    keys = keys[is_new]
    number = np.cumsum(is_new, dtype=np.int32)
    number -= 1
    which = np.empty(len(number), np.int32)
    which[by_key] = number
    return keys, which


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
