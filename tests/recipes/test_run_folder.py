"""What a run left may be damaged: one line under --resume, and no log ends a run.

Run: pytest tests/recipes/test_run_folder.py
"""

import json
import os

import pytest
from fuzz.model_readers import RECORD, write_end

from recipes import checkpoints, console, cv_finetune, run_folder
from w2v.errors import InputError

TEXT = json.dumps(RECORD)


def without(*names: str) -> str:
    record = json.loads(TEXT)
    inner = record
    for name in names[:-1]:
        inner = inner[name]
    del inner[names[-1]]
    return json.dumps(record)


DAMAGED = [
    "", "null", "3", "[]", '"data_fingerprint"', "{}", TEXT[:-1], TEXT[:300], "\0" * 500, "[" * 10**5,
    TEXT.replace('"random:tiny"', "NaN"), TEXT.replace('"0123456789abcdef"', "[]"), without("settings"),
    without("arguments"), without("vocabulary"), without("normaliser"), without("model"), without("data_fingerprint"),
    without("settings", "batch_seconds"), without("settings", "accumulation"),
    *(json.dumps(RECORD | {name: value}) for name in ("settings", "arguments") for value in (None, [], "x", 3)),
    *(json.dumps(RECORD | {"settings": RECORD["settings"] | change}) for change in (
        {"batch_seconds": "10"}, {"batch_seconds": -1}, {"batch_seconds": float("nan")}, {"batch_clips": 2.5},
        {"accumulation": None}, {"accumulation": 10**30}, {"gradient_checkpointing": 1})),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_a_damaged_record_is_one_line_under_resume(number, tmp_path, capsys):
    (tmp_path / "run.json").write_text(DAMAGED[number])
    with pytest.raises(SystemExit) as end:
        console.run(lambda: resume(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert str(tmp_path / "run.json") in line
    assert line.endswith("; restore it, or start again in another folder")
    assert line.isprintable()
    assert (tmp_path / "run.json").read_text() == DAMAGED[number], "it may yet be mended by hand"


def resume(folder) -> dict:
    run_folder.check_out(folder, resume=True, overwrite=False)
    return run_folder.recorded_settings(folder, resume=True) or {}


def test_the_command_says_so_before_anything_is_prepared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(TEXT[:300])
    with pytest.raises(SystemExit) as end:
        console.run(lambda: cv_finetune.main(["--lang", "tr", "--out", str(tmp_path / "out"), "--resume"]))
    (line,) = capsys.readouterr().err.splitlines()
    assert (end.value.code, line[:12]) == (2, "error: canno")
    assert not (tmp_path / "cache").exists()


def test_a_whole_record_goes_on(tmp_path):
    (tmp_path / "run.json").write_text(TEXT)
    assert resume(tmp_path) == RECORD["settings"]
    run_folder.check_same_run(run_folder.read_run(tmp_path), json.loads(TEXT))


def test_what_differs_is_shown_in_short(tmp_path):
    new = json.loads(TEXT)
    for change in ({"vocabulary": ["\x1b[31m" * 999]}, {"arguments": {"a\nb": "\u202e" * 999}}, {"model": "x" * 10**5}):
        with pytest.raises(InputError, match="--resume needs the run's own") as error:
            run_folder.check_same_run(new | change, new)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 400


GOOD = [{"step": 1, "loss": 2.0, "grad_norm": float("inf")}, {"step": 2, "dev_wer": None, "dev_cer": 0.5}]
BAD = [b"{", b"\xff\xfe", b"null", b"3", b"[1]", b"{}", b'{"step": "1"}', b'{"step": 1.5}', b'{"step": true}',
       b'{"step": 1, "loss": "2"}', b'{"step": 1, "loss": [2]}', b'{"step": 1, "lr": 1' + b"0" * 400 + b"}",
       b"[" * 10**5, b"\0" * 4096, b'{"step": 1, "loss": 2.0}{"step": 2}', b'{"step": NaN}']  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: ascii(bad[:20]))
def test_a_damaged_line_of_the_log_is_said_and_left_out(bad, tmp_path, capsys):
    log = tmp_path / "metrics.jsonl"
    lines = [json.dumps(line).encode() for line in GOOD]
    log.write_bytes(b"\n".join([lines[0], bad, lines[1], b""]))
    assert run_folder.read_metrics(log) == GOOD
    assert f"{log}: 1 of 3 lines are damaged and left out" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(TEXT)
    write_end(tmp_path)
    assert "Training loss" in (tmp_path / "report.html").read_text()
    run_folder.restore_log(log, [json.loads(lines[0])])
    assert log.read_bytes() == lines[0] + b"\n"


def test_a_run_without_a_log_ends_too(tmp_path):
    (tmp_path / "run.json").write_text(TEXT)
    write_end(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["result"] == {"wer": 1.0}


def test_other_files_among_the_checkpoints_are_left_alone(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-0000010.pt", "step-0000002.pt", "step-0000010 (copy).pt", "step-last.pt", "best-of-all"):
        (folder / name).write_text("")
    assert [file.name for file in checkpoints.checkpoints(tmp_path)] == ["step-0000002.pt", "step-0000010.pt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
def test_a_pipe_is_no_record_and_no_log(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    assert not run_folder.is_run(tmp_path)
    with pytest.raises(InputError, match="not a regular file"):
        run_folder.check_out(tmp_path, resume=True, overwrite=False)
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert run_folder.read_metrics(tmp_path / "metrics.jsonl") == []
