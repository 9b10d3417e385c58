"""What cv_prepare hands over: a run's data, ready for training, and how people are shown a character of it."""

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Any

from recipes.console import say
from w2v.audio import SAMPLE_RATE
from w2v.data.manifest import Clip, Release, Skipped
from w2v.data.splits import Splits
from w2v.data.store import Audio
from w2v.text.normalise import Normaliser

MOST_TOKENS = 20_000  # that are written out; CTC vocabularies of Chinese have some thousands


@dataclass
class Prepared:
    """A run's data, ready for training."""

    lang: str
    data_name: str  # for people: the sample, or its releases and tables
    releases: list[Release]  # what was given as data, without any extra data
    is_sample: bool
    normaliser: Normaliser
    tokenizer: Any  # the family's
    splits: Splits  # usable clips only
    texts: dict[Clip, str]  # normalised
    audio: Audio
    skipped: list[Skipped]
    fingerprint: str  # of every clip, its length and its text: what a run is trained and measured on
    decisions: list[str]  # the lines that were printed, for run.json
    facts: dict  # the same in numbers

    def decide(self, line: str) -> None:
        """Print a decision and keep it for run.json."""
        say(line)
        self.decisions.append(line)

    def speakers(self, clips: list[Clip]) -> int:
        return len({clip.speaker for clip in clips} - {""})

    def seconds(self, clips: list[Clip]) -> float:
        return sum(self.audio.samples(clip) for clip in clips) / SAMPLE_RATE


def vocabulary_record(tokenizer) -> list[str]:
    """The tokens, by id; of a vocabulary too large for people their number and a digest."""
    if len(tokenizer) <= MOST_TOKENS:
        return tokenizer.tokens
    digest = hashlib.sha256("\0".join(tokenizer.tokens).encode("utf-8", "replace")).hexdigest()
    return [f"{len(tokenizer)} tokens, sha256 {digest}"]


def show_character(char: str) -> str:
    """The character, and its code where one cannot see or place it; a phoneme as it is."""
    printable = len(char) > 1 or (char.isprintable() and not unicodedata.combining(char))
    return char if printable else f"U+{ord(char):04X} {unicodedata.name(char, '?')}"
