"""What commands leave in a log file: lines, no bars; and how they end where nobody waits for the end.

Run: pytest tests/recipes/test_logs.py
"""

import errno
import io
import os
import signal
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT

from recipes import console, cv_prepare
from recipes.console import Unbroken
from w2v.data import store

FAST = ["--lang", "tr", "--model", "tiny", "--max-train-clips", "8", "--max-steps", "2", "--eval-steps", "1"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMMON_VOICE_ROOT", raising=False)


def test_a_log_file_gets_no_bars(capsys, monkeypatch):
    monkeypatch.setattr(store, "SECONDS_PER_LINE", 0.0)
    cv_prepare.main(["--lang", "tr"])
    printed = capsys.readouterr().err
    assert "\r" not in printed
    assert "decoded 99 of 100 clips\n" in printed


def test_a_log_file_gets_a_line_twice_a_minute_at_most(capsys):
    cv_prepare.main(["--lang", "tr"])
    assert "decoded" not in capsys.readouterr().err


def test_an_archive_makes_no_bars_either(capsys, tmp_path):
    with tarfile.open(tmp_path / "cv.tar.gz", "w:gz") as archive:
        archive.add(ROOT / "recipes" / "sample" / "tr", "cv/tr")
    cv_prepare.main(["--lang", "tr", "--data", str(tmp_path / "cv.tar.gz"), "--model", "tiny"])
    assert "\r" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_log_of_a_run(tmp_path):
    with open(tmp_path / "log.txt", "wb") as log:
        command = [sys.executable, "-m", "recipes.cv_finetune", *FAST, "--out", tmp_path / "out"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=log)
    printed = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "\r" not in printed
    assert "step 2 of 2: loss" in printed


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", Unbroken(terminal))
    cv_prepare.main(["--lang", "tr"])
    assert "\rdecoding audio: " in terminal.getvalue()


class Closed(io.StringIO):
    """A pipe whose reader is gone."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL])
def test_a_pipe_without_a_reader_on_any_system(number):
    stream = Unbroken(Closed(number))
    assert stream.write("abc") == 3
    assert not stream.is_open


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_command_ends_well_where_nobody_reads(closed, monkeypatch):
    """test_errors.py has it as a process."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, closed, Closed(errno.EPIPE))
    console.run(lambda: {"said": console.say("abc")})
    other = sys.stderr if closed == "stdout" else sys.stdout
    assert other.getvalue() == ("abc\n" if closed == "stdout" else '{"said": null}\n')


def test_other_failures_to_write_are_not_swallowed():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Unbroken(Full()).write("abc")


# A shell's background job ignores SIGINT, and so would its children.
SLOW_DECODING = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from recipes import console, cv_prepare
from w2v.data import store
decode = store._decode
store._decode = lambda *task: (time.sleep(0.2), decode(*task))[1]
console.run(lambda: cv_prepare.main(["--lang", "tr", "--workers", "1"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_preparation_ends_quietly():
    process = subprocess.Popen([sys.executable, "-c", SLOW_DECODING], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    printed = []
    for line in process.stderr:
        printed.append(line)
        if line.startswith("decoding 100 clips"):
            process.send_signal(signal.SIGINT)
            break
    printed.append(process.stderr.read())
    assert process.wait() == 130
    assert "Traceback" not in "".join(printed)
    assert "stopped" in printed[-1]


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_preparation_whose_reader_is_gone_ends_quietly(stream):
    command = [sys.executable, "-m", "recipes.cv_prepare", "--lang", "tr"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    getattr(process, stream).close()
    other = process.stderr if stream == "stdout" else process.stdout
    printed = other.read()
    assert process.wait() == 0, printed
    assert "Traceback" not in printed and "BrokenPipe" not in printed
