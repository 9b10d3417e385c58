"""Faults of processes: two writers, locks, ranks, clocks, limits, streams."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recipes import locking

from .breaking import at_step
from .stage import (
    Command,
    Done,
    NotRightError,
    Stage,
    command,
    go_on,
    hold,
    is_held,
    launch,
    refused,
    resumed,
    shell,
)

Answer = tuple[str, str]
DEATH_S = 5.0  # from one rank's death to the end of all
DECADES_S = 20 * 365 * 86_400
LAUNCHED_STEPS = 60  # enough that a signal comes between two of them
LAUNCHERS_REPORT = "torch/distributed/elastic"


def begun_at_once(stage: Stage) -> Answer:
    """One of them gets the folder."""
    both = [Command(stage.new()) for _ in range(2)]
    first, second = sorted((each.wait() for each in both), key=lambda done: done.code)
    resumed(first, stage.folder / "new", stage.whole)
    return refused(second, "in use|taken|already holds", str(stage.folder / "new"))


def beside_a_live_run(stage: Stage) -> Answer:
    live = Command(stage.again(), hold(stage.folder))
    is_held(stage.folder)
    run = str(stage.run)
    answers = [refused(command(stage.again()), f"{run} is in use by process {live.pid}")]
    for more in (["--overwrite"], []):
        answers.append(refused(command(stage.new(stage.run, *more)), f"{run} is in use by process {live.pid}"))
    go_on(stage.folder)
    resumed(live.wait(), stage.run, stage.whole)
    return answers[0]


def left_lock(stage: Stage) -> Answer:
    """Of a process that was killed; one that it was killed in the middle of."""
    killed = Command(stage.again(), hold(stage.folder))
    is_held(stage.folder)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    if not (stage.run / locking.FILE).exists():
        raise NotRightError("it left no lock")
    torn = stage.folder / "torn"
    shutil.copytree(stage.run, torn)
    (torn / locking.FILE).write_text('{"host": "a')
    resumed(command(stage.again(torn)), torn, stage.whole)
    return resumed(command(stage.again()), stage.run, stage.whole)


def lock_of_another_host(stage: Stage) -> Answer:
    (stage.run / locking.FILE).write_text(json.dumps({"host": "far-away", "process": 1, "started": "1"}))
    return refused(command(stage.again()), "far-away", locking.FILE)


def two_builders(stage: Stage) -> Answer:
    """Both runs end right, and each clip was decoded once."""
    outs = [stage.folder / name for name in ("a", "b")]
    cache = stage.folder / "empty"
    both = [Command([*stage.new(out), "--cache", str(cache)]) for out in outs]
    answers = [resumed(each.wait(), out, stage.whole) for each, out in zip(both, outs, strict=True)]
    once, now = (sum(file.stat().st_size for file in place.rglob("*.i16")) for place in (stage.cache, cache))
    if now != once:
        raise NotRightError(f"the store holds {now} bytes of samples, built once it holds {once}: decoded twice")
    return answers[0]


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def rank_of(pid: int) -> str:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((line[5:].decode() for line in variables if line.startswith(b"RANK=")), "")


def launched(stage: Stage, *more: str) -> list[str]:
    return [*stage.new(), "--max-steps", str(LAUNCHED_STEPS), "--save-steps", "1000", "--eval-steps", "1000",
            "--log-steps", "7", *more]  # fmt: skip


def killed_rank(stage: Stage) -> Answer:
    torchrun = launch(*launched(stage, "--max-steps", "100000"))
    assert torchrun.stderr is not None
    said, ranks, killed = [], [], 0.0
    for line in torchrun.stderr:
        said.append(line)
        if not killed and line.startswith("step 7 of"):
            ranks = children(torchrun.pid)
            (victim,) = [pid for pid in ranks if rank_of(pid) == "1"]
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)
    torchrun.wait()
    took = time.monotonic() - killed
    if not killed:
        raise NotRightError(f"the ranks did not begin: {''.join(said)[-200:]}")
    if any(map(rank_of, ranks)):
        raise NotRightError("a rank is left")
    if took > DEATH_S:
        raise NotRightError(f"all ended {took:.1f} s after the rank's death")
    first = next((i for i, line in enumerate(said) if LAUNCHERS_REPORT in line), len(said))
    if any("Traceback" in line for line in said[:first]):
        raise NotRightError(f"a traceback of the other rank: {said[first - 1].strip()}")
    report = "".join(said[first:])
    if "rank      : 1" not in report and "local_rank: 1" not in report:
        raise NotRightError(f"the last error is not the killed rank's: {report[-200:]}")
    (line,) = [line for line in said[first:] if "local_rank: 1" in line][:1] or [report.strip().splitlines()[-1]]
    return "refused", f"{took:.1f} s; {line.strip()}"


def launcher_told_to_stop(stage: Stage) -> Answer:
    outs = whole, told = [stage.folder / name for name in ("whole", "told")]
    torchrun = launch(*launched(stage, "--out", str(whole)))
    said = torchrun.communicate()[1]
    if torchrun.returncode != 0:
        raise NotRightError(f"two ranks failed: {said[-200:]}")
    torchrun = launch(*launched(stage, "--out", str(told)))
    assert torchrun.stderr is not None
    lines = []
    for line in torchrun.stderr:
        lines.append(line)
        if line.startswith("step 7 of"):
            torchrun.terminate()
    if torchrun.wait() == 0 or sum(line.startswith("stopped by SIGTERM; go on with: ") for line in lines) != 1:
        raise NotRightError(f"it did not stop with one line: {''.join(lines)[-200:]}")
    torchrun = launch(*stage.again(told))
    said = torchrun.communicate()[1]
    return resumed(Done(torchrun.returncode, "", said), *reversed(outs))


def clock_jumps(stage: Stage) -> Answer:
    """Two decades forward and back; the times of the files too."""
    now, answers = time.time, []
    for jump in (DECADES_S, -DECADES_S):
        out = stage.folder / f"jump{jump}"
        shutil.copytree(stage.run, out)
        for file in stage.folder.rglob("*"):
            os.utime(file, (now() - jump, now() - jump))
        shift = partial(setattr, time, "time", lambda jump=jump: now() + jump)
        answers.append(resumed(command(stage.again(out), shift), out, stage.whole))
    return answers[0]


def resumed_or_refused(done: Done, stage: Stage, out: Path, *patterns: str) -> Answer:
    """Either is right under a limit; what was refused goes on without it."""
    if done.code == 0:
        return resumed(done, out, stage.whole)
    answer = refused(done, *patterns)
    is_begun = (out / "run.json").exists()
    resumed(command(stage.again(out) if is_begun else stage.new(out)), out, stage.whole)
    return answer


def few_open_files(stage: Stage) -> Answer:
    shutil.rmtree(stage.cache)
    done = shell('ulimit -n 64; exec "$@"', *stage.again())
    return resumed_or_refused(done, stage, stage.run, "open files", "ulimit -n")


def small_files(stage: Stage) -> Answer:
    """8 MB: no state fits. 2 MB: no weights do."""
    answers = []
    for kilobytes in (8192, 2048):
        out = stage.folder / f"under{kilobytes}"
        done = shell(f'ulimit -f {kilobytes}; exec "$@"', *stage.new(out))
        answers.append(resumed_or_refused(done, stage, out, "too large|limit", str(out)))
    return answers[0]


def little_memory(stage: Stage) -> Answer:
    """From the first step on the process may take a few megabytes more, and no more."""
    answers = []
    for megabytes in (0, 4, 16):

        def limit(more: int = megabytes << 20) -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + more
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

        out = stage.folder / f"with{megabytes}"
        shutil.copytree(stage.run, out)
        answers.append(resumed_or_refused(command(stage.again(out), at_step(1, limit)), stage, out, "memory"))
    return answers[0]


def no_readers(stage: Stage) -> Answer:
    """The reader of stdout and stderr is gone; both were closed from the beginning."""
    gone, closed = (stage.folder / name for name in ("gone", "closed"))
    for out in (gone, closed):
        shutil.copytree(stage.run, out)

    def leave() -> None:
        readable, writable = os.pipe()
        os.close(readable)
        os.dup2(writable, 1)
        os.dup2(writable, 2)

    answer = resumed(command(stage.again(gone), leave), gone, stage.whole)
    resumed(shell('exec "$@" >&- 2>&-', *stage.again(closed)), closed, stage.whole)
    return answer


FAULTS: dict[str, Callable[[Stage], Answer]] = {
    "two runs in one folder at once": begun_at_once,
    "--resume, --overwrite beside a live run": beside_a_live_run,
    "lock of a dead process, torn lock": left_lock,
    "lock of another host": lock_of_another_host,
    "two builders of one store": two_builders,
    "a rank is killed": killed_rank,
    "SIGTERM under torchrun": launcher_told_to_stop,
    "clock jumps": clock_jumps,
    "ulimit: open files": few_open_files,
    "ulimit: size of a file": small_files,
    "ulimit: memory": little_memory,
    "stdout and stderr closed": no_readers,
}
