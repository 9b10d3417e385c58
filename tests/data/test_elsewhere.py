"""Data sets from elsewhere: AudioFolder, NeMo manifests, Kaldi folders, parquet files, data sets of the Hub.

Run: pytest tests/data/test_elsewhere.py
"""

import csv
import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SAMPLE

from recipes import cv_prepare
from recipes.console import with_flags
from w2v.audio import SAMPLE_RATE, read_audio
from w2v.data.columns import Columns
from w2v.data.corpus import Corpus, read_corpus, read_extra
from w2v.data.manifest import Clip, read_manifest
from w2v.data.splits import leak_report, make_splits
from w2v.data.store import build_store
from w2v.errors import InputError

with open(SAMPLE / "validated.tsv", encoding="utf-8", newline="") as lines:
    ROWS = list(csv.DictReader(lines, delimiter="\t"))
ROWS = sorted(ROWS, key=lambda row: (SAMPLE / "clips" / row["path"]).stat().st_size)[:12]  # the shortest clips
SPLIT_FOLDERS = {"train": range(6), "validation": range(6, 9), "test": range(9, 12)}


def sample(i: int) -> Path:
    return SAMPLE / "clips" / ROWS[i]["path"]


@functools.cache
def decoded(i: int) -> np.ndarray:
    return read_audio(sample(i))


def read(path, columns: Columns | None = None, **options) -> Corpus:
    return read_corpus([path], "tr", Path("unused"), columns, **options)


def counts(corpus: Corpus) -> dict[str, int]:
    return {name: len(clips) for name, clips in corpus.tables.items()}


def check_whole(corpus: Corpus, cache: Path) -> None:
    """Twelve clips in train, dev and test, each with its sentence and its samples."""
    assert counts(corpus) == {"train": 6, "dev": 3, "test": 3}
    assert not corpus.skipped
    clips = [clip for table in corpus.tables.values() for clip in table]
    check_audio(clips, cache)
    leak_report(make_splits(corpus.tables, ["train"], "dev", "test", str), str)


def check_audio(clips: list[Clip], cache: Path) -> None:
    audio = build_store(clips, cache, 2)
    assert not audio.skipped
    by_sentence = {row["sentence"]: i for i, row in enumerate(ROWS)}
    assert len({clip.sentence for clip in clips}) == len(clips)
    for clip in clips:
        wanted = decoded(by_sentence[clip.sentence])
        np.testing.assert_allclose(audio[clip] / 32767, wanted / max(1, np.abs(wanted).max()), atol=1 / 32767)


def write_csv(file: Path, header: list[str], rows: list) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return file


def write_jsonl(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


# AudioFolder


@pytest.fixture
def audio_folder(tmp_path) -> Path:
    """Each split numbers its files from 0, and each has a metadata file of another kind."""
    root = tmp_path / "folder"
    for split, numbers in SPLIT_FOLDERS.items():
        (root / split / "audio").mkdir(parents=True)
        rows = [{"file_name": f"audio/{n}.mp3", "transcription": ROWS[i]["sentence"]} for n, i in enumerate(numbers)]
        for row, i in zip(rows, numbers, strict=True):
            shutil.copy(sample(i), root / split / row["file_name"])
        if split == "train":
            write_jsonl(root / split / "metadata.jsonl", rows)
        else:
            write_csv(root / split / "metadata.csv", list(rows[0]), [list(row.values()) for row in rows])
    return root


@pytest.mark.parametrize("place", [".", "data", "tr"])
def test_audio_folder(audio_folder, tmp_path, place):
    if place != ".":
        audio_folder = audio_folder.rename(tmp_path / place).parent
    check_whole(read(audio_folder), tmp_path / "cache")


def test_audio_folder_of_one_table(audio_folder, tmp_path):
    for file in audio_folder.glob("*/metadata.*"):
        file.unlink()
    rows = [
        [f"{split}/audio/{n}.mp3", ROWS[i]["sentence"]]
        for split, numbers in SPLIT_FOLDERS.items()
        for n, i in enumerate(numbers)
    ]
    write_csv(audio_folder / "metadata.csv", ["file_name", "text"], rows)
    check_whole(read(audio_folder), tmp_path / "cache")
    (audio_folder / "0.mp3").write_bytes(sample(0).read_bytes())
    write_csv(audio_folder / "metadata.csv", ["file_name", "text"], [*rows, ["0.mp3", "Bir."]])
    assert counts(read(audio_folder)) == {"validated": 13}


def test_audio_folder_with_parquet_metadata(audio_folder, tmp_path):
    rows = [json.loads(line) for line in (audio_folder / "train" / "metadata.jsonl").read_text().splitlines()]
    (audio_folder / "train" / "metadata.jsonl").unlink()
    write_parquet(audio_folder / "train" / "metadata.parquet", rows)
    check_whole(read(audio_folder), tmp_path / "cache")


def test_audio_folder_may_not_leave_itself(audio_folder):
    for path in ("/etc/passwd", "../../x.mp3", "audio/../../x.mp3", "C:\\x.mp3", "..\\x.mp3"):
        write_csv(audio_folder / "test" / "metadata.csv", ["file_name", "text"], [[path, "Bir."]])
        with pytest.raises(InputError, match=r"test/metadata\.csv must name files inside its folder, got '"):
            read(audio_folder)


def test_two_tables_of_one_split_are_refused(audio_folder):
    write_csv(audio_folder / "train" / "metadata.csv", ["file_name", "text"], [])
    with pytest.raises(InputError, match=r"it holds train/metadata\.csv, train/metadata\.jsonl; delete one"):
        read(audio_folder)
    (audio_folder / "train" / "metadata.csv").unlink()
    write_csv(audio_folder / "dev" / "metadata.csv", ["file_name", "text"], [])
    with pytest.raises(InputError, match=r"it holds dev/metadata\.csv, validation/metadata\.csv; delete one"):
        read(audio_folder)


# NeMo


def nemo_rows(folder: Path, numbers) -> list[dict]:
    for i in numbers:
        shutil.copy(sample(i), folder / f"{i}.mp3")
    seconds = {i: len(decoded(i)) / SAMPLE_RATE for i in numbers}
    return [
        {"audio_filepath": f"{i}.mp3", "duration": round(seconds[i], 2), "text": ROWS[i]["sentence"]} for i in numbers
    ]


def test_nemo_manifests_of_whole_files(tmp_path):
    for split, numbers in SPLIT_FOLDERS.items():
        write_jsonl(tmp_path / f"{split}.jsonl", nemo_rows(tmp_path, numbers))
    corpus = read(tmp_path)
    check_whole(corpus, tmp_path / "cache")
    assert {clip.name for clip in corpus.tables["test"]} == {"9.mp3", "10.mp3", "11.mp3"}
    alone = write_jsonl(tmp_path / "manifest.json", nemo_rows(tmp_path, range(12)))
    assert counts(read(alone)) == {"validated": 12}


@pytest.fixture
def long_file(tmp_path) -> list[tuple[int, float, float]]:
    """Six clips end to end in long.wav: number, start and length of each."""
    spans, parts, at = [], [], 0
    for i in range(6):
        waveform = decoded(i)
        spans.append((i, at / SAMPLE_RATE, len(waveform) / SAMPLE_RATE))
        parts.append(waveform)
        at += len(waveform)
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), SAMPLE_RATE, "FLOAT")
    return spans


def test_nemo_segments(tmp_path, long_file):
    rows = [
        {"audio_filepath": "long.wav", "offset": start, "duration": seconds, "text": ROWS[i]["sentence"]}
        for i, start, seconds in long_file
    ]
    del rows[0]["offset"], rows[-1]["duration"]
    clips, skipped = read_manifest(write_jsonl(tmp_path / "m.jsonl", rows))
    assert not skipped
    assert clips[0].name == f"long.wav#0.000-{long_file[0][2]:.3f}"
    assert clips[-1].name == f"long.wav#{long_file[-1][1]:.3f}-"
    check_audio(clips, tmp_path / "cache")


def test_a_duration_shorter_than_the_file_is_a_segment_of_a_nemo_manifest_alone(tmp_path, long_file):
    _, _, seconds = long_file[0]
    row = {"audio_filepath": "long.wav", "duration": seconds, "text": ROWS[0]["sentence"]}
    clips, _ = read_manifest(write_jsonl(tmp_path / "m.jsonl", [row]))
    assert clips[0].name == "long.wav"
    check_audio(clips, tmp_path / "cache")
    table = write_csv(tmp_path / "m.csv", ["path", "sentence", "duration"], [["long.wav", "Bir.", seconds]])
    clips, _ = read_manifest(table)
    total = sum(seconds for _, _, seconds in long_file)
    assert build_store(clips, tmp_path / "cache", 1).seconds(clips[0]) == pytest.approx(total)


@pytest.mark.parametrize(
    "offset, duration, why",
    [
        ("nan", 1, r"offset must be seconds from 0 to 86400, got 'nan'"),
        (float("nan"), 1, r"offset must be seconds from 0 to 86400, got 'nan'"),
        (-1, 1, r"offset must be seconds from 0 to 86400, got '-1'"),
        (1e9, 1, r"offset must be seconds"),
        ("one", 1, r"offset must be seconds"),
        (True, 1, r"offset must be seconds"),
        (1, 0, r"duration must be seconds from 0\.001 to 86400, got '0'"),
        (1, -2, r"duration must be seconds"),
        (1, "Infinity", r"duration must be seconds"),
    ],
)
def test_rows_whose_span_means_nothing_are_named(tmp_path, offset, duration, why):
    bad = {"audio_filepath": "a.wav", "offset": offset, "duration": duration, "text": "x"}
    good = {"audio_filepath": "a.wav", "offset": 0, "duration": 1, "text": "x"}
    clips, skipped = read_manifest(write_jsonl(tmp_path / "m.jsonl", [bad, good]))
    assert len(clips) == 1
    assert [skip.name for skip in skipped] == ["m.jsonl:1"]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(skipped[0].reason)


# Kaldi


def write_kaldi(folder: Path, **files: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name.replace("wav", "wav.scp")).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("is_absolute", [True, False])
def test_kaldi_folders(tmp_path, is_absolute):
    """Relative paths are relative to the folder in which a recipe runs, two above its data/train."""
    (tmp_path / "egs" / "audio").mkdir(parents=True)
    for i in range(12):
        shutil.copy(sample(i), tmp_path / "egs" / "audio" / f"{i} a.mp3")
    base = f"{tmp_path}/egs/" if is_absolute else ""
    for split, numbers in {"train": range(6), "dev": range(6, 9), "test": range(9, 12)}.items():
        write_kaldi(
            tmp_path / "egs" / "data" / split,
            wav=[f"utt{i} {base}audio/{i} a.mp3" for i in numbers],
            text=[f"utt{i} {ROWS[i]['sentence']}" for i in numbers],
            utt2spk=[f"utt{i} speaker{i}" for i in numbers],
        )
    corpus = read(tmp_path / "egs" / "data")
    check_whole(corpus, tmp_path / "cache")
    assert [clip.speaker for clip in corpus.tables["test"]] == ["speaker9", "speaker10", "speaker11"]
    assert counts(read(tmp_path / "egs" / "data" / "dev")) == {"validated": 3}


def test_kaldi_segments(tmp_path, long_file):
    folder = write_kaldi(
        tmp_path / "kaldi",
        wav=["rec ../long.wav"],
        text=[f"utt{i} {ROWS[i]['sentence']}" for i, _, _ in long_file] + [f"bad{i} Bir." for i in range(7)],
        segments=[f"utt{i} rec {start} {start + seconds}" for i, start, seconds in long_file[:-1]]
        + [f"utt5 rec {long_file[-1][1]} -1"]
        + ["bad0 rec 2 1", "bad1 rec nan 1", "bad2 rec -3 1", "bad3 rec x y", "bad4 rec 1 2 A", "bad5 nowhere 1 2"]
        + ["silent rec 1 2", "utt1 rec 1 2"],
    )
    corpus = read(folder)
    check_audio(corpus.tables["validated"], tmp_path / "cache")
    reasons = {skip.name: skip.reason for skip in corpus.skipped}
    assert reasons["kaldi/segments:7"] == "no segment: its duration must be seconds from 0.001 to 86400, got '-1.0'"
    assert reasons["kaldi/segments:8"] == "no segment: its offset must be seconds from 0 to 86400, got 'nan'"
    assert reasons["kaldi/segments:9"].startswith("no segment: its offset must be seconds")
    assert reasons["kaldi/segments:10"].startswith("no segment: its offset must be seconds")
    assert reasons["kaldi/segments:11"] == "names a channel: recording, start and end are read"
    assert reasons["kaldi/segments:12"] == "'bad5' has no recording 'nowhere' in wav.scp"
    assert reasons["kaldi/segments:13"] == "'silent' has no sentence in text"
    assert reasons["kaldi/segments:14"] == "'utt1' is listed before"
    assert reasons["'bad6'"] == "a sentence in text, and no recording or segment"


@pytest.mark.parametrize("command", ["sox a.wav -t wav - |", "cat a.wav|", "| cat a.wav", "touch pwned; cat a.wav |  "])
def test_commands_in_wav_scp_are_refused_and_never_run(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_kaldi(tmp_path / "kaldi", wav=["a a.wav", f"b {command}"], text=["a Bir.", "b Bir."])
    with pytest.raises(InputError, match=r"^kaldi/wav\.scp must name .* line 2 is a command, and commands are code: '"):
        read(folder)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("place", ["foo.ark:123", "/data/foo.ark:9[0:20]", "foo.ark"])
def test_places_in_kaldis_archives_are_refused(tmp_path, place):
    folder = write_kaldi(tmp_path / "kaldi", wav=[f"a {place}"], text=["a Bir."])
    with pytest.raises(InputError, match=r"line 1 is a place in an archive: '"):
        read(folder)


def test_kaldi_without_text_and_with_other_encodings(tmp_path):
    folder = write_kaldi(tmp_path / "kaldi", wav=["a a.wav"])
    with pytest.raises(InputError, match=r"cannot read the table .*/text: No such file"):
        read(folder)
    (folder / "text").write_bytes(b"a \xff\n")
    with pytest.raises(InputError, match=r"kaldi/text must be UTF-8 text, byte 2 is not"):
        read(folder)
    write_kaldi(folder, wav=["a a\x85.wav", "b\u2028"], text=["a Bir.", "b Bir."])
    assert [skip.reason for skip in read(folder).skipped][:2] == [
        "tab or line break in its path",
        "row without a path",
    ]


# Parquet


def write_parquet(file: Path, rows: list[dict], **options) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def audio_rows(numbers, kind: str = "struct", name=lambda i: ROWS[i]["path"], text: str = "sentence") -> list[dict]:
    rows = []
    for i in numbers:
        data = sample(i).read_bytes()
        audio = {"bytes": data, "path": name(i)} if kind == "struct" else data
        rows.append({"client_id": ROWS[i]["client_id"], "path": "x", "audio": audio, text: ROWS[i]["sentence"]})
    return rows


LAYOUTS = {
    "data/train-00000-of-00002.parquet": range(4),
    "data/train-00001-of-00002.parquet": range(4, 6),
    "data/validation-00000-of-00001.parquet": range(6, 9),
    "data/test-00000-of-00001.parquet": range(9, 12),
}
OTHER_LAYOUT = {
    "tr/train/0000.parquet": range(6),
    "tr/dev.parquet": range(6, 9),
    "tr/partial-test/0000.parquet": range(9, 12),
    "en/train/0000.parquet": range(12),
}


@pytest.mark.parametrize("layout", [LAYOUTS, OTHER_LAYOUT])
@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_parquet_folders(tmp_path, layout, kind):
    for file, numbers in layout.items():
        write_parquet(tmp_path / "set" / file, audio_rows(numbers, kind, text="transcription"), row_group_size=3)
    corpus = read(tmp_path / "set")
    check_whole(corpus, tmp_path / "cache")
    names = [clip.name for clip in corpus.tables["test"]]
    file = list(layout)[3 if layout is LAYOUTS else 2]
    assert names == [ROWS[i]["path"] if kind == "struct" else f"{file}#{i - 9}" for i in range(9, 12)]
    assert corpus.tables["test"][0].speaker == ROWS[9]["client_id"]


def test_a_parquet_file_alone(tmp_path):
    file = write_parquet(tmp_path / "train.parquet", audio_rows(range(6)))
    corpus = read(file)
    assert counts(corpus) == {"validated": 6}
    check_audio(corpus.tables["validated"], tmp_path / "cache")


def test_names_that_come_again_do_not_mix_recordings(tmp_path):
    """Some data sets number the recordings of each split, or call all of them alike."""
    for name in (lambda i: f"/home/x/{i % 3}.wav", lambda i: "audio.wav", lambda i: None):
        for file, numbers in LAYOUTS.items():
            write_parquet(tmp_path / "set" / file, audio_rows(numbers, name=name))
        check_whole(read(tmp_path / "set"), tmp_path / "cache")


def test_names_are_used_where_they_mean_one_recording(tmp_path):
    def names(*tables: list[tuple[str, str]]) -> list[str]:
        for i, table in enumerate(tables):
            rows = audio_rows(range(len(table)))
            for row, (name, sentence) in zip(rows, table, strict=True):
                row["audio"]["path"], row["sentence"] = name, sentence
            write_parquet(tmp_path / "set" / f"{['train', 'test'][i]}.parquet", rows)
        return [clip.name for table in read(tmp_path / "set").tables.values() for clip in table]

    assert names([("a", "Evet."), ("b", "Evet.")], [("a", "Evet.")]) == ["a", "a", "b"]  # test comes first
    assert names([("a", "Evet."), ("a", "Evet.")], [("b", "Evet.")]) == ["b", "train.parquet#0", "train.parquet#1"]
    assert names([("a", "Evet."), ("b", "Evet.")], [("a", "Yok.")]) == ["test.parquet#0", "train.parquet#0", "b"]


def test_a_release_stays_one_beside_the_users_own_tables(tmp_path):
    (tmp_path / "train.tsv").write_text("path\tsentence\na.mp3\tBir.\n")
    write_csv(tmp_path / "train.csv", ["path", "sentence"], [["b.mp3", "İki."]])
    write_parquet(tmp_path / "mine" / "train.parquet", audio_rows(range(3)))
    assert [clip.name for clip in read(tmp_path).tables["train"]] == ["a.mp3"]


def test_a_recording_in_two_tables_is_one_clip(tmp_path):
    write_parquet(tmp_path / "set" / "validated.parquet", audio_rows(range(12)))
    write_parquet(tmp_path / "set" / "test.parquet", audio_rows(range(3)))
    splits = make_splits(read(tmp_path / "set").tables, ["validated"], "none", "test", str)
    assert len(splits.test) == 3
    assert {clip.sentence for clip in splits.train}.isdisjoint({clip.sentence for clip in splits.test})


def test_bad_rows_of_a_parquet_file_are_named_and_tried_again(tmp_path):
    rows = audio_rows(range(5))
    rows[0]["audio"]["bytes"] = None
    rows[1]["audio"]["bytes"] = b"not audio" * 99
    rows[2]["audio"]["path"] = "a\tb.mp3"
    rows[3]["sentence"] = None
    file = write_parquet(tmp_path / "a.parquet", rows)
    corpus = read(file)
    assert [(skip.name, skip.reason) for skip in corpus.skipped] == [("a.parquet#2", "tab or line break in its path")]
    clips = corpus.tables["validated"]
    assert [clip.sentence for clip in clips] == [ROWS[0]["sentence"], ROWS[1]["sentence"], "", ROWS[4]["sentence"]]
    audio = build_store(clips, tmp_path / "cache", 1)
    assert audio.skipped[clips[0]].startswith("missing from")
    assert audio.skipped[clips[1]].startswith("unreadable")
    assert len(audio.skipped) == 2
    lines: list[str] = []
    build_store(clips, tmp_path / "cache", 1, log=lines.append)
    assert not lines
    rows[1]["audio"]["bytes"] = sample(1).read_bytes()
    clips = read(write_parquet(file, rows)).tables["validated"]
    assert len(build_store(clips, tmp_path / "cache", 1).skipped) == 1


def test_parquet_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", audio_rows(range(3)))
    data = file.read_bytes()
    for broken in (b"", data[: len(data) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"^cannot read \S+a\.parquet as parquet \(.*\); download it again$"):
            read(file)
    write_parquet(file, [{"text": "x", "label": 3}])
    with pytest.raises(InputError, match=r"needs a column of recordings: none of path, audio, .* found among none"):
        read(file)
    write_parquet(file, [{"audio": b"x", "label": "3"}])
    with pytest.raises(InputError, match=r"needs a column of sentences: none of .* among 'label'; name it with `text_"):
        read(file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'a\.parquet needs pyarrow; install it, pip install "w2v\[parquet\]"$'):
        read(file)


def test_audio_damaged_between_reading_and_decoding_is_one_line(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", audio_rows(range(6)), compression="none")
    clips = read(file).tables["validated"]
    data = bytearray(file.read_bytes())
    data[4:2000] = bytes(1996)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read \S+a\.parquet as parquet"):
        build_store(clips, tmp_path / "cache", 1)


def test_a_language_that_is_not_there_is_named(tmp_path):
    for place in ("en", "tr_tr", "de"):
        write_parquet(tmp_path / place / "train.parquet", audio_rows(range(3)))
    assert counts(read(tmp_path)) == {"train": 3}
    with pytest.raises(InputError, match="must hold one data set of ky, it holds 'de, en, tr_tr'; give one of them"):
        read_corpus([tmp_path], "ky", tmp_path)


# Columns


def test_columns_of_other_names(tmp_path):
    table = write_csv(tmp_path / "m.csv", ["wav", "path", "text", "raw"], [["a.wav", "9", "bir", "Bir."]])
    clips, _ = read_manifest(table, Columns("wav", "raw"))
    assert (clips[0].name, clips[0].sentence) == ("a.wav", "Bir.")
    jsonl = write_jsonl(tmp_path / "m.jsonl", [{"wav": "a.wav", "path": "9", "text": "bir", "raw": "Bir."}])
    clips, _ = read_manifest(jsonl, Columns("wav", "raw"))
    assert (clips[0].name, clips[0].sentence) == ("a.wav", "Bir.")
    for known in ("path", "audio", "file_name", "audio_filepath", "file"):
        for text in ("sentence", "text", "transcription", "transcript"):
            clips, _ = read_manifest(write_csv(tmp_path / "n.csv", [known, text], [["a.wav", "Bir."]]))
            assert (clips[0].name, clips[0].sentence) == ("a.wav", "Bir.")


@pytest.mark.parametrize("write", ["csv", "jsonl"])
def test_columns_that_cannot_be_told_are_refused(tmp_path, write):
    def table(*columns: str) -> Path:
        if write == "csv":
            return write_csv(tmp_path / "m.csv", list(columns), [["x"] * len(columns)])
        return write_jsonl(tmp_path / "m.jsonl", [dict.fromkeys(columns, "x")])

    with pytest.raises(InputError, match="it has path and audio; say which with `audio_column`"):
        read_manifest(table("audio", "text", "path"))
    with pytest.raises(InputError, match="it has sentence and text; say which with `text_column`"):
        read_manifest(table("audio", "text", "sentence"))
    with pytest.raises(InputError, match=r"none of sentence, .*transcript found among 'path, words'; name it with"):
        read_manifest(table("path", "words"))
    with pytest.raises(InputError, match="the column that `text_column` names, 'word' is not among 'path, words'"):
        read_manifest(table("path", "words"), Columns(text="word"))
    with pytest.raises(InputError, match="in two columns, both are to be in 'path'"):
        read_manifest(table("path", "words"), Columns(text="path"))


# Commands


def test_commands_take_them_and_name_their_flags(tmp_path, capsys, hub):
    for i in range(12):
        shutil.copy(sample(i), tmp_path / f"{i}.mp3")
    table = write_csv(tmp_path / "m.csv", ["wav", "words"], [[f"{i}.mp3", ROWS[i]["sentence"]] for i in range(6)])
    manifest = write_jsonl(tmp_path / "m.jsonl", nemo_rows(tmp_path, range(6, 12)))
    options = ["--lang", "tr", "--model", "random:tiny", "--cache", str(tmp_path / "cache")]
    with pytest.raises(InputError) as error:
        cv_prepare.main([*options, "--data", str(table)])
    assert "name it with --audio-column" in with_flags(str(error.value))
    names = ["--audio-column", "wav", "--text-column", "words"]
    facts = cv_prepare.main([*options, "--data", str(table), *names])
    assert sum(facts[split]["clips"] for split in ("train", "dev", "test")) == 6
    files = {"train.parquet": range(4), "test.parquet": range(4, 6)}
    contents = {name: write_parquet(tmp_path / name, audio_rows(some)).read_bytes() for name, some in files.items()}
    commit = hub.publish("a/b", **contents)
    facts = cv_prepare.main([*options, "--data", f"hub:a/b@{commit}", "--extra-data", str(manifest)])
    assert [facts[split]["clips"] for split in ("train", "dev", "test")] == [9, 1, 2]
    assert f"data: a/b is read at its commit {commit}" in capsys.readouterr().err


# --extra-data


def test_extra_data_of_any_kind_gives_training_clips(audio_folder, tmp_path):
    part = read_extra(audio_folder, "tr", tmp_path, Columns())
    assert len(part.tables["train"]) == 6
    assert (len(part.tables["dev"]), len(part.tables["test"])) == (3, 3)
    assert part.notes[-2:] == [
        "test, dev of folder are not used", "clips of dev and test of folder are not trained on"
    ]  # fmt: skip
    for split in ("train", "validation"):
        shutil.rmtree(audio_folder / split)
    with pytest.raises(InputError, match=r"`extra_data` must hold training clips, .* holds test"):
        read_extra(audio_folder, "tr", tmp_path, Columns())


def test_no_clip_of_dev_or_test_of_extra_data_is_trained_on(tmp_path, capsys):
    """The training table of the other data has two test clips of the extra data, and one of its dev."""
    tables = {
        "theirs/train": range(6),
        "theirs/dev": range(6, 9),
        "theirs/test": range(9, 12),
        "mine/train": (0, 8, 9, 10),
    }
    for table, numbers in tables.items():
        rows = [[ROWS[i]["path"], ROWS[i]["sentence"]] for i in numbers]
        write_csv(tmp_path / f"{table}.csv", ["path", "sentence"], rows)
        for i in numbers:
            shutil.copy(sample(i), (tmp_path / table).parent)
    options = ["--lang", "tr", "--model", "random:tiny", "--cache", str(tmp_path / "cache"), "--dev-split", "none"]
    data = ["--data", str(tmp_path / "mine"), "--extra-data", str(tmp_path / "theirs")]
    facts = cv_prepare.main([*options, *data])
    assert facts["train"]["clips"] == 6
    assert "3 clips for training are in a dev or test table too" in capsys.readouterr().err


# The Hub


def test_parquet_of_the_hub(hub, tmp_path):
    files = {**OTHER_LAYOUT, "tr/other/0000.parquet": range(12)}
    contents = {}
    for file, numbers in files.items():
        contents[file] = write_parquet(tmp_path / "made" / file, audio_rows(numbers)).read_bytes()
    first = hub.publish("someone/voices", **contents, **{"README.md": b"x"})
    corpus = read(Path("hub:someone/voices"), wanted=["train", "dev", "test"])
    check_whole(corpus, tmp_path / "cache")
    fetched = [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]
    assert len(fetched) == 3
    assert not any("/en/" in line or "other" in line or "README" in line for line in fetched)
    assert corpus.releases[0].name == "someone/voices"
    hub.publish("someone/voices", **{"README.md": b"x"})
    assert counts(read(Path(f"hub:someone/voices@{first}"))) == {"train": 6, "dev": 3, "test": 3}
    hub.status = 503
    corpus = read(Path(f"hub:someone/voices@{first}"))
    assert counts(corpus) == {"train": 6, "dev": 3, "test": 3}
    assert corpus.notes[-1].startswith("someone/voices is read from the cache as it is there")


def test_audio_folder_of_the_hub(hub, tmp_path, audio_folder):
    contents = {
        file.relative_to(audio_folder).as_posix(): file.read_bytes()
        for file in audio_folder.rglob("*")
        if file.is_file()
    }
    hub.publish("someone/folder", **contents, **{"notes.txt": b"x"})
    check_whole(read(Path("hub:someone/folder")), tmp_path / "cache")
    assert not any("notes.txt" in line for line in hub.requests)
    contents["test/metadata.csv"] = b"file_name,text\n../../../../secret.mp3,Bir.\n"
    hub.publish("someone/folder", **contents)
    with pytest.raises(InputError, match=r"test/metadata\.csv must name files inside its folder, got '\.\./"):
        read(Path("hub:someone/folder"))


def test_what_the_hub_does_not_give_is_one_line(hub, tmp_path):
    with pytest.raises(InputError, match=f"shows no repository a/b; check its name at {hub.url}/datasets/a/b or"):
        read(Path("hub:a/b"))
    with pytest.raises(InputError, match="a repository on the Hub is written owner/name"):
        read(Path("hub:ab"))
    hub.publish("a/b", **{"script.py": b"x"})
    with pytest.raises(InputError, match="a/b must hold parquet files or an AudioFolder with metadata"):
        read(Path("hub:a/b"))
    hub.publish("a/b", **{"../x.parquet": b"x"})
    with pytest.raises(InputError, match=r"a/b must name files inside its folder, got '\.\./x\.parquet'"):
        read(Path("hub:a/b"))
    hub.status = 503
    with pytest.raises(InputError, match='run `hf download a/c --repo-type dataset --include "'):
        read(Path("hub:a/c"))


def test_rows_that_a_parquet_file_has_lost_since_are_skipped(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", audio_rows(range(4)))
    clips = read(file).tables["validated"]
    write_parquet(file, audio_rows(range(3)))
    assert list(build_store(clips, tmp_path / "cache", 1).skipped) == clips[3:]


def test_a_small_parquet_file_of_a_great_many_rows_is_refused(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [{"audio": b"RIFF", "text": "a"}] * 300_000)
    assert file.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"a\.parquet unpacks to over 50 times its size"):
        read(file)


@pytest.mark.parametrize("column", ["sentence", "audio", "packed"])
def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path, column):
    """One value that 3,000 rows share stands in the file once."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    shared = pyarrow.DictionaryArray.from_arrays([0] * 3000, ["x" * 1_000_000])
    columns = {"audio": pyarrow.array([b"RIFF"] * 3000), "sentence": pyarrow.array(["bir"] * 3000)}
    columns[column if column != "packed" else "sentence"] = (
        shared if column != "audio" else shared.cast(pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()))
    )
    if column == "packed":  # a page of zeros
        columns["sentence"] = pyarrow.array(["x" * 100_000] * 500 + ["bir"] * 2500)
    file = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table(columns), file, compression="zstd", store_schema=False, use_dictionary=column != "packed"
    )
    assert file.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"a\.parquet unpacks to over 50 times its size"):
        corpus = read_corpus([file], "tr", tmp_path)
        build_store(corpus.tables["validated"], tmp_path / "cache", workers=1)
