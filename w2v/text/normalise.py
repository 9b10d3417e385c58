"""Sentences as they are written -> the text a model is trained on.

    normalise = Normaliser("tr")
    normalise("İstanbul'da, Iğdır!")              # "istanbul'da ığdır"

One Normaliser makes the training labels, the evaluation references and the vocabulary, and is saved with the model.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from w2v.errors import InputError, show
from w2v.files import read_json, write_json
from w2v.text.characters import (
    APOSTROPHE,
    APOSTROPHE_LETTERS,
    HYPHEN,
    SAME_APOSTROPHE,
    SAME_HYPHEN,
    STRETCHES,
    OneScript,
    compatibility,
    is_invisible,
)
from w2v.text.locales import RULES, LanguageRules, check_locale, has_dotless_i, language_of, script_of_language

DOT_ABOVE = "\u0307"
SPACE_TOKEN = "|"  # what a vocabulary writes for the space
# Rules can make work for one another: a removed character brings a letter and a mark together. Two passes do all work
# on nearly any text, and the last one only finds that nothing is left.
MOST_PASSES = 6
# Key in normaliser.json -> argument of Normaliser. Saved folders hold these keys, so they stay.
ARGUMENTS = {"lang": "lang", "case": "case", "keep": "keep_chars", "remove": "remove_chars"}


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def _in_words(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" and char not in APOSTROPHE_LETTERS


def _with_neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    """(character, the one before it, the one after it), with spaces at the ends."""
    return zip(text, " " + text, text[1:] + " ", strict=False)


class _PerCharacter(dict):
    """A table for str.translate. choose(character) -> its replacement, asked once for each that occurs."""

    def __init__(self, choose: Callable[[str], str]):
        super().__init__()
        self.choose = choose

    def __missing__(self, code: int) -> str:
        self[code] = self.choose(chr(code))
        return self[code]


class Normaliser:
    """Unicode NFC, locale-correct lower case, no punctuation and no symbols. Letters, digits and marks always stay.

    - Look-alikes become the language's own characters: ş -> ș in Romanian, a Latin c in a Cyrillic word, ﬁ -> fi.
    - ' and its look-alikes (’ ‘ ʼ ` ´) become ' between word characters. Elsewhere they are punctuation, except the
      letters ʼ and ʹ.
    - A hyphen between two letters is removed (fine-tuning -> finetuning), unless the language keeps it.
    - Any other punctuation (P*), symbol (S*), separator or control character becomes a space.
    - Invisible characters and the tatweel are removed, unless the language needs them (ZWNJ in Persian).

    lang: a locale. case: "lower" or "keep". keep_chars: characters to spare. remove_chars: characters to remove,
    letters included. Each leaves a space, except marks and modifiers (M*, Lm, and Sk inside a word): their words stay
    whole. A second call changes nothing more. InputError for an argument with another value.
    """

    def __init__(self, lang: str, case: str = "lower", keep_chars: str = "", remove_chars: str = ""):
        self.lang = check_locale(lang)
        if case not in ("lower", "keep"):
            raise InputError(f'`case` must be "lower" or "keep", got {show(case)}')
        if both := sorted(set(keep_chars) & set(remove_chars)):
            raise InputError(
                f"`keep_chars` and `remove_chars` must not share characters, both hold {show(''.join(both))}; "
                "name each character once"
            )
        if SPACE_TOKEN in keep_chars:
            raise InputError(
                f"`keep_chars` must not hold {SPACE_TOKEN}, got {show(keep_chars)}; it stands for the space in the "
                "vocabulary, so leave it out"
            )
        self.case, self.keep_chars, self.remove_chars = case, keep_chars, remove_chars
        rules = RULES.get(language_of(self.lang), LanguageRules())
        keep, remove = set(keep_chars), set(remove_chars)
        if case == "lower":  # the rules see lower-cased characters, so these must be lower-cased too
            keep, remove = keep | set(self._lower(keep_chars)), remove | set(self._lower(remove_chars))
        self._keep = (set(rules.keep) | keep) - remove
        self._remove = remove
        self._named = keep | remove  # no other rule touches what the caller names
        self._drop = set(rules.drop + STRETCHES)
        own = dict.fromkeys(SAME_APOSTROPHE, APOSTROPHE) | dict.fromkeys(SAME_HYPHEN, HYPHEN) | rules.replace
        own = {char: same for char, same in own.items() if char not in self._keep}
        self._replace = str.maketrans({char: same for char, same in own.items() if char not in self._named})
        forms = compatibility()
        self._forms = str.maketrans({char: same for char, same in forms.items() if char not in self._named})
        self._rewrite = [(re.compile(pattern), new) for pattern, new in rules.rewrite]
        self._one_script = OneScript(script_of_language(self.lang), rules.latin_too)
        # What these decide on depends on the neighbours.
        modifiers = {char for char in remove if unicodedata.category(char) == "Sk"}
        self._looks_around = {APOSTROPHE, HYPHEN, *APOSTROPHE_LETTERS} | modifiers
        self._seen = _PerCharacter(self._without_dropped)
        self._whole = _PerCharacter(self._without_marks)
        self._spaced = _PerCharacter(self._with_spaces)

    def __call__(self, sentence: str) -> str:
        """A sentence as it is written -> its words with one space between each two; "" where no word is left."""
        for _ in range(MOST_PASSES):
            text = self._pass(sentence)
            if text == sentence:
                break
            sentence = text
        return sentence

    def _pass(self, sentence: str) -> str:
        # Characters that leave no space go first: one may stand between a letter and its mark.
        text = self.spell(sentence.translate(self._seen)).translate(self._whole)
        if not self._looks_around.isdisjoint(text):
            # Hyphens go before apostrophes: the rule for apostrophes looks at the final neighbours.
            around = _with_neighbours(text)
            text = "".join(char for char, before, after in around if not self._joins(char, before, after))
            text = "".join(self._one(char, before, after) for char, before, after in _with_neighbours(text))
        else:
            text = text.translate(self._spaced)
        # Lower-casing and removal can bring a letter and a mark together, so NFC is due again.
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        # Texts that Python lower-cased elsewhere have i + U+0307 in place of İ. Only Lithuanian writes a dotted i with
        # an accent above the dot.
        if DOT_ABOVE in text and language_of(self.lang) != "lt":
            text = unicodedata.normalize("NFC", re.sub(f"i{DOT_ABOVE}+", "i", text))
        return text

    def spell(self, sentence: str) -> str:
        """The first half of the rules: characters are unified and lower-cased, and none is removed yet."""
        text = sentence
        if not text.isascii():
            # Decomposed, so that a form is found below its marks too: ẛ is ſ with a dot.
            text = unicodedata.normalize("NFD", text).translate(self._forms)
            text = self._one_script(unicodedata.normalize("NFC", text))
        text = unicodedata.normalize("NFC", text.translate(self._replace))
        for pattern, new in self._rewrite:
            text = pattern.sub(lambda found: self._rewritten(found, new), text)  # noqa: B023
        return self._lower(text) if self.case == "lower" else text

    def _rewritten(self, found: re.Match, new: str) -> str:
        return found.expand(new) if self._named.isdisjoint(found[0]) else found[0]

    def _lower(self, text: str) -> str:
        if has_dotless_i(self.lang):
            text = text.replace("I" + DOT_ABOVE, "i").replace("İ", "i").replace("I", "ı")
        return text.replace("İ", "i").lower()  # Python alone would make i + U+0307 of İ

    def _without_dropped(self, char: str) -> str:
        return "" if char not in self._keep and (char in self._drop or is_invisible(char)) else char

    def _without_marks(self, char: str) -> str:
        category = unicodedata.category(char)
        return "" if char in self._remove and (category[0] == "M" or category == "Lm") else char

    def _with_spaces(self, char: str) -> str:
        if char in self._remove:
            return " "
        # C is other (Cc, Cf, Co, Cn, Cs), P punctuation, S symbols, Z separators. L, M and N (numbers) remain.
        return " " if char not in self._keep and unicodedata.category(char)[0] in "CPSZ" else char

    def _joins(self, char: str, before: str, after: str) -> bool:
        spared = char in self._keep or char in self._remove
        return char == HYPHEN and not spared and _is_letter(before) and _is_letter(after)

    def _one(self, char: str, before: str, after: str) -> str:
        if char in self._looks_around and char not in self._keep and _in_words(before) and _in_words(after):
            if char in self._remove and unicodedata.category(char) == "Sk":
                return ""
            if char not in self._remove and char != HYPHEN:
                return APOSTROPHE
        return self._spaced[ord(char)]

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
                f"{path} must hold strings under {names}, got {show(fields, 100)}; use a complete model folder"
            )
        # Earlier versions took | and then labelled it as a space. Without it the text says what those labels said.
        if "keep_chars" in arguments:
            arguments["keep_chars"] = arguments["keep_chars"].replace(SPACE_TOKEN, "")
        return cls(**arguments)
