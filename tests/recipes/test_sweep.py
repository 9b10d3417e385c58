"""Sweeps: each run is what cv_finetune makes, the table is by dev CER, and a sweep that was stopped goes on.

Run: pytest tests/recipes/test_sweep.py
"""

import json
import os
import shlex
import signal
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_launch import ended, torchrun

from recipes import cv_finetune, sweep
from recipes.stopping import StoppedError
from w2v.errors import InputError
from w2v.training.step import TrainStep

pytestmark = pytest.mark.usefixtures("cache")
RUN = ["--lang", "tr", "--model", "tiny", "--max-train-clips", "4", "--batch-clips", "2", "--max-steps", "3",
       "--device", "cpu"]  # fmt: skip
SWEEP = [*RUN, "--lr", "1e-3,2e-3"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("swept") / "sweep"
    return out, sweep.main([*SWEEP, "--out", str(out)])


def same_weights(one, two) -> bool:
    one, two = (load_file(folder / "model.safetensors") for folder in (one, two))
    return all(torch.equal(one[name], two[name]) for name in one)


def results(out) -> list[dict]:
    return [json.loads((out / name / "run.json").read_text())["result"] for name in ("lr-0.001", "lr-0.002")]


@pytest.mark.slow
def test_each_run_is_what_cv_finetune_makes_alone(swept, tmp_path):
    cv_finetune.main([*RUN, "--lr", "2e-3", "--out", str(tmp_path / "alone")])
    assert same_weights(tmp_path / "alone", swept[0] / "lr-0.002")
    assert not same_weights(swept[0] / "lr-0.001", swept[0] / "lr-0.002")
    command = json.loads((swept[0] / "lr-0.002" / "run.json").read_text())["command"]
    assert command[2] == "recipes.cv_finetune" and command[command.index("--lr") + 1] == "2e-3"
    assert "1e-3,2e-3" not in command and sys.argv[1:] != command[3:]


def test_the_table_and_the_summary_name_the_lowest_dev_cer(swept, tmp_path, capsys):
    """The tiny runs write nothing: rates that differ are put in their place."""
    out, summary = swept
    assert [line.split("\t")[:2] for line in (out / "sweep.tsv").read_text().splitlines()] == [
        ["run", "lr"], ["lr-0.001", "1e-3"], ["lr-0.002", "2e-3"],
    ]  # fmt: skip
    assert summary["runs"] == 2 and summary["failed"] == 0 and summary["out"] == str(out)
    trials = sweep.trials_of(*sweep.own_arguments([*RUN, "--lr", "1e-3,2e-3,3e-3"]))
    measured = [result | {"dev_cer": rate} for result, rate in zip(results(out), (0.5, 0.25), strict=True)]
    rows = [sweep.Row(trials[0], measured[0]), sweep.Row(trials[1], {}, "no"), sweep.Row(trials[2], measured[1])]
    summary = sweep.compare(rows, tmp_path)
    assert summary["best"] == "lr-0.003" and summary["values"] == {"lr": 0.003} and summary["failed"] == 1
    table = [line.split("\t") for line in (tmp_path / "sweep.tsv").read_text().splitlines()]
    assert [row[0] for row in table] == ["run", "lr-0.003", "lr-0.001", "lr-0.002"]
    assert {len(row) for row in table} == {7} and table[1][2] == "0.25" and table[3][2:] == ["", "", "", "", "no"]
    assert "the best --lr is the highest that was tried" in capsys.readouterr().err


def test_several_flags_give_all_pairs():
    trials = sweep.trials_of(*sweep.own_arguments([*RUN, "--mask-time-prob", "0.05,0.1", "--lr", "1e-4, 3e-4"]))
    names = [trial.name for trial in trials]
    assert names == [f"lr-{lr}_mask-time-prob-{prob}" for lr in ("0.0001", "0.0003") for prob in ("0.05", "0.1")]
    assert all(trial.words.count("--batch-clips") == 1 and "--out" not in trial.words for trial in trials)


def test_a_flag_that_may_hold_commas_of_its_own_is_not_swept():
    words = [*SWEEP, "--train-splits", "train,other", "--keep-chars", ",?"]
    trials = sweep.trials_of(*sweep.own_arguments(words))
    assert len(trials) == 2 and all(set(words[-4:]) <= set(trial.words) for trial in trials)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lr", "1e-4"], "a sweep needs several values of a flag, got none; give them with commas"),
        (["--lr", "1e-4,"], "--lr must hold numbers with commas between them, got '1e-4,'"),
        (["--lr", ","], "--lr must hold numbers with commas between them, got ','"),
        (["--lr", "1e-4,fast"], "--lr must hold numbers with commas between them"),
        (["--lr", "1e-4,inf"], "--lr must hold numbers with commas between them"),
        (["--lr", "1e-4,0.0001"], "--lr must hold each number once, '1e-4,0.0001' has 0.0001 twice"),
        (["--lr", "1,2", "--dev-split", "none"], "a sweep compares runs by dev, --dev-split is none"),
        (["--lr", "1,2", "--push-to-hub", "a"], "a sweep uploads nothing"),
        (["--lr", "1,2", "--overwrite"], "--overwrite deletes single runs"),
        (["--lr", "1,2", "--resume"], "--resume needs --out"),
    ],
)
def test_what_cannot_be_swept_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        sweep.main([*RUN, *words])
    assert says in str(refused.value) and "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_value_that_cv_finetune_refuses_is_refused_before_the_first_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        sweep.main([*RUN, "--mask-time-prob", "0.05,2", "--out", str(tmp_path / "sweep")])
    assert refused.value.code == 2 and "must be between 0 and 1, got 2" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_folder_that_holds_anything_is_refused(swept, tmp_path):
    with pytest.raises(InputError, match="already holds a sweep; add --resume"):
        sweep.main([*SWEEP, "--out", str(swept[0])])
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="must be a new or empty folder"):
            sweep.main([*SWEEP, "--out", str(out)])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_stopped_sweep_goes_on_with_what_is_missing(swept, tmp_path, monkeypatch):
    """Stopped in the second step of the second run: the first is kept as it is, the second ends with the same bits."""
    update, steps, out = TrainStep.update, [], tmp_path / "sweep"

    def told(step):
        steps.append(step)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(step)

    with monkeypatch.context() as patch, pytest.raises(StoppedError) as stopped:
        patch.setattr(TrainStep, "update", told)
        sweep.main([*SWEEP, "--out", str(out)])
    assert stopped.value.remedy == f"go on with: python -m recipes.sweep --resume --out {out}"
    assert not (out / "sweep.tsv").exists() and not (out / "run.lock").exists()
    before = (out / "lr-0.001" / "model.safetensors").stat().st_mtime_ns
    summary = sweep.main(shlex.split(stopped.value.remedy)[4 + 2 :])
    assert summary["best"] == swept[1]["best"] and summary["runs"] == 2
    assert (out / "lr-0.001" / "model.safetensors").stat().st_mtime_ns == before
    assert all(same_weights(out / name, swept[0] / name) for name in ("lr-0.001", "lr-0.002"))


def test_resume_takes_all_else_from_the_folder(swept, tmp_path):
    with pytest.raises(InputError, match=r"takes a sweep's flags from its folder, got --lang, tr, --lr too"):
        sweep.main(["--lang", "tr", "--lr", "1,2", "--resume", "--out", str(swept[0])])
    with pytest.raises(InputError, match=r"cannot read the sweep's .*sweep\.json"):
        sweep.main(["--resume", "--out", str(tmp_path)])
    (tmp_path / "sweep.json").write_text('{"arguments": ["--lang", 3]}')
    with pytest.raises(InputError, match="must hold the sweep's arguments, it is damaged"):
        sweep.main(["--resume", "--out", str(tmp_path)])
    again = sweep.main(["--resume", "--out", f"{swept[0]}/"])
    assert again == swept[1], "nothing was missing"


@pytest.mark.slow
def test_a_run_that_breaks_down_is_a_row_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    fit = cv_finetune.fit

    def failing(step, upcoming, settings, *others):
        if settings.lr == 1e-3:
            raise InputError("3 steps in a row could not be taken; begin again with a lower `lr`")
        return fit(step, upcoming, settings, *others)

    monkeypatch.setattr(cv_finetune, "fit", failing)
    summary = sweep.main([*SWEEP, "--out", str(tmp_path / "sweep")])
    assert summary["best"] == "lr-0.002" and summary["failed"] == 1
    last = (tmp_path / "sweep" / "sweep.tsv").read_text().splitlines()[-1]
    assert last == "lr-0.001\t1e-3\t\t\t\t\t3 steps in a row could not be taken; begin again with a lower --lr"
    monkeypatch.setattr(cv_finetune, "fit", lambda *_: (_ for _ in ()).throw(InputError("no")))
    with pytest.raises(InputError, match="all 2 runs failed, the first one: no"):
        sweep.main([*SWEEP, "--out", str(tmp_path / "none")])


def test_data_that_no_run_could_use_ends_the_sweep(tmp_path):
    with pytest.raises(InputError, match="no usable training clip"):
        sweep.main([*SWEEP, "--max-seconds", "0.6", "--out", str(tmp_path / "sweep")])


@pytest.mark.long
def test_two_processes_make_one_sweep(tmp_path):
    out = tmp_path / "sweep"
    ended(torchrun(2, "--standalone", "-m", "recipes.sweep", *SWEEP, "--out", str(out)))
    assert len((out / "sweep.tsv").read_text().splitlines()) == 3
    (out / "sweep.tsv").unlink()
    ended(torchrun(2, "--standalone", "-m", "recipes.sweep", "--resume", "--out", str(out)))
    assert (out / "sweep.tsv").exists() and str(ROOT) not in (out / "sweep.tsv").read_text()
