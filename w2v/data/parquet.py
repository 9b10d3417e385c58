"""Parquet files with audio in them, as the Hub keeps its data sets: one file, or folders of shards.

    data/train-00000-of-00002.parquet     tr/train/0000.parquet     validation.parquet

A column holds the bytes of a recording and its name (`audio.bytes`, `audio.path`), or the bytes alone. Sentences are
read first, without the audio; then the audio in the order of the files. About twice a row group is held at
once. A file that unpacks to over 50 times its size is refused: a few bytes can stand for gigabytes.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
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
ROWS_OF_TEXT, ROWS_OF_AUDIO = 1000, 16  # that are made at once; fewer where they are large
BYTES_AT_ONCE = 64 << 20
BUFFER_BYTES = 1 << 20


class _Row(NamedTuple):
    number: int
    path: str  # the recording's name, "" where it has none
    sentence: str
    speaker: str
    seconds: float | None


class _File(NamedTuple):
    parquet: Any
    kinds: dict[str, Any]  # the type of each column
    texts: list[str]  # columns read as dictionaries: their values once, and which of them each row has
    path: Path


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
        digest.update("\n".join(map(str, rows[file])).encode())
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
    speaker = next((name for name in SPEAKERS if name in kinds), "")
    wanted = [name for name in (path, text, speaker, "duration") if name.split(".")[0] in kinds]
    rows = []
    for number, values in enumerate(_values(opened, wanted)):
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
        texts = [name for name, kind in opened.kinds.items() if _is_text(kind)]
        audio, text = columns.find_audio(texts, path.name), columns.find_text(texts, path.name)
        wanted = [audio, text, *(name for name in (*SPEAKERS, "duration", "offset") if name in opened.kinds)]
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
            start = 0
            for group in range(opened.parquet.num_row_groups):
                rows = opened.parquet.metadata.row_group(group).num_rows
                if any(start <= row < start + rows for row in wanted if row is not None):
                    leaf = f"{column}.bytes" if _members(opened.kinds[column]) else column
                    for number, values in enumerate(_values(opened, [leaf], [group]), start=start):
                        value = values[column]
                        if number in wanted:
                            yield wanted[number], value.get("bytes") if isinstance(value, dict) else value
                start += rows


def _values(opened: _File, columns: list[str], groups: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """The rows with these columns: of texts of the whole file, of audio of some row groups.

    InputError where they unpack to too much. A value that many rows share stands in the file once. Texts arrive with
    their values apart from their rows, so their sizes are known before a row is made; of the rest few are made at once.
    """
    parquet = opened.parquet
    chunks = [
        chunk
        for group in (range(parquet.num_row_groups) if groups is None else groups)
        for chunk in map(parquet.metadata.row_group(group).column, range(parquet.metadata.num_columns))
        if any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in columns)
    ]
    _check_size(opened, sum(chunk.total_uncompressed_size for chunk in chunks))
    largest = max((c.total_uncompressed_size for c in chunks if c.path_in_schema not in opened.texts), default=0)
    most = ROWS_OF_TEXT if groups is None else ROWS_OF_AUDIO
    size = max(1, min(most, BYTES_AT_ONCE // max(1, largest)))
    unpacked = 0
    for batch in parquet.iter_batches(size, row_groups=groups, columns=columns, use_threads=False):
        unpacked += sum(map(_expanded_bytes, batch.columns))
        _check_size(opened, unpacked)
        yield from batch.to_pylist()


def _check_size(opened: _File, unpacked: int) -> None:
    if unpacked > FREE_BYTES + MOST_EXPANSION * opened.path.stat().st_size:
        raise InputError(f"{opened.path} unpacks to over {MOST_EXPANSION} times its size; do not trust it")


def _expanded_bytes(column: Any) -> int:
    """What an array takes once each of its rows has a value of its own."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type):
        return column.nbytes
    return compute.sum(compute.binary_length(column.dictionary).take(column.indices)).as_py() or 0


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A parquet file, read a little at a time; InputError without pyarrow, and where the file is damaged."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f'reading {path.name} needs pyarrow; install it, pip install "w2v[parquet]"') from None
    with reading("the table", path):
        open_file(path).close()  # refuses what is no regular file
    try:
        kinds = {field.name: field.type for field in parquet.read_schema(path)}
        texts = [name for name, kind in kinds.items() if _is_text(kind)]
        with parquet.ParquetFile(path, read_dictionary=texts, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            yield _File(file, kinds, texts, path)
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
