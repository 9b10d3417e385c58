"""Common Voice releases, from 6.1 to today's column sets: an archive as downloaded, or its folder.

A release holds one folder per locale with train.tsv, dev.tsv, test.tsv, validated.tsv ... and clips/*.mp3. An archive
is never unpacked: one pass reads its tables and clip durations and stores them in the cache, and store.py decodes the
clips in another pass.
"""

import codecs
import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath

from w2v.audio import seconds_of
from w2v.data.archives import CACHE_REMEDY, archive_members
from w2v.data.manifest import Clip, Part, Release, Skipped, Source, seconds_in
from w2v.data.splits import OFFICIAL
from w2v.data.tables import Table, parse_table
from w2v.errors import InputError
from w2v.files import open_file, read_bytes, reading, write_json

# Files with these names must be tables of clips. Other .tsv files are read as such where they have the columns.
KNOWN = {*OFFICIAL, "validated", "other", "invalidated"}
# The tables of most runs. Damage in the others is not reported: they are seldom used, and a run loses nothing by it.
USUAL = (*OFFICIAL, "validated")
DURATIONS = "clip_durations"
# Mozilla's names of archives and their folders; the Data Collective's; of clips since release 4.
RELEASE_NAMES = (
    re.compile(r"cv-corpus-(?P<version>\d+(\.\d+)?)\b.*"),
    re.compile(r"mcv-scripted-.*-v(?P<version>\d+(\.\d+)?)\b.*"),
)
CLIP_NAME = re.compile(r"common_voice_[\w-]+?_\d+\.\w+")


def read_folder(path: Path, lang: str) -> Part:
    """The clips of `lang` in its folder or in a folder above it.

    Raises InputError where there is nothing of `lang` or several releases of it, where something cannot be read, and
    where a table lacks path or sentence.
    """
    with reading("the folder", path):
        folder = _locale_folder(path, lang)
    contents = {stem: read_bytes("the table", file) for stem, file in _tables_in(folder).items()}
    audio = folder / "clips" if os.path.lexists(folder / "clips") else folder
    with reading("the folder", audio):
        (audio / "..").stat()  # this fails where the files in it cannot be opened
    return _part(contents, Source(audio.resolve(), _fingerprint(lang, contents)), lang, path)


def read_archive(path: Path, lang: str, cache: Path) -> Part:
    """The clips of `lang` in an archive. Its tables are read in one pass, or from the copy an earlier pass stored.

    Raises what read_folder raises, and InputError where the archive is damaged or holds names that point outside it.
    """
    with reading("the archive", path):
        status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{lang}".encode()).hexdigest()[:16]
    index = cache / "archives" / key / "tables.json"
    with reading("the cache", index, CACHE_REMEDY):
        known = index.is_file()
    if not known:
        contents, prefix, locales = _scan(path, lang)
        if not contents:
            found = f"it holds {', '.join(locales)[:200]}" if locales else "it holds no .tsv tables at all"
            raise InputError(f"{path} holds no locale {lang}; {found}")
        tables = {
            stem: data.decode("latin-1") for stem, data in contents.items()
        }  # JSON holds text: latin-1 has a character for every byte
        write_json(index, {"prefix": prefix, "tables": tables})
    saved = json.loads(read_bytes("the cache", index, CACHE_REMEDY))
    contents = {stem: text.encode("latin-1") for stem, text in saved["tables"].items()}
    source = Source(path.resolve(), _fingerprint(lang, contents), saved["prefix"], is_archive=True)
    return _part(contents, source, lang, path)


def _part(contents: dict[str, bytes], source: Source, lang: str, path: Path) -> Part:
    tables = {stem: parse_table(data, f"{stem}.tsv", _needs(stem)) for stem, data in contents.items()}
    part = Part(_release(tables, source, lang, path), notes=[source.describe()])
    seconds = _durations(tables.pop(DURATIONS, Table([])))
    _check_locale(tables, lang, path)
    for name, table in tables.items():
        if name in USUAL:
            table.check(f"{name}.tsv")
            part.skipped += [Skipped(f"{name}.tsv:{line}", name, why) for line, why in table.broken]
        part.tables[name] = [
            Clip(row["path"], row["sentence"], row.get("client_id") or "", source, seconds.get(row["path"]))
            for row in table.rows
        ]
    return part


def _release(tables: dict[str, Table], source: Source, lang: str, path: Path) -> Release:
    """Whether it is Common Voice's, by the names of the archive, of a folder on the way to its clips or of a clip."""
    folders = PurePosixPath(source.prefix).parts if source.is_archive else source.path.parts[-3:]
    names = [path.resolve().name, *reversed(folders)]
    for name in names:
        for pattern in RELEASE_NAMES:
            if match := pattern.fullmatch(name):
                return Release("scripted", names[0] if source.is_archive else name, match["version"], lang)
    clip = next((row["path"] for stem, table in tables.items() if stem != DURATIONS for row in table.rows), "")
    return Release("scripted" if CLIP_NAME.fullmatch(clip) else "table", names[0], "", lang)


def _needs(name: str) -> tuple[str, ...]:
    return ("clip", "duration[ms]") if name == DURATIONS else ("path", "sentence")


def _is_table(name: str, header: bytes) -> bool:
    """Whether NAME.tsv belongs to the release. The user's own notes and macOS's `._train.tsv` do not."""
    if name.startswith("."):
        return False
    columns = re.split(rb'[\t"\r\n]+', header.removeprefix(codecs.BOM_UTF8))
    return name in KNOWN or all(column.encode() in columns for column in _needs(name))


def _tables_in(folder: Path) -> dict[str, Path]:
    """The tables by stem; none where there is no such folder."""
    with reading("the folder", folder):  # glob() would find nothing in a folder it may not read
        names = sorted(file for file in folder.iterdir() if file.suffix == ".tsv") if folder.is_dir() else []
    files = {}
    for file in names:
        with reading("the table", file):
            if file.stem in KNOWN or file.is_file():
                with open_file(file) as lines:
                    if _is_table(file.stem, lines.readline()):
                        files[file.stem] = file
    return files


def _locale_folder(path: Path, lang: str) -> Path:
    """The folder itself, LANG below it, or cv-corpus-*/LANG below it; the first that holds tables."""
    for level in ([path], [path / lang], sorted(path.glob(f"*/{lang}"))):
        holding = [folder for folder in level if _tables_in(folder).keys() - {DURATIONS}]
        # The user must say which release is meant. A link to a release, such as `latest`, is not a second release.
        if len({folder.resolve() for folder in holding}) > 1:
            raise _several(path, lang, [str(folder.relative_to(path)) for folder in holding])
        if holding:
            return holding[0]
    folders = {file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/*.tsv")}
    found = sorted({folder.name for folder in folders if _tables_in(folder)})
    if found:
        raise InputError(f"{path} holds no locale {lang}; it holds {', '.join(found)[:200]}")
    raise InputError(f"{path} holds no .tsv tables; give a Common Voice folder or archive")


def _several(path: Path, lang: str, folders: list[str]) -> InputError:
    return InputError(f"{path} must hold one release of {lang}, it holds {', '.join(folders)[:200]}; give one of them")


def _scan(path: Path, lang: str) -> tuple[dict[str, bytes], str, list[str]]:
    """-> the locale's tables by stem, the folder its clips lie in, the locales seen."""
    contents, seconds, folders, locales = {}, {}, set(), set()
    for name, data in archive_members(path, "reading the tables of"):
        where = PurePosixPath(name)
        if where.suffix == ".tsv" and _is_table(where.stem, data.split(b"\n", 1)[0]):
            locales.add(where.parent.name)
            if where.parent.name == lang:
                contents[where.stem] = data
                folders.add(str(where.parent))
        elif where.parent.name == "clips" and where.parent.parent.name == lang:
            seconds[where.name] = seconds_of(data)
    if len(folders) > 1:
        raise _several(path, lang, sorted(folders))
    if contents and DURATIONS not in contents:
        lines = [f"{name}\t{round(s * 1000)}" for name, s in seconds.items() if s is not None]
        contents[DURATIONS] = "\n".join(["clip\tduration[ms]", *lines]).encode()
    return contents, "".join(f"{folder}/clips" for folder in folders), sorted(locales)


def _check_locale(tables: dict[str, Table], lang: str, path: Path) -> None:
    found = {row.get("locale", "") for table in tables.values() for row in table.rows} - {"", lang}
    if found:
        raise InputError(f"{path} must hold clips of locale {lang}; its tables say {', '.join(sorted(found))[:200]}")


def _durations(table: Table) -> dict[str, float]:
    """Seconds by clip. Where a length is none, store.py reads the header of the file instead."""
    stated = ((row["clip"], seconds_in(row["duration[ms]"], per_second=1000)) for row in table.rows)
    return {clip: seconds for clip, seconds in stated if seconds is not None}


def _fingerprint(lang: str, contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256(lang.encode())
    for stem in sorted(contents):
        digest.update(f"\0{stem}\0".encode() + contents[stem])
    return digest.hexdigest()[:16]
