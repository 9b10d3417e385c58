"""What cv_prepare hands over: a run's data, ready for training, and how people are shown a character of it."""

import hashlib
import unicodedata
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from recipes.console import say
from w2v.audio import SAMPLE_RATE
from w2v.data.manifest import Clip, Release, Skipped
from w2v.data.splits import Splits
from w2v.data.store import Audio
from w2v.heads import allowed, one_language
from w2v.text.normalise import Normaliser

MOST_IN_TITLE = 5  # languages
MOST_TOKENS = 20_000  # that are written out; CTC vocabularies of Chinese have some thousands


@dataclass(frozen=True)
class Language:
    """One of the languages of a run."""

    normaliser: Normaliser
    tokenizer: Any  # the family's: its own, or the one that all share, told this language
    releases: list[Release]  # what was given as its data
    rows: list[int] | None = None  # of the model's head, for the tokens of its own tokenizer; None: all are everyone's

    def encode(self, text: str) -> list[int]:
        """Normalised text -> ids in the model's vocabulary."""
        ids = self.tokenizer.encode(text)
        return ids if self.rows is None else [self.rows[i] for i in ids]

    def alone(self, model) -> AbstractContextManager:
        """Within it the model has this language's head, where it has one of its own."""
        return nullcontext() if self.rows is None else one_language(model, self.rows, self.tokenizer)


@dataclass
class Prepared:
    """A run's data, ready for training."""

    lang: str  # of several the first
    data_name: str  # for people: the sample, or its releases and tables
    releases: list[Release]  # what was given as data, without any extra data
    is_sample: bool
    normaliser: Normaliser  # of `lang`
    tokenizer: Any  # the family's
    splits: Splits  # usable clips only
    texts: dict[Clip, str]  # normalised
    audio: Audio
    skipped: list[Skipped]
    fingerprint: str  # of every clip, its length and its text: what a run is trained and measured on
    decisions: list[str]  # the lines that were printed, for run.json
    facts: dict  # the same in numbers
    languages: dict[str, Language] = field(default_factory=dict)  # by locale, where there are several

    @property
    def langs(self) -> list[str]:
        return list(self.languages) or [self.lang]

    @property
    def title(self) -> str:
        """The languages, for names of folders and models: tr-az, tr-and-6-more."""
        langs = self.langs
        return "-".join(langs) if len(langs) <= MOST_IN_TITLE else f"{langs[0]}-and-{len(langs) - 1}-more"

    @property
    def of_each(self) -> dict[str, Language]:
        return self.languages or {self.lang: Language(self.normaliser, self.tokenizer, self.releases)}

    @property
    def has_own_heads(self) -> bool:
        return any(language.rows is not None for language in self.languages.values())

    def of(self, clip: Clip) -> Language:
        return self.of_each[clip.lang or self.lang]

    def allowed(self, clips: list[Clip]) -> list[torch.Tensor] | None:
        """Which tokens each clip's text is made of, (V,) bool; None where all share a vocabulary."""
        if not self.has_own_heads:
            return None
        size = len(self.tokenizer)
        masks = {lang: allowed(each.rows or [], size) for lang, each in self.languages.items()}
        return [masks[clip.lang] for clip in clips]

    def lacks(self, char: str) -> bool:
        """Whether no vocabulary of the run has the character."""
        return all(each.tokenizer.unknown(char) for each in self.of_each.values())

    def encode(self, clip: Clip) -> list[int]:
        """A clip's text as ids in the model's vocabulary."""
        return self.of(clip).encode(self.texts[clip])

    def unknown(self, clip: Clip) -> list[str]:
        """What the vocabulary lacks of a clip's text."""
        return self.of(clip).tokenizer.unknown(self.texts[clip])

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
