"""What --data and --extra-data were given: the paths of each language, where they say LANG=PATH."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w2v.errors import InputError, listed, named
from w2v.text.locales import check_locale

WITH_LOCALE = re.compile(r"([A-Za-z0-9-]+)=(.+)", re.DOTALL)


class Repeated(argparse.Action):
    """A flag that repeats: its values join those before, and the first ones replace the default."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        held = getattr(namespace, self.dest)
        before = [] if held is None or held is self.default else held
        setattr(namespace, self.dest, before + (values if isinstance(values, list) else [values]))


class LanguageData(NamedTuple):
    """One of the languages of a run, and where its clips are."""

    lang: str
    data: list[Path]
    extra_data: list[Path]


def split_locale(given: Path) -> tuple[str, Path]:
    """LANG=PATH -> both. A path that is there, though its name has a =, and any other has no locale: ""."""
    match = WITH_LOCALE.fullmatch(str(given))
    if match is None or os.path.lexists(given):
        return "", given
    return check_locale(match[1]), Path(match[2])


def languages_of(lang: str | None, data: Sequence[Path] | None, extra_data: Sequence[Path]) -> list[LanguageData]:
    """The languages of --lang, --data and --extra-data: that of --lang first, then as the data names them.

    InputError where there is none, where some paths have a locale and some have none, and where --lang or --extra-data
    names another language than the data.
    """
    lang = None if lang is None else check_locale(lang)
    pairs, extras = [split_locale(path) for path in data or ()], [split_locale(path) for path in extra_data]
    bare = [path for locale, path in pairs + extras if not locale]
    if bare and len(bare) < len(pairs) + len(extras):
        raise InputError(
            f"--data and --extra-data must be LANG=PATH in all places or in none, {named(str(bare[0]))} has no LANG=; "
            "add it"
        )
    held = list(dict.fromkeys(locale for locale, _ in pairs if locale))
    if not held:
        if lang is None:
            raise InputError("--lang is needed, the data's Common Voice locale, such as tr; or --data LANG=PATH")
        held = [lang]
    if lang is not None and lang not in held:
        raise InputError(f"--lang must be one of the data's languages, {listed(held)}, got {lang}; leave it out")
    if others := sorted({locale for locale, _ in extras if locale} - set(held)):
        raise InputError(f"--extra-data must be of the data's languages, {listed(held)}, got {others[0]}; add --data")
    first = lang or held[0]

    def of(locale: str, given: list[tuple[str, Path]]) -> list[Path]:
        return [path for name, path in given if name in (locale, "")]

    return [LanguageData(each, of(each, pairs), of(each, extras)) for each in sorted(held, key=lambda x: x != first)]
