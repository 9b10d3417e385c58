"""A few of the forty faults and of the damaged files, as `python -m tests.reliability` produces them.

Run: pytest tests/recipes/test_reliability_faults.py
"""

import importlib
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts, /proc and forks are Linux's")


@pytest.fixture
def mutations(monkeypatch):
    """It has a neighbour's name in it, tests.fuzz."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("tests.reliability.mutations")


def reliability(module: str, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"tests.reliability.{module}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)


def classes(done: subprocess.CompletedProcess, width: int) -> dict[str, str]:
    return {line[:width].strip(): line[width:].split("  ")[1].strip() for line in done.stdout.splitlines()[:-1]}


@pytest.mark.long
def test_faults_of_all_three_classes():
    from reliability.faults import WIDTH

    wanted = {
        "disk full: state": "refused",
        "EIO on read: archive": "refused",
        "newest state cut, empty, a folder": "set aside",
        "bit flip: state, optimiser": "set aside",
        "both states cut": "refused",
        "garbage in metrics.jsonl": "set aside",
        "lock of a dead process, torn lock": "resumed",
        "link in place of a part": "resumed",
    }
    done = reliability("faults", *wanted)
    assert classes(done, WIDTH) == wanted, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(wanted)} of {len(wanted)}" and done.returncode == 0


@pytest.mark.slow
def test_damaged_states_and_indices_are_never_loaded_wrongly():
    done = reliability("mutations", "state", "index", "--inputs", "50")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 inputs in" in done.stdout and ": 0 loaded wrongly, 0 undocumented" in done.stdout


def test_there_are_forty():
    from reliability.faults import FAULTS

    assert len(FAULTS) == 40


def test_a_state_that_differs_is_not_the_same(mutations, tmp_path):
    seed = mutations.states(tmp_path)[0]
    (tmp_path / "a").mkdir()
    assert mutations.is_same(mutations.read_state(tmp_path / "a", seed))
    other = mutations.trained()
    next(iter(other[0].model.parameters())).data.add_(1e-3)
    assert not mutations.is_same(mutations.Loaded(mutations.of_state(*other), mutations.right_state()))


def test_a_log_may_lose_lines_with_a_word_and_gain_none(mutations):
    log = [{"step": step, "loss": 2.5} for step in range(4)]
    loaded, is_same = mutations.Loaded, mutations.is_same_log
    assert is_same(loaded(log, log))
    assert is_same(loaded(log[1:], log, "metrics.jsonl: 1 of 5 lines are damaged and left out"))
    for value, said in (
        (log[1:], ""),
        ([*log[:2], log[1]], "metrics.jsonl: 1"),
        ([log[0] | {"loss": 2.25}], "metrics.jsonl: 1"),
    ):
        assert not is_same(loaded(value, log, said))
