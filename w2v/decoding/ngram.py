"""Back-off n-gram language models as flat sorted tensors, asked about many words in one call, on any device.

    lm = read_arpa("lm.arpa")                                    # w2v.decoding.arpa
    log10, states = lm.advance(lm.start(3), lm.ids(["a", "b", "c"]))
    lm.score([["a", "b"], ["b"]])                                # log10 of whole sentences

An n-gram is a node of a trie. Node 0 is the empty context, node 1 + w is the unigram of word w, and the nodes of an
order follow those of the order below, sorted by their key: the node without the last word x W + the last word. So all
keys together are sorted, and finding a longer context is one binary search. A state is the node of the longest context
that still matters. Scores and states are KenLM's (Heafield 2011); the walk over the back-off chain for many states at
once is that of NVIDIA NeMo's NGPU-LM.

Shapes: W words, N n-grams, Q queries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

UNK, BOS, EOS = 0, 1, 2  # ids of <unk>, <s> and </s>, as lmplz gives them
SPECIAL = ("<unk>", "<s>", "</s>")
LN10 = 2.302585092994046


class Order(NamedTuple):
    """The n-grams of one order, sorted by (parent, word)."""

    parents: np.ndarray  # (n,) integers: the node without the last word
    words: np.ndarray  # (n,) integers: the last word
    log10_probs: np.ndarray  # (n,) float32
    log10_backoffs: np.ndarray  # (n,) float32; zeros in the highest order
    suffixes: np.ndarray  # (n,) integers: the node of the longest proper suffix in the model; 0 for unigrams


@dataclass(frozen=True, eq=False)
class NGram:
    words: Sequence[str]  # W: <unk>, <s>, </s>, then the others
    counts: tuple[int, ...]  # n-grams of each order
    keys: Tensor  # (N,) int64, ascending: key i is that of node i + 1
    log10_probs: Tensor  # (N + 1,) float32
    log10_backoffs: Tensor  # (N + 1,) float32
    shorter: Tensor  # (N + 1,) int32: the state that a context falls back to
    after: Tensor  # (N + 1,) int32: the state behind an n-gram: itself, or the longest suffix that can matter

    @property
    def order(self) -> int:
        return len(self.counts)

    @cached_property
    def id_of(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def ids(self, words: Iterable[str]) -> Tensor:
        """Words -> their ids (Q,) int64; UNK for those that are not in the model."""
        find = self.id_of.get
        return torch.tensor([find(word, UNK) for word in words], dtype=torch.long, device=self.keys.device)

    def to(self, device: torch.device | str) -> "NGram":
        names = ("keys", "log10_probs", "log10_backoffs", "shorter", "after")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def start(self, queries: int, bos: bool = True) -> Tensor:
        """The states (Q,) at the start of sentences; bos=False: without any context."""
        state = int(self.after[1 + BOS]) if bos else 0
        return torch.full((queries,), state, dtype=torch.long, device=self.keys.device)

    def advance(self, states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """States (Q,) int64 and the words (Q,) int64 that follow -> log10 p(word | state) (Q,), and the next states."""
        pick = torch.index_select  # it costs half of an index in brackets
        chain = [states.int()]
        for _ in range(self.order - 1):
            chain.append(pick(self.shorter, 0, chain[-1]))
        contexts = torch.stack(chain)  # (order, Q), longest first; the last is empty, in which there is any word
        keys = torch.add(words, contexts, alpha=len(self.words))  # in int64, for the words are
        places = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        is_found = pick(self.keys, 0, places.view(-1)).view_as(keys) == keys
        is_missed = is_found.cumsum(0) == 0  # there and in longer contexts
        nodes = places.gather(0, is_missed.sum(0, keepdim=True))[0].add_(1)
        log10 = pick(self.log10_backoffs, 0, contexts.view(-1)).view_as(keys).mul_(is_missed).sum(0)
        return log10.add_(pick(self.log10_probs, 0, nodes)), pick(self.after, 0, nodes).long()

    def ends(self, states: Tensor) -> Tensor:
        """log10 p(</s> | state) of each, (Q,)."""
        return self.advance(states, torch.full_like(states, EOS))[0]

    def word_scores(self, sentences: Sequence[Sequence[str]], bos: bool = True, eos: bool = True) -> list[list[float]]:
        """log10 p of each word of each sentence, and of its end where `eos` says so."""
        rows = [self.ids(sentence) for sentence in sentences]
        if eos:
            end = torch.tensor([EOS], device=self.keys.device)
            rows = [torch.cat([row, end]) for row in rows]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long, device=self.keys.device)
        words = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.empty(0, 0)
        states, scores = self.start(len(rows), bos), torch.zeros(words.shape, dtype=torch.float32)
        for i in range(words.shape[1]):
            live = torch.nonzero(lengths > i)[:, 0]
            log10, states[live] = self.advance(states[live], words[live, i])
            scores[live.cpu(), i] = log10.cpu()
        return [row[:length] for row, length in zip(scores.tolist(), lengths.tolist(), strict=True)]

    def score(self, sentences: Sequence[Sequence[str]], bos: bool = True, eos: bool = True) -> list[float]:
        """log10 p of each sentence, a list of words."""
        return [sum(words) for words in self.word_scores(sentences, bos, eos)]


def assemble(words: Sequence[str], orders: Sequence[Order]) -> NGram:
    """The orders from unigrams up -> a model.

    The unigrams are all of `words`, in their order.
    """
    empty = np.zeros(1, np.float32)  # the empty context has neither probability nor back-off weight
    keys = np.concatenate([order.parents.astype(np.int64) * len(words) + order.words for order in orders])
    probs = np.concatenate([empty, *(order.log10_probs for order in orders)]).astype(np.float32)
    backoffs = np.concatenate([empty, *(order.log10_backoffs for order in orders)]).astype(np.float32)
    starts = np.cumsum([1, *(len(order.words) for order in orders)])
    matters = backoffs != 0  # as a context
    for order in orders[1:]:
        matters[order.parents] = True
    matters[starts[-2] :] = False  # no n-gram is longer
    after, shorter = (np.zeros(len(probs), np.int32) for _ in range(2))
    for start, order in zip(starts, orders, strict=False):
        nodes = slice(start, start + len(order.words))
        shorter[nodes] = after[order.suffixes]
        after[nodes] = np.where(matters[nodes], np.arange(nodes.start, nodes.stop), shorter[nodes])
    tensors = map(torch.from_numpy, (keys, probs, backoffs, shorter, after))
    return NGram(words, tuple(len(order.words) for order in orders), *tensors)


def build(words: Sequence[str], grams: Sequence[np.ndarray], probs: Sequence, backoffs: Sequence) -> NGram:
    """n-grams in any order -> a model. grams: of each order n, (N_n, n) ids of words; probs, backoffs: (N_n,) log10.

    The unigrams are `words`, in their order. The n-gram without its last word must be there; ValueError where it is
    not, and where an n-gram comes twice.
    """
    size = len(words)
    orders = [Order(np.zeros(size, np.int64), np.arange(size), probs[0], backoffs[0], np.zeros(size, np.int64))]
    keys, starts = np.arange(size), [1, 1 + size]  # all keys so far

    def nodes_of(ids: np.ndarray) -> np.ndarray:
        """The nodes of n-grams (n, m); 0 where the model has none."""
        nodes = ids[:, 0].astype(np.int64) + 1
        for column in ids.T[1:]:
            wanted = nodes * size + column
            places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            nodes = np.where((keys[places] == wanted) & (nodes > 0), places + 1, 0)
        return nodes

    for ids, log10_probs, log10_backoffs in zip(grams[1:], probs[1:], backoffs[1:], strict=True):
        parents = nodes_of(ids[:, :-1])
        if not parents.all():
            raise ValueError("an n-gram lacks its context")
        mine = parents * size + ids[:, -1]
        order = np.argsort(mine, kind="stable")
        mine = mine[order]
        if (mine[1:] == mine[:-1]).any():
            raise ValueError("an n-gram comes twice")
        suffixes = np.zeros(len(ids), np.int64)
        for begin in range(ids.shape[1] - 1, 0, -1):  # longer ones last
            suffixes = np.where((found := nodes_of(ids[:, begin:])) > 0, found, suffixes)
        orders.append(Order(parents[order], ids[order, -1], log10_probs[order], log10_backoffs[order], suffixes[order]))
        keys = np.concatenate([keys, mine])
        starts.append(1 + len(keys))
    return assemble(words, orders)
