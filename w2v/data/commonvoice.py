"""Common Voice's Scripted Speech, releases 5 to today's: an archive as downloaded, or its folder.

A release holds one folder per locale with train.tsv, dev.tsv, test.tsv, validated.tsv ... and clips/*.mp3, in a folder
cv-corpus-VERSION-DATE. Archives are packed in other ways too; a folder that is not named after its locale is read where
it is the only one with tables of clips and its rows say the locale.
"""

import codecs
import re
from pathlib import Path, PurePosixPath

from w2v.data.archives import Survey, first_of_each
from w2v.data.manifest import Clip, Part, Release, Skipped, Source, named_release, seconds_in
from w2v.data.splits import OFFICIAL
from w2v.data.tables import Table, parse_table
from w2v.errors import InputError, listed
from w2v.files import open_file, read_bytes, reading
from w2v.text.locales import nearest_locale

# Files with these names must be tables of clips. Other .tsv files are read as such where they have the columns.
KNOWN = {*OFFICIAL, "validated", "other", "invalidated"}
OF_SENTENCES = {"validated_sentences", "unvalidated_sentences", "reported"}  # no clips, whatever their columns are
# The tables of most runs. Damage in the others is not reported: they are seldom used, and a run loses nothing by it.
USUAL = (*OFFICIAL, "validated")
DURATIONS = "clip_durations"
CLIP_NAME = re.compile(r"common_voice_[\w-]+?_\d+\.\w+")  # since release 4


def is_table(stem: str, header: bytes) -> bool:
    """Whether STEM.tsv belongs to the release. The user's own notes and macOS's `._train.tsv` do not."""
    if stem.startswith(".") or stem in OF_SENTENCES or not stem.isprintable():
        return False
    columns = re.split(rb'[\t"\r\n]+', header.removeprefix(codecs.BOM_UTF8))
    return stem in KNOWN or all(column.encode() in columns for column in _needs(stem))


def _needs(stem: str) -> tuple[str, ...]:
    return ("clip", "duration[ms]") if stem == DURATIONS else ("path", "sentence")


def tables_in(folder: Path) -> dict[str, Path]:
    """The tables of a folder by name; none where there is no such folder."""
    with reading("the folder", folder):  # glob() would find nothing in a folder it may not read
        names = sorted(file for file in folder.iterdir() if file.suffix == ".tsv") if folder.is_dir() else []
    files = {}
    for file in names:
        with reading("the table", file):
            if file.stem in KNOWN or file.is_file():
                with open_file(file) as lines:
                    if is_table(file.stem, lines.readline()):
                        files[file.stem] = file
    return files


def folders(path: Path, lang: str) -> list[Path]:
    """Where the tables of `lang` lie: in the folder itself, LANG below it, or cv-corpus-*/LANG below it.

    The first that holds tables counts. A link to a release, such as `latest`, is not a second release.
    """
    for level in ([path], [path / lang], sorted(path.glob(f"*/{lang}"))):
        holding = [folder for folder in level if tables_in(folder).keys() - {DURATIONS}]
        if holding:
            return first_of_each(holding)
    others = {folder: tables_in(folder) for folder in _below(path)}
    holding = [folder for folder, tables in others.items() if tables.keys() - {DURATIONS}]
    if len(holding) == 1:
        contents = {stem: read_bytes("the table", file) for stem, file in others[holding[0]].items()}
        return holding if _is_of(lang, holding[0].name, contents) else []
    return []


def locales(path: Path) -> list[str]:
    """The names of the folders with tables below one in which `folders` found none."""
    return sorted({folder.name for folder in _below(path) if tables_in(folder)})


def _below(path: Path) -> list[Path]:
    return sorted({file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/*.tsv")})


def folders_in(archive: Survey, lang: str) -> list[str]:
    """The same of an archive."""
    holding = {folder: tables for folder, tables in archive.tables.items() if set(_ours(tables)) - {DURATIONS}}
    named = sorted(folder for folder in holding if PurePosixPath(folder).name == lang)
    if named or len(holding) != 1:
        return named
    ((folder, tables),) = holding.items()
    return [folder] if _is_of(lang, PurePosixPath(folder).name, _ours(tables)) else []


def locales_in(archive: Survey) -> list[str]:
    return [PurePosixPath(folder).name for folder, tables in archive.tables.items() if _ours(tables)]


def _ours(tables: dict[str, bytes]) -> dict[str, bytes]:
    return {stem: data for stem, data in tables.items() if is_table(stem, data.split(b"\n", 1)[0])}


def _is_of(lang: str, name: str, contents: dict[str, bytes]) -> bool:
    """Whether a folder of another name holds `lang`: its rows say so, or its name does where they say nothing."""
    tables = [parse_table(data, f"{stem}.tsv", _needs(stem)) for stem, data in contents.items()]
    said = _said(tables)
    return said == {lang} if said else not name or f"-{lang}-" in f"-{name}-"


def with_durations(tables: dict[str, bytes], seconds: dict[str, float]) -> dict[str, bytes]:
    """The tables of an archive's folder, with the lengths that its clips' headers state where no table does."""
    contents = _ours(tables)
    if DURATIONS not in contents:
        lines = [f"{name}\t{round(s * 1000)}" for name, s in seconds.items()]
        contents[DURATIONS] = "\n".join(["clip\tduration[ms]", *lines]).encode()
    return contents


def read(contents: dict[str, bytes], source: Source, lang: str, path: Path) -> Part:
    """The clips of a release. contents: its tables by name without .tsv. path: as the user gave it.

    Raises InputError where a table lacks path or sentence, and where the rows say another locale than `lang`.
    """
    tables = {stem: parse_table(data, f"{stem}.tsv", _needs(stem)) for stem, data in contents.items()}
    seconds = _durations(tables.pop(DURATIONS, Table([])))
    if others := sorted(_said(list(tables.values())) - {lang}):
        remedy = f"; did you mean `lang` {listed([near])}?" if (near := nearest_locale(lang, others)) else ""
        raise InputError(f"{path} must hold clips of locale {lang}; its tables say {listed(others)}{remedy}")
    release = named_release("scripted", source, path, lang)
    if release is None:
        clip = next((row["path"] for table in tables.values() for row in table.rows), "")
        release = Release("scripted" if CLIP_NAME.fullmatch(clip) else "table", path.resolve().name, "", lang)
    part = Part(release, notes=[source.describe()])
    for name, table in tables.items():
        if name in USUAL:
            table.check(f"{name}.tsv")
            part.skipped += [Skipped(f"{name}.tsv:{line}", name, why) for line, why in table.broken]
        part.tables[name] = [
            Clip(row["path"], row["sentence"], row.get("client_id") or "", source, seconds.get(row["path"]))
            for row in table.rows
        ]
    return part


def _said(tables: list[Table]) -> set[str]:
    return {row.get("locale", "") for table in tables for row in table.rows} - {""}


def _durations(table: Table) -> dict[str, float]:
    """Seconds by clip. Where a length is none, store.py reads the header of the file instead."""
    stated = ((row["clip"], seconds_in(row["duration[ms]"], per_second=1000)) for row in table.rows)
    return {clip: seconds for clip, seconds in stated if seconds is not None}
