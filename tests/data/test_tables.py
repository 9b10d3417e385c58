"""Tables with stray quotes, rows that do not fit, columns and clips that stand twice: no row goes without a word.

Run: pytest tests/data/test_tables.py
"""

import csv
import io
import json
import random
import re

import pytest
from conftest import SAMPLE

from w2v.data.corpus import read_corpus
from w2v.data.manifest import read_manifest
from w2v.data.tables import MOST_IN_A_CELL, parse_table
from w2v.errors import InputError

SENTENCES = [
    line.split("\t")[2].replace(",", "").replace('"', "")
    for line in (SAMPLE / "validated.tsv").read_text(encoding="utf-8").splitlines()[1:31]
]


def rows_of(text: str, name: str = "a.csv") -> list[tuple[str, str]]:
    return [(row["path"], row["sentence"]) for row in parse_table(text.encode(), name).rows]


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("suffix", [".mp3", ""])
@pytest.mark.parametrize(
    "quotes",
    [
        {4: '"'},
        {4: '"', 20: '"'},
        {0: '"'},
        {29: '"'},
        {4: '"', 5: '"', 6: '"'},
        dict.fromkeys(range(30), '"'),
    ],
    ids=["one", "two", "first", "last", "three", "all"],
)
def test_a_quote_that_is_never_closed_is_text(delimiter, suffix, quotes):
    name = "a.csv" if delimiter == "," else "a.tsv"
    wanted = [(f"clip_{i}{suffix}", quotes.get(i, "") + sentence) for i, sentence in enumerate(SENTENCES)]
    text = "".join(f"{path}{delimiter}{sentence}\n" for path, sentence in [("path", "sentence"), *wanted])
    assert rows_of(text, name) == wanted
    header = f'"path"{delimiter}"sentence"\n'  # a .tsv whose header is quoted is read as a quoted table
    assert rows_of(header + text.split("\n", 1)[1], name) == wanted


def test_a_quote_at_both_ends_of_many_rows_takes_none_of_them():
    wanted = [(f"clip_{i}.mp3", sentence) for i, sentence in enumerate(SENTENCES)]
    wanted[4] = (wanted[4][0], '"' + SENTENCES[4])
    wanted[20] = (wanted[20][0], SENTENCES[20] + '"')
    assert rows_of("path,sentence\n" + "".join(f"{path},{sentence}\n" for path, sentence in wanted)) == wanted
    swapped = "sentence,path\n" + "".join(f"{sentence},{path}\n" for path, sentence in wanted)
    assert rows_of(swapped) == wanted


def test_an_open_quote_that_hides_commas_is_named_and_takes_no_other_row():
    table = parse_table(b'path,sentence\na.mp3,"One, two\nb.mp3,Three\nc.mp3,Four\n', "a.csv")
    assert [row["path"] for row in table.rows] == ["b.mp3", "c.mp3"]
    assert table.broken == [(2, "a quote that begins a cell is not closed, or not at the cell's end")]


def test_a_cell_that_is_too_long_is_named(tmp_path):
    lines = [f"clip_{i}.mp3,{sentence}" for i, sentence in enumerate(SENTENCES)]
    lines[4] = 'clip_4.mp3,"' + "x" * 140_000
    (tmp_path / "huge.csv").write_text("path,sentence\n" + "\n".join(lines) + "\n", encoding="utf-8")
    clips, skipped = read_manifest(tmp_path / "huge.csv")
    assert len(clips) == 29
    assert [(s.name, s.reason) for s in skipped] == [
        ("huge.csv:6", f"140001 characters in its sentence, {MOST_IN_A_CELL} are the most")
    ]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_what_a_csv_writer_wrote_is_read_as_it_was(delimiter):
    """Quotes, delimiters and line breaks in sentences, at random; a line of a sentence is not mistaken for a row."""
    rng = random.Random(0)
    for _ in range(300):
        wanted = [
            (f"clips/{i}.mp3", "".join(rng.choices(["a", "bc ", '"', ",", "\n", "d.", " "], k=rng.randint(1, 9))))
            for i in range(8)
        ]
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([("path", "sentence"), *wanted])
        assert rows_of(buffer.getvalue(), "a.csv" if delimiter == "," else "a.tsv") == wanted


def test_lines_of_a_sentence_stay_together():
    text = 'path,sentence\na.mp3,"Merhaba,\nnasılsın, iyi misin? 3.5\nEvet"\nb.mp3,"He" said\nc.mp3,"Hello, he" said\n'
    assert rows_of(text) == [
        ("a.mp3", "Merhaba,\nnasılsın, iyi misin? 3.5\nEvet"),
        ("b.mp3", '"He" said'),
        ("c.mp3", "Hello, he said"),
    ]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("a.csv", "b.mp3", "1 cells for 2 columns"),
        ("a.csv", "b.mp3,x,y", "3 cells for 2 columns"),
        ("a.csv", "b.mp3,x\0y", "null character in its sentence"),
        ("a.csv", 'b.mp3,"x\0y"', "null character in its sentence"),
        ("a.csv", ",x", "row without a path"),
        ("a.tsv", "b.mp3", "1 cells for 2 columns"),
        ("a.tsv", "b.mp3\tx\ty", "3 cells for 2 columns"),
        ("a.tsv", "b\0.mp3\tx", "null character in its path"),
        ("a.tsv", "\tx", "row without a path"),
        ("a.tsv", "b\r.mp3\tx", "tab or line break in its path"),
        ("a.tsv", "b\u2028.mp3\tx", "tab or line break in its path"),
        ("a.tsv", "b.mp3\t" + "x" * 140_000, "140000 characters in its sentence, 131072 are the most"),
        ("a.jsonl", "[" * 100_000, "not a JSON object"),
        ("a.jsonl", '{"a":' * 100_000, "not a JSON object"),
        ("a.jsonl", "[]", "not a JSON object"),
        ("a.jsonl", "3", "not a JSON object"),
        ("a.jsonl", "1" * 10_000, "not a JSON object"),
        ("a.jsonl", '{"path": 3, "sentence": "x"}', "its path is no text"),
        ("a.jsonl", '{"path": "b", "sentence": ["x"]}', "its sentence is no text"),
        ("a.jsonl", '{"path": "b", "sentence": {"x": 1}}', "its sentence is no text"),
        ("a.jsonl", '{"path": null, "sentence": "x"}', "row without a path"),
        ("a.jsonl", '{"path": "b", "sentence": "x", "sentence": "y"}', "sentence twice in one row"),
        ("a.jsonl", '{"path": "b", "sentence": "\\ud800"}', "half of a character (a lone surrogate) in its sentence"),
        ("a.jsonl", '{"path": "b\\udcff", "sentence": ""}', "half of a character (a lone surrogate) in its path"),
        ("a.jsonl", '{"path": "b\\u0000", "sentence": ""}', "null character in its path"),
    ],
)
def test_rows_that_do_not_fit_are_named_by_line_and_refused_alone(name, row, reason):
    header, good = {
        "a.csv": ("path,sentence\n", "a.mp3,Bir\n"),
        "a.tsv": ("path\tsentence\n", "a.mp3\tBir\n"),
        "a.jsonl": ("", '{"path": "a.mp3", "sentence": "Bir", "words": [1, {"a": 2}], "words": 3, "duration": 1.5}\n'),
    }[name]
    first = 1 + bool(header)
    table = parse_table((header + good + row + "\n" + good).encode(), name)
    assert [row["path"] for row in table.rows] == ["a.mp3", "a.mp3"]
    assert table.broken == [(first + 1, reason)]
    alone = parse_table((header + row + "\n").encode(), name)
    with pytest.raises(InputError, match=rf"^{name} must hold rows that fit .* its 1 does \(line {first}: "):
        alone.check(name)


def test_rows_without_their_last_cells_are_whole_where_nothing_needed_is_left_out():
    table = parse_table(b"path\tsentence\tage\tlocale\na.mp3\tBir\nb.mp3\n", "a.tsv")
    assert table.rows == [{"path": "a.mp3", "sentence": "Bir", "age": "", "locale": ""}]
    assert table.broken == [(3, "1 cells for 4 columns")]


def test_a_table_without_one_good_row_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("path,sentence\na.mp3\nb.mp3\n")
    with pytest.raises(InputError, match=r"^m.csv must hold rows .* none of its 2 does \(line 2: 1 cells for 2 col"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "train.tsv").write_text("path\tsentence\na.mp3\n")
    with pytest.raises(InputError, match=r"^train.tsv must hold rows"):
        read_corpus([tmp_path], "tr", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("a.tsv", "path\tsentence\tsentence", "it has sentence in columns 2 and 3; rename"),
        ("a.csv", "path,sentence,path", "it has path in columns 1 and 3; rename"),
        ("a.csv", '"path",sentence,"sentence",path', "path in columns 1 and 4; sentence in columns 2 and 3"),
        ("a.tsv", "path\tsentence\tclient_id\tclient_id", "it has client_id in columns 3 and 4"),
    ],
)
def test_columns_that_stand_twice_are_refused(name, header, words):
    with pytest.raises(InputError, match=re.escape(words)):
        parse_table((header + "\n").encode(), name)
    assert parse_table(b"path\tsentence\tage\tage\na\tb\tc\td\n", "a.tsv").rows, "nobody reads age"


def test_headers_that_are_no_text_are_refused():
    with pytest.raises(InputError, match=r"must be UTF-8 text, its header holds null characters"):
        parse_table("path\tsentence\n".encode("utf-16-le"), "a.tsv")
    with pytest.raises(InputError, match=r"path, sentence not found among none"):
        parse_table(b"", "a.csv")


def test_a_clip_listed_again_is_used_once_and_said(tmp_path):
    table = tmp_path / "m.tsv"
    table.write_text("path\tsentence\na.wav\tBir\nb.wav\tBir\na.wav\tBir\na.wav\tBir\nb.wav\tİki\n", encoding="utf-8")
    corpus = read_corpus([table], "tr", tmp_path / "cache")
    assert [(clip.name, clip.sentence) for clip in corpus.tables["validated"]] == [("a.wav", "Bir"), ("b.wav", "Bir")]
    assert "2 rows of m.tsv list a clip again; each clip is used once" in corpus.notes
    assert "1 rows of m.tsv list a clip with another sentence; the first is used: b.wav" in corpus.notes
    assert [(skip.name, skip.reason) for skip in corpus.skipped] == [
        ("b.wav", "listed before with another sentence: 'Bir', now 'İki'")
    ]
    twice = read_corpus([table, table], "tr", tmp_path / "cache")
    assert len(twice.tables["validated"]) == 2
    assert "2 rows of validated list a clip again; each clip is used once" in twice.notes


def test_a_release_that_lists_a_clip_again(tmp_path):
    lines = ["path\tsentence", "a.mp3\tBir", "a.mp3\tBir", "a.mp3\tİki"]
    for name in ("train", "other"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    corpus = read_corpus([tmp_path], "tr", tmp_path / "cache")
    assert {name: len(clips) for name, clips in corpus.tables.items()} == {"train": 1, "other": 1}
    assert [(skip.name, skip.split) for skip in corpus.skipped] == [("a.mp3", "train")], "nobody uses `other`"
    assert sum("of train list" in note for note in corpus.notes) == 2


@pytest.mark.parametrize("said", ["nan", "inf", "-1", "1e999", "1e300", "abc", ""])
def test_lengths_that_no_clip_has_are_unknown(tmp_path, said):
    (tmp_path / "m.csv").write_text(f"path,sentence,duration\na.wav,Bir,{said}\nb.wav,Bir,2.5\n")
    assert [clip.seconds for clip in read_manifest(tmp_path / "m.csv")[0]] == [None, 2.5]
    (tmp_path / "train.tsv").write_text("path\tsentence\na.mp3\tBir\nb.mp3\tBir\n")
    (tmp_path / "clip_durations.tsv").write_text(f"clip\tduration[ms]\na.mp3\t{said}\nb.mp3\t2500\n")
    clips = read_corpus([tmp_path], "tr", tmp_path / "cache").tables["train"]
    assert [clip.seconds for clip in clips] == [None, 2.5]


def test_any_text_is_rows_and_named_lines_in_little_time():
    """No exception but InputError, and each line of the file is part of a row, or named, or blank."""
    rng = random.Random(0)
    pieces = ["a.mp3", ",", "\t", '"', '""', "\n", "\r", "x y", "\0", "{", "}", '"path": ', "3", "\u2028", "ş"]
    for number in range(3000):
        name = ("a.csv", "a.tsv", "a.jsonl")[number % 3]
        header = {"a.csv": "path,sentence\n", "a.tsv": '"path"\t"sentence"\n', "a.jsonl": ""}[name]
        text = header + "".join(rng.choices(pieces, k=rng.randint(1, 40)))
        try:
            table = parse_table(text.encode(), name)
        except InputError:
            continue
        assert all(row["path"] for row in table.rows), text
        lines = text.replace("\r\n", "\n").split("\n")[bool(header) :]
        blank = sum(not line.strip() for line in lines)
        inside = sum(cell.count("\n") for row in table.rows for cell in row.values())
        if all(why.endswith("columns") or why.startswith("a quote") for _, why in table.broken):  # of one line each
            assert len(table.rows) + len(table.broken) + inside + blank >= len(lines), text


def test_a_big_table_of_open_quotes_takes_little_time():
    text = "path,sentence\n" + 'x,"\n' * 100_000 + '"a""\n' * 100_000
    table = parse_table(text.encode(), "a.csv")
    assert len(table.rows) + len(table.broken) > 100_000
    assert json.dumps(table.broken[:1])


@pytest.mark.parametrize("odd", ["\r", "\x1b[31m", "\u202e", "\u2028"])
def test_a_column_with_control_characters_is_shown_without_them(odd):
    with pytest.raises(InputError, match="path not found among") as caught:
        parse_table(f"pa{odd}th\tsentence\na.mp3\tHello.\n".encode(), "a.tsv")
    assert str(caught.value).isprintable()


def test_a_column_s_name_is_shown_as_one_printable_line():
    row = '{"path": "a.wav", "sentence": "bir", "a\\nb": "\\u0000"}'
    table = parse_table(row.encode(), "a.jsonl")
    assert table.broken == [(1, "null character in its 'a\\nb'")]
