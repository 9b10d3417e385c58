"""Gives a reader thousands of damaged inputs, and finds every answer that no document mentions.

Allowed is a value, or an InputError whose message is one printable line. Not allowed is any other exception, a dead or
hanging process, too much CPU or memory, a write outside the folder, a started program, a traceback on stderr.

Each reader runs in a forked worker. An input that kills its worker is a finding, and a new worker goes on behind it.
Input number i of a reader depends on nothing but the seed, the reader's name and i.
"""

import contextlib
import ctypes
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from w2v.errors import InputError

LONGEST_MESSAGE = 600  # characters
SPLICED_SHARE = 0.1  # of the inputs: the beginning of one seed and the end of another
NO_MEMORY = re.compile(r"not enough memory|cannot allocate|unable to allocate|MemoryError|bad_alloc", re.IGNORECASE)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of the interpreter -> the first and last of their arguments that are paths that change.
CHANGES = {
    "os.mkdir": (0, 1), "os.remove": (0, 1), "os.rmdir": (0, 1), "os.rename": (0, 2), "os.link": (1, 2),
    "os.symlink": (1, 2), "os.truncate": (0, 1), "os.chmod": (0, 1), "os.chown": (0, 1), "os.utime": (0, 1),
}  # fmt: skip
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect"}


@dataclass(frozen=True)
class Reader:
    """A kind of file, and the product's own code that reads it.

    seeds: folder -> valid inputs, the same at every call. read: writes an input where the product would find it in an
    empty folder, and calls what a command would call. mutate: (generator, seed) -> damaged input. check: whether a
    value is right as far as that can be known.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]
    mutate: Callable[[random.Random, bytes], bytes]
    check: Callable[[object], bool] | None = None
    seeds_first: bool = False  # each as it is, in order: they are damaged already


def by_name(readers: Iterable[Reader]) -> dict[str, Reader]:
    """ValueError for two readers with one name: the first would never run, and nobody would see it."""
    found: dict[str, Reader] = {}
    for reader in readers:
        if found.setdefault(reader.name, reader) is not reader:
            raise ValueError(f"two readers are named {reader.name}; rename one")
    return found


@dataclass(frozen=True)
class Limits:
    cpu_s: float = 10
    wall_s: float = 300  # of one input, which waits for something
    mb: float = 2048  # beyond what the worker took before it read anything


@dataclass(frozen=True)
class Finding:
    """One answer that no document mentions. where: the deepest line of the project in its traceback."""

    reader: str
    number: int
    kind: str
    message: str
    where: str = ""

    def line(self) -> str:
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.message)[:100]
        return f"{self.reader} {self.number}: {self.kind}: {message}{self.where and f' ({self.where})'}"


@dataclass
class Result:
    reader: str
    values: int = 0
    refusals: int = 0
    cpu_s: float = 0.0  # the slowest input
    mb: float = 0.0  # the most memory
    findings: list[Finding] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.values + self.refusals + len(self.findings)


def make_input(reader: Reader, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    if reader.seeds_first and number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed}-{reader.name}-{number}")
    data = rng.choice(seeds)
    if len(seeds) > 1 and rng.random() < SPLICED_SHARE:
        other = rng.choice(seeds)
        data = data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
    return reader.mutate(rng, data)


class _Blocked(BaseException):
    """Not an Exception: no reader's own handler takes it."""


class _Guard:
    """Sees what Python code opens for writing, moves, deletes or starts, and stops it outside the folder."""

    def __init__(self):
        self.folder = ""  # nothing is guarded without one
        self.seen: list[str] = []
        sys.addaudithook(self._look)

    def _look(self, event: str, args: tuple) -> None:
        if not self.folder:
            return
        if event == "open":
            path, _, flags = args
            paths = (path,) if isinstance(flags, int) and flags & WRITES else ()
        elif event in CHANGES:
            paths = args[slice(*CHANGES[event])]
        elif event in PROGRAMS:
            self._stop(f"{event} {ascii(args)[:60]}")
            return
        else:
            return
        for path in paths:
            if isinstance(path, int) or path is None or path in ("/dev/null", b"/dev/null"):
                continue
            changed = Path(os.fsdecode(path))
            # open() follows a link; what moves or deletes changes the folder that the name stands in.
            inside = os.path.realpath(changed if event == "open" else changed.parent)
            if not f"{inside}{os.sep}".startswith(self.folder + os.sep):
                self._stop(f"{event} outside the folder: {os.fsdecode(path)!a}")

    def _stop(self, what: str) -> None:
        self.seen.append(what)
        raise _Blocked(what)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}w2v{os.sep}" in frame.filename or "recipes" in frame.filename]
    frame = (ours or frames or [None])[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}" if frame else ""


def _answer(reader: Reader, folder: Path, data: bytes, guard: _Guard) -> tuple[str, str, str]:
    """-> "value", "refusal" or the kind of an answer that is not allowed; its message; where it came from."""
    errors = io.StringIO()
    guard.seen.clear()
    kind, message, where = "value", "", ""
    try:
        with contextlib.redirect_stderr(errors):
            guard.folder = os.path.realpath(folder)
            try:
                value = reader.read(folder, data)
            finally:
                guard.folder = ""
        if reader.check is not None and not reader.check(value):
            kind, message = "wrong value", repr(value)
    except InputError as error:
        kind, message, where = "refusal", str(error), _where(error)
        if not message.isprintable() or len(message) > LONGEST_MESSAGE or not message:
            kind = f"not one printable line of {LONGEST_MESSAGE} characters"
        elif NO_MEMORY.search(message):
            kind = "memory"
    except BaseException as error:
        kind, message, where = type(error).__name__, str(error), _where(error)
    if guard.seen:
        return "forbidden", guard.seen[0], where
    if kind in ("value", "refusal") and "Traceback (most recent call last)" in errors.getvalue():
        return "traceback on stderr", errors.getvalue().strip().splitlines()[-1], ""
    return kind, message, where


OWN_FAULT = 70  # a worker's exit code
VALUES, REFUSALS, NUMBER, STARTED, CPU, MB = range(6)  # what a worker's shared numbers mean


def _work(reader, seeds, seed, first, inputs, limits, folder, shared, pipe) -> None:
    try:
        _read_all(reader, seeds, seed, first, inputs, limits, folder, shared, pipe)
    except BaseException:  # a fault of the harness or of a mutator
        pipe.send(traceback.format_exc())
        os._exit(OWN_FAULT)
    os._exit(0)  # no exit handlers of the parent


def _read_all(reader, seeds, seed, first, inputs, limits, folder, shared, pipe) -> None:
    with open(os.devnull, "w") as nothing:  # what decoders written in C print
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    sys.dont_write_bytecode = True
    tempfile.tempdir = str(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])  # address space; twice the limit protects the machine
    most = pages * resource.getpagesize() + int(2 * limits.mb * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    guard = _Guard()
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for number in range(first, inputs):
        data = make_input(reader, seeds, seed, number)
        here = folder / str(number)
        here.mkdir()
        shared[NUMBER], shared[STARTED] = number, time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)  # its signal ends the process, inside of C code too
        start = time.process_time()
        kind, message, where = _answer(reader, here, data, guard)
        cpu_s = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - idle
        shared[CPU], shared[MB] = max(shared[CPU], cpu_s), max(shared[MB], mb)
        shutil.rmtree(here, ignore_errors=True)
        if mb > limits.mb:
            kind, message = "memory", f"{mb:.0f} MB; {kind} {message}"
        if kind == "value":
            shared[VALUES] += 1
        elif kind == "refusal":
            shared[REFUSALS] += 1
        else:
            pipe.send(Finding(reader.name, number, kind, message[:1000], where))
        if mb > limits.mb:  # a process never forgets its peak: another one goes on
            return
    shared[NUMBER] = inputs


class _Worker:
    """A process that goes through one reader's inputs from `first` on."""

    def __init__(self, reader, seeds, seed, first, inputs, limits, folder):
        context = multiprocessing.get_context("fork")
        self.reader, self.limits, self.inputs = reader, limits, inputs
        self.shared = context.RawArray("d", 6)
        self.shared[NUMBER], self.shared[STARTED] = first - 1, time.monotonic()
        self.findings: list[Finding] = []
        self.pipe, child = context.Pipe(duplex=False)
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # what the parent has freed would hide what the worker takes
        args = (reader, seeds, seed, first, inputs, limits, self.folder, self.shared, child)
        self.process = context.Process(target=_work, args=args)
        self.process.start()
        child.close()

    def hear(self) -> bool:
        """Take its findings; whether it has ended."""
        has_ended = self.process.exitcode is not None  # asked first: what it sent before its end is in the pipe now
        with contextlib.suppress(EOFError):
            while self.pipe.poll():
                self.findings.append(self.pipe.recv())
        if not has_ended and time.monotonic() - self.shared[STARTED] > self.limits.wall_s:
            self.process.kill()
        return has_ended

    def end(self, result: Result, tried: set[int]) -> int:
        """Add what it found to the result; -> the input to go on with.

        tried: inputs that took too much CPU once. Such an input is read a second time before it counts: a virtual
        machine that stands still has the time added to whoever computes.
        """
        self.process.join()
        number, code = int(self.shared[NUMBER]), self.process.exitcode
        if code == OWN_FAULT:
            raise RuntimeError(f"the harness failed near input {number} of {self.reader.name}: {self.findings[-1]}")
        again = code == -signal.SIGPROF and number not in tried
        if again:
            tried.add(number)
        elif number < self.inputs and not any(finding.number == number for finding in self.findings):
            why = {-signal.SIGPROF: f"over {self.limits.cpu_s:g} s of CPU", -signal.SIGKILL: "killed, or it waited"}
            other = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.findings.append(Finding(self.reader.name, number, "process ended", why.get(code, other)))
        if code == -signal.SIGPROF and not again:
            result.cpu_s = max(result.cpu_s, self.limits.cpu_s)
        result.values += int(self.shared[VALUES])
        result.refusals += int(self.shared[REFUSALS])
        result.cpu_s, result.mb = max(result.cpu_s, self.shared[CPU]), max(result.mb, self.shared[MB])
        result.findings += self.findings
        self.pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return number if again else number + 1


def fuzz(
    readers: Sequence[Reader],
    inputs: int,
    seed: int = 0,
    keep: Path | None = None,
    jobs: int = 2,
    limits: Limits = Limits(),
    log: Callable[[str], object] = lambda line: None,
) -> list[Result]:
    """Give each reader `inputs` damaged inputs. keep: a folder for the inputs of findings, three of each kind."""
    results = {reader.name: Result(reader.name) for reader in readers}
    with tempfile.TemporaryDirectory(prefix="w2v-fuzz-") as name:
        folder = Path(name)
        seeds: dict[str, list[bytes]] = {}
        for reader in readers:
            (folder / "seeds" / reader.name).mkdir(parents=True)
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                seeds[reader.name] = reader.seeds(folder / "seeds" / reader.name)
        todo = [(reader, 0) for reader in reversed(readers)]
        workers: list[_Worker] = []
        tried: dict[str, set[int]] = {reader.name: set() for reader in readers}
        try:
            while todo or workers:
                while todo and len(workers) < jobs:
                    reader, first = todo.pop()
                    workers.append(_Worker(reader, seeds[reader.name], seed, first, inputs, limits, folder))
                wait([worker.process.sentinel for worker in workers], timeout=0.1)
                for worker in [worker for worker in workers if worker.hear()]:
                    workers.remove(worker)
                    result = results[worker.reader.name]
                    first = worker.end(result, tried[worker.reader.name])
                    if first < inputs:
                        todo.append((worker.reader, first))
                    else:
                        log(row(result))
        finally:
            for worker in workers:
                worker.process.kill()
        if keep is not None:
            for reader in readers:
                _keep(keep, reader, seeds[reader.name], seed, results[reader.name].findings)
    return list(results.values())


def kinds(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one cause together, as far as that can be seen."""
    groups: dict[tuple, list[Finding]] = {}
    for finding in findings:
        message = re.sub(r"\d+", "", finding.message[:20]) if not finding.where else ""
        groups.setdefault((finding.reader, finding.kind, finding.where, message), []).append(finding)
    return list(groups.values())


def _keep(folder: Path, reader: Reader, seeds: list[bytes], seed: int, findings: Sequence[Finding]) -> None:
    for group in kinds(findings):
        for finding in group[:3]:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{reader.name}-{finding.number}").write_bytes(make_input(reader, seeds, seed, finding.number))


HEADER = f"{'reader':<22}{'inputs':>8}{'values':>8}{'refusals':>10}{'undocumented':>14}{'slowest':>10}{'memory':>9}"


def row(result: Result) -> str:
    return (
        f"{result.reader:<22}{result.inputs:>8}{result.values:>8}{result.refusals:>10}{len(result.findings):>14}"
        f"{result.cpu_s:>8.2f} s{result.mb:>6.0f} MB"
    )
