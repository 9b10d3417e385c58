"""recipes.align and cv_prepare --check-alignment: formats, what is refused, transcripts that do not match.

Run: pytest tests/recipes/test_align_command.py
"""

import csv
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, SAMPLE

import w2v
from recipes import align, check_alignment, cv_prepare
from w2v.audio import SAMPLE_RATE, UnusableAudioError
from w2v.data.splits import Splits
from w2v.decoding.align import AlignedWord, Alignment
from w2v.hearing import Frames

TEXT = 'Bir "iki"\n\nüç — 日本'


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A model that has learned nothing."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    tokenizer = w2v.CharTokenizer.from_texts(["abcçdefgğhıijklmnoöprsştuüvyz"])
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=1, **w2v.TINY.for_vocabulary(tokenizer))
    w2v.Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    w2v.Normaliser("tr").save(folder)
    return folder


@pytest.fixture
def audio(tmp_path):
    path = tmp_path / "a b.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLE_RATE // 2), SAMPLE_RATE)
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run_align(run_folder, audio, text, *flags) -> dict:
    return align.main([str(audio), "--model", str(run_folder), "--text", str(text), *flags])


def test_json_keeps_the_words_as_written(run_folder, audio, text, capsys):
    summary = run_align(run_folder, audio, text, "--characters")
    record = json.loads(capsys.readouterr().out)
    assert [word["text"] for word in record["words"]] == ["Bir", '"iki"', "üç —", "日本"]
    assert [char["text"] for char in record["words"][1]["characters"]] == ["i", "k", "i"]
    assert record["words"][3]["score"] is None
    times = [time for word in record["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= record["seconds"] == 2.5
    assert summary == {"words": 4, "unspelt": 1, "score": record["score"], "audio_seconds": 2.5}
    run_align(run_folder, audio, text)
    assert "characters" not in json.loads(capsys.readouterr().out)["words"][0]


def read_textgrid(contents: str) -> dict[str, list[tuple[float, float, str]]]:
    """Praat's long text format, read as its manual describes it: {tier: its intervals}."""
    head, *tiers = re.split(r"^    item \[\d+\]:\n", contents, flags=re.MULTILINE)
    assert head.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = ')
    assert int(re.search(r"^size = (\d+)$", head, re.MULTILINE)[1]) == len(tiers)
    read = {}
    for tier in tiers:
        assert '        class = "IntervalTier"\n' in tier
        name = re.search(r'name = "(.*)"', tier)[1]
        found = re.findall(r'intervals \[(\d+)\]:\n +xmin = (.*)\n +xmax = (.*)\n +text = "((?:[^"]|"")*)"\n', tier)
        assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
        assert int(re.search(r"intervals: size = (\d+)", tier)[1]) == len(found)
        read[name] = [(float(start), float(end), text.replace('""', '"')) for _, start, end, text in found]
    return read


def test_a_textgrid_covers_all_of_the_time(run_folder, audio, text, tmp_path):
    summary = run_align(
        run_folder, audio, text, "--format", "textgrid", "--out", str(tmp_path / "a.TextGrid"), "--chara"
    )
    assert summary["out"] == str(tmp_path / "a.TextGrid")
    tiers = read_textgrid((tmp_path / "a.TextGrid").read_text(encoding="utf-8"))
    assert list(tiers) == ["words", "characters"]
    for intervals in tiers.values():
        assert intervals[0][0] == 0
        assert intervals[-1][1] == 2.5
        assert all(one[1] == following[0] for one, following in itertools.pairwise(intervals))
        assert all(start < end for start, end, _ in intervals)
    assert [text for _, _, text in tiers["words"] if text] == ["Bir", '"iki"', "üç —", "日本"]
    assert [text for _, _, text in tiers["characters"] if text] == [*"biriki", "ü", "ç", "日本"]


def test_words_that_fill_all_of_the_time_leave_no_empty_interval():
    words = [AlignedWord("a", 0.0, 1.0, 0.0, 0), AlignedWord("b", 1.0, 2.02, 0.0, 0)]
    assert read_textgrid(align.textgrid({"words": words}, 2.0)) == {"words": [(0, 1, "a"), (1, 2, "b")]}


def test_srt_has_a_subtitle_for_each_line():
    words = [
        AlignedWord("Bir", 0.5, 1.0, 0.0, 0),
        AlignedWord("iki.", 1.2, 59.9996, None, 0),
        AlignedWord("Üç", 3661.25, 3662.0, -1.0, 2),
    ]
    contents = align.written(Alignment(words, -0.5), Path("a.wav"), 4000.0, "srt", characters=False)
    assert contents == "1\n00:00:00,500 --> 00:01:00,000\nBir iki.\n\n2\n01:01:01,250 --> 01:01:02,000\nÜç\n\n"


def test_ctm_has_the_fields_of_sctk(run_folder, audio, text, capsys):
    words = [AlignedWord("« Bir »", 0.5, 1.25, 0.0, 0), AlignedWord("iki", 1.25, 2.0, None, 0)]
    assert align.ctm(words, "a b") == "a_b 1 0.500 0.750 «Bir» 1.000\na_b 1 1.250 0.750 iki\n"
    run_align(run_folder, audio, text, "--format", "ctm", "--characters")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in rows] == [*"biriki", "ü", "ç", "日本"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("Kırk bir".encode("iso-8859-9"), "--text must be UTF-8, .* is not .byte 0xfd at 1.; convert it"),
        (b"", "at least one word"),
        ("—\n…".encode(), "at least one word"),
        (("uzun bir metin " * 30).encode(), "at most one character a frame of 0.04 s, this one needs .* has 62"),
    ],
)
def test_texts_that_are_refused(run_folder, audio, text, contents, message):
    text.write_bytes(contents)
    with pytest.raises(w2v.InputError, match=message):
        run_align(run_folder, audio, text)


def test_line_ends_of_other_systems_and_control_characters(text):
    text.write_bytes("\ufeffa\tb\r\nc\rd\x1b[1m\u2028e".encode())
    assert align.read_text(str(text)) == "a b\nc\nd [1m e"


def test_other_things_that_are_refused(run_folder, audio, text, tmp_path):
    with pytest.raises(w2v.InputError, match="cannot read the text"):
        run_align(run_folder, audio, tmp_path / "no.txt")
    with pytest.raises(w2v.InputError, match="--characters must go with"):
        run_align(run_folder, audio, text, "--format", "srt", "--characters")
    with pytest.raises(w2v.InputError, match="--out must name a file"):
        run_align(run_folder, audio, text, "--out", str(tmp_path))
    (tmp_path / "speech.mp3").write_text("no audio " * 100)
    soundfile.write(tmp_path / "empty.wav", np.empty(0), SAMPLE_RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    for name, why in {"speech.mp3": "unreadable", "empty.wav": "", "silent.wav": "nothing to hear in 1.00 s"}.items():
        with pytest.raises(w2v.InputError, match=f"{name}': .*{why}.*; give a recording of speech") as caught:
            run_align(run_folder, tmp_path / name, text)
        assert "\n" not in str(caught.value)
    (run_folder / "vocab.json").rename(tmp_path / "vocab.json")
    try:
        with pytest.raises(w2v.InputError, match=r"vocab\.json"):
            run_align(run_folder, audio, text)
    finally:
        (tmp_path / "vocab.json").rename(run_folder / "vocab.json")


@pytest.mark.slow
def test_the_command_s_last_line_is_its_summary(run_folder, audio, text):
    command = [sys.executable, "-m", "recipes.align", str(audio), "--model", str(run_folder), "--text", "-"]
    done = subprocess.run(command, cwd=ROOT, input=TEXT, capture_output=True, text=True, encoding="utf-8", check=True)
    *record, summary = done.stdout.splitlines()
    assert json.loads(summary)["words"] == len(json.loads("\n".join(record))["words"]) == 4
    assert "1 words have no score: the model's vocabulary cannot spell them" in done.stderr
    done = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: a text must hold at least one word")
    assert done.stderr.count("\n") == 1


class Perfect(w2v.Recogniser):
    """It hears what its recordings hold: the codes of the characters that are said."""

    def all_emissions(self, recordings, precision="fp32"):
        for number, (codes,) in enumerate(recordings):
            if not len(codes):
                yield Frames(number, torch.empty(0, 0), 0.0, UnusableAudioError("nothing to hear"))
                continue
            blank = self.tokenizer.blank_id
            tokens = [each for i in self.tokenizer.encode("".join(map(chr, codes))) for each in (i, i, blank, blank)]
            yield Frames(number, torch.eye(len(self.tokenizer))[tokens].mul(10).log_softmax(-1), 1.0)


class Spoken(dict):
    """{clip: what is said in it}, in place of a store."""

    def __getitem__(self, clip) -> np.ndarray:
        return np.array([ord(char) for char in super().__getitem__(clip)], np.int16)

    def samples(self, clip) -> int:
        return len(self[clip])


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    with open(SAMPLE / "validated.tsv", encoding="utf-8") as file:
        return [row["sentence"] for row in csv.DictReader(file, delimiter="\t")][:40]


def test_swapped_transcripts_are_the_worst_clips(sentences, capsys):
    normalise = w2v.Normaliser("tr")
    source = w2v.data.manifest.Source(SAMPLE, "x")
    swapped = [3, 11, 19, 27, 35]
    written = list(sentences)
    for i, k in enumerate(swapped):
        written[k] = sentences[swapped[i - 1]]
    clips = [w2v.data.manifest.Clip(f"{i}.mp3", text, "", source) for i, text in enumerate(written)]
    audio = Spoken({clip: normalise(text) for clip, text in zip(clips, sentences, strict=True)})
    empty, long = (w2v.data.manifest.Clip(name, "Uzun bir cümle.", "", source) for name in ("empty", "long"))
    audio |= {empty: "", long: "uz"}
    asr = Perfect(torch.nn.Identity(), w2v.CharTokenizer.from_texts(map(normalise, sentences)), normalise)
    asr.model.config = w2v.TINY
    found = check_alignment.check_alignment(asr, Splits([*clips[:20], empty], clips[20:], [long], []), audio, "tr")
    assert found["clips"] == 42
    assert found["median_score"] == 0
    worst = found["worst"]
    assert {record["clip"] for record in worst[:2]} == {"empty", "long"}
    assert {record["clip"] for record in worst[2:7]} == {f"{k}.mp3" for k in swapped}
    assert worst[6]["score"] < -1 < worst[7]["score"] == 0
    assert worst[2]["text"] == written[int(worst[2]["clip"].split(".")[0])]
    assert worst[2]["heard"] == normalise(sentences[int(worst[2]["clip"].split(".")[0])])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "alignment: 42 clips, median score 0.0; those that match their sentence least:"
    assert any("nothing to hear" in line and "empty" in line for line in lines)


def test_cv_prepare_checks_the_clips_of_all_splits(run_folder, tmp_path, capsys):
    with open(SAMPLE / "validated.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:4]
    table = tmp_path / "clips.tsv"
    lines = [f"{SAMPLE / 'clips' / row['path']}\t{row['sentence']}\n" for row in rows]
    table.write_text("".join(["path\tsentence\n", *lines]), encoding="utf-8")
    flags = ["--lang", "tr", "--data", str(table), "--cache", str(tmp_path / "cache"), "--model", "random:tiny"]
    with pytest.raises(w2v.InputError):
        cv_prepare.main([*flags, "--check-alignment", str(tmp_path / "no")])
    assert not (tmp_path / "cache").exists()
    found = cv_prepare.main([*flags, "--check-alignment", str(run_folder)])["alignment"]
    assert sorted(record["text"] for record in found["worst"]) == sorted(row["sentence"] for row in rows)
    assert all(record["score"] < 0 for record in found["worst"])
