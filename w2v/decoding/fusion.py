"""What a beam search is told of words: a language model, words that are expected, words that are allowed.

    fusion = WordFusion(tokenizer, ngram, alpha=0.5, beta=1.5, hot_words={"ankara": 10.0})
    BeamSearch(tokenizer, fusion)(emissions)

With an n-gram of words any word can be spelled: a word counts when the space behind it comes, and until then its
letters cost nothing as long as some known word begins with them. These rules and their constants are those of
pyctcdecode 0.5, except for three. A text that ends in a space has no further, unknown word there. A hot word is a known
word. Each hot word can have a weight of its own.

Shapes: N beams, V vocabulary, K nodes of the tree of known words.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from w2v.decoding.ngram import LN10, SPECIAL, UNK, NGram
from w2v.errors import InputError, show

ALPHA, BETA = 0.5, 1.5  # of the n-gram's ln p, and for each word
CHARACTER_BETA = 0.75  # for each character; without it an n-gram of characters favours short texts
UNKNOWN = -10.0  # added to log10 p of a word that is not known
OUTSIDE = -1000.0  # a word outside the lexicon
LONG = 6  # characters; an unknown beginning costs more from there on
HOT = 10.0  # weight of a hot word
LONGEST = 100  # letters of a word; rows of the table of words are as long as the longest of them
SPACE = "|"  # the word that stands for the space in an n-gram of characters


class _Tree(NamedTuple):
    """The beginnings of known words. Node 0 is the empty one, node i + 1 has key i, node K any other beginning."""

    keys: Tensor  # (K - 1,) int64, ascending: node without the last label x V + last label
    words: Tensor  # (K + 1,) int64: the word that ends here in the n-gram; UNK where none does
    is_known: Tensor  # (K + 1,) bool: a known word ends here
    partial: Tensor  # (K + 1,) float64: what a beginning is worth; node K: what its first characters cost
    hot: Tensor  # (K + 1,) float64: the weight of the hot word that ends here

    def child(self, nodes: Tensor, labels: Tensor, size: int) -> Tensor:
        keys = nodes * size + labels
        places = torch.searchsorted(self.keys, keys).clamp_(max=max(0, len(self.keys) - 1))
        is_there = self.keys.index_select(0, places) == keys
        return places.add_(1).masked_fill_(~is_there, len(self.words) - 1)


class WordFusion:
    """Words of an n-gram, hot words with their weights, and a lexicon outside of which no word should be.

    unigrams: the known words, where they are not those of the n-gram. boundary: a text begins with <s> and ends with
    </s>. InputError where the vocabulary has no space, or cannot spell any of the known words.
    """

    def __init__(
        self,
        tokenizer,
        ngram: NGram | None,
        alpha: float = ALPHA,
        beta: float = BETA,
        unknown: float = UNKNOWN,
        boundary: bool = True,
        hot_words: Mapping[str, float] | None = None,
        lexicon: Iterable[str] | None = None,
        unigrams: Sequence[str] | None = None,
    ):
        space = tokenizer.vocab.get(tokenizer.space)
        if space is None:
            raise InputError("words can be weighed where the vocabulary has a space between them, this one has none")
        self.ngram, self.boundary, self.space, self.size = ngram, boundary, space, len(tokenizer)
        self.alpha, self.beta, self.unknown = (alpha, beta, unknown) if ngram else (0.0, 0.0, 0.0)
        hot_words = dict(hot_words or {})
        if lexicon is not None:
            known, self.unknown, self.outside = list(lexicon), 0.0, OUTSIDE
        else:
            known, self.outside = list(_words_of(ngram) if unigrams is None else unigrams) if ngram else [], 0.0
        self.lengths = torch.tensor([len(tokenizer.decode([i])) for i in range(self.size)])
        self.tree = _tree(known, hot_words, ngram, tokenizer, self.unknown + self.outside)
        self.spelled = float((spell(known, tokenizer)[1] > 0).mean()) if known else 1.0  # share of the known words
        if not self.spelled:
            raise _of_other_letters(known)
        self.hottest = max(0.0, *hot_words.values(), 0.0)

    def weighed(self, alpha: float, beta: float) -> "WordFusion":
        """The same with other weights."""
        other = copy(self)
        other.alpha, other.beta = alpha, beta
        return other

    @property
    def most(self) -> float:
        return 2 * self.hottest + max(0.0, self.beta)

    def start(self, beams: int, device: torch.device) -> Tensor:
        """(3, N): the n-gram's state, the node of the word that is not finished, its characters."""
        states = torch.zeros(3, beams, dtype=torch.long, device=device)
        self._move(device)
        if self.ngram:
            states[0] = self.ngram.start(beams, self.boundary)
        return states

    def extend(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        is_space = labels == self.space
        contexts, nodes, lengths = states
        nodes = self.tree.child(nodes, labels, self.size).masked_fill_(is_space, 0)
        lengths = (lengths + self.lengths.index_select(0, labels)).masked_fill_(is_space, 0)
        partial = self.tree.partial.index_select(0, nodes)
        if self.unknown + self.outside:
            is_long = (lengths > LONG) & (nodes == len(self.tree.words) - 1)
            partial = torch.where(is_long, partial * (lengths / LONG), partial)
        gained = torch.zeros_like(partial)
        ended = is_space.nonzero()[:, 0]
        if len(ended):
            contexts = contexts.clone()
            gained[ended], contexts[ended] = self._word(states.index_select(1, ended))
        return gained, partial, torch.stack([contexts, nodes, lengths])

    def end(self, states: Tensor) -> Tensor:
        gained, contexts = torch.zeros(states.shape[1], dtype=torch.float64, device=states.device), states[0].clone()
        open_ = (states[2] > 0).nonzero()[:, 0]
        gained[open_], contexts[open_] = self._word(states.index_select(1, open_))
        if self.ngram and self.boundary:
            gained += self.alpha * LN10 * self.ngram.ends(contexts).double()
        return gained

    def _word(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What a finished word is worth, and the n-gram's next states."""
        contexts, nodes, _ = states
        is_unknown = ~self.tree.is_known.index_select(0, nodes)
        gained = self.tree.hot.index_select(0, nodes) + self.outside * is_unknown
        if not self.ngram:
            return gained, contexts
        log10, contexts = self.ngram.advance(contexts, self.tree.words.index_select(0, nodes))
        return gained + self.alpha * LN10 * (log10.double() + self.unknown * is_unknown) + self.beta, contexts

    def _move(self, device: torch.device) -> None:
        if self.tree.keys.device != device:
            self.tree, self.lengths = _Tree(*(each.to(device) for each in self.tree)), self.lengths.to(device)
            self.ngram = self.ngram.to(device) if self.ngram else None


class CharacterFusion:
    """An n-gram whose words are the labels of the vocabulary, the space's included: for languages without spaces.

    beta is added for each label. A space counts with the label behind it, so that one at the end of a text is free.
    InputError where no word is a label.
    """

    def __init__(
        self, tokenizer, ngram: NGram, alpha: float = ALPHA, beta: float = CHARACTER_BETA, boundary: bool = True
    ):
        space = tokenizer.vocab.get(tokenizer.space)
        self.space = -1 if space is None else space
        texts = [SPACE if i == space else tokenizer.decode([i]) for i in range(len(tokenizer))]
        self.ngram, self.alpha, self.beta, self.boundary = ngram, alpha, beta, boundary
        self.words = ngram.ids(texts)
        known = set(_words_of(ngram))
        self.spelled = len(known & set(texts)) / max(1, len(known))  # share of the n-gram's words
        if not self.spelled:
            raise _of_other_letters(sorted(known))

    def weighed(self, alpha: float, beta: float) -> "CharacterFusion":
        """The same with other weights."""
        other = copy(self)
        other.alpha, other.beta = alpha, beta
        return other

    @property
    def most(self) -> float:
        return 2 * max(0.0, self.beta)

    def start(self, beams: int, device: torch.device) -> Tensor:
        """(2, N): the n-gram's state, and whether a space stands behind it."""
        if self.words.device != device:
            self.words, self.ngram = self.words.to(device), self.ngram.to(device)
        states = torch.zeros(2, beams, dtype=torch.long, device=device)
        states[0] = self.ngram.start(beams, self.boundary)
        return states

    def extend(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        contexts, gained = states[0].clone(), torch.zeros(len(labels), dtype=torch.float64, device=states.device)
        is_space = labels == self.space
        spaced = ((states[1] > 0) & ~is_space).nonzero()[:, 0]
        spoken = (~is_space).nonzero()[:, 0]
        for rows, read in ((spaced, torch.full_like(spaced, self.space)), (spoken, labels[spoken])):
            log10, contexts[rows] = self.ngram.advance(contexts[rows], self.words[read])
            gained[rows] += self.alpha * LN10 * log10.double() + self.beta
        return gained, torch.zeros_like(gained), torch.stack([contexts, is_space.long()])

    def end(self, states: Tensor) -> Tensor:
        if not self.boundary:
            return torch.zeros(states.shape[1], dtype=torch.float64, device=states.device)
        return self.alpha * LN10 * self.ngram.ends(states[0]).double()


def _of_other_letters(known: Sequence[str]) -> InputError:
    return InputError(
        f"a language model's words must be in the vocabulary's letters, none of {len(known)} is, such as "
        f"{show(known[len(known) // 2])}; use one of the model's language, under the same text rules"
    )


def _words_of(ngram: NGram) -> Sequence[str]:
    return ngram.words[len(SPECIAL) :]


def is_of_characters(ngram: NGram, tokenizer) -> bool:
    """Whether the words of an n-gram are characters or labels; one of Chinese has many that a vocabulary lacks."""
    words, labels = _words_of(ngram), {tokenizer.decode([i]) for i in range(len(tokenizer))}
    return 2 * sum(len(word) == 1 or word in labels for word in words) > len(words)


def _tree(known: list[str], hot: Mapping[str, float], ngram: NGram | None, tokenizer, unknown: float) -> _Tree:
    words = [*known, *hot]
    labels, lengths = spell(words, tokenizer)  # (words, longest), 0 where one cannot be spelled
    size, nodes = len(tokenizer), np.zeros(len(words), np.int64)
    keys: list[np.ndarray] = []
    total = 1
    for depth in range(labels.shape[1]):
        longer = np.flatnonzero(lengths > depth)
        found, which = np.unique(nodes[longer] * size + labels[longer, depth], return_inverse=True)
        nodes[longer] = total + which
        keys.append(found)
        total += len(found)
    ends, spelled = np.full(total + 1, UNK), np.flatnonzero(lengths > 0)
    is_known = np.zeros(total + 1, bool)
    is_known[nodes[spelled]] = True
    partial = np.where(np.arange(total + 1) == total, unknown, 0.0)
    weight = np.zeros(total + 1)
    if ngram:
        id_of = ngram.id_of
        ends[nodes[spelled]] = [id_of.get(words[i], UNK) for i in spelled]
    flat = torch.from_numpy(np.concatenate(keys) if total > 1 else np.full(1, -1))  # a search needs a key
    tree = _Tree(flat, *map(torch.from_numpy, (ends, is_known, partial, weight)))
    for i, value in enumerate(hot.values(), len(known)):
        if not lengths[i]:
            raise InputError(f"a hot word must be in the vocabulary's letters, {show(words[i])} is not; spell it so")
        node = torch.zeros(1, dtype=torch.long)
        for depth in range(int(lengths[i])):
            node = tree.child(node, torch.tensor([labels[i, depth]]), size)
            tree.partial[node] = tree.partial[node].clamp(min=value * (depth + 1) / int(lengths[i]))
        tree.hot[node] = value
    return tree


def spell(words: Sequence[str], tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Words -> their labels (words, longest) int64 and how many, (words,); 0 where the vocabulary lacks a letter.

    A word of over LONGEST letters counts as one of those.
    """
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    if all(len(text) <= 1 for text in texts):
        label_of = np.full(0x110000, -1, np.int64)
        for i, text in enumerate(texts):
            if text:
                label_of[ord(text)] = i
        flat = label_of[np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32)]
        lengths = np.array([len(word) for word in words], np.int64)
    else:
        spelled = [[-1] if tokenizer.unknown(word) else tokenizer.encode(word) for word in words]
        flat = np.array([label for each in spelled for label in each], np.int64)
        lengths = np.array([len(each) for each in spelled], np.int64)
    owner = np.repeat(np.arange(len(words)), lengths)
    column = np.arange(len(flat)) - np.repeat(lengths.cumsum() - lengths, lengths)
    can = (np.bincount(owner[flat < 0], minlength=len(words)) == 0) & (lengths <= LONGEST)
    lengths = np.where(can, lengths, 0)
    labels = np.full((len(words), max(1, int(lengths.max(initial=0)))), -1, np.int64)
    kept = can[owner]
    labels[owner[kept], column[kept]] = flat[kept]
    return labels, lengths
