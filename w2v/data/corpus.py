"""The data of a run: releases and tables of any kind, merged.

    corpus = read_corpus([Path("cv-corpus-17.0-2024-03-15-tr.tar.gz")], "tr", cache)
    corpus.tables["train"]                        # list[Clip]

Each path is asked what it is, and the file of that kind reads it. No audio is opened here.
"""

import stat
from dataclasses import dataclass, field
from pathlib import Path

from w2v.data.archives import ARCHIVES
from w2v.data.commonvoice import USUAL, read_archive, read_folder
from w2v.data.manifest import UNDIVIDED, Clip, Part, Release, Skipped, read_manifest, used_once
from w2v.data.splits import OFFICIAL
from w2v.errors import InputError
from w2v.files import reading

TABLES = (".tsv", ".csv", ".jsonl")


@dataclass
class Corpus:
    """Tables by name (train, dev, test, validated, other ...), merged over all the data given."""

    tables: dict[str, list[Clip]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # for the user: where the clips come from
    releases: list[Release] = field(default_factory=list)  # what each of the data given is


def read_corpus(data: list[Path], lang: str, cache: Path) -> Corpus:
    """Read archives, locale folders, folders above them, or plain tables, and merge them.

    The clips of a plain table become `validated`, which can be divided. Beside a release with official splits they
    join its `train`. Raises InputError where there is nothing of `lang` or several releases of it, where something
    cannot be read, where a table lacks path or sentence, and where an archive is damaged or holds member names that
    point outside it.
    """
    corpus = Corpus()
    parts = [_read(Path(path), lang, cache) for path in data]
    for part in parts:
        corpus.skipped += part.skipped
        corpus.notes += part.notes
        corpus.releases.append(part.release)
        for name, clips in part.tables.items():
            if name != UNDIVIDED:
                corpus.tables.setdefault(name, []).extend(clips)
    has_splits = any(corpus.tables.get(name) for name in OFFICIAL)
    for part in parts:
        if UNDIVIDED in part.tables:
            clips = part.tables[UNDIVIDED]
            corpus.tables.setdefault("train" if has_splits else "validated", []).extend(clips)
            if has_splits:
                corpus.notes.append(
                    f"{len(clips)} clips of {part.release.name} join train: the data has official splits"
                )
    for name, clips in corpus.tables.items():
        corpus.tables[name], skipped, notes = used_once(clips, name, name)
        if name in USUAL:
            corpus.skipped += skipped
            corpus.notes += notes
    return corpus


def _read(path: Path, lang: str, cache: Path) -> Part:
    """Ask the path what it is, and read it as that."""
    if _is_folder(path):
        return read_folder(path, lang)
    if path.name.endswith(ARCHIVES):
        return read_archive(path, lang, cache)
    if path.name.endswith(TABLES):
        return _read_table(path)
    raise InputError(f"`data` takes a .tar.gz archive, a folder or a .tsv, .csv or .jsonl table, got {path}")


def _read_table(path: Path) -> Part:
    clips, skipped = read_manifest(path)
    clips, repeated, notes = used_once(clips, path.name)
    origin = [clips[0].source.describe()] if clips else []
    return Part(Release("table", path.resolve().name), {UNDIVIDED: clips}, skipped + repeated, origin + notes)


def _is_folder(path: Path) -> bool:
    with reading("the data", path):
        try:
            return stat.S_ISDIR(path.stat().st_mode)  # is_dir() may say no where permission is denied
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"`data` must exist, found nothing at {path}") from None
