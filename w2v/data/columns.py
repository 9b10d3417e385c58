"""What the columns of paths and sentences are called in tables from elsewhere.

One of the usual names is found by itself. Where there is none, or several, the user says which is meant.
"""

from collections.abc import Collection
from typing import NamedTuple

from w2v.errors import InputError, show

AUDIO = ("path", "audio", "file_name", "audio_filepath", "file")
TEXT = ("sentence", "text", "transcription", "transcript")


class Columns(NamedTuple):
    """The names of the columns of paths and sentences; None: whichever of AUDIO and of TEXT is there."""

    audio: str | None = None
    text: str | None = None

    def find_audio(self, columns: Collection[str], name: str, what: str = "paths") -> str:
        """The one among a table's columns; InputError where none or several of the usual ones are there."""
        return _find(columns, name, what, self.audio, AUDIO, "audio_column")

    def find_text(self, columns: Collection[str], name: str) -> str:
        return _find(columns, name, "sentences", self.text, TEXT, "text_column")


def _find(columns: Collection[str], name: str, what: str, given: str | None, known: tuple[str, ...], flag: str) -> str:
    if given is not None:
        if given not in columns:
            raise InputError(
                f"{name} must have the column that `{flag}` names, {show(given)} is not among {_listed(columns)}"
            )
        return given
    found = [column for column in known if column in columns]
    if len(found) > 1:
        raise InputError(
            f"{name} must have one column of {what}, it has {' and '.join(found)}; say which with `{flag}`"
        )
    if not found:
        raise InputError(
            f"{name} needs a column of {what}: none of {', '.join(known)} found among {_listed(columns)}; name it with "
            f"`{flag}`"
        )
    return found[0]


def _listed(columns: Collection[str]) -> str:
    return show(", ".join(sorted(set(columns))), most=200) if columns else "none"


def renamed(columns: Columns | None, header: Collection[str], name: str) -> dict[str, str]:
    """Which columns are meant as path and sentence: what the file calls them -> what they are called here.

    Nothing without `columns`: a file whose names are fixed. InputError where they cannot be told.
    """
    if columns is None:
        return {}
    audio, text = columns.find_audio(header, name), columns.find_text(header, name)
    if audio == text:
        raise InputError(f"{name} must have paths and sentences in two columns, both are to be in {show(audio)}")
    return {audio: "path", text: "sentence"}


def rename(column: str, called: dict[str, str]) -> str:
    """A column's name here. One that has the name of another that is meant gets out of its way."""
    return called.get(column) or (f"{column} (not read)" if column in called.values() else column)
