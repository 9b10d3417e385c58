"""Files of rows: .tsv, .csv and .jsonl, read so that no row is lost without a word.

A row that does not fit its header is kept apart with its line number. Nothing here knows what a clip is.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from w2v.data.columns import Columns, rename, renamed
from w2v.errors import InputError, listed, named, show

# A path is a cell of the store's index and of skipped.tsv, so it holds no tab and nothing that ends a line.
SEPARATORS = re.compile("[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
SURROGATES = re.compile("[\ud800-\udfff]")  # half of a character; such text cannot be written as UTF-8
LONGEST = 86_400  # seconds; a table that says more of a clip is wrong, and then its length is unknown
MOST_IN_A_CELL = 1 << 17  # characters; the csv module refuses longer ones too
# Columns that are read. Two of one name leave open which of them is meant.
READ = (
    *("path", "sentence", "client_id", "speaker", "duration", "offset", "locale", "clip", "duration[ms]"),
    *("audio_file", "transcription", "split", "quality_tags", "duration_ms"),  # Spontaneous Speech's
)
SUFFIX = re.compile(r"\.\w{2,4}\Z")
QUOTED_UP_TO = re.compile(r'[^"]*(?:""[^"]*)*"(?!")')  # the rest of a quoted field, its closing quote included


@dataclass
class Table:
    """The rows of one file, each a dict by column; `broken` lists rows that could not be read, by line."""

    rows: list[dict[str, str]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    audio_column: str = "path"  # as the file calls it

    def check(self, name: str) -> "Table":
        """Itself; InputError where rows were found and none can be used."""
        if self.broken and not self.rows:
            line, why = self.broken[0]
            raise InputError(
                f"{name} must hold rows that fit its header, none of its {len(self.broken)} does (line {line}: {why}); "
                "mend the table"
            )
        return self


def parse_table(
    data: bytes, name: str, needs: Iterable[str] = ("path", "sentence"), columns: Columns | None = None
) -> Table:
    """Read a .tsv, .csv or .jsonl file.

    columns: says which two columns the rows give as path and sentence; None: those of that name.
    InputError where it is not text, where a needed column is missing and where two columns have one name.
    """
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} must be UTF-8 text, byte {error.start} is not; save it as UTF-8") from None
    if name.endswith((".jsonl", ".json")):
        return _parse_jsonl(text, name, tuple(needs), columns)
    lines = text.split("\n")  # splitlines() would also split at U+2028 and U+0085, which occur in sentences
    if "\0" in lines[0]:
        raise InputError(f"{name} must be UTF-8 text, its header holds null characters; save it as UTF-8")
    is_csv = name.endswith(".csv")
    reader = _Quoted(lines, "," if is_csv else "\t") if is_csv or is_quoted(text) else _Plain(lines)
    called = renamed(columns, reader.header, name)
    _check_columns(reader.header, name, needs if columns is None else called)
    reader.rename(called)
    table = _fit(reader, tuple(needs), is_odd="\0" in text or max(map(len, lines)) > MOST_IN_A_CELL)
    table.audio_column = next((column for column, meant in called.items() if meant == "path"), "path")
    return table


def _check_columns(columns: list[str], name: str, needs: Iterable[str]) -> None:
    missing = [column for column in needs if column not in columns]
    if missing:
        raise InputError(
            f"{name} needs the columns {', '.join(needs)}: {', '.join(missing)} not found among "
            f"{listed(sorted(set(columns))) or 'none'}"
        )
    twice = [column for column in READ if columns.count(column) > 1]
    if twice:
        places = "; ".join(
            f"{column} in columns {' and '.join(str(i) for i, c in enumerate(columns, start=1) if c == column)}"
            for column in twice
        )
        raise InputError(f"{name} must name each column once, it has {places}; rename or delete all but one of them")


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


class _Plain:
    """The rows of a tab-separated file without quoting: (line number, cells), or why there are none."""

    def __init__(self, lines: list[str]):
        self.lines, self.header = lines, lines[0].split("\t")

    def rename(self, called: dict[str, str]) -> None:
        self.header = [rename(column, called) for column in self.header]

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        for number, line in enumerate(self.lines[1:], start=2):
            if line.strip():
                yield number, line.split("\t"), ""


class _Quoted:
    """The rows of a file whose fields may be enclosed in quotes: (line number, cells), or why there are none.

    A quote that begins a field encloses it up to the next quote before a delimiter or the end of a line; the field may
    hold line breaks. Otherwise, and where the lines between would be rows themselves, the quote is a character of the
    text. So a quote that is never closed takes no other row with it.
    """

    def __init__(self, lines: list[str], delimiter: str):
        self.lines, self.delimiter = lines, delimiter
        header = self._strict(lines[0])
        self.header = lines[0].split(delimiter) if header is None else header
        self.rename({})

    def rename(self, called: dict[str, str]) -> None:
        self.header = [rename(column, called) for column in self.header]
        self.path = self.header.index("path") if "path" in self.header else None
        rows = [line.split(self.delimiter) for line in self.lines[1:1000]]
        paths = [row[self.path].strip('"') for row in rows if self.path is not None and len(row) == len(self.header)]
        self.paths_have_suffixes = sum(bool(SUFFIX.search(path)) for path in paths) > len(paths) / 2

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        at = 1
        while at < len(self.lines):
            line, number = self.lines[at], at + 1
            at += 1
            if not line.strip():
                continue
            if '"' not in line:
                yield number, line.split(self.delimiter), ""
                continue
            cells = self._strict(line)
            if cells is None and (end := self._end(at)) is not None:
                cells = self._strict("\n".join(self.lines[at - 1 : end]))
                if cells is not None and len(cells) == len(self.header):
                    at = end
                else:
                    cells = None
            if cells is None:
                cells = self._by_hand(line)
            if cells is None:
                yield number, [], "a quote that begins a cell is not closed, or not at the cell's end"
            else:
                yield number, cells, ""

    def _strict(self, record: str) -> list[str] | None:
        """The cells of a record with well-formed quotes."""
        try:
            rows = list(csv.reader([line + "\n" for line in record.split("\n")], delimiter=self.delimiter, strict=True))
        except csv.Error:
            return None
        return rows[0] if len(rows) == 1 else None

    def _end(self, at: int) -> int | None:
        """Behind the last line of a field that the line before `at` opened; None where no field goes over these lines.

        A line that has as many cells as the header, with a path among them, is a row and no part of a sentence.
        """
        for end in range(at, len(self.lines)):
            line = self.lines[end]
            if self._is_row(line):
                return None
            closing = QUOTED_UP_TO.match(line)
            if closing:
                rest = line[closing.end() :]
                return end + 1 if not rest or rest[0] == self.delimiter else None
        return None

    def _is_row(self, line: str) -> bool:
        cells = line.split(self.delimiter)
        if self.path is None or len(cells) != len(self.header):
            return False
        path = cells[self.path]
        if self.paths_have_suffixes:
            return bool(SUFFIX.search(path))
        return not re.search(r"\s", path) and bool(re.search(r"[\d/\\_]", path))

    def _by_hand(self, line: str) -> list[str] | None:
        """The cells of a line whose quotes are ill-formed: as text, else as lenient readers take them."""
        cells = line.split(self.delimiter)
        if len(cells) == len(self.header):
            return cells
        try:
            (cells,) = csv.reader([line + "\n"], delimiter=self.delimiter)
        except (csv.Error, ValueError):
            return None
        is_open = cells[-1].endswith("\n")  # the line's end became part of the last cell
        return cells if len(cells) == len(self.header) and not is_open else None


def _fit(reader: _Plain | _Quoted, needs: tuple[str, ...], is_odd: bool) -> Table:
    """The rows that fit the header. Empty cells at a line's end are sometimes left out, needed ones excepted.

    is_odd: whether cells may hold what no cell should. Most tables do not, and are read faster without a look at each.
    """
    header, table = reader.header, Table()
    least = 1 + max(header.index(column) for column in needs)
    for number, cells, why in reader:
        if not why and not least <= len(cells) <= len(header):
            why = f"{len(cells)} cells for {len(header)} columns"
        row = dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False))
        if reason := why or (is_odd and _odd_cell(row)) or _wrong_path(row, needs) or _wrong_span(row):
            table.broken.append((number, reason))
        else:
            table.rows.append(row)
    return table


def wrong_row(row: dict[str, str], needs: tuple[str, ...] = ("path", "sentence")) -> str | None:
    """Why a row cannot be used."""
    return _odd_cell(row) or _wrong_path(row, needs) or _wrong_span(row)


def _odd_cell(row: dict[str, str]) -> str | None:
    """Which cell holds what no cell should."""
    for column, cell in row.items():
        if "\0" in cell:
            return f"null character in its {named(column)}"
        if len(cell) > MOST_IN_A_CELL:
            return f"{len(cell)} characters in its {named(column)}, {MOST_IN_A_CELL} are the most"
        if SURROGATES.search(cell):
            return f"half of a character (a lone surrogate) in its {named(column)}"
    return None


def _wrong_path(row: dict[str, str], needs: tuple[str, ...]) -> str | None:
    if "path" in needs:
        if SEPARATORS.search(row["path"]):
            return "tab or line break in its path"
        if not row["path"].strip():
            return "row without a path"
    return None


def _wrong_span(row: dict[str, str]) -> str | None:
    """Why a row with an offset is no segment of its file."""
    if not row.get("offset", "").strip():
        return None
    for column, least in (("offset", 0.0), ("duration", 1e-3)):
        cell = row.get(column, "").strip()
        try:
            seconds = float(cell or least)
        except ValueError:
            seconds = math.nan
        if not least <= seconds <= LONGEST:
            return f"no segment: its {column} must be seconds from {least:g} to {LONGEST}, got {show(cell)}"
    return None


def _parse_jsonl(text: str, name: str, needs: tuple[str, ...], columns: Columns | None) -> Table:
    table = Table()
    found: list[tuple[int, _Pairs]] = []
    keys: set[str] = set()  # there is no header: each row names its own columns
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):  # a deep value exhausts the parser
            pairs = None
        if not isinstance(pairs, _Pairs):
            table.broken.append((number, "not a JSON object"))
            continue
        keys.update(key for key, _ in pairs)
        found.append((number, pairs))
    if not keys:
        return table
    called = renamed(columns, keys, name)
    if columns is None:
        _check_columns(list(keys), name, needs)
    for number, pairs in found:
        row, why = _json_row(_Pairs((rename(key, called), value) for key, value in pairs), needs)
        if why := why or wrong_row(row, needs):
            table.broken.append((number, why))
        else:
            table.rows.append(row)
    table.broken.sort()
    table.audio_column = next((column for column, meant in called.items() if meant == "path"), "path")
    return table


class _Pairs(list):
    """A JSON object with all its keys, those that stand twice too. A JSON list is a plain list."""


def _json_row(pairs: _Pairs, needs: tuple[str, ...]) -> tuple[dict[str, str], str | None]:
    """A row of text, and why it cannot be used. Numbers become text; lists and objects are left out."""
    keys = [key for key, _ in pairs]
    missing = [column for column in needs if column not in keys]
    if missing:
        return {}, f"row without {' and '.join(missing)}"
    if twice := [column for column in READ if keys.count(column) > 1]:
        return {}, f"{' and '.join(twice)} twice in one row"
    row = {}
    for key, value in pairs:
        if key in needs and not isinstance(value, str | None):
            return {}, f"its {key} is no text"
        if not isinstance(value, list):
            row[key] = "" if value is None else str(value)
    return row, None
