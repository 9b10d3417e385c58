"""Sentences as they are written -> the text a model is trained on.

    normalise = Normaliser("tr")
    normalise("İstanbul'da, Iğdır!")              # "istanbul'da ığdır"

One Normaliser makes the training labels, the evaluation references and the vocabulary, and is saved with the model.
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
APOSTROPHE_LETTER = "\u02bc"  # ʼ means ' inside words; elsewhere it stays, because its category is letter
HYPHENS = "-\u2010\u2011"  # hyphen-minus, hyphen, non-breaking hyphen
DOT_ABOVE = "\u0307"
# Key in normaliser.json -> argument of Normaliser. Saved folders hold these keys, so they stay.
ARGUMENTS = {"lang": "lang", "case": "case", "keep": "keep_chars", "remove": "remove_chars"}


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def _in_words(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" and char != APOSTROPHE_LETTER


def _with_neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    """(character, the one before it, the one after it), with spaces at the ends."""
    return zip(text, " " + text, text[1:] + " ", strict=False)


class Normaliser:
    """Unicode NFC, locale-correct lower case, no punctuation and no symbols. Letters, digits and marks always stay.

    - ' and its look-alikes (’ ʼ) become ' between word characters. Elsewhere they are punctuation, except the letter ʼ.
    - A hyphen between two letters is removed (fine-tuning -> finetuning), unless the language keeps it.
    - Any other punctuation (P*), symbol (S*), separator or control character becomes a space.
    - Format characters (Cf) are removed, unless the language needs them (ZWNJ in Persian).

    lang: a locale. case: "lower" or "keep". keep_chars: characters to spare. remove_chars: characters to turn into
    spaces, letters included. A second call changes nothing more. InputError for an argument with another value.
    """

    def __init__(self, lang: str, case: str = "lower", keep_chars: str = "", remove_chars: str = ""):
        self.lang = check_locale(lang)
        if case not in ("lower", "keep"):
            raise InputError(f'`case` must be "lower" or "keep", got {case!r}')
        if both := sorted(set(keep_chars) & set(remove_chars)):
            raise InputError(
                f"`keep_chars` and `remove_chars` must not share characters, both hold {''.join(both)!r}; "
                "name each character once"
            )
        self.case, self.keep_chars, self.remove_chars = case, keep_chars, remove_chars
        rules = RULES.get(language_of(self.lang), LanguageRules())
        keep, remove = set(keep_chars), set(remove_chars)
        if case == "lower":  # the rules see lower-cased characters, so these must be lower-cased too
            keep, remove = keep | set(self._lower(keep_chars)), remove | set(self._lower(remove_chars))
        self._keep = (set(rules.keep) | keep) - remove
        self._remove = remove
        self._drop = set(rules.drop)
        unified = dict.fromkeys(set(SAME_APOSTROPHE) - self._keep - remove, APOSTROPHE)
        self._replace = str.maketrans(unified | rules.replace)

    def __call__(self, sentence: str) -> str:
        """A sentence as it is written -> its words with one space between each two; "" where no word is left."""
        # Characters that leave no space go first: one may stand between a letter and its mark.
        text = self.spell("".join(char for char in sentence if not self._is_dropped(char)))
        # Hyphens go before apostrophes: the rule for apostrophes looks at the final neighbours.
        text = "".join(char for char, before, after in _with_neighbours(text) if not self._joins(char, before, after))
        text = "".join(self._one(char, before, after) for char, before, after in _with_neighbours(text))
        # Lower-casing and removal can bring a letter and a mark together, so NFC is due again.
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        # Texts that Python lower-cased elsewhere have i + U+0307 in place of İ. Only Lithuanian writes a dotted i with
        # an accent above the dot.
        if language_of(self.lang) != "lt":
            text = unicodedata.normalize("NFC", re.sub(f"i{DOT_ABOVE}+", "i", text))
        return text

    def spell(self, sentence: str) -> str:
        """The first half of the rules: characters are unified and lower-cased, and none is removed yet."""
        text = unicodedata.normalize("NFC", sentence).translate(self._replace)
        return self._lower(text) if self.case == "lower" else text

    def _lower(self, text: str) -> str:
        if has_dotless_i(self.lang):
            text = text.replace("I" + DOT_ABOVE, "i").replace("İ", "i").replace("I", "ı")
        return text.replace("İ", "i").lower()  # Python alone would make i + U+0307 of İ

    def _is_dropped(self, char: str) -> bool:
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
        # C is other (Cc, Co, Cn, Cs), P punctuation, S symbols, Z separators. L, M and N (numbers) remain.
        return " " if unicodedata.category(char)[0] in "CPSZ" else char

    def to_dict(self) -> dict[str, str]:
        """What normaliser.json holds: lang, case, keep (keep_chars) and remove (remove_chars)."""
        return {"lang": self.lang, "case": self.case, "keep": self.keep_chars, "remove": self.remove_chars}

    def save(self, directory: str | Path) -> None:
        """Write normaliser.json."""
        write_json(Path(directory) / "normaliser.json", self.to_dict())

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "Normaliser":
        """The rules in a folder's normaliser.json. InputError where the file is missing or broken."""
        path = Path(directory) / "normaliser.json"
        fields = read_json(path, "the text rules a model was trained with")
        arguments = {ARGUMENTS.get(key, ""): value for key, value in fields.items()}
        if "" in arguments or "lang" not in arguments or not all(isinstance(v, str) for v in fields.values()):
            names = ", ".join(ARGUMENTS)
            raise InputError(
                f"{path} must hold strings under {names}, got {str(fields)[:100]}; use a complete model folder"
            )
        return cls(**arguments)
