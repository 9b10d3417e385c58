"""Parquet files with audio in them, as the Hub keeps its data sets: one file, or folders of shards.

    data/train-00000-of-00002.parquet     tr/train/0000.parquet     validation.parquet

A column holds the bytes of a recording and its name (`audio.bytes`, `audio.path`), or the bytes alone. Sentences are
read first, without the audio; then the audio in the order of the files. About twice a row group is held at once.

A file can name one value in a million rows, or squeeze a gigabyte of zeros into a kilobyte. Rows are taken out of it in
batches that stay small where all of them held its largest value. A file that unpacks to more than 50 times its size and
16 MiB is refused, as an archive is.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from w2v.data.archives import FREE_BYTES, MOST_EXPANSION
from w2v.data.columns import Columns
from w2v.data.manifest import SPLITS, UNDIVIDED, Clip, Part, Release, Skipped, Source, seconds_in
from w2v.data.tables import Table, wrong_row
from w2v.errors import InputError, show
from w2v.files import open_file, reading

SUFFIX = ".parquet"
SHARD = re.compile(r"[-_.]?\d+-of-\d+(-[0-9a-f]+)?$|(^|[-_.])(part[-_.]?)?\d+$")
CLIPS = ("clips", "audios")  # folders of a release, which may hold millions of files
DEPTH = 4  # folders below the given one that are looked through
TABLES = {*SPLITS, "validated", "invalidated", "other"}
SPEAKERS = ("client_id", "speaker", "speaker_id")
ROWS_OF_TEXT, ROWS_OF_AUDIO = 1000, 16  # that are held at once
FEWEST_ROWS_OF_TEXT = 8  # where a row group holds much: fewer would take longer to read
# pyarrow reads the chunks of small files at once. In a stream it would take what a page's header states, up to 2 GiB.
BUFFER_BYTES, SMALL_BYTES = 1 << 20, 64 << 20
BATCH_BYTES = 1 << 28  # that a batch can take where each of its rows holds all that a row group states
BYTES_OF_A_ROW = 64  # that a row counts for beside its texts: a file of no bytes can hold a million empty rows


class _Row(NamedTuple):
    number: int
    path: str  # the recording's name, "" where it has none
    sentence: str
    speaker: str
    seconds: float | None


class _File:
    """An open file. `unpacked` counts what was taken out of it."""

    def __init__(self, parquet: Any, path: Path):
        self.parquet, self.path = parquet, path
        self.kinds = {field.name: field.type for field in parquet.schema_arrow}
        self.most = FREE_BYTES + MOST_EXPANSION * path.stat().st_size
        self.unpacked = 0

    def check(self, size: int) -> None:
        if size > self.most:
            raise InputError(f"{self.path} unpacks to over {MOST_EXPANSION} times its size; do not trust it")

    def take(self, values: Iterable[Any]) -> None:
        self.unpacked += BYTES_OF_A_ROW + sum(map(_size, values))
        self.check(self.unpacked)


def table_of(file: str) -> str:
    """The table that a file belongs to, by its name or its folder's: train, dev, test, or as it is called."""
    path = PurePosixPath(file)
    stem = SHARD.sub("", path.stem)
    folders = [part.removeprefix("partial-") for part in path.parts[:-1]]
    known = next((part for part in reversed(folders) if part in TABLES), "")
    called = stem if stem in TABLES else known or (stem if stem != "part" else UNDIVIDED)
    return SPLITS.get(called, called)


def of_language(files: list[str], lang: str, name: str) -> list[str]:
    """The files of a data set that has a folder for each language, or of one that has no such folders.

    InputError where there are several such folders and none is the language's. FLEURS calls its folders tr_tr.
    """

    def place(file: str) -> str:
        folders = [part for part in PurePosixPath(file).parts[:-1] if part != "data"]
        return folders[0] if folders and folders[0].removeprefix("partial-") not in TABLES else ""

    places = sorted({place(file) for file in files})
    code = lang.lower().replace("-", "_")
    own = [p for p in places if p.lower().replace("-", "_") == code]
    own = own or [p for p in places if p.lower().replace("-", "_").startswith(f"{code}_")]
    if len(own) != 1 and len(places) > 1:
        held = show(", ".join(p or "files in no folder" for p in places), most=200)
        raise InputError(f"{name} must hold one data set of {lang}, it holds {held}; give one of them")
    return [file for file in files if place(file) == (own or places)[0]]


def parquet_files(folder: Path) -> list[str]:
    """The names of a folder's parquet files, some folders deep; hidden ones and metadata are none of them."""
    found = []
    with reading("the folder", folder):
        for place, folders, files in os.walk(folder):
            here = Path(place).relative_to(folder)
            folders[:] = [name for name in folders if name not in CLIPS and name[0] != "." and len(here.parts) < DEPTH]
            found += [(here / name).as_posix() for name in files if is_data(name)]
    return sorted(found)


def is_data(file: str) -> bool:
    """Whether a file of this name holds recordings."""
    path = PurePosixPath(file)
    return path.suffix == SUFFIX and path.stem != "metadata" and not any(part.startswith(".") for part in path.parts)


def read_parquet(path: Path, lang: str, columns: Columns) -> Part:
    """A parquet file, whose clips are undivided, or a folder of them.

    InputError without pyarrow, where a file is damaged and where it has no column of recordings or of sentences.
    """
    name = path.resolve().name
    if not path.is_dir():
        return read_files(path.parent, {path.name: UNDIVIDED}, columns, name)
    files = of_language(parquet_files(path), lang, str(path))
    return read_files(path, {file: table_of(file) for file in files}, columns, name)


def read_files(folder: Path, tables: dict[str, str], columns: Columns, name: str) -> Part:
    """Parquet files of a folder, each with the table it belongs to. name: of the data set, for people."""
    folder = folder.resolve()
    part = Part(Release("table", name))
    digest = hashlib.sha256(str(folder).encode())
    rows: dict[str, list[_Row]] = {}
    called = ""
    for file, table in tables.items():
        with _opened(folder / file) as opened:
            audio, rows[file] = _rows(opened, file, table, columns, part.skipped)
        if audio != (called or audio):
            raise InputError(f"{name} must call its recordings alike, {file} has {audio} and others {called}")
        called = audio
        digest.update(f"\0{file}\0{(folder / file).stat().st_size}\0".encode())
        for row in rows[file]:
            digest.update(f"{row}\n".encode())
    source = Source(folder, digest.hexdigest()[:16], prefix=called)
    part.notes.append(source.describe())
    unique = _unique_names(rows, tables)
    for file, table in tables.items():
        part.tables.setdefault(table, []).extend(
            Clip(
                row.path if row.path in unique else f"{file}#{row.number}",
                row.sentence,
                row.speaker,
                source,
                row.seconds,
                file=file,
                row=row.number,
            )
            for row in rows[file]
        )
    return part


def _unique_names(rows: dict[str, list[_Row]], tables: dict[str, str]) -> set[str]:
    """Recordings' names that mean one recording each: two tables may list it, with the same sentence.

    Some data sets number the recordings of each split, or call all of them audio.wav.
    """
    times = Counter((tables[file], row.path) for file, some in rows.items() for row in some)
    sentences: dict[str, set[str]] = {}
    for some in rows.values():
        for row in some:
            sentences.setdefault(row.path, set()).add(row.sentence)
    repeated = {path for (_, path), n in times.items() if n > 1}
    return {path for path, said in sentences.items() if path and len(said) == 1 and path not in repeated}


def _rows(opened: _File, file: str, table: str, columns: Columns, skipped: list[Skipped]) -> tuple[str, list[_Row]]:
    """-> the name of the column of recordings, and the rows without them."""
    kinds = opened.kinds
    recordings = [name for name, kind in kinds.items() if _is_bytes(kind) or "bytes" in _members(kind)]
    audio = columns.find_audio(recordings, file, "recordings")
    text = columns.find_text([name for name, kind in kinds.items() if _is_text(kind)], file)
    path = f"{audio}.path" if "path" in _members(kinds[audio]) else ""
    speaker = next((name for name in SPEAKERS if name in kinds and _is_single(kinds[name])), "")
    lengths = [name for name in ("duration",) if name in kinds and _is_single(kinds[name])]
    rows = []
    for number, values in enumerate(_values(opened, [name for name in (path, text, speaker, *lengths) if name])):
        name = re.split(r"[\\/]", str((values[audio] or {}).get("path") or ""))[-1] if path else ""
        sentence = values[text] or ""
        who = "" if values.get(speaker) is None else str(values[speaker])
        if why := wrong_row({"path": name or "unnamed", "sentence": sentence, "speaker": who}):
            skipped.append(Skipped(f"{file}#{number}", table, why))
        else:
            rows.append(_Row(number, name, sentence, who, seconds_in(str(values.get("duration")))))
    return audio, rows


def read_metadata(path: Path, columns: Columns) -> Table:
    """The metadata.parquet of an AudioFolder: paths and sentences as text."""
    table = Table()
    with _opened(path) as opened:
        kinds = opened.kinds
        texts = [name for name, kind in kinds.items() if _is_text(kind)]
        audio, text = columns.find_audio(texts, path.name), columns.find_text(texts, path.name)
        wanted = [audio, text, *(n for n in (*SPEAKERS, "duration", "offset") if n in kinds and _is_single(kinds[n]))]
        for number, values in enumerate(_values(opened, wanted), start=1):
            row = {name: "" if value is None else str(value) for name, value in values.items()}
            row["path"], row["sentence"] = row.pop(audio), row.pop(text)
            if why := wrong_row(row):
                table.broken.append((number, why))
            else:
                table.rows.append(row)
    return table


def recordings(clips: dict[str, Clip]) -> Iterator[tuple[str, bytes | None]]:
    """(name, bytes) of clips by name, of one parquet source, in the order of its files; None where there are none."""
    files: dict[Path, dict[int | None, str]] = {}
    for name, clip in clips.items():
        files.setdefault(clip.path, {})[clip.row] = name
    column = next(iter(clips.values())).source.prefix
    for path, wanted in files.items():
        with _opened(path) as opened:
            start, metadata = 0, opened.parquet.metadata
            leaf = f"{column}.bytes" if _members(opened.kinds[column]) else column
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                if any(start <= row < start + rows for row in wanted if row is not None):
                    for number, values in enumerate(_values(opened, [leaf], [group]), start=start):
                        value = values[column]
                        if number in wanted:
                            yield wanted.pop(number), value.get("bytes") if isinstance(value, dict) else value
                start += rows
        yield from ((name, None) for name in wanted.values())  # a damaged row group holds fewer rows than it states


def _values(opened: _File, columns: list[str], groups: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """The rows with these columns: of texts of the whole file, of audio of some row groups."""
    metadata = opened.parquet.metadata
    # Asked for a chunk of a column, pyarrow ends the process where a damaged file gives it two types.
    stated = [
        metadata.row_group(i).total_byte_size for i in (range(metadata.num_row_groups) if groups is None else groups)
    ]
    opened.check(sum(stated))
    most, least = (ROWS_OF_TEXT, FEWEST_ROWS_OF_TEXT) if groups is None else (ROWS_OF_AUDIO, 1)
    size = max(least, min(most, BATCH_BYTES // max(1, 1, *stated)))
    for batch in opened.parquet.iter_batches(size, row_groups=groups, columns=columns, use_threads=False):
        for values in batch.to_pylist():
            opened.take(values.values())
            yield values


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return len(value) if isinstance(value, (str, bytes)) else 0


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """A parquet file, read a little at a time; InputError without pyarrow, and where the file is damaged."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'reading {path.name} needs pyarrow; install it, pip install "w2v[parquet]"') from None
    with reading("the table", path):
        open_file(path).close()  # refuses what is no regular file
    try:
        buffer = BUFFER_BYTES if path.stat().st_size > SMALL_BYTES else 0
        with parquet.ParquetFile(path, buffer_size=buffer, pre_buffer=False) as file:
            yield _File(file, path)
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = show(str(error) or type(error).__name__, most=200)  # pyarrow quotes bytes of the file
        raise InputError(f"cannot read {path} as parquet ({reason}); download it again") from None


def _members(kind: Any) -> list[str]:
    """The names of a struct's fields; none of another type."""
    return [kind.field(i).name for i in range(kind.num_fields)] if str(kind).startswith("struct<") else []


def _is_bytes(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_single(kind: Any) -> bool:
    """Whether its values are texts or numbers, which cannot hold others."""
    return _is_text(kind) or str(kind).startswith(("int", "uint", "float", "double", "dictionary<"))
