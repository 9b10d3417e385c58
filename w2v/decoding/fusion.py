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
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from w2v.decoding.ngram import LN10, SPECIAL, UNK, NGram
from w2v.decoding.steps import FACTOR, powers
from w2v.errors import InputError, show
from w2v.text.tokenizer import CharTokenizer

ALPHA, BETA = 0.5, 1.5  # of the n-gram's ln p, and for each word
CHARACTER_BETA = 0.75  # for each character; without it an n-gram of characters favours short texts
UNKNOWN = -10.0  # added to log10 p of a word that is not known
OUTSIDE = -1000.0  # a word outside the lexicon
LONG = 6  # characters; an unknown beginning costs more from there on
HOT = 10.0  # weight of a hot word
LONGEST = 100  # letters of a word; rows of the table of words are as long as the longest of them
NO_WORD = 0x5851F42D4C957F2D  # any number with bits of its own
SPACE = "|"  # the word that stands for the space in an n-gram of characters
Self = TypeVar("Self", bound="_Weighed")


class _Tree(NamedTuple):
    """The beginnings of known words by their hashes, the empty one's too. Node K is any other beginning."""

    hashes: Tensor  # (K + 1,) int64, ascending but for the last, of which no word's beginning comes
    words: Tensor  # (K + 1,) int64: the word that ends here in the n-gram; UNK where none does
    partial: Tensor  # (K + 1,) float64: what a beginning is worth; node K: what its first characters cost
    growth: Tensor  # (K + 1,) float64: by how much each further character of an unknown one raises that
    unknown: Tensor  # (K + 1,) float64: added to log10 p of the word that ends here
    worth: Tensor  # (K + 1,) float64: what else that word is worth, as a hot one or one outside the lexicon

    def find(self, hashes: Tensor) -> Tensor:
        last = len(self.hashes) - 1
        places = torch.searchsorted(self.hashes[:last], hashes)
        return places.masked_fill_(self.hashes.index_select(0, places) != hashes, last)


class _Parts(NamedTuple):
    """Pieces of text as parts of words: one with n spaces has n + 1 of them. W: whole words in one piece, at most."""

    spaces: Tensor  # (P,)
    factor: Tensor  # (P,): an open word's hash x this + the first part's is that of both
    first: Tensor  # (P,): the first part's hash
    words: Tensor  # (W, P): nodes of the parts between two spaces
    node: Tensor  # (P,) of the last part, which begins a word where there is a space
    length: Tensor  # (P,) of the last part, in characters


class _Weighed:
    alpha: float
    beta: float

    def weighed(self: Self, alpha: float, beta: float) -> Self:
        """The same with other weights."""
        other = copy(self)
        other.alpha, other.beta = alpha, beta
        return other


class WordFusion(_Weighed):
    """Words of an n-gram, hot words with their weights, and a lexicon outside of which no word should be.

    unigrams: the known words, where they are not those of the n-gram. boundary: a text begins with <s> and ends with
    </s>. InputError where the vocabulary has no space, or cannot spell any of the known words.
    """

    def __init__(
        self,
        tokenizer: CharTokenizer,
        ngram: NGram | None,
        alpha: float = ALPHA,
        beta: float = BETA,
        unknown: float = UNKNOWN,
        boundary: bool = True,
        hot_words: Mapping[str, float] | None = None,
        lexicon: Iterable[str] | None = None,
        unigrams: Sequence[str] | None = None,
    ):
        space = tokenizer.space_id
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
        labels, lengths = spell([*known, *hot_words], tokenizer)
        self.tree = _tree(known, hot_words, labels, lengths, ngram, self.unknown, self.outside)
        self.spelled = float((lengths[: len(known)] > 0).mean()) if known else 1.0  # share of the known words
        if not self.spelled:
            raise _of_other_letters(known)
        self.hottest = max(0.0, *hot_words.values(), 0.0)

    @property
    def most(self) -> float:
        return 2 * self.hottest + max(0.0, self.beta)

    def start(self, beams: int, device: torch.device) -> Tensor:
        """(3, N): the n-gram's state, the node of the word that is not finished, its characters."""
        states = torch.zeros(3, beams, dtype=torch.long, device=device)
        self._move(device)
        states[1] = self.tree.find(states[1])
        if self.ngram:
            states[0] = self.ngram.start(beams, self.boundary)
        return states

    def pieces(self, labels: Tensor) -> _Parts:
        count, longest = labels.shape
        is_space = labels == self.space
        is_letter = (labels >= 0) & ~is_space
        column = torch.arange(longest, device=labels.device)
        ends = torch.where(is_space, column, longest).flip(1).cummin(1).values.flip(1)  # of a label's part
        factors, part = powers(longest + 1, labels.device), is_space.long().cumsum(1)
        spaces = part[:, -1]
        parts = torch.zeros(2, count, int(spaces.max()) + 1, dtype=torch.long, device=labels.device)
        parts[0].scatter_add_(1, part, (labels + 1) * factors[ends - 1 - column] * is_letter)
        parts[1].scatter_add_(1, part, self.lengths[labels] * is_letter)
        hashes, lengths = parts
        factor = factors[(is_letter & (part == 0)).sum(1)]
        nodes = self.tree.find(hashes.view(-1)).view(hashes.shape)
        last = spaces[:, None]
        node, length = nodes.gather(1, last)[:, 0], lengths.gather(1, last)[:, 0]
        return _Parts(spaces, factor, hashes[:, 0].contiguous(), nodes[:, 1:-1].T.contiguous(), node, length)

    def extend(self, states: Tensor, pieces: _Parts, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pick = torch.index_select
        contexts, nodes, lengths = states
        hashes = pick(self.tree.hashes, 0, nodes) * pick(pieces.factor, 0, chosen) + pick(pieces.first, 0, chosen)
        nodes = self.tree.find(hashes)
        gained = torch.zeros(len(chosen), dtype=torch.float64, device=states.device)
        spaces = pick(pieces.spaces, 0, chosen)
        is_open = spaces == 0
        for part in range(1 + len(pieces.words)):
            ended = (spaces > part).nonzero()[:, 0]
            if not len(ended):
                break
            if part == 0:
                words, contexts = pick(nodes, 0, ended), contexts.clone()
            else:
                words = pick(pieces.words[part - 1], 0, pick(chosen, 0, ended))
            more, contexts[ended] = self._word(pick(contexts, 0, ended), words)
            gained.index_add_(0, ended, more)
        nodes = torch.where(is_open, nodes, pick(pieces.node, 0, chosen))
        lengths = pick(pieces.length, 0, chosen).add_(lengths * is_open)
        partial = pick(self.tree.partial, 0, nodes)
        if self.unknown + self.outside:
            partial.mul_((lengths * pick(self.tree.growth, 0, nodes)).clamp_(min=1.0))
        return gained, partial, torch.stack([contexts, nodes, lengths])

    def end(self, states: Tensor) -> Tensor:
        gained, contexts = torch.zeros(states.shape[1], dtype=torch.float64, device=states.device), states[0].clone()
        open_ = (states[2] > 0).nonzero()[:, 0]
        gained[open_], contexts[open_] = self._word(contexts[open_], states[1, open_])
        if self.ngram and self.boundary:
            gained += self.alpha * LN10 * self.ngram.ends(contexts).double()
        return gained

    def _word(self, contexts: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """What a finished word is worth, and the n-gram's next states."""
        gained = self.tree.worth.index_select(0, nodes)
        if not self.ngram:
            return gained, contexts
        log10, contexts = self.ngram.advance(contexts, self.tree.words.index_select(0, nodes))
        log10 = self.tree.unknown.index_select(0, nodes).add_(log10)
        return gained.add_(log10.mul_(self.alpha * LN10)).add_(self.beta), contexts

    def _move(self, device: torch.device) -> None:
        if self.tree.hashes.device != device:
            self.tree, self.lengths = _Tree(*(each.to(device) for each in self.tree)), self.lengths.to(device)
            self.ngram = self.ngram.to(device) if self.ngram else None


class CharacterFusion(_Weighed):
    """An n-gram whose words are the labels of the vocabulary, the space's included: for languages without spaces.

    beta is added for each label. A space counts with the label behind it, so that one at the end of a text is free.
    InputError where no word is a label.
    """

    def __init__(
        self,
        tokenizer: CharTokenizer,
        ngram: NGram,
        alpha: float = ALPHA,
        beta: float = CHARACTER_BETA,
        boundary: bool = True,
    ):
        space = tokenizer.space_id
        self.space = -1 if space is None else space
        texts = [SPACE if i == space else tokenizer.decode([i]) for i in range(len(tokenizer))]
        self.ngram, self.alpha, self.beta, self.boundary = ngram, alpha, beta, boundary
        self.words = ngram.ids(texts)
        known = set(_words_of(ngram))
        self.spelled = len(known & set(texts)) / max(1, len(known))  # share of the n-gram's words
        if not self.spelled:
            raise _of_other_letters(sorted(known))

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

    def pieces(self, labels: Tensor) -> Tensor:
        return labels

    def extend(self, states: Tensor, pieces: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (contexts, spaced), gained = states.clone(), torch.zeros(len(chosen), dtype=torch.float64, device=states.device)
        columns = pieces.index_select(0, chosen).T
        for labels in columns[(columns >= 0).any(1)]:
            is_space = labels == self.space
            is_letter = (labels >= 0) & ~is_space
            before = ((spaced > 0) & is_letter).nonzero()[:, 0]
            spoken = is_letter.nonzero()[:, 0]
            for rows, read in ((before, torch.full_like(before, self.space)), (spoken, labels[spoken])):
                log10, contexts[rows] = self.ngram.advance(contexts[rows], self.words[read])
                gained[rows] += self.alpha * LN10 * log10.double() + self.beta
            spaced = torch.where(labels >= 0, is_space.long(), spaced)
        return gained, torch.zeros_like(gained), torch.stack([contexts, spaced])

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


def is_of_characters(ngram: NGram, tokenizer: CharTokenizer) -> bool:
    """Whether the words of an n-gram are characters or labels; one of Chinese has many that a vocabulary lacks."""
    words, labels = _words_of(ngram), {tokenizer.decode([i]) for i in range(len(tokenizer))}
    return 2 * sum(len(word) == 1 or word in labels for word in words) > len(words)


def _tree(
    known: list[str],
    hot: Mapping[str, float],
    labels: np.ndarray,
    lengths: np.ndarray,
    ngram: NGram | None,
    unknown: float,
    outside: float,
) -> _Tree:
    """labels, lengths: of the known and the hot words, by `spell`."""
    words = [*known, *hot]
    whole, begun = np.zeros(len(words), np.int64), [np.zeros(1, np.int64)]
    hot_begun = []
    for depth in range(labels.shape[1]):
        longer = np.flatnonzero(lengths > depth)
        whole[longer] = whole[longer] * FACTOR + labels[longer, depth] + 1
        begun.append(np.unique(whole[longer]))
        hot_begun.append(whole[len(known) :].copy())
    hashes = np.unique(np.concatenate(begun))
    total, nodes = len(hashes), np.searchsorted(hashes, whole)
    ends, spelled = np.full(total + 1, UNK), np.flatnonzero(lengths > 0)
    missing, worth = np.full(total + 1, unknown), np.full(total + 1, outside)
    missing[nodes[spelled]] = worth[nodes[spelled]] = 0.0
    partial, growth = np.zeros(total + 1), np.zeros(total + 1)
    partial[-1], growth[-1] = unknown + outside, 1 / LONG
    if ngram:
        id_of = ngram.id_of
        ends[nodes[spelled]] = [id_of.get(words[i], UNK) for i in spelled]
    for i, value in enumerate(hot.values()):
        length = int(lengths[len(known) + i])
        if not length:
            raise InputError(
                f"a hot word must be in the vocabulary's letters, {show(words[len(known) + i])} is not; spell it so"
            )
        for depth in range(length):
            node = np.searchsorted(hashes, hot_begun[depth][i])
            partial[node] = max(partial[node], value * (depth + 1) / length)
        worth[node] = value
    return _Tree(*map(torch.from_numpy, (np.append(hashes, NO_WORD), ends, partial, growth, missing, worth)))


def spell(words: Sequence[str], tokenizer: CharTokenizer) -> tuple[np.ndarray, np.ndarray]:
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
