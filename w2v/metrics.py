"""Word and character error rate over a corpus: summed errors over summed lengths, never a mean of rates."""

from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class ErrorRates:
    """wer and cer are fractions, and above 1 where much is inserted; None where there was nothing to compare."""

    wer: float | None
    cer: float | None
    clips: int


def error_rates(references: list[str], hypotheses: list[str]) -> ErrorRates:
    """Corpus WER and CER (spaces count as characters). References are normalised text, before any [UNK]."""
    if not any(references):
        return ErrorRates(None, None, len(references))
    words = jiwer.process_words(references, hypotheses)
    chars = jiwer.process_characters(references, hypotheses)
    return ErrorRates(words.wer, chars.cer, len(references))
