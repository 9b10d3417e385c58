"""Tables of clips: what a clip is, where its audio lies, and how tsv, csv and jsonl files are read.

Nothing here opens audio. commonvoice.py reads Common Voice's own folders and archives.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from w2v.errors import InputError
from w2v.files import read_bytes

SEPARATORS = re.compile(r"[\t\r\n]")  # a clip's name is a cell of the store's index and of skipped.tsv


@dataclass(frozen=True)
class Source:
    """Where a table's audio lies: a folder, or the `prefix` folder inside a .tar.gz archive."""

    path: Path
    fingerprint: str  # of the tables' contents; the name of the decoded store
    prefix: str = ""
    is_archive: bool = False

    def file(self, name: str) -> Path:
        """The path of a clip of a folder source."""
        return self.path / name


@dataclass(frozen=True)
class Clip:
    """One recording and its sentence as written. `name` is the table's path column: unique within a source."""

    name: str
    sentence: str
    speaker: str  # client_id; "" where unknown
    source: Source = field(repr=False)
    seconds: float | None = None  # as the tables say

    @property
    def basename(self) -> str:
        return re.split(r"[\\/]", self.name)[-1]


@dataclass(frozen=True)
class Skipped:
    """A clip that will not be used, and why; one line of skipped.tsv."""

    name: str
    split: str
    reason: str


@dataclass
class Table:
    """The rows of one file, each a dict by column; `broken` lists rows that could not be read, by line."""

    rows: list[dict[str, str]]
    broken: list[tuple[int, str]] = field(default_factory=list)


def parse_table(data: bytes, name: str, needs: Iterable[str] = ("path", "sentence")) -> Table:
    """Read a .tsv, .csv or .jsonl file. InputError where it is not text, or without a needed column."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} must be UTF-8 text, byte {error.start} is not; save it as UTF-8") from None
    if name.endswith((".jsonl", ".json")):
        return _parse_jsonl(text, name, needs)
    if name.endswith(".csv"):
        table = _parse_quoted(text, ",")
    elif is_quoted(text):
        table = _parse_quoted(text, "\t")
    else:
        table = _parse_plain(text)
    # A table without rows still has a header line, and it must be the right one.
    columns = set(table.rows[0]) if table.rows else set(re.split(r'[\t,"]+', text.split("\n")[0]))
    _check_columns(columns, name, needs)
    return table


def _check_columns(columns: set[str], name: str, needs: Iterable[str]) -> None:
    missing = [column for column in needs if column not in columns]
    if missing:
        raise InputError(
            f"{name} needs the columns {', '.join(needs)}: {', '.join(missing)} not found among "
            f"{', '.join(sorted(columns))[:200] or 'none'}"
        )


def is_quoted(text: str) -> bool:
    """Whether a tab-separated file was written by a csv writer, or, as Mozilla's are, without any quoting.

    A csv writer encloses a field that contains a quote, and doubles its quotes. A file with such a field and without a
    counter-example is quoted. A file with a lone quote is plain. A field like `"Hello."` proves nothing: a csv writer
    encloses it only where it encloses everything, the header included.
    """
    lines = text.split("\n")
    if len(lines[0]) > 1 and all(f.startswith('"') and f.endswith('"') for f in lines[0].split("\t")):
        return True
    proof = False
    for line in lines[1:]:
        if '"' not in line:
            continue
        for cell in line.split("\t"):
            if '"' not in cell:
                continue
            enclosed = len(cell) >= 2 and cell[0] == cell[-1] == '"'
            inner = cell[1:-1]
            if not enclosed or '"' in inner.replace('""', ""):
                return False
            proof = proof or '""' in inner
    return proof


def _parse_plain(text: str) -> Table:
    # splitlines() would also split at U+2028 and U+0085, which occur in sentences.
    lines = text.split("\n")
    header = lines[0].split("\t")
    table = Table([])
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) > len(header):
            table.broken.append((number, f"{len(cells)} cells for {len(header)} columns"))
        else:  # trailing empty cells are sometimes left out
            table.rows.append(dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True)))
    return table


def _parse_quoted(text: str, delimiter: str) -> Table:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="_extra", restval="")
    table = Table([])
    try:
        for row in reader:
            if "_extra" in row:
                table.broken.append((reader.line_num, f"{len(row['_extra'])} cells too many"))
            elif SEPARATORS.search(row.get("path", "")):
                table.broken.append((reader.line_num, "tab or line break in its path"))
            else:
                table.rows.append(row)
    except csv.Error as error:
        table.broken.append((reader.line_num, str(error)))
    return table


def _parse_jsonl(text: str, name: str, needs: Iterable[str]) -> Table:
    table = Table([])
    columns: set[str] = set()  # there is no header: each row names its own columns
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            table.broken.append((number, "not a JSON object"))
            continue
        columns.update(row)
        missing = [column for column in needs if column not in row]
        if missing:
            table.broken.append((number, f"row without {' and '.join(missing)}"))
        elif SEPARATORS.search(str(row.get("path", ""))):
            table.broken.append((number, "tab or line break in its path"))
        else:
            table.rows.append({key: "" if value is None else str(value) for key, value in row.items()})
    if columns:
        _check_columns(columns, name, needs)
    return table


def read_manifest(path: str | Path) -> tuple[list[Clip], list[Skipped]]:
    """A table of recordings outside Common Voice -> its clips, and its unreadable rows.

    Columns: path (absolute, or relative to the table's folder or a `clips` folder beside it), sentence, and where
    known client_id or speaker, and duration in seconds.
    """
    path = Path(path)
    data = read_bytes("the table", path)
    table = parse_table(data, path.name)
    folder = path.parent.resolve()
    first = next((row["path"] for row in table.rows if row["path"]), "")
    if not _is_file(folder / first) and _is_file(folder / "clips" / first):
        folder = folder / "clips"
    fingerprint = hashlib.sha256(data + str(folder).encode()).hexdigest()[:16]
    source = Source(folder, fingerprint)
    clips = [
        Clip(
            row["path"],
            row["sentence"],
            row.get("client_id") or row.get("speaker") or "",
            source,
            _seconds(row.get("duration")),
        )
        for row in table.rows
        if row["path"]
    ]
    skipped = [Skipped(f"{path.name}:{line}", "", why) for line, why in table.broken]
    skipped += [Skipped(path.name, "", "row without a path") for row in table.rows if not row["path"]]
    return clips, skipped


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a cell may be too long for a file's name
        return False


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
