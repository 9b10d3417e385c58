"""The words of a text as they are written, and what is spoken of each.

written_words("L'été, — 2021'de", Normaliser("fr"))   # "L'été, —" spoken "l'été", "2021'de" spoken "2021'de"
"""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from w2v.errors import InputError, show
from w2v.text.locales import WITHOUT_SPACES, language_of


class WrittenWord(NamedTuple):
    text: str  # as written, with marks, capitals and what stands beside it but is not spoken
    spoken: str  # as the normaliser leaves it; of one written word, and/or, it can make several
    line: int  # of the text, from 0


def written_words(text: str, normalise: Callable[[str], str], lang: str = "") -> list[WrittenWord]:
    """The words between the spaces of a text. Lines end as str.splitlines has it.

    A piece of which nothing is spoken, such as a dash, joins the word before it, the first pieces the word after them.
    In languages that are written without spaces a word also ends behind punctuation. InputError where no word is left.
    """
    words: list[WrittenWord] = []
    silent: list[str] = []  # pieces before the first word
    for number, line in enumerate(text.splitlines()):
        for raw in line.split():
            for piece in _at_marks(raw, normalise) if language_of(lang) in WITHOUT_SPACES else [raw]:
                if spoken := normalise(piece):
                    words.append(WrittenWord(" ".join([*silent, piece]), spoken, number))
                    silent = []
                elif words:
                    words[-1] = words[-1]._replace(text=f"{words[-1].text} {piece}")
                else:
                    silent.append(piece)
    if not words:
        raise InputError(f"a text must hold at least one word, none is left of {show(text)}; give what is said")
    return words


def _at_marks(raw: str, normalise: Callable[[str], str]) -> list[str]:
    """The pieces of a text without spaces, each with the marks behind it; all in one where a mark divides nothing."""
    is_mark = "".join("m" if unicodedata.category(char)[0] in "PS" else "_" for char in raw)
    pieces = [raw[found.start() : found.end()] for found in re.finditer("m*_+m*|m+", is_mark)]
    spoken = [text for piece in pieces if (text := normalise(piece))]
    return pieces if " ".join(spoken) == normalise(raw) else [raw]
