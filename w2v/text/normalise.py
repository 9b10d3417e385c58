"""Sentences as they are written -> the text a model is trained on.

    normalise = Normaliser("tr")
    normalise("İstanbul'da, Iğdır!")              # "istanbul'da ığdır"

One Normaliser is used for training labels, evaluation references and vocabulary alike, and saved with the model.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from w2v.errors import InputError
from w2v.files import read_json, write_json
from w2v.text.locales import RULES, LanguageRules, check_locale, has_dotless_i, language_of

APOSTROPHE = "'"
SAME_APOSTROPHE = "\u2019\uff07"  # ’ right quotation mark, ＇ full-width
APOSTROPHE_LETTER = "\u02bc"  # ʼ is the same inside words, but a letter by category: at their edges it stays
HYPHENS = "-\u2010\u2011"  # hyphen-minus, hyphen, non-breaking hyphen
DOT_ABOVE = "\u0307"


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def _in_words(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" and char != APOSTROPHE_LETTER


def _with_neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    """(character, the one before it, the one after it), with spaces at the ends."""
    return zip(text, " " + text, text[1:] + " ", strict=False)


class Normaliser:
    """Unicode NFC, locale-correct lower case, punctuation and symbols removed; letters, digits and marks never.

    - ' and its look-alikes (’ ʼ) become ' between word characters and vanish elsewhere.
    - A hyphen between two letters vanishes (fine-tuning -> finetuning), unless the language keeps it.
    - Any other punctuation (P*), symbol (S*), separator or control character becomes a space.
    - Format characters (Cf) vanish unless the language needs them (ZWNJ in Persian).

    lang: a locale. case: "lower" or "keep". keep: characters to spare. remove: characters to turn into spaces,
    letters included. Calling it twice changes nothing more.
    """

    def __init__(self, lang: str, case: str = "lower", keep: str = "", remove: str = ""):
        self.lang = check_locale(lang)
        if case not in ("lower", "keep"):
            raise InputError(f'--case must be "lower" or "keep", got {case!r}')
        if both := sorted(set(keep) & set(remove)):
            raise InputError(f"--keep-chars and --remove-chars must not share characters, both hold {''.join(both)!r}")
        self.case, self.keep, self.remove = case, keep, remove
        rules = RULES.get(language_of(self.lang), LanguageRules())
        if case == "lower":  # characters are judged after lower-casing, so these must be lower-cased too
            keep, remove = keep + self._lower(keep), remove + self._lower(remove)
        self._keep = (set(rules.keep) | set(keep)) - set(remove)
        self._remove = set(remove)
        self._drop = set(rules.drop)
        unified = dict.fromkeys(set(SAME_APOSTROPHE) - self._keep - set(remove), APOSTROPHE)
        self._replace = str.maketrans(unified | rules.replace)

    def __call__(self, sentence: str) -> str:
        # What vanishes goes first: it may stand between a letter and its mark.
        text = self.spell("".join(char for char in sentence if not self._vanishes(char)))
        # Hyphens first: an apostrophe is judged by the neighbours it ends up with.
        text = "".join(char for char, before, after in _with_neighbours(text) if not self._joins(char, before, after))
        text = "".join(self._one(char, before, after) for char, before, after in _with_neighbours(text))
        # Lower-casing and dropping can bring a letter and a mark together: compose once more.
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        # Texts that Python lower-cased elsewhere arrive with i + U+0307 for İ. Only Lithuanian writes a dotted i with
        # an accent above the dot.
        if language_of(self.lang) != "lt":
            text = unicodedata.normalize("NFC", re.sub(f"i{DOT_ABOVE}+", "i", text))
        return text

    def spell(self, sentence: str) -> str:
        """The first half: characters unified and lower-cased, none removed yet."""
        text = unicodedata.normalize("NFC", sentence).translate(self._replace)
        return self._lower(text) if self.case == "lower" else text

    def _lower(self, text: str) -> str:
        if has_dotless_i(self.lang):
            text = text.replace("I" + DOT_ABOVE, "i").replace("İ", "i").replace("I", "ı")
        return text.replace("İ", "i").lower()  # Python alone would make i + U+0307 of İ

    def _vanishes(self, char: str) -> bool:
        if char in self._keep or char in self._remove:
            return False
        return char in self._drop or unicodedata.category(char) == "Cf"

    def _joins(self, char: str, before: str, after: str) -> bool:
        spared = char in self._keep or char in self._remove
        return char in HYPHENS and not spared and _is_letter(before) and _is_letter(after)

    def _one(self, char: str, before: str, after: str) -> str:
        if char in self._remove:
            return " "
        if char in self._keep:
            return char
        if char in (APOSTROPHE, APOSTROPHE_LETTER) and _in_words(before) and _in_words(after):
            return APOSTROPHE
        # Other (Cc, Co, Cn, Cs), punctuation, symbols, separators; what remains is letters, marks and numbers.
        return " " if unicodedata.category(char)[0] in "CPSZ" else char

    def to_dict(self) -> dict[str, str]:
        return {"lang": self.lang, "case": self.case, "keep": self.keep, "remove": self.remove}

    def save(self, directory: str | Path) -> None:
        """Write normaliser.json."""
        write_json(Path(directory) / "normaliser.json", self.to_dict())

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "Normaliser":
        return cls(**read_json(Path(directory) / "normaliser.json", "the text rules a model was trained with"))
