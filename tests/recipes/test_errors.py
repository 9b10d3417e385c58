"""Bad input: one line on stderr, exit code 2, no traceback, nothing half-written.

Run: pytest tests/recipes/test_errors.py
"""

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SAMPLE, reach_hub_at

import w2v
from recipes import console, cv_finetune, cv_prepare

FAST = ["--max-train-clips", "4", "--batch-clips", "2", "--model", "tiny", "--max-steps", "2"]


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """refused(*argv) -> the one line that cv_finetune printed, after checking how it ended."""
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMMON_VOICE_ROOT", raising=False)

    def call(*argv: str, main=cv_finetune.main, leaves_nothing: bool = True) -> str:
        out = tmp_path / "out"
        words = [str(word) for word in argv]
        if main is cv_finetune.main and "--out" not in words:
            words += ["--out", str(out)]
        with pytest.raises(SystemExit) as end:
            console.run(lambda: main(words))
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert end.value.code == 2, printed.err
        assert len(errors) == 1, printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
        if leaves_nothing:
            assert not out.exists()
        return errors[0]

    return call


@pytest.fixture
def data(tmp_path):
    """A locale folder with eight real clips."""
    folder = tmp_path / "tr"
    (folder / "clips").mkdir(parents=True)
    lines = (SAMPLE / "validated.tsv").read_text(encoding="utf-8").splitlines()[:9]
    (folder / "validated.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for line in lines[1:]:
        name = line.split("\t")[1]
        shutil.copy(SAMPLE / "clips" / name, folder / "clips")
    return folder


@pytest.mark.parametrize("lang", ["t", "turkish language", "../tr", "tr_TR", ""])
def test_malformed_locale(refused, lang):
    assert "--lang must be a Common Voice locale" in refused("--lang", lang)


def test_language_without_a_sample(refused):
    assert "--data is needed for ky" in refused("--lang", "ky")


def test_locale_that_the_data_does_not_hold(refused, data):
    assert "its tables say tr" in refused("--lang", "ky", "--data", data, *FAST)
    assert "holds no locale ky; it holds tr" in refused("--lang", "ky", "--data", data.parent, *FAST)


def test_folder_without_tables_and_table_without_column(refused, data):
    text = (data / "validated.tsv").read_text(encoding="utf-8")
    (data / "validated.tsv").write_text(text.replace("sentence", "text", 1), encoding="utf-8")
    assert "sentence not found" in refused("--lang", "tr", "--data", data, *FAST)
    (data / "validated.tsv").unlink()
    assert "holds no .tsv tables" in refused("--lang", "tr", "--data", data, *FAST)


def test_archive_cut_short(refused, data, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "cv"), "gztar", tmp_path, "tr")
    cut = tmp_path / "cut.tar.gz"
    with open(archive, "rb") as whole:
        cut.write_bytes(whole.read()[:50_000])
    assert "cut short or damaged" in refused("--lang", "tr", "--data", cut, *FAST)


@pytest.mark.parametrize("flag", ["--data", "--extra-data"])
def test_data_that_is_not_there_is_said_before_a_model_is_fetched(refused, hub, flag):
    line = refused("--lang", "tr", "--model", "xlsr-53", "--data", SAMPLE, flag, "nope.tar.gz")
    assert "cannot read the data nope.tar.gz: No such file or directory" in line
    assert not hub.requests


def test_no_usable_clip(refused, data):
    for clip in (data / "clips").iterdir():
        clip.write_bytes(b"")
    assert "no usable training clip is left of" in refused("--lang", "tr", "--data", data, *FAST)


def test_unknown_and_unfetched_models(refused, hub, monkeypatch):
    line = refused("--lang", "tr", "--model", "runs/lost")
    assert "--model runs/lost is no path here, and the Hub shows no repository runs/lost" in line
    assert "`hf auth login`" in line
    reach_hub_at(monkeypatch, "http://127.0.0.1:9")  # a closed port: the network is down
    line = refused("--lang", "tr", "--model", "xlsr-53")
    assert "hf download facebook/wav2vec2-large-xlsr-53" in line
    assert "--model random:xlsr-53" in line
    assert "random:NAME takes one of" in refused("--lang", "tr", "--model", "random:huge")
    assert "is missing" in refused("--lang", "tr", "--model", "nowhere")
    assert "cannot read the checkpoint" in refused("--lang", "tr", "--model", "x" * 300)


def test_unreadable_checkpoint_other_architecture_other_vocabulary(refused, small_config, tmp_path):
    folder = tmp_path / "model"
    model = w2v.Wav2Vec2ForCTC(small_config)
    model.save_pretrained(folder)
    tokenizer = w2v.CharTokenizer.from_texts(["abc"])
    tokenizer.save_pretrained(folder)
    call = ("--lang", "tr", "--model", folder, *FAST[:4])
    assert f"must have the same size, got 32 and {len(tokenizer)}" in refused(*call)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "hubert"}))
    assert "architecture must be one of wav2vec2" in refused(*call)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert "cannot read" in refused(*call)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_checkpoint_is_refused_not_waited_for(refused, small_config, tmp_path):
    folder = tmp_path / "model"
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "not a regular file" in refused("--lang", "tr", "--model", folder, *FAST[:4])


def test_output_folder_in_use(refused, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("")
    assert "holds other files" in refused("--lang", "tr", "--out", out)
    (out / "run.json").write_text("{}")
    assert "holds other files" in refused("--lang", "tr", "--out", out, "--overwrite")
    (out / "run.json").write_text('{"data_fingerprint": "x"}')
    assert "already holds a run" in refused("--lang", "tr", "--out", out)
    assert (out / "thesis.tex").exists()


def test_resume_needs_a_folder(capsys):
    with pytest.raises(SystemExit) as end:
        console.run(lambda: cv_finetune.main(["--lang", "tr", "--resume"]))
    assert end.value.code == 2
    assert "--resume needs --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("cv_finetune", "; the run goes on with --out RUN --resume"),
        ("transcribe", "; with --out the same command goes on where it stopped"),
        ("cv_prepare", ""),
        ("cv_evaluate", ""),
        ("align", ""),
    ],
)
def test_a_command_that_is_interrupted_says_how_it_goes_on(monkeypatch, capsys, command, remedy):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(console.Parser, "parse_args", interrupt)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `run` puts its own there
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.delitem(sys.modules, f"recipes.{command}", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"recipes.{command}", run_name="__main__")
    assert end.value.code == 130
    assert capsys.readouterr().err == f"\nstopped{remedy}\n"


def test_no_space_left(refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert "the decoded store needs" in refused("--lang", "tr", *FAST)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**8, 10**8, 10**7 * 3))
    assert "GB for checkpoints" in refused("--lang", "tr", *FAST)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_that_fills_up_while_writing(refused, small_config, tmp_path, monkeypatch):
    """The real writer of training states, onto a device that is always full."""
    from w2v.training.optim import adamw
    from w2v.training.state import Progress, save_state
    from w2v.training.step import TrainStep

    model = w2v.Wav2Vec2ForCTC(small_config)
    step = TrainStep(model, adamw(model, 1e-3, (0.9, 0.999), 0.0), lambda _: 1.0)
    written = torch.save
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  as long as the test
    monkeypatch.setattr(torch, "save", lambda state, file: written(state, full))
    line = refused(main=lambda _: save_state(tmp_path / "state.pt", step, Progress()))
    assert "no space left on the disk while writing" in line
    assert not (tmp_path / "state.pt").exists()


def test_places_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "choose another --out or --cache" in refused("--lang", "tr", "--cache", tmp_path / "file", *FAST)
    assert "choose another --out or --cache" in refused("--lang", "tr", "--out", tmp_path / "file" / "x", *FAST)


def test_steps_in_a_row_without_a_finite_loss_stop_the_run_and_name_the_clips(refused, tmp_path):
    line = refused("--lang", "tr", *FAST[:6], "--max-steps", "6", "--lr", "1e30", leaves_nothing=False)
    assert "3 steps in a row could not be taken, in step 5 the loss is not finite for common_voice_tr_" in line
    assert "begin again with a lower --lr or with --precision fp32" in line
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu(refused):
    assert "found none; use --device cpu" in refused("--lang", "tr", "--device", "cuda")
    assert "--device must be" in refused("--lang", "tr", "--device", "gpu")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-seconds", "0.1"], "--max-seconds must be at least 0.5, got 0.1"),
        (["--min-seconds", "5", "--max-seconds", "2"], "must not exceed"),
        (["--batch-seconds", "9", "--batch-clips", "2"], "both size a batch"),
        (["--warmup-steps", "1", "--warmup-ratio", "0.1"], "both size the warm-up"),
        (["--batch-seconds", "2"], "--batch-seconds must hold the longest clip"),
        (["--precision", "fp16"], "needs a GPU"),
        (["--layerdrop", "1.5"], "must be between 0 and 1"),
        (["--epochs", "0"], "must be at least 1"),
        (["--epochs", "many"], "invalid"),
        (["--keep-chars", "a", "--remove-chars", "a"], "must not share"),
        (["--keep-chars", "?|"], "--keep-chars must not hold |, got '?|'; it stands for the space"),
        (["--train-splits", "nope"], "must name tables"),
        (["--test-split", "nope"], "must name a table"),
        (["--extra-data", "nope.tsv"], "cannot read the data nope.tsv"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--adam-betas", "2", "3"], "below 1"),
        (["--warmup-steps", "-5"], "must not be negative"),
        (["--mask-time-min-masks", "-1"], "must not be negative"),
        (["--batch-seconds", "inf"], "nor infinite"),
        (["--lr", "nan"], "nor infinite"),
        (["--seed", "9" * 30], "at most"),
        (["--seed", "-1"], "must not be negative"),
        (["--epochs", "9" * 30], "at most"),
        (["--min-char-count", "1000"], "--min-char-count must leave letters in the vocabulary, 1000 leaves none of"),
        (["--min-char-count", "1000", "--model", "w2v-mini"], "must leave letters in the vocabulary, 1000 leaves none"),
    ],
)
def test_flags(refused, flags, words):
    base = ["--max-train-clips", "4", "--model", "tiny", "--max-steps", "2"]
    assert words in refused("--lang", "tr", *base, *flags)


def test_any_language_on_streams_of_256_characters(monkeypatch):
    """A locale of code page 1252, as on Windows or in a bare container: once a UnicodeEncodeError."""
    written = io.BytesIO(), io.BytesIO()
    for name, raw in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="cp1252"))

    def main() -> dict:
        console.say("ş")
        return {"vocabulary": "ş"}

    console.run(main)
    out, err = (raw.getvalue().decode("utf-8") for raw in written)
    assert (json.loads(out), err) == ({"vocabulary": "ş"}, "ş\n")


@pytest.mark.slow
def test_any_language_on_a_console_of_256_characters(tmp_path):
    """The same as a process, with real data."""
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "W2V_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "recipes.cv_prepare", "--lang", "tr"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ş" in done.stderr.decode("utf-8")
    assert "ş" in json.loads(done.stdout.decode("utf-8"))["vocabulary"]


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_does_not_end_a_run(tmp_path, stream):
    """`... | head` and `... 2>&1 | head`: the reader goes, the work is done and saved."""
    command = [sys.executable, "-m", "recipes.cv_finetune", "--lang", "tr", *FAST, "--out", str(tmp_path / "out")]
    environment = os.environ | {"W2V_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    getattr(process, stream).close()
    other = process.stderr if stream == "stdout" else process.stdout
    printed = other.read().decode("utf-8")
    assert process.wait() == 0, printed
    assert "Traceback" not in printed and "BrokenPipe" not in printed
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_training_clips_that_are_all_test_clips(refused, data):
    shutil.copy(data / "validated.tsv", data / "train.tsv")
    shutil.copy(data / "validated.tsv", data / "test.tsv")
    assert "must hold clips that no dev or test table holds" in refused("--lang", "tr", "--data", data, *FAST)


def test_prepare_refuses_alike(refused):
    assert "--lang must be" in refused("--lang", "t", main=cv_prepare.main)


def test_through_the_module(monkeypatch, capsys):
    """What `python -m recipes.cv_finetune` runs: exit code, clean stdout, one line."""
    monkeypatch.setattr(sys, "argv", ["cv_finetune", "--lang", "t"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(cv_finetune.__file__, run_name="__main__")
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)


@pytest.mark.slow
def test_as_a_process():
    """The same through the interpreter: exit code, clean stdout, no traceback."""
    command = [sys.executable, "-m", "recipes.cv_finetune", "--lang", "t"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
