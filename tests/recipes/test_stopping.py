"""Signals: a run finishes its step, saves, says how it goes on, and goes on to the same bits.

Run: pytest tests/recipes/test_stopping.py
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from recipes import cv_finetune, results
from recipes.settings import parse_arguments, resume_command
from recipes.stopping import SIGNALS, Stop, StoppedError
from w2v.training.step import TrainStep

pytestmark = pytest.mark.usefixtures("cache")
# Logs, evaluations and checkpoints at steps that share no factor: each is between two others somewhere.
RUN = ["--lang", "tr", "--model", "tiny", "--max-train-clips", "8", "--batch-clips", "2", "--max-steps", "6",
       "--log-steps", "4", "--eval-steps", "3", "--save-steps", "5", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("whole") / "run"
    cv_finetune.main([*RUN, "--out", str(out)])
    return out


def lines(out) -> list[dict]:
    log = out / "metrics.jsonl"
    found = map(json.loads, log.read_text().splitlines() if log.exists() else [])
    return [{name: value for name, value in line.items() if name != "audio_s_per_s"} for line in found]  # a time


def check_same(whole, out) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, out))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert lines(out) == lines(whole)


@pytest.mark.slow
@pytest.mark.skipif(len(SIGNALS) < 4, reason="needs the signals of POSIX")
@pytest.mark.parametrize("at", range(6))
def test_a_signal_in_any_step_saves_and_the_run_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, capsys, at):
    number, update, steps = SIGNALS[at % len(SIGNALS)], TrainStep.update, []

    def told(step):
        steps.append(step)
        if len(steps) == at + 1:
            os.kill(os.getpid(), number)
        return update(step)

    with monkeypatch.context() as patch, pytest.raises(StoppedError) as stopped:
        patch.setattr(TrainStep, "update", told)
        cv_finetune.main([*RUN, "--out", str(tmp_path / "run dir")])
    assert len(steps) == at + 1 and stopped.value.number == number
    said = capsys.readouterr().err
    assert f"{signal.Signals(number).name}: the run stops after this step and saves" in said
    command = re.fullmatch("go on with: python -m recipes.cv_finetune (.*)", stopped.value.remedy)[1]
    cv_finetune.main(shlex.split(command))
    check_same(whole, tmp_path / "run dir")


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2])
def test_a_signal_in_an_evaluation_breaks_it_off(whole, tmp_path, monkeypatch, nth):
    recognise, calls = results.recognise, []

    def told(*arguments):
        calls.append(arguments)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not reached")
        return recognise(*arguments)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(results, "recognise", told)
        cv_finetune.main([*RUN, "--out", str(tmp_path / "run")])
    assert [line["step"] for line in lines(tmp_path / "run") if "dev_cer" in line] == [3][: nth - 1]
    cv_finetune.main(["--resume", "--out", str(tmp_path / "run")])
    check_same(whole, tmp_path / "run")


def test_a_signal_after_training_leaves_it_all_to_be_done_again(whole, tmp_path, monkeypatch):
    def told(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(cv_finetune, "export_best", told)
        cv_finetune.main([*RUN, "--out", str(tmp_path / "run")])
    cv_finetune.main(["--resume", "--out", str(tmp_path / "run")])
    check_same(whole, tmp_path / "run")


def test_what_is_published_is_asked_for_again(monkeypatch):
    """The printed command has it; --resume alone sends nothing."""
    given = ["--lang", "tr", "--push-to-hub", "me/model", "--private"]
    args = parse_arguments(given, "", "")
    assert resume_command(args, Path("a b")) == (
        "python -m recipes.cv_finetune --resume --out 'a b' --push-to-hub me/model --private"
    )
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert resume_command(args, Path("a")).startswith("torchrun --nproc-per-node 1 -m recipes.cv_finetune --resume")
    recorded = json.loads(json.dumps(vars(args), default=str))
    again = parse_arguments(["--resume", "--out", "x"], "", "", lambda out: recorded)
    assert again.lang == "tr" and again.push_to_hub is None and not again.private


def test_before_training_a_signal_ends_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(cv_finetune, "prepare", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError) as stopped:
        cv_finetune.main([*RUN, "--out", str(tmp_path / "run")])
    assert stopped.value.remedy == "nothing was trained yet: give the command again"
    assert not (tmp_path / "run").exists()


def test_the_same_signal_again_stops_at_once_and_another_does_not(capsys):
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stop("go on") as stop, stop.waiting():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked()
        os.kill(os.getpid(), signal.SIGTERM)  # what torchrun sends after a terminal's SIGINT
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StoppedError), stop.waiting(False):
            raise AssertionError("not reached")
    assert "SIGINT again: stopping at once" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in SIGNALS] == before


# The handlers that a shell's background job inherits are put back: it ignores SIGINT.
COMMAND = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from recipes import console, cv_finetune
from w2v.training.step import TrainStep
update = TrainStep.update
def told(step):
    os.kill(os.getpid(), {number})
    return update(step)
TrainStep.update = told
console.run(lambda: cv_finetune.main({argv!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_exit_codes_and_the_last_line(tmp_path, name, code):
    if not hasattr(signal, name):
        pytest.skip(f"needs {name}")
    program = COMMAND.format(number=int(getattr(signal, name)), argv=[*RUN, "--out", str(tmp_path / "run")])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"stopped by {name}; go on with: python -m recipes.cv_finetune --resume --out {tmp_path / 'run'}"
    )
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-0000001.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends a process no SIGTERM")
def test_a_launcher_that_is_told_to_stop_leaves_a_run_that_goes_on(tmp_path):
    """SIGTERM to torchrun, which passes it on and kills after 30 s: one line, one checkpoint, the same bits at last."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = [*RUN, "--max-steps", "60", "--save-steps", "1000", "--eval-steps", "1000", "--log-steps", "7"]

    def start(*flags: str) -> subprocess.Popen:
        command = [*torchrun, "-m", "recipes.cv_finetune", *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)

    whole = start(*run, "--out", str(tmp_path / "whole"))
    assert "Traceback" not in whole.communicate(timeout=300)[1] and whole.returncode == 0
    told, said = start(*run, "--out", str(tmp_path / "run")), []
    for line in told.stderr:
        said.append(line)
        if line.startswith("step 7 of 60"):
            told.terminate()
    assert told.wait(timeout=60) != 0
    assert (
        sum(line.startswith("stopped by SIGTERM; go on with: torchrun --nproc-per-node 2 -m recipes") for line in said)
        == 1
    )
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))) == 1
    again = start("--resume", "--out", str(tmp_path / "run"))
    assert "resuming from" in again.communicate(timeout=300)[1] and again.returncode == 0
    check_same(tmp_path / "whole", tmp_path / "run")
