"""Clips: what a clip is, where its audio lies, and how a table of clips is read.

Nothing here opens audio. tables.py reads the rows, commonvoice.py reads Common Voice's own folders and archives,
corpus.py merges all the data of a run.
"""

import hashlib
import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from w2v.data.columns import Columns
from w2v.data.tables import LONGEST, Table, parse_table
from w2v.errors import InputError, listed, show
from w2v.files import read_bytes

UNDIVIDED = ""  # the name of a table that is no split: it is divided, or joins the training clips of other data
# As Mozilla named its archives and their folders, and as the Data Collective does, with numbers before them at times.
RELEASE_NAME = re.compile(r"(?:cv|sps)-corpus-(\d+(?:\.\d+)?)|mcv-(?:scripted|spontaneous)-.+-v(\d+(?:\.\d+)?)")
# What people call the folders and files of official splits.
SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "val": "dev", "validation": "dev", "test": "test"}
NEMO_AUDIO = "audio_filepath"


@dataclass(frozen=True)
class Source:
    """Where a table's audio lies: a folder, or the `prefix` folder inside a .tar.gz archive.

    A folder's clips may also lie in parquet files, in the column `prefix`.
    """

    path: Path
    fingerprint: str  # of the tables' contents; the name of the decoded store
    prefix: str = ""
    is_archive: bool = False

    def file(self, name: str) -> Path:
        """The path of a file of a folder source."""
        return self.path / name

    def describe(self) -> str:
        """For the user: where the clips come from."""
        return f"clips are read from {self.path}" + (f", its folder {listed([self.prefix])}" if self.is_archive else "")


@dataclass(frozen=True)
class Clip:
    """One utterance and its sentence as written. `name` is unique within a source: the table's path column, and for a
    segment also where it lies in that file, lecture.wav#12.340-15.600.
    """

    name: str
    sentence: str
    speaker: str  # client_id; "" where unknown
    source: Source = field(repr=False)
    seconds: float | None = None  # as the tables say
    file: str = ""  # where the name is another: the recording it is a segment of, or the file that holds its bytes
    start: float | None = None  # seconds, of a segment
    row: int | None = None  # of a parquet file
    lang: str = ""  # its locale, where a run has several

    @property
    def path(self) -> Path:
        """The file to open for it, in a source that is a folder."""
        return self.source.file(self.file or self.name)

    @property
    def basename(self) -> str:
        return re.split(r"[\\/]", self.name)[-1]


@dataclass(frozen=True)
class Skipped:
    """A clip that will not be used, and why; one line of skipped.tsv."""

    name: str
    split: str
    reason: str


@dataclass(frozen=True)
class Release:
    """What one of the data given is.

    A folder in Common Voice's layout whose clips and folders have names of their own is a table. So its card does not
    call it Common Voice.
    """

    kind: Literal["scripted", "spontaneous", "table"]
    name: str  # of the archive, release folder or table, never where it lies
    version: str = ""  # "17.0"; "" where unknown
    locale: str = ""  # as the release says it; "" where unknown


def named_release(kind: Literal["scripted", "spontaneous"], source: Source, path: Path, locale: str) -> Release | None:
    """What names say: of the archive or folder that was given, and of the folders on the way to its clips."""
    folders = PurePosixPath(source.prefix).parts if source.is_archive else source.path.parts[-3:]
    names = [path.resolve().name, *reversed(folders)]
    for name in names:
        if match := RELEASE_NAME.search(name):
            return Release(kind, names[0] if source.is_archive else name, match[1] or match[2], locale)
    return None


@dataclass
class Part:
    """What one of the data given holds: tables of clips by name, what was skipped, notes for the user."""

    release: Release
    tables: dict[str, list[Clip]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_manifest(path: str | Path, columns: Columns | None = None) -> tuple[list[Clip], list[Skipped]]:
    """A table of recordings outside Common Voice -> its clips, and its unreadable rows.

    Columns: paths (absolute, or relative to the table's folder or a `clips` folder beside it), sentences, and where
    known client_id or speaker, duration in seconds, and offset in seconds: such a row is a segment of its file.
    columns: the names of the first two, where they are not among the usual ones.
    """
    path = Path(path)
    data = read_bytes("the table", path)
    table = parse_table(data, path.name, columns=columns or Columns()).check(path.name)
    folder = path.parent.resolve()
    first = table.rows[0]["path"] if table.rows else ""
    if not _is_file(folder / first) and _is_file(folder / "clips" / first):
        folder = folder / "clips"
    source = Source(folder, fingerprint_of(data, str(folder).encode()))
    return clips_of(table, source), [Skipped(f"{path.name}:{line}", "", why) for line, why in table.broken]


def fingerprint_of(*contents: bytes) -> str:
    """A name for a store of the clips of these tables."""
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def clips_of(table: Table, source: Source) -> list[Clip]:
    """The clips of a table's rows.

    A row with an offset is a segment of its file, and so is each row of a NeMo manifest, whose `duration` says how much
    of the file is meant. A file that is listed once from its beginning is named without its span.
    """
    often = Counter(row["path"] for row in table.rows)
    clips = []
    for row in table.rows:
        name, seconds = row["path"], seconds_in(row.get("duration"))
        start = seconds_in(row.get("offset"))
        if start is None and table.audio_column == NEMO_AUDIO and seconds:
            start = 0.0
        clip = Clip(name, row["sentence"], row.get("client_id") or row.get("speaker") or "", source, seconds)
        if start is not None and (start or often[name] > 1):
            clip = replace(clip, name=segment_name(name, start, seconds), file=name, start=start)
        elif start is not None and seconds:
            clip = replace(clip, start=start)
        clips.append(clip)
    return clips


def check_inside(file: str, table: str) -> None:
    """InputError where a path, as a data set from elsewhere writes it, leaves the folder of that data set."""
    path = PureWindowsPath(file)  # it also knows what / and .. mean elsewhere
    if path.drive or path.root or ".." in path.parts:
        raise InputError(f"{table} must name files inside its folder, got {show(file)}; move the file or mend the path")


def segment_name(file: str, start: float, seconds: float | None) -> str:
    return f"{file}#{start:.3f}-" + (f"{start + seconds:.3f}" if seconds else "")


def used_once(clips: list[Clip], table: str, split: str = "") -> tuple[list[Clip], list[Skipped], list[str]]:
    """-> each clip once, those that came again with another sentence, and notes for the user.

    Which of two sentences is right cannot be known. The first is used, and the others are named. table: for the notes.
    """
    first: dict[tuple[str, str], Clip] = {}
    skipped = []
    for clip in clips:
        known = first.setdefault((clip.source.fingerprint, clip.name), clip)
        if known.sentence != clip.sentence:
            why = f"listed before with another sentence: {known.sentence!r:.60}, now {clip.sentence!r:.60}"
            skipped.append(Skipped(clip.name, split, why))
    notes = []
    if again := len(clips) - len(first) - len(skipped):
        notes.append(f"{again} rows of {table} list a clip again; each clip is used once")
    if skipped:
        names = listed(dict.fromkeys(skip.name for skip in skipped))
        notes.append(f"{len(skipped)} rows of {table} list a clip with another sentence; the first is used: {names}")
    return list(first.values()), skipped, notes


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a cell may be too long for a file's name
        return False


def seconds_in(text: str | None, per_second: float = 1) -> float | None:
    """The length that a table states; None where it states none, or none that a clip can have."""
    try:
        seconds = float(text or "nan") / per_second
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= LONGEST else None
