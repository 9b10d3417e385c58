"""Folders of audio files with tables in them: AudioFolder, and tables that are named after their splits.

folder/metadata.csv                   or metadata.jsonl, metadata.parquet: file_name and text, paths below the folder
folder/train/metadata.csv             ... dev or validation, test: each is the table of that name
folder/train.jsonl                    ... dev or validation, test: .jsonl, .json or .csv tables of any kind
"""

from pathlib import Path, PurePosixPath

from w2v.data.columns import Columns
from w2v.data.manifest import (
    SPLITS,
    UNDIVIDED,
    Clip,
    Part,
    Release,
    Skipped,
    Source,
    check_inside,
    clips_of,
    fingerprint_of,
    read_manifest,
)
from w2v.data.parquet import read_metadata
from w2v.data.tables import Table, parse_table
from w2v.errors import InputError
from w2v.files import read_bytes, reading

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = (".csv", ".jsonl", ".json")


def metadata_in(folder: Path) -> dict[str, Path]:
    """The metadata files of an AudioFolder by table; none where it is something else."""
    found: dict[str, Path] = {}
    for place in (folder, *sorted(folder / name for name in SPLITS)):
        files = [place / name for name in METADATA if (place / name).is_file()]
        table = UNDIVIDED if place == folder else SPLITS[place.name]
        if len(files) > 1 or (files and table in found):
            others = [found[table]] if table in found else []
            names = ", ".join(file.relative_to(folder).as_posix() for file in others + files)
            raise InputError(f"{folder} must hold one metadata file for each split, it holds {names}; delete one")
        if files:
            found[table] = files[0]
    return found


def read_audiofolder(folder: Path, columns: Columns, name: str = "") -> Part:
    """An AudioFolder. name: for people, else the folder's.

    InputError where a path leads out of it, and where a table cannot be read.
    """
    folder = folder.resolve()
    contents: list[bytes] = []
    tables: dict[str, Table] = {}
    part = Part(Release("table", name or folder.name))
    for table_name, file in metadata_in(folder).items():
        shown = file.relative_to(folder).as_posix()
        data = read_bytes("the table", file)
        is_parquet = file.suffix == ".parquet"
        table = (read_metadata(file, columns) if is_parquet else parse_table(data, shown, columns=columns)).check(shown)
        for row in table.rows:
            check_inside(row["path"], shown)
            row["path"] = str(PurePosixPath(shown).parent / row["path"])
        contents += [shown.encode(), data]
        part.skipped += [Skipped(f"{shown}:{line}", table_name, why) for line, why in table.broken]
        tables[table_name] = table
    source = Source(folder, fingerprint_of(str(folder).encode(), *contents))
    part.notes.append(source.describe())
    for table_name, table in tables.items():
        clips = clips_of(table, source)
        for split, some in (_by_folder(clips) if table_name == UNDIVIDED else {table_name: clips}).items():
            part.tables.setdefault(split, []).extend(some)
    return part


def _by_folder(clips: list[Clip]) -> dict[str, list[Clip]]:
    """The clips of one table by split, where each lies in the folder of one."""
    tables: dict[str, list[Clip]] = {}
    for clip in clips:
        first, *rest = PurePosixPath(clip.file or clip.name).parts
        if not rest or first not in SPLITS:
            return {UNDIVIDED: clips}
        tables.setdefault(SPLITS[first], []).append(clip)
    return tables


def split_tables_in(folder: Path) -> dict[str, Path]:
    """Tables of a folder that are named after their splits; none where one of them is not there, or several times."""
    with reading("the folder", folder):
        files = sorted(file for file in folder.iterdir() if file.suffix in TABLES and file.stem in SPLITS)
    found = {SPLITS[file.stem]: file for file in files}
    if len(found) < len(files):
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder} must hold one table for each split, it holds {names}; give one of them as `data`")
    return found


def read_split_tables(folder: Path, columns: Columns) -> Part:
    part = Part(Release("table", folder.resolve().name))
    for name, file in split_tables_in(folder).items():
        part.tables[name], skipped = read_manifest(file, columns)
        part.skipped += [Skipped(skip.name, name, skip.reason) for skip in skipped]
        if part.tables[name] and not part.notes:
            part.notes.append(part.tables[name][0].source.describe())
    return part
