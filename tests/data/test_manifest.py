"""Tables: quoting, columns, damage.

Run: pytest tests/data/test_manifest.py
"""

import csv
import io

import pytest
from conftest import SAMPLE, SHARED

from w2v.data.manifest import read_manifest
from w2v.data.tables import is_quoted, parse_table
from w2v.errors import InputError

SENTENCES = ['"Merhaba" dedi.', 'Bir " tek.', '"Tam."', "Düz.", "Satır\u2028içi\x85.", '""']


def plain(sentences) -> str:
    return "path\tsentence\n" + "".join(f"{i}.mp3\t{s}\n" for i, s in enumerate(sentences))


def quoted(sentences) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerows([("path", "sentence"), *((f"{i}.mp3", s) for i, s in enumerate(sentences))])
    return buffer.getvalue()


@pytest.mark.parametrize("write", [plain, quoted])
def test_official_and_csv_files_read_alike(write):
    """Lone, leading and enclosing quotes survive both ways of writing; odd line separators end no row."""
    text = write(SENTENCES)
    assert is_quoted(text) is (write is quoted)
    assert [row["sentence"] for row in parse_table(text.encode(), "a.tsv").rows] == SENTENCES


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_kind_of_sentence_decides_alone_or_does_no_harm(sentence):
    assert parse_table(plain([sentence]).encode(), "a.tsv").rows[0]["sentence"] == sentence


def test_quote_all_files_with_byte_order_mark_and_crlf():
    text = '\ufeff"path"\t"sentence"\r\n"0.mp3"\t"Merhaba."\r\n'
    assert parse_table(text.encode(), "a.tsv").rows == [{"path": "0.mp3", "sentence": "Merhaba."}]


def test_real_files():
    assert len(parse_table((SAMPLE / "validated.tsv").read_bytes(), "a.tsv").rows) == 100
    for file in SHARED.glob("data/cv6/*/validated.tsv"):
        with open(file, encoding="utf-8", newline="") as rows:
            wanted = [row["sentence"] for row in csv.DictReader(rows, delimiter="\t")]
        assert [row["sentence"] for row in parse_table(file.read_bytes(), "a.tsv").rows] == wanted, file
    official = SHARED / "data" / "cv_twi" / "validated.tsv"
    if official.is_file():
        assert not is_quoted(official.read_text(encoding="utf-8"))
        assert len(parse_table(official.read_bytes(), "a.tsv").rows) == 225


def test_broken_rows_are_named_not_lost():
    table = parse_table(b"path\tsentence\na.mp3\tx\ty\tz\nb.mp3\tok\nc.mp3\n", "a.tsv")
    assert [row["path"] for row in table.rows] == ["b.mp3"]
    assert table.broken == [(2, "4 cells for 2 columns"), (4, "1 cells for 2 columns")]
    table = parse_table(b'{"path": "a", "sentence": "b"}\nnot json\n', "a.jsonl")
    assert len(table.rows) == 1
    assert table.broken == [(2, "not a JSON object")]


def test_json_rows_without_a_column_are_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"path": "a", "sentence": "b"}\n{"path": "c"}\n\n{"sentence": "d"}\n{"x": 1}\n')
    clips, skipped = read_manifest(file)
    assert [clip.name for clip in clips] == ["a"]
    assert [(s.name, s.reason) for s in skipped] == [
        ("a.jsonl:2", "row without sentence"),
        ("a.jsonl:4", "row without path"),
        ("a.jsonl:5", "row without path and sentence"),
    ]
    file.write_text('{"path": "c"}\n{"path": "a", "sentence": "b"}\n')
    assert [clip.name for clip in read_manifest(file)[0]] == ["a"], "the first row is no header"


def test_names_that_would_break_a_line_of_the_index_are_refused():
    for name, data in (
        ("a.csv", b'path,sentence\n"a\tb.mp3",x\n"a\nb.mp3",x\nc.mp3,x\n'),
        (
            "a.jsonl",
            b'{"path": "a\\tb", "sentence": ""}\n{"path": "\\n", "sentence": ""}\n{"path": "3", "sentence": ""}\n',
        ),
    ):
        table = parse_table(data, name)
        assert len(table.rows) == 1
        assert [why for _, why in table.broken] == ["tab or line break in its path"] * 2


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_missing_columns_are_named(name):
    data = {"a.tsv": b"path\ttext\na\tb\n", "a.csv": b"path,text\na,b\n", "a.jsonl": b'{"path": "a", "text": "b"}\n'}
    with pytest.raises(InputError, match="sentence not found"):
        parse_table(data[name], name)


def test_not_text_and_missing(tmp_path):
    with pytest.raises(InputError, match="UTF-8"):
        parse_table(b"path\tsentence\n\xff\xfe\tx\n", "a.tsv")
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(tmp_path / "no.tsv")


@pytest.mark.parametrize("below", ["", "clips"])
def test_manifest_paths_are_relative_to_the_table(tmp_path, below):
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / "a.wav").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("path,sentence,speaker,duration\na.wav,Merhaba.,s1,1.5\n,lost,,\n")
    clips, skipped = read_manifest(tmp_path / "m.csv")
    assert clips[0].source.file(clips[0].name) == (tmp_path / below / "a.wav").resolve()
    assert (clips[0].speaker, clips[0].seconds) == ("s1", 1.5)
    assert len(skipped) == 1
