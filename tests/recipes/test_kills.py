"""Killed runs go on bit for bit, and the harness that says so would tell if they did not.

Run: pytest tests/recipes/test_kills.py
"""

import argparse
import builtins
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from reliability import kills, places, runs
from safetensors.torch import load_file, save_file

from w2v.files import write_text

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and fork")
SOME = ["run.json: before its rename", "a later state: torn", "the exported weights: after its rename",
        "metrics.jsonl: torn line after a checkpoint", "old best weights: the weights are deleted",
        "overwriting: before run.json is deleted, overwritten again"]  # fmt: skip


def reliability(*words: str) -> subprocess.CompletedProcess:
    """In a process of its own: one that has used torch's threads cannot be forked."""
    return subprocess.run(
        [sys.executable, "-m", "tests.reliability", *words], cwd=ROOT, capture_output=True, encoding="utf-8"
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, pytest.param(5, marks=pytest.mark.long)])
def test_runs_that_are_killed_at_random_moments_end_bit_equal(count):
    done = reliability("kills", "--count", str(count))
    assert done.returncode == 0 and f"\n{count} of {count} bit-equal" in done.stdout, done.stdout + done.stderr


@pytest.mark.long
def test_runs_that_are_killed_at_chosen_places_end_bit_equal():
    done = reliability("places", *(word for name in SOME for word in ("--only", name)))
    assert done.returncode == 0 and "\n6 of 6 places" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def whole(tmp_path):
    """A folder as a run leaves it, small."""
    folder = tmp_path / "whole"
    out = folder / "run"
    (out / "checkpoints").mkdir(parents=True)
    save_file({"a": torch.ones(3), "b": torch.zeros(2)}, out / "model.safetensors", metadata={"format": "pt"})
    state = {"model": {"a": torch.ones(3)}, "progress": {"step": 4, "train_seconds": 1.5}}
    torch.save(state, out / "checkpoints" / "step-0000004.pt")
    lines = [{"step": 2, "loss": 3.5, "audio_s_per_s": 40.1}, {"step": 4, "loss": 3.1, "audio_s_per_s": 44.0}]
    (out / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (out / "run.json").write_text(json.dumps({"arguments": {"seed": 1, "out": str(out)}, "result": {"wer": 1.0}}))
    (out / "README.md").write_text("# a model\n| training time | 0.1 min |\n")
    (out / "skipped.tsv").write_text("clip\tsplit\treason\n")
    (out / "predictions-test.tsv").write_text("clip\treference\tprediction\n")
    (folder / "stdout").write_text('{"wer": 1.0, "train_seconds": 1.5}\n')
    return folder


@pytest.fixture
def other(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "other"))


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_runs_that_differ_in_times_are_equal(whole, other):
    out = other / "run"
    change(out / "metrics.jsonl", "40.1", "20.5")
    change(out / "README.md", "0.1 min", "0.2 min")
    change(out / "run.json", str(whole), str(other))
    change(other / "stdout", "1.5", "2.5")
    state = torch.load(out / "checkpoints" / "step-0000004.pt", weights_only=True)
    state["progress"]["train_seconds"] = 2.5
    torch.save(state, out / "checkpoints" / "step-0000004.pt")
    assert runs.differences(whole, other) == []


def test_a_run_that_differs_in_one_bit_of_a_weight_is_different(whole, other):
    file = other / "run" / "model.safetensors"
    tensors = load_file(file)
    tensors["a"].view(torch.int32)[1] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert runs.differences(whole, other) == ["model.safetensors differs in a"]


def test_a_run_that_differs_in_one_bit_of_a_state_is_different(whole, other):
    file = other / "run" / "checkpoints" / "step-0000004.pt"
    state = torch.load(file, weights_only=True)
    state["model"]["a"].view(torch.int32)[2] ^= 1
    torch.save(state, file)
    assert runs.differences(whole, other) == ["checkpoints/step-0000004.pt differs in model.a"]


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("run/metrics.jsonl", "3.1", "3.1000000000000001e0", None),
        ("run/metrics.jsonl", "3.1", "3.1000000000000005", "metrics.jsonl differs in 1.loss"),
        ("run/metrics.jsonl", '{"step": 2, "loss": 3.5, "audio_s_per_s": 40.1}\n', "", "metrics.jsonl differs in"),
        ("run/skipped.tsv", "split\t", "", "skipped.tsv differs"),
        ("run/predictions-test.tsv", "clip", "clap", "predictions-test.tsv differs"),
        ("run/README.md", "model", "Model", "README.md differs"),
        ("run/run.json", '"wer": 1.0', '"wer": 0.5', "run.json differs in result.wer"),
        ("stdout", '"wer": 1.0', '"wer": 0.5', "the line on stdout differs"),
    ],
)
def test_each_file_of_a_run_is_compared(whole, other, file, old, new, found):
    change(other / file, old, new)
    told = runs.differences(whole, other)
    assert told == [] if found is None else len(told) == 1 and told[0].startswith(found)


def test_what_a_kill_leaves_is_told(whole, other):
    out = other / "run"
    for name in ("run.lock", "run.json.7.part", "checkpoints/step-0000004.pt.7.part", "checkpoints/step-0000002.pt"):
        (out / name).write_text("")
    (out / "skipped.tsv").unlink()
    assert sorted(runs.differences(whole, other)) == [
        "checkpoints/step-0000004.pt.7.part is left", "run.json.7.part is left", "run.lock is left",
        "skipped.tsv is missing",
    ]  # fmt: skip
    assert "step-0000002.pt" in runs.too_many(whole, other)


def test_a_traceback_and_an_exit_code_are_wrong(whole, other):
    assert runs.wrong(whole, other, runs.Ended(0, 1.0, "")) == []
    assert runs.wrong(whole, other, runs.Ended(2, 1.0, "error: no\n")) == ["exit code 2: error: no"]
    (other / "stderr").write_text("Traceback (most recent call last):\n  of a thread\n")
    assert runs.wrong(whole, other, runs.Ended(0, 1.0, "")) == ["a traceback on stderr"]


class DeadError(BaseException):
    """In place of SIGKILL."""


@pytest.fixture
def dies(tmp_path, monkeypatch):
    """(a place's arm, work) -> the files that are there when the process would die; by name."""
    for owner, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "remove"), (Path, "unlink"),
                        (builtins, "open"), (io, "open"), (shutil, "rmtree")):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    (tmp_path / "run").mkdir()

    def kill(arm, work) -> dict[str, str]:
        found = {}

        def die():
            files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
            found.update({file.name.partition(".")[2]: file.read_text() for file in files})
            raise DeadError

        arm(tmp_path, die)
        with pytest.raises(DeadError):
            work(tmp_path / "run")
        return found

    return kill


@pytest.mark.parametrize(
    ("moment", "found"),
    [
        (places.torn, {"txt": "old", f"txt.{os.getpid()}.part": "new "}),
        (places.unnamed, {"txt": "old", f"txt.{os.getpid()}.part": "new text"}),
        (places.renamed, {"txt": "new text"}),
    ],
)
def test_a_file_is_torn_or_whole_when_the_process_dies(dies, moment, found):
    def work(out):
        write_text(out / "b.txt2", "another")
        (out / "b.txt2").unlink()
        write_text(out / "a.txt", "old")
        (out / "is there").touch()
        write_text(out / "a.txt", "new text")

    left = dies(moment("run/*.txt", "run/is there"), work)
    assert {name: text for name, text in left.items() if name} == found


def test_a_line_is_torn_when_the_process_dies(dies):
    def work(out):
        for line in ("one\n", "2345\n", "six\n"):
            with open(out / "a.txt", "a", encoding="utf-8") as file:
                file.write(line)

    assert dies(places.on_write("run/a.txt", once="run/a.txt"), work) == {"txt": "one\n234"}


@pytest.mark.parametrize(("before", "found"), [(True, {"txt": "", "tsv": ""}), (False, {"tsv": ""})])
def test_a_file_is_there_or_gone_when_the_process_dies(dies, before, found):
    def work(out):
        (out / "a.txt").unlink(missing_ok=True)  # deletes nothing: not the place
        (out / "a.txt").touch()
        (out / "b.tsv").touch()
        (out / "a.txt").unlink()

    assert dies(places.on_delete("run/a.txt", before), work) == found


def test_a_folder_is_half_deleted_when_the_process_dies(dies):
    def work(out):
        (out / "best").mkdir()
        for name in ("a.txt", "b.tsv"):
            (out / "best" / name).touch()
        shutil.rmtree(out / "best")

    assert dies(places.on_rmtree("run/best", "*.txt"), work) == {"tsv": ""}


def test_a_place_that_is_not_reached_is_a_failure(tmp_path, monkeypatch, capsys):
    def killed_there(place, base, folder):
        return runs.Ended(kills.KILLED if place is places.INTERRUPTED else 0, 1.0, "")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(kills, "whole_run", lambda folder: None)
    monkeypatch.setattr(kills, "killed_there", killed_there)
    assert kills.places(argparse.Namespace(only=["run.lock: torn"])) == 1
    said = capsys.readouterr().out
    assert "run.lock: torn: WRONG, not reached: exit code 0" in said and said.endswith("0 of 1 places\n")


def test_each_place_has_a_name_of_its_own():
    names = [place.name for place in places.PLACES]
    assert len(set(names)) == len(names) >= 26
    assert [place.name for place in kills.chosen(SOME)] == sorted(SOME, key=names.index)
    assert len(kills.chosen(["normaliser.json"])) == 3 and len(kills.chosen([""])) == len(names)
