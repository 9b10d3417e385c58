"""recipes.transcribe on real clips: formats, folders, live streams, and what it cannot use.

Run: pytest tests/recipes/test_transcribe_command.py
"""

import dataclasses
import io
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

import w2v
from recipes import transcribe
from w2v.audio import SAMPLE_RATE, read_audio
from w2v.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """It hears "a" wherever something is to be heard."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = w2v.CharTokenizer({"[PAD]": 0, "[UNK]": 1, "|": 2, "a": 3})
    model = w2v.Wav2Vec2ForCTC(dataclasses.replace(w2v.TINY, num_hidden_layers=1, vocab_size=4, pad_token_id=0))
    model.lm_head.bias.data[3] = 1000.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path, clips):
    """Two clips, one below the other, and what only looks like one."""
    (tmp_path / "talks" / "more").mkdir(parents=True)
    shutil.copy(clips[0], tmp_path / "talks" / "one.mp3")
    shutil.copy(clips[1], tmp_path / "talks" / "more" / "two.mp3")
    (tmp_path / "talks" / "renamed.mp3").write_text("this is no audio")
    (tmp_path / "talks" / "notes.txt").write_text("nor is this")
    return tmp_path / "talks"


def run(model, *arguments) -> dict:
    return transcribe.main(["--model", model, "--device", "cpu", *map(str, arguments)])


def test_a_clip_in_each_format(model, clips, capsys):
    seconds = round(len(read_audio(clips[0])) / SAMPLE_RATE, 1)
    summary = run(model, clips[0])
    assert capsys.readouterr().out == "a\n"
    assert summary["recordings"] == 1
    assert summary["skipped"] == {}
    run(model, clips[0], "--format", "json", "--words")
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["text"]) == (clips[0].name, "a")
    ((word,),) = [segment["words"] for segment in found["segments"]]
    assert word["text"] == "a"
    assert word["start"] == 0
    assert word["end"] == pytest.approx(seconds, abs=0.1)
    assert word["confidence"] == 1.0
    run(model, clips[0], "--format", "tsv")
    header, row = capsys.readouterr().out.splitlines()
    assert header == "start\tend\ttext"
    assert row == f"0.000\t{word['end']:.3f}\ta"
    run(model, clips[0], "--format", "srt")
    assert capsys.readouterr().out.startswith("1\n00:00:00,000 --> 00:00:0")
    run(model, clips[0], "--format", "vtt")
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:0")


def test_a_folder_is_mirrored_its_bad_file_skipped_and_a_second_call_goes_on(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    summary = run(model, folder, "--out", out, "--format", "json")
    assert summary["recordings"] == 2
    assert summary["skipped"] == {str(folder / "renamed.mp3"): "unreadable: Format not recognised"}
    said = capsys.readouterr()
    assert said.out == ""
    assert f"skipped '{folder / 'renamed.mp3'}': unreadable: Format not recognised" in said.err
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*.json")) == ["more/two.mp3.json", "one.mp3.json"]

    (out / "one.mp3.json").write_text("made before")
    (folder / "renamed.mp3").unlink()
    shutil.copy(folder / "one.mp3", folder / "three.mp3")
    assert run(model, folder, "--out", out, "--format", "json")["recordings"] == 1
    assert "2 of 3 recordings are in" in capsys.readouterr().err
    assert (out / "one.mp3.json").read_text() == "made before"
    assert (out / "three.mp3.json").is_file()
    assert run(model, folder, "--out", out, "--format", "json", "--overwrite")["recordings"] == 3
    assert run(model, folder, "--out", out, "--format", "json")["recordings"] == 0


def test_several_texts_on_stdout_have_their_names(model, clips, capsys):
    run(model, clips[0], clips[1])
    assert capsys.readouterr().out == f"{clips[0]}\ta\n{clips[1]}\ta\n"


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (192_000, 1), (16_000, 6)])
def test_unusual_audio_is_audio(model, tmp_path, capsys, rate, channels):
    noise = np.random.default_rng(0).normal(0, 0.1, (rate, channels))
    soundfile.write(tmp_path / "a.wav", noise, rate)
    run(model, tmp_path / "a.wav")
    assert capsys.readouterr().out == "a\n"


def test_silence_has_no_text(model, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    run(model, tmp_path / "a.wav", "--format", "srt")
    assert capsys.readouterr().out == ""
    run(model, tmp_path / "a.wav")
    assert capsys.readouterr().out == "\n"


def refusal(model, *arguments) -> str:
    with pytest.raises(InputError) as found:
        run(model, *arguments)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_what_is_refused(model, folder, tmp_path, clips):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "nothing").mkdir()
    assert refusal(model, tmp_path / "empty.wav") == (
        f"none of 1 recordings can be transcribed; '{tmp_path / 'empty.wav'}': empty file"
    )
    assert "'renamed.mp3'" not in refusal(model, folder / "renamed.mp3")
    assert refusal(model, tmp_path / "nothing").startswith(f"{tmp_path / 'nothing'} must hold audio files")
    assert refusal(model, "no.mp3") == "a recording must be a file or a folder, found nothing at 'no.mp3'"
    assert "must be the only recording" in refusal(model, "-", clips[0])
    assert "must be the only recording" in refusal(model, "-", "--out", tmp_path)
    assert "must not have one name" in refusal(model, folder, folder / "more", folder / "more" / "two.mp3", clips[0],
                                               shutil.copy(clips[0], tmp_path / clips[0].name))  # fmt: skip
    assert "holds no model.safetensors" in refusal(str(folder), clips[0])  # a model that is none
    assert refusal(f"{model}/model.safetensors", clips[0]).endswith(f"is a file; give the folder it lies in, {model}")


def test_a_live_stream_is_printed_at_each_pause(model, monkeypatch, capsys):
    """Noise, a second of quiet, noise: the first phrase is printed before the second is heard."""
    rng = np.random.default_rng(0)
    loud = [rng.normal(0, 0.2, 2 * SAMPLE_RATE) for _ in range(2)]
    quiet = rng.normal(0, 1e-4, SAMPLE_RATE)
    stream = (np.concatenate([loud[0], quiet, loud[1]]) * 32767).astype("<i2").tobytes()

    printed: list[tuple[int, str]] = []

    class Stdin(io.BytesIO):
        def read1(self, size=-1):
            printed.append((self.tell(), capsys.readouterr().out))
            return super().read1(size - 1)  # pipes may cut a sample in two

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Stdin(stream)))
    summary = run(model, "-", "--format", "tsv")
    first = next(at for at, said in printed if said)
    assert 2.5 < first / 2 / SAMPLE_RATE < 3.1
    assert summary["phrases"] == 2
    assert summary["audio_seconds"] == pytest.approx(5.0, abs=0.1)
