"""Word and character error rate over a corpus: summed errors over summed lengths, never a mean of rates."""

from collections import Counter
from dataclasses import dataclass, field

import jiwer
import numpy as np


@dataclass(frozen=True)
class ErrorRates:
    """wer and cer are fractions, and above 1 where much is inserted; None where there was nothing to compare."""

    wer: float | None
    cer: float | None
    clips: int
    languages: "dict[str, ErrorRates]" = field(default_factory=dict)  # of which these are the means


def mean_rates(by_language: dict[str, ErrorRates]) -> ErrorRates:
    """The means over languages, each of which counts alike; those with nothing to compare are left out."""

    def mean(rates: list[float | None]) -> float | None:
        known = [rate for rate in rates if rate is not None]
        return sum(known) / len(known) if known else None

    each = by_language.values()
    wer, cer = mean([rates.wer for rates in each]), mean([rates.cer for rates in each])
    return ErrorRates(wer, cer, sum(rates.clips for rates in each), by_language)


def error_rates(references: list[str], hypotheses: list[str]) -> ErrorRates:
    """Corpus WER and CER (spaces count as characters). References are normalised text, before any [UNK]."""
    if not any(references):
        return ErrorRates(None, None, len(references))
    words = jiwer.process_words(references, hypotheses)
    chars = jiwer.process_characters(references, hypotheses)
    return ErrorRates(words.wer, chars.cer, len(references))


@dataclass(frozen=True)
class Edits:
    """What makes the references of N clips their hypotheses: the fewest edits, in words or in characters.

    Often several ways need equally few edits, and this is one of them: the total is certain, the kinds and the pairs
    are not.
    """

    substitutions: np.ndarray  # (N,) int64, as the next three
    deletions: np.ndarray
    insertions: np.ndarray
    lengths: np.ndarray  # of the references
    substituted: Counter[tuple[str, str]] = field(default_factory=Counter)  # (of the reference, written instead)
    deleted: Counter[str] = field(default_factory=Counter)
    inserted: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> np.ndarray:
        return self.substitutions + self.deletions + self.insertions  # (N,)

    def rate(self, clips: np.ndarray | slice = slice(None)) -> float | None:
        """The error rate over some of the clips, by number or by mask; None where their references hold nothing."""
        length = int(self.lengths[clips].sum())
        return int(self.errors[clips].sum()) / length if length else None


def word_edits(references: list[str], hypotheses: list[str]) -> Edits:
    """Words are what stands between spaces. An empty reference makes every word an insertion."""
    return _edits(jiwer.process_words(references, hypotheses)) if references else _none()


def character_edits(references: list[str], hypotheses: list[str]) -> Edits:
    """Code points; a space between words counts, and spaces at the ends do not."""
    return _edits(jiwer.process_characters(references, hypotheses)) if references else _none()


def _none() -> Edits:
    return Edits(*np.zeros((4, 0), np.int64))


def _edits(output: jiwer.WordOutput | jiwer.CharacterOutput) -> Edits:
    counts = np.zeros((4, len(output.references)), np.int64)
    edits = Edits(*counts)
    clips = zip(output.references, output.hypotheses, output.alignments, strict=True)
    for i, (reference, hypothesis, chunks) in enumerate(clips):
        edits.lengths[i] = len(reference)
        for chunk in chunks:
            asked = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "substitute":
                edits.substitutions[i] += len(asked)
                edits.substituted.update(zip(asked, written, strict=True))
            elif chunk.type == "delete":
                edits.deletions[i] += len(asked)
                edits.deleted.update(asked)
            elif chunk.type == "insert":
                edits.insertions[i] += len(written)
                edits.inserted.update(written)
    return edits
