"""Where faults are produced: a run that was stopped, its data and cache, and commands in processes of their own.

Each fault gets its own copy of all this, at the same place, and mounts that nobody else sees. A command is a forked
process: torch is imported once. It can be broken from inside before it begins: `before`.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipes import console, cv_finetune

from .breaking import at_step, have_own_mounts

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "recipes" / "sample" / "tr"
CLIPS = {"train": 8, "dev": 3, "test": 3}
STEPS, STOPPED = 6, 4  # of the whole run; where the other one was stopped
# A state at each even step, dev at 3 and 6, so best weights at 3.
RUN = ["--lang", "tr", "--model", "random:tiny", "--batch-clips", "2", "--max-steps", str(STEPS), "--log-steps", "2",
       "--eval-steps", "3", "--save-steps", "2", "--keep-checkpoints", "2", "--workers", "1",
       "--device", "cpu"]  # fmt: skip
TIMES = {"train_seconds", "audio_s_per_s", "run"}  # of the log and of a state: no two runs have the same
LONGEST_LINE = 500  # characters
PATIENCE_S = 150  # that a command may take on a busy machine


class NotRightError(AssertionError):
    """What a fault must not do."""


@dataclass(frozen=True)
class Stage:
    """folder: its data, its cache, and a run that a signal stopped after step 4. whole: the same run, never stopped."""

    folder: Path
    whole: Path

    @property
    def data(self) -> Path:
        return self.folder / "data" / "tr"

    @property
    def archive(self) -> Path:
        return self.folder / "tr.tar.gz"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def new(self, out: Path | None = None, *more: object) -> list[str]:
        """The words of a command that begins the run."""
        return [*RUN, "--data", str(self.data), "--cache", str(self.cache), "--out", str(out or self.folder / "new"),
                *map(str, more)]  # fmt: skip

    def again(self, out: Path | None = None) -> list[str]:
        """Those of the command that goes on with it."""
        return ["--resume", "--out", str(out or self.run)]


@dataclass(frozen=True)
class Done:
    """How a command ended. code: negative for a signal."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def summary(self) -> dict:
        return json.loads(self.out.splitlines()[-1])

    def said(self, pattern: str) -> list[str]:
        return [line for line in self.err.splitlines() if re.search(pattern, line)]


class Command:
    """A command of the product in a forked process. before: called in it first."""

    def __init__(
        self,
        argv: list[str],
        before: Callable[[], object] = lambda: None,
        main: Callable[[list[str]], dict] = cv_finetune.main,
    ):
        self.files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  open until the command is done
        self.started = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_command(argv, before, main, [file.fileno() for file in self.files])

    def wait(self, seconds: float = PATIENCE_S) -> Done:
        end, pid = self.started + seconds, 0
        while pid == 0 and time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.01)
        if pid == 0:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise NotRightError(f"it did not end within {seconds:g} s")
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode())
        return Done(os.waitstatus_to_exitcode(status), *texts, seconds=time.monotonic() - self.started)


def _be_the_command(argv, before, main, files: list[int]) -> None:
    """Does not come back. What the interpreter does at a command's end is done here too."""
    code: object = 1
    try:
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        before()  # it may put other files there
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        try:
            console.run(lambda: main(argv))
            code = 0
        except SystemExit as end:
            code = 0 if end.code is None else end.code
        except BaseException:
            traceback.print_exc()
        threading._shutdown()  # type: ignore[attr-defined]  waits for threads
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def command(argv: list[str], before: Callable[[], object] = lambda: None, main=cv_finetune.main) -> Done:
    return Command(argv, before, main).wait()


def shell(words: str, *argv: str) -> Done:
    """A command in an interpreter of its own that a shell starts. words: with "$@" for the command."""
    program = [sys.executable, "-m", "recipes.cv_finetune", *argv]
    start = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", words, "bash", *program], cwd=ROOT, capture_output=True, env=environment,
                          timeout=PATIENCE_S, check=False)  # fmt: skip
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode(), time.monotonic() - start)


def launch(*argv: str) -> subprocess.Popen:
    """The command in two processes under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.Popen([*torchrun, "-m", "recipes.cv_finetune", *argv], cwd=ROOT, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip


def hold(marks: Path) -> Callable[[], None]:
    """before: wait in the first step until `go_on(marks)`; `is_held(marks)` waits for that."""

    def wait() -> None:
        (marks / "held").touch()
        while not (marks / "go on").exists():
            time.sleep(0.02)

    return at_step(1, wait)


def is_held(marks: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not (marks / "held").exists():
        if time.monotonic() > end:
            raise NotRightError("the run that others meet did not begin")
        time.sleep(0.02)


def go_on(marks: Path) -> None:
    (marks / "go on").touch()


# --- verdicts


def clean(done: Done) -> Done:
    if "Traceback" in done.err:
        last = [line for line in done.err.splitlines() if line][-1]
        raise NotRightError(f"a traceback: {last}")
    return done


def refused(done: Done, *patterns: str) -> tuple[str, str]:
    """One error line, the last, with a remedy behind its semicolon; patterns: what it names."""
    clean(done)
    errors = done.said("^error: ")
    if done.code != 2 or len(errors) != 1:
        raise NotRightError(f"exit {done.code}, {len(errors)} error lines: {done.err[-200:]}")
    (line,) = errors
    if done.out or done.err.rstrip().splitlines()[-1] != line:
        raise NotRightError(f"more follows the error line: {done.out or done.err[-200:]}")
    if "; " not in line or not line.isprintable() or len(line) > LONGEST_LINE:
        raise NotRightError(f"not rule, value and remedy in one line: {line[:300]}")
    for pattern in patterns:
        if not re.search(pattern, line):
            raise NotRightError(f"the line does not name {pattern}: {line}")
    return "refused", line


def resumed(done: Done, out: Path, like: Path) -> tuple[str, str]:
    """Done, with the bits of the run that met no fault. The line is what it resumed from, else its last."""
    clean(done)
    if done.code != 0:
        raise NotRightError(f"exit {done.code}: {done.err[-200:]}")
    check_same(out, like)
    lines = done.said("^resuming from") or done.err.rstrip().splitlines()[-1:] or ["(nothing on stderr)"]
    return "resumed", lines[0]


def set_aside(done: Done, pattern: str, out: Path | None = None, like: Path | None = None) -> tuple[str, str]:
    """The run goes on, with the same bits where `like` is given, and one line tells of the fault."""
    if out is not None and like is not None:
        resumed(done, out, like)
    elif clean(done).code != 0:
        raise NotRightError(f"exit {done.code}: {done.err[-200:]}")
    lines = done.said(pattern)
    if not lines:
        raise NotRightError(f"the run goes on without a word of it ({pattern})")
    return "set aside", lines[0]


def log_lines(out: Path) -> list[dict]:
    found = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def newest(out: Path) -> Path:
    return max((out / "checkpoints").glob("step-*.pt"))


def check_same(out: Path, like: Path) -> None:
    """Weights, the newest state and metrics are bit-equal."""
    one, two = (load_file(folder / "model.safetensors") for folder in (out, like))
    if one.keys() != two.keys() or not all(torch.equal(one[name], two[name]) for name in one):
        raise NotRightError("the exported weights are not those of the run without the fault")
    states = [torch.load(newest(folder), weights_only=True) for folder in (out, like)]
    if not _equal(*states):
        raise NotRightError("the last state is not that of the run without the fault")
    if log_lines(out) != log_lines(like):
        raise NotRightError("metrics.jsonl is not that of the run without the fault")


def _equal(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one.keys() - TIMES)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(_equal, one, two))
    return one == two


# --- the copy for each fault


def prepare(root: Path) -> Stage:
    """Train the two runs, and keep all as it must be before a fault."""
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    stage = Stage(root / "stage", root / "whole")
    (stage.data / "clips").mkdir(parents=True)
    head, *rows = (SAMPLE / "validated.tsv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if '"' not in row]
    for name, count in CLIPS.items():
        table, rows = rows[:count], rows[count:]
        (stage.data / f"{name}.tsv").write_text("\n".join([head, *table, ""]), encoding="utf-8")
        for row in table:
            shutil.copy(SAMPLE / "clips" / row.split("\t")[1], stage.data / "clips")
    with tarfile.open(stage.archive, "w:gz") as archive:
        archive.add(stage.data, "cv-corpus/tr")
    done = command(stage.new(stage.whole))
    if done.code != 0:
        raise NotRightError(f"the run without a fault failed: {done.err[-500:]}")
    stopped = command(stage.new(stage.run), at_step(STOPPED, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    if stopped.code != 143 or newest(stage.run).name != f"step-{STOPPED:07d}.pt":
        raise NotRightError(f"the run was not stopped after step {STOPPED}: {stopped.err[-500:]}")
    shutil.copytree(stage.folder, root / "pristine")
    return stage


def produce(stage: Stage, fault: Callable[[Stage], tuple[str, str]], seconds: float = 4 * PATIENCE_S) -> list[str]:
    """-> the class of a fault and the line that its user saw; "wrong" and why where it is not right."""
    shutil.rmtree(stage.folder)
    shutil.copytree(stage.whole.with_name("pristine"), stage.folder)
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            have_own_mounts()
            answer = fault(stage)
        except BaseException as error:  # what is not right may end in any way
            text = str(error) if isinstance(error, NotRightError) else f"{type(error).__name__}: {error}"
            answer = ("wrong", text)
        os.write(writable, json.dumps([text[:LONGEST_LINE] for text in answer]).encode())
        os._exit(0)
    timer = threading.Timer(seconds, os.killpg, (pid, signal.SIGKILL))
    timer.start()
    os.waitpid(pid, 0)
    timer.cancel()
    with contextlib.suppress(ProcessLookupError):  # what a wrong fault left behind
        os.killpg(pid, signal.SIGKILL)
    os.close(writable)
    with open(readable, "rb") as pipe:
        data = pipe.read()
    kind, line = json.loads(data) if data else ("wrong", f"it did not end within {seconds:g} s")
    return [kind, " ".join(line.split())]
