"""Common Voice releases, from 6.1 to today's column sets: an archive as downloaded, or its folder.

    corpus = read_common_voice([Path("cv-corpus-17.0-2024-03-15-tr.tar.gz")], "tr", cache)
    corpus.tables["train"]                        # list[Clip]

A release holds one folder per locale with train.tsv, dev.tsv, test.tsv, validated.tsv ... and clips/*.mp3. An archive
is never unpacked: its tables and clip durations are read in one pass and remembered in the cache, and store.py decodes
the clips in another.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from w2v.audio import seconds_of
from w2v.data.manifest import Clip, Skipped, Source, Table, parse_table, read_manifest
from w2v.errors import InputError
from w2v.files import write_json

NOT_SPLITS = {"clip_durations", "reported", "validated_sentences", "unvalidated_sentences"}
ARCHIVES = (".tar.gz", ".tgz", ".tar")
TABLES = (".tsv", ".csv", ".jsonl")


@dataclass
class Corpus:
    """Tables by name (train, dev, test, validated, other ...), merged over all the data given."""

    tables: dict[str, list[Clip]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Of all the tables' contents, whatever folder they lie in."""
        sources = {clip.source.fingerprint for clips in self.tables.values() for clip in clips}
        return hashlib.sha256("".join(sorted(sources)).encode()).hexdigest()[:16]


def read_common_voice(data: list[Path], lang: str, cache: Path) -> Corpus:
    """Read archives, locale folders, folders above them, or plain tables (read as `validated`), and merge them.

    InputError where there is nothing of `lang`, a table lacks path or sentence, or an archive is cut short or holds
    member names that point outside it.
    """
    corpus = Corpus()
    for path in data:
        path = Path(path)
        if path.is_dir():
            tables, source = _read_folder(path, lang)
        elif path.name.endswith(ARCHIVES) and path.is_file():
            tables, source = _read_archive(path, lang, cache)
        elif path.name.endswith(TABLES) and path.is_file():
            clips, skipped = read_manifest(path)
            corpus.tables.setdefault("validated", []).extend(clips)
            corpus.skipped += skipped
            continue
        elif path.exists():
            raise InputError(f"--data takes a .tar.gz archive, a folder or a .tsv, .csv or .jsonl table, got {path}")
        else:
            raise InputError(f"--data must exist, found nothing at {path}")
        _check_locale(tables, lang, path)
        seconds = _durations(tables)
        for name, table in tables.items():
            if name in NOT_SPLITS:
                continue
            corpus.skipped += [Skipped(f"{name}.tsv:{line}", name, why) for line, why in table.broken]
            corpus.tables.setdefault(name, []).extend(
                Clip(row["path"], row["sentence"], row.get("client_id") or "", source, seconds.get(row["path"]))
                for row in table.rows
            )
    return corpus


def _read_folder(path: Path, lang: str) -> tuple[dict[str, Table], Source]:
    folder = _locale_folder(path, lang)
    files = {file.stem: file for file in sorted(folder.glob("*.tsv"))}
    contents = {stem: file.read_bytes() for stem, file in files.items()}
    audio = folder / "clips" if (folder / "clips").is_dir() else folder
    return _parse(contents), Source(audio.resolve(), _fingerprint(lang, contents))


def _locale_folder(path: Path, lang: str) -> Path:
    """The folder itself, LANG below it, or cv-corpus-*/LANG below it; the first that holds tables."""
    for folder in (path, path / lang, *sorted(path.glob(f"*/{lang}"))):
        if any(folder.glob("*.tsv")):
            return folder
    found = sorted({file.parent.name for depth in ("*", "*/*") for file in path.glob(f"{depth}/*.tsv")})
    if found:
        raise InputError(f"{path} holds no locale {lang}; it holds {', '.join(found)[:200]}")
    raise InputError(f"{path} holds no .tsv tables; give a Common Voice folder or archive")


def _read_archive(path: Path, lang: str, cache: Path) -> tuple[dict[str, Table], Source]:
    """One pass over the archive, or the copy of its tables that an earlier pass left in the cache."""
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{lang}".encode()).hexdigest()[:16]
    index = cache / "archives" / key / "index.json"
    if not index.is_file():
        contents, prefix, locales = _scan(path, lang)
        if not contents:
            found = f"it holds {', '.join(locales)[:200]}" if locales else "it holds no .tsv tables at all"
            raise InputError(f"{path} holds no locale {lang}; {found}")
        tables = {stem: data.decode("latin-1") for stem, data in contents.items()}  # bytes, whatever they are
        write_json(index, {"prefix": prefix, "tables": tables})
    saved = json.loads(index.read_text(encoding="utf-8"))
    contents = {stem: text.encode("latin-1") for stem, text in saved["tables"].items()}
    return _parse(contents), Source(path.resolve(), _fingerprint(lang, contents), saved["prefix"], is_archive=True)


def _scan(path: Path, lang: str) -> tuple[dict[str, bytes], str, list[str]]:
    """-> the locale's tables by stem, the folder its clips lie in, the locales seen."""
    contents, seconds, prefix, locales = {}, {}, "", set()
    for name, data in archive_members(path, "reading the tables of"):
        where = PurePosixPath(name)
        if where.suffix == ".tsv":
            locales.add(where.parent.name)
            if where.parent.name == lang:
                contents[where.stem] = data
                prefix = prefix or str(where.parent / "clips")
        elif where.parent.name == "clips" and where.parent.parent.name == lang:
            seconds[where.name] = seconds_of(data)
    if contents and "clip_durations" not in contents:
        lines = [f"{name}\t{round(s * 1000)}" for name, s in seconds.items() if s is not None]
        contents["clip_durations"] = "\n".join(["clip\tduration[ms]", *lines]).encode()
    return contents, prefix, sorted(locales)


def archive_members(path: Path, doing: str) -> Iterator[tuple[str, bytes]]:
    """(name, contents) of an archive's regular files, in its order, with a progress bar over the packed bytes.

    InputError where the archive is cut short or damaged, or a name is absolute or climbs out with `..`.
    """
    with (
        open(path, "rb") as packed,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"{doing} {path.name}") as bar,
    ):
        try:
            with tarfile.open(fileobj=packed, mode="r|*") as archive:
                for member in archive:
                    where = PurePosixPath(member.name)
                    if where.is_absolute() or ".." in where.parts:
                        raise InputError(f"{path} holds {member.name!r}, outside its own folder; do not trust it")
                    if member.isfile():
                        yield str(where), archive.extractfile(member).read()
                    bar.update(packed.tell() - bar.n)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise InputError(f"{path} is cut short or damaged ({error}); download it again") from None


def _parse(contents: dict[str, bytes]) -> dict[str, Table]:
    needs = {"clip_durations": ("clip", "duration[ms]")}
    return {
        stem: parse_table(data, f"{stem}.tsv", needs.get(stem, ("path", "sentence")))
        for stem, data in contents.items()
        if stem not in NOT_SPLITS or stem == "clip_durations"
    }


def _check_locale(tables: dict[str, Table], lang: str, path: Path) -> None:
    found = {row.get("locale") for name, table in tables.items() if name not in NOT_SPLITS for row in table.rows}
    found -= {None, "", lang}
    if found:
        raise InputError(f"{path} must hold clips of locale {lang}; its tables say {', '.join(sorted(found))[:200]}")


def _durations(tables: dict[str, Table]) -> dict[str, float]:
    seconds = {}
    for row in tables["clip_durations"].rows if "clip_durations" in tables else ():
        try:
            seconds[row["clip"]] = float(row["duration[ms]"]) / 1000
        except ValueError:
            continue  # the header of the file itself is read instead
    return seconds


def _fingerprint(lang: str, contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256(lang.encode())
    for stem in sorted(contents):
        digest.update(f"\0{stem}\0".encode() + contents[stem])
    return digest.hexdigest()[:16]
