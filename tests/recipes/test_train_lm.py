"""Language models as a command: what of which text is counted, what is left out and said, refusals.

Run: pytest tests/recipes/test_train_lm.py
"""

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes import console, train_lm
from w2v.decoding.arpa import read_arpa
from w2v.decoding.ngram import SPECIAL
from w2v.decoding.ngram_file import load_ngram
from w2v.errors import InputError
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer

TEXT = "Bir iki üç.\nİki üç dört!\nBir, iki.\n"
TABLES = {
    "train": ["Deniz mavi.", "deniz MAVİ", "Gök de mavi.", "Bugün hava güzel."],
    "dev": ["Bugün hava güzel!"],
    "test": ["Yarın yağmur var."],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMMON_VOICE_ROOT", raising=False)


@pytest.fixture
def data(tmp_path) -> Path:
    """A release whose audio nobody opens."""
    (tmp_path / "tr" / "clips").mkdir(parents=True)
    for table, sentences in TABLES.items():
        rows = [f"{table}{i}\t{table}{i}.mp3\t{sentence}\n" for i, sentence in enumerate(sentences)]
        (tmp_path / "tr" / f"{table}.tsv").write_text("client_id\tpath\tsentence\n" + "".join(rows), encoding="utf-8")
        for i in range(len(sentences)):
            (tmp_path / "tr" / "clips" / f"{table}{i}.mp3").touch()
    return tmp_path / "tr"


def run_of(folder: Path, letters: str, data: Path | None = None, lang: str = "tr") -> Path:
    """What train_lm reads of a run."""
    CharTokenizer({token: i for i, token in enumerate([*letters, "|", "[UNK]", "[PAD]"])}).save_pretrained(folder)
    Normaliser(lang).save(folder)
    if data is not None:
        record = {"data_fingerprint": "", "arguments": {"data": [str(data)]}}
        (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def train(tmp_path):
    """train("a sentence", ...) -> the summary and the model; a bytes or str before the flags is the text."""

    def call(text: str | bytes, *flags: str, lang: str | None = "tr", out: str = "lm.arpa"):
        (tmp_path / "text.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        words = ["--text", str(tmp_path / "text.txt")] if text else []
        words += ["--lang", lang] if lang else []
        summary = train_lm.main([*words, "--out", str(tmp_path / out), *flags])
        return summary, load_ngram(tmp_path / out)[0]

    return call


def words_of(lm) -> set[str]:
    return set(lm.words) - set(SPECIAL)


def test_the_three_forms_hold_one_model(train, tmp_path):
    summary, lm = train(TEXT, "--order", "3")
    assert summary["sentences"] == 3 and summary["words"] == 8 and summary["order"] == 3
    assert summary["ngrams"] == list(lm.counts) and lm.counts[0] == 3 + 4
    assert words_of(lm) == {"bir", "iki", "üç", "dört"}
    asked = [["bir", "iki"], ["dört", "yedi"]]
    for out in ("deep/lm.arpa.gz", "lm.safetensors"):
        _, other = train(TEXT, "--order", "3", out=out)
        assert other.score(asked) == pytest.approx(lm.score(asked), abs=1e-6)
    assert gzip.decompress((tmp_path / "deep" / "lm.arpa.gz").read_bytes()) == (tmp_path / "lm.arpa").read_bytes()
    assert read_arpa(tmp_path / "lm.arpa")[1] == []  # nothing to mend


def test_a_small_text_takes_the_fallback_and_says_so(train, capsys):
    summary, _ = train(TEXT, "--order", "2")
    assert summary["fallback_orders"] == [2]
    assert summary["discounts"] == [[0.6, 0.2, 3.0], [0.5, 1.0, 1.5]]
    assert "2-grams: 8; discounts 0.500 1.000 1.500, the fallback" in capsys.readouterr().err


def test_sentences_of_dev_and_test_are_left_out_and_counted(train, data):
    text = "Yarın yağmur var\nBUGÜN hava, güzel\nYarın hava var\n"
    summary, lm = train(text, "--data", str(data))
    assert (summary["sentences"], summary["left_out"]) == (1, 2)
    assert words_of(lm) == {"yarın", "hava", "var"}
    assert train(text)[0]["left_out"] == 0


def test_data_that_is_only_added_brings_the_embedded_sample(train, data, capsys):
    train(TEXT, "--extra-data", str(data))
    assert "left out: nothing" not in capsys.readouterr().err
    train(TEXT)
    assert "left out: nothing" in capsys.readouterr().err


def test_training_sentences_count_once_and_without_those_of_dev(train, data):
    summary, lm = train("", "--from-data", "--data", str(data))
    assert (summary["sentences"], summary["left_out"]) == (2, 1)
    assert words_of(lm) == {"deniz", "mavi", "gök", "de"}
    summary, lm = train("Yeni söz.\n", "--from-data", "--data", str(data))
    assert summary["sentences"] == 3 and {"yeni", "deniz"} < words_of(lm)


def test_the_embedded_sample_stands_in(train):
    summary, _ = train("", "--from-data", "--order", "2")
    assert summary["sentences"] == 79 and summary["order"] == 2  # of 80 clips


def test_further_files_are_left_out(train, tmp_path):
    (tmp_path / "a.txt").write_text("BİR, İKİ ÜÇ\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("bir iki\n", encoding="utf-8")
    flags = ["--leave-out", str(tmp_path / "a.txt"), "--leave-out", str(tmp_path / "b.txt")]
    assert train(TEXT, *flags)[0]["left_out"] == 2


def test_a_run_gives_its_rules_its_data_and_its_letters(train, data, tmp_path, capsys):
    run = run_of(tmp_path / "run", "abcdefghijklmnoprstuvyzçöüğış", data)
    summary, lm = train("Yarın yağmur var.\nQuito'da Qatar var.\nIsı\n", "--model", str(run), lang=None)
    assert (summary["sentences"], summary["left_out"], summary["unspellable_words"]) == (2, 1, 2)
    assert words_of(lm) == {"quito'da", "qatar", "var", "ısı"}
    said = capsys.readouterr().err
    assert "never write 2 of 4 different words, it lacks 'q' (in 2 words), \"'\" (in 1 words)" in said
    assert "WARNING" not in said
    train("Quito\niki\n", "--model", str(run), "--data", str(data), lang="az")
    assert "WARNING: the model's normaliser.json is of tr, --lang is az" in capsys.readouterr().err


def test_a_text_that_the_model_cannot_write_is_refused(train, tmp_path):
    run = run_of(tmp_path / "run", "абвг")
    with pytest.raises(InputError, match=r"must spell words of the text, it lacks 'i' .* give text"):
        train("bir iki\n", "--model", str(run), lang=None)


def test_a_model_of_capitals_gets_capitals(train, tmp_path):
    run = run_of(tmp_path / "run", "BRIİKÜÇDÖT")
    summary, lm = train("bir iki kır\n", "--model", str(run), lang=None)
    assert words_of(lm) == {"BİR", "İKİ", "KIR"} and summary["unspellable_words"] == 0


def test_characters_where_there_are_no_spaces_and_where_they_are_asked_for(train):
    assert words_of(train("你好。\n好 你\n", lang="zh-CN")[1]) == {"你", "好", "|"}
    summary, lm = train("ab a\n", "--characters")
    assert words_of(lm) == {"a", "b", "|"} and summary["words"] == 4


def test_units_of_several_characters_are_the_vocabulary_s(train, tmp_path):
    run = run_of(tmp_path / "run", "abc")
    CharTokenizer({token: i for i, token in enumerate(["ab", "c", "|", "[UNK]", "[PAD]"])}).save_pretrained(run)
    assert words_of(train("abc c\n", "--model", str(run), "--characters", lang=None)[1]) == {"ab", "c", "|"}


def test_a_weight_counts_sentences_so_many_times_and_every_text_flag_counts(train, tmp_path):
    (tmp_path / "a.txt").write_text("bir iki\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("bir iki\n" * 3, encoding="utf-8")
    (tmp_path / "c=2").write_text("bir iki\n" * 3, encoding="utf-8")  # a name, no weight
    scores = []
    for more in (f"{tmp_path / 'a.txt'}=3", str(tmp_path / "b.txt"), str(tmp_path / "c=2")):
        scores.append(train(TEXT, "--text", more)[1].score([["bir", "iki"], ["dört"]]))
    assert scores[0] == scores[1] == scores[2] != train(TEXT)[1].score([["bir", "iki"], ["dört"]])


@pytest.mark.parametrize(
    "text",
    [
        b"bir iki\r\n\r\n  \r\niki\r\n",
        b"\xef\xbb\xbfBir iki.\n\n...\niki",
        gzip.compress(b"bir iki\n\n\niki\n"),
    ],
    ids=["windows", "byte order mark", "gz"],
)
def test_ways_to_write_lines(train, tmp_path, text):
    name = tmp_path / "t.TXT.gz" if text[:2] == b"\x1f\x8b" else tmp_path / "t.txt"
    name.write_bytes(text)
    summary, lm = train("", "--text", str(name))
    assert (summary["sentences"], summary["without_text"]) == (2, 2)
    assert words_of(lm) == {"bir", "iki"}


def test_text_from_stdin(train, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    assert train("", "--text=-=2")[0]["sentences"] == 3
    assert "\nstdin: 3 sentences, each 2 times; 0 held-out" in capsys.readouterr().err


def test_the_last_line_says_what_to_do_with_the_file_and_characters_are_no_words(train, tmp_path, capsys):
    train(TEXT, "--characters", "--order", "2")
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"recipes.transcribe --lm {tmp_path / 'lm.arpa'} uses it; ")
    assert [line for line in said if line.startswith("estimating order 2 from ") and " characters of 3 " in line]
    assert [line for line in said if line.startswith("1-grams: ") and line.endswith(": there are few characters")]


def test_sentences_with_the_models_own_words_are_left_out(train):
    summary, _ = train("<s> bir\niki\n", "--keep-chars", "<>")
    assert (summary["sentences"], summary["with_special_words"]) == (1, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needs text, give --text FILE or --from-data"),
        (["--text", "none.txt"], "cannot read the text none.txt: No such file"),
        (["--text", "."], "cannot read the text .: Is a directory"),
        (["--text", "good.txt", "none.txt"], "cannot read the text none.txt"),
        (["--text", "good.txt", "--leave-out", "none.txt"], "cannot read the text none.txt"),
        (["--text", "empty.txt"], "must hold sentences, none is left of 0"),
        (["--text", "dots.txt"], "must hold sentences, none is left of 2"),
        (["--text", "latin.txt"], "latin.txt must be UTF-8, something after line 0 is not"),
        (["--text", "cut.gz"], "cut.gz is cut short or damaged"),
        (["--text", "good.gz"], "cannot read the text good.gz: Not a gzipped file"),
        (["--text", "-", "-"], "name stdin, -, once"),
        (["--text", "good.txt=0"], "a weight must be a whole number from 1"),
        (["--text", "good.txt=1.5"], "a weight must be a whole number from 1"),
        (["--text", "good.txt", "--order", "11"], "`order` must be from 1 to 10, got 11"),
        (["--text", "good.txt", "--prune", "0", "2", "1"], "`prune` must begin with 0.* must not fall"),
        (["--text", "good.txt", "--out", "lm.bin"], "--out must end in .arpa, .arpa.gz or .safetensors"),
        (["--text", "good.txt", "--out", "folder.arpa"], "--out must name a file"),
        (["--text", "good.txt", "--model", "nowhere"], "vocab.json"),
        (["--text", "good.txt", "--data", "nowhere"], "cannot read the data nowhere"),
    ],
)
def test_refusals_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.arpa").mkdir()
    packed = gzip.compress(TEXT.encode() * 100)
    for name, content in {"good.txt": TEXT.encode(), "empty.txt": b"", "dots.txt": b"...\n!\n", "latin.txt": b"\xfc\n",
                          "cut.gz": packed[:40], "good.gz": TEXT.encode()}.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as refused:
        train_lm.main(["--lang", "tr", "--out", "lm.arpa", *flags])
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("flags", [["--order", "11"], ["--prune", "1"], ["--text", "none.txt"]])
def test_flags_are_checked_before_any_text_is_read(train, monkeypatch, flags):
    def fail(name):
        raise AssertionError("the text is read")

    monkeypatch.setattr(train_lm, "lines_of", fail)
    with pytest.raises(InputError):
        train(TEXT, *flags)


def test_the_language_is_needed(train):
    with pytest.raises(InputError, match="--lang is needed"):
        train(TEXT, lang=None)


def test_exit_codes(tmp_path, capsys):
    console.run(lambda: {"a": 1})
    with pytest.raises(SystemExit) as stopped:
        console.run(lambda: train_lm.main(["--lang", "tr", "--out", str(tmp_path / "lm.arpa")]))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
