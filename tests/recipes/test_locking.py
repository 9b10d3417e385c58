"""One writer for each run folder, and locks of processes that are gone.

Run: pytest tests/recipes/test_locking.py
"""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from recipes import cv_finetune, locking
from w2v.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")
RUN = ["--lang", "tr", "--model", "tiny", "--max-train-clips", "4", "--max-steps", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("finished") / "run"
    cv_finetune.main([*RUN, "--out", str(out)])
    assert not (out / locking.FILE).exists()
    return out


@pytest.fixture
def other():
    """Another process, which does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n")


def lock(out, **holder) -> None:
    (out / locking.FILE).write_text(json.dumps({"host": platform.node(), "started": None} | holder))


@pytest.mark.parametrize("flags", [["--resume"], ["--overwrite"], []])
def test_a_folder_in_use_is_refused(finished, other, flags):
    before = (finished / "run.json").read_bytes()
    lock(finished, process=other.pid, started=locking._started(other.pid))
    with pytest.raises(InputError, match=f"is in use by process {other.pid}; wait for it, stop it, or choose another"):
        cv_finetune.main([*RUN, *flags, "--out", str(finished)])
    assert (finished / "run.json").read_bytes() == before and (finished / locking.FILE).exists()


def test_a_folder_in_use_on_another_machine_asks_the_user(finished):
    lock(finished, host="far-away", process=1)
    with pytest.raises(InputError, match=r"in use by process 1 on 'far-away'; wait for it, or delete .*run\.lock"):
        cv_finetune.main(["--resume", "--out", str(finished)])
    (finished / locking.FILE).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gone", "another process of that number", "damaged", "no object"])
def test_a_lock_of_a_process_that_is_gone_is_taken(finished, other, kind):
    if kind == "gone":
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        lock(finished, process=gone.pid, started="7")
    elif kind == "another process of that number":
        if not locking._started(os.getpid()):
            pytest.skip("this system does not tell when a process was started")
        lock(finished, process=other.pid, started="7")
    else:
        (finished / locking.FILE).write_text('{"host"' if kind == "damaged" else '{"host": 3, "process": "x"}')
    assert cv_finetune.main(["--resume", "--out", str(finished)])["steps"] == 1
    assert not (finished / locking.FILE).exists()


def test_a_lock_alone_is_no_other_file(tmp_path):
    """A run that was killed as it began."""
    lock(tmp_path, process=2**22 + 1)
    cv_finetune.main([*RUN, "--out", str(tmp_path)])


def test_a_folder_that_was_taken_while_clips_were_decoded_keeps_its_files(finished, other, tmp_path, monkeypatch):
    """Two commands begin at once: the second one, which was refused nothing at first, writes and deletes nothing."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    prepare, before = cv_finetune.prepare, {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    def taken(*arguments):
        lock(out, process=other.pid, started=locking._started(other.pid))
        return prepare(*arguments)

    monkeypatch.setattr(cv_finetune, "prepare", taken)
    with pytest.raises(InputError, match=f"is in use by process {other.pid}"):
        cv_finetune.main([*RUN, "--overwrite", "--out", str(out)])
    (out / locking.FILE).unlink()
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_the_lock_is_held_while_the_run_lasts_and_goes_with_an_error(tmp_path, monkeypatch):
    seen = []

    def fit(*_):
        seen.append(json.loads((tmp_path / "run" / locking.FILE).read_text()))
        raise InputError("no")

    monkeypatch.setattr(cv_finetune, "fit", fit)
    with pytest.raises(InputError, match="no"):
        cv_finetune.main([*RUN, "--out", str(tmp_path / "run")])
    assert seen[0]["process"] == os.getpid() and not (tmp_path / "run" / locking.FILE).exists()
