"""Forced alignment: where in a recording each word of a known text is spoken, and whether it is spoken there.

Scores compare the text with what the model itself hears. In a frame, the score is log p(the text's token) - log p(the
likeliest token): 0 where both are the same, far below where the model is sure of something else, little below where the
model is unsure. A word's, a character's and the text's score is the mean over those of its frames in which the text or
the likeliest token is not CTC's blank. So it tells both what is written and not heard, and what is heard and not
written, and long pauses change nothing. exp(score) lies between 0 and 1.

Shapes: T frames, V vocabulary, L labels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from w2v.ctc import frames_needed
from w2v.decoding.viterbi import best_path
from w2v.errors import InputError
from w2v.text.tokenizer import CharTokenizer
from w2v.text.words import WrittenWord

# A wildcard is as likely as the likeliest token, which costs a path nothing, and a little less, so that the neighbours
# keep the frames that are theirs. torchaudio's tutorial for MMS gives it probability 1, which takes frames from them.
WILDCARD_COST = 0.1  # nats a frame
LEAST = -1000.0  # nats; some number formats say -inf, and any text must have a best path


@dataclass(frozen=True)
class AlignedCharacter:
    """A token of the vocabulary as it stands in the normalised text, or characters that have none."""

    text: str
    start: float  # seconds from the recording's start
    end: float
    score: float | None  # None where the vocabulary cannot spell it


@dataclass(frozen=True)
class AlignedWord:
    """A word as it is written; start and end are those of its first and last character, in seconds."""

    text: str
    start: float
    end: float
    score: float | None  # at most 0; None where the vocabulary cannot spell any of it
    line: int  # of the text, from 0
    characters: list[AlignedCharacter] = field(default_factory=list)


@dataclass(frozen=True)
class Alignment:
    words: list[AlignedWord]
    score: float | None  # of the whole recording


@dataclass(frozen=True)
class _Unit:
    """A label, of a word's character or of the space before a word."""

    token: int
    word: int | None  # its number; None for a space
    text: str
    is_wildcard: bool = False


def align(log_probs: Tensor, words: list[WrittenWord], tokenizer: CharTokenizer, seconds_per_frame: float) -> Alignment:
    """Frame posteriors (T, V) of a whole recording and its words, one at least -> the times of the likeliest way to say
    them.

    Characters that the vocabulary cannot spell take whatever is heard in their place. InputError where there are too
    few frames for the words.
    """
    size = log_probs.shape[1]
    units = _units(words, tokenizer, size)
    needed = frames_needed([unit.token for unit in units])
    if needed > len(log_probs):
        raise InputError(
            f"a text must have at most one character a frame of {seconds_per_frame:.3g} s, this one needs "
            f"{needed} frames and the recording has {len(log_probs)}; give the text of this recording "
            "only, or more of the recording"
        )
    scores, token, labels = _scores(log_probs, [unit.token for unit in units], tokenizer.blank_id)
    path = best_path(scores, labels, blank=0)
    on_label, number = path % 2 == 1, path // 2  # number: of the label, where on one
    column = np.where(on_label, labels[np.minimum(number, len(labels) - 1)], 0)
    is_wildcard = np.isin(column, np.flatnonzero(token >= size))
    counted = (on_label | (log_probs.argmax(-1).cpu().numpy() != tokenizer.blank_id)) & ~is_wildcard
    lost = np.where(counted, scores[np.arange(len(path)), column].astype(np.float64), 0.0)
    totals, counts = (np.concatenate([[0.0], np.cumsum(each)]) for each in (lost, counted))

    def mean(start: int, end: int) -> float | None:
        frames = counts[end] - counts[start]
        return min(0.0, float((totals[end] - totals[start]) / frames)) if frames else None

    ends = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="right").tolist()
    starts = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="left").tolist()
    of_word: list[list[tuple[int, _Unit]]] = [[] for _ in words]
    for i, unit in enumerate(units):
        if unit.word is not None:
            of_word[unit.word].append((i, unit))
    aligned = []
    for word, its in zip(words, of_word, strict=True):
        characters = [
            AlignedCharacter(
                unit.text,
                starts[i] * seconds_per_frame,
                ends[i] * seconds_per_frame,
                None if unit.is_wildcard else mean(starts[i], ends[i]),
            )
            for i, unit in its
        ]
        is_spelt = any(not unit.is_wildcard for _, unit in its)
        score = mean(starts[its[0][0]], ends[its[-1][0]]) if is_spelt else None
        aligned.append(AlignedWord(word.text, characters[0].start, characters[-1].end, score, word.line, characters))
    return Alignment(aligned, mean(0, len(path)))


def _units(words: Iterable[WrittenWord], tokenizer: CharTokenizer, size: int) -> list[_Unit]:
    """The labels of a text. What a vocabulary lacks becomes one wildcard for each run of such characters."""
    units: list[_Unit] = []
    for number, word in enumerate(words):
        for spoken in word.spoken.split():
            if units and not tokenizer.phonemes:
                assert tokenizer.space is not None  # all vocabularies but those of phonemes have one
                units.append(_Unit(tokenizer.vocab[tokenizer.space], None, " "))
            for piece in tokenizer.pieces(spoken):
                # Some vocabularies have capitals only, and their folders do not say so.
                known = next((p for p in (piece, piece.upper()) if not tokenizer.unknown(p)), None)
                if known is not None:
                    tokens = tokenizer.encode(known)  # SS for ß
                    texts = [piece] if len(tokens) == 1 else [tokenizer.tokens[token] for token in tokens]
                    units += [_Unit(token, number, text) for token, text in zip(tokens, texts, strict=True)]
                elif units and units[-1].is_wildcard and units[-1].word == number:
                    units[-1] = _Unit(units[-1].token, number, units[-1].text + piece, True)
                else:
                    # Two in turn: equal neighbours would need a blank between them.
                    last = units[-1].token if units else None
                    units.append(_Unit(size + (last == size), number, piece, True))
    return units


def _scores(log_probs: Tensor, labels: list[int], blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a path loses against the likeliest tokens, for the tokens of a text only: (T, n) float32.

    Also the token of each column, (n,), the blank's first, and the labels as columns, (L,).
    """
    size, used = log_probs.shape[1], sorted(set(labels) - {blank})
    columns = [blank, *(token for token in used if token < size)]
    best = log_probs.max(dim=-1, keepdim=True).values
    lost = (log_probs[:, columns] - best).float().clamp(min=LEAST)
    if not bool(torch.isfinite(lost).all()):
        raise InputError("a model's scores must be numbers, some are not finite; use a model whose training went well")
    wildcards = torch.full((len(lost), sum(token >= size for token in used)), -WILDCARD_COST, device=lost.device)
    column_of = {token: i for i, token in enumerate([blank, *used])}
    return (
        torch.cat([lost, wildcards], dim=1).cpu().numpy(),
        np.array([blank, *used]),
        np.array([column_of[label] for label in labels]),
    )
