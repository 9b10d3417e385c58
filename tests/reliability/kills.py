"""Runs that are killed: at random moments, and at places that are named.

    python -m tests.reliability kills --count 50     # a process is killed after a random time, goes on, and is compared
    python -m tests.reliability places               # one kills itself at exactly one place, for each place there is

Each place must be reached: the process died by SIGKILL, and left a mark that it did it itself.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

from recipes import console, cv_finetune

from . import runs
from .places import INTERRUPTED, PLACES, Place

KILLS = 50
RESUMED = 0.7  # of the time of a whole run: as long as one that goes on lasts at least
KILLED = -int(signal.SIGKILL)


def kills(args: argparse.Namespace) -> int:
    """Kill --count runs at moments that are drawn uniformly over the time of a whole one; each third one twice."""
    count, draw = args.count or KILLS, random.Random(args.seed)
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    whole = base / "whole"
    longest = whole_run(whole).seconds
    print(f"a run that is left alone: {longest:.1f} s; its folder: {whole}", flush=True)
    moments = [(i + draw.random()) / count for i in range(count)]  # of each share of the time one: still uniform
    draw.shuffle(moments)
    right, died = 0, 0
    for number, moment in enumerate(moments, 1):
        folder = base / f"{number:02d}"
        while (ended := runs.finish(folder, runs.first(folder), kill_after=moment * longest)).code != KILLED:
            assert ended.code == 0, ended.said
            print(f"{number:>4}  had ended after {ended.seconds:.2f} s: begun again", flush=True)
            longest = min(longest, ended.seconds)  # the machine was busier when it was measured
            shutil.rmtree(folder)
        died += 1
        line = f"{number:>4}  killed after {ended.seconds:.2f} s: {runs.there(folder)}"
        if number % 3 == 0:
            again = runs.finish(folder, runs.then(folder), kill_after=draw.random() * RESUMED * longest)
            if again.code == KILLED:
                died += 1
                print(f"{line}; goes on", flush=True)
                line = f"{number:>4}  killed again after {again.seconds:.2f} s: {runs.there(folder)}"
        right += told(line, whole, folder, runs.finish(folder, runs.then(folder)))
    return told_all(right, count, f"bit-equal after {died} kills", base)


def whole_run(folder: Path) -> runs.Ended:
    ended = runs.finish(folder, runs.first(folder))
    assert ended.code == 0, ended.said
    return ended


def told(line: str, whole: Path, folder: Path, ended: runs.Ended) -> bool:
    """Print what became of a run. -> whether it is right; then its folder is deleted."""
    wrong = runs.wrong(whole, folder, ended) or [f"keeps {name}" for name in runs.too_many(whole, folder)]
    if wrong:
        print(f"{line} -> WRONG, {'; '.join(wrong)} (in {folder})", flush=True)
        return False
    print(f"{line} -> bit-equal", flush=True)
    shutil.rmtree(folder)
    return True


def told_all(right: int, count: int, what: str, base: Path) -> int:
    print(f"{right} of {count} {what}")
    if right == count:
        shutil.rmtree(base)
    return int(right < count)


def places(args: argparse.Namespace) -> int:
    """Kill a run at each place, let it go on, compare."""
    wanted = chosen(args.only or [""])
    assert wanted, f"no place has {args.only} in its name"
    base = Path(tempfile.mkdtemp(prefix="places-"))
    whole_run(base / "finished")
    assert killed_there(INTERRUPTED, base, base / "interrupted").code == KILLED
    right = 0
    for number, place in enumerate(wanted, 1):
        folder = base / f"{number:02d}"
        ended = killed_there(place, base, folder)
        if ended.code != KILLED or not (folder / "reached").exists():
            print(f"{number:>4}  {place.name}: WRONG, not reached: exit code {ended.code} (in {folder})", flush=True)
            continue
        line = f"{number:>4}  {place.name}: {runs.there(folder)}"
        arguments = overwriting(folder) if place.again else runs.then(folder)
        right += told(line, base / "finished", folder, runs.forked(folder, partial(command, arguments)))
    return told_all(right, len(wanted), "places", base)


def chosen(texts: list[str]) -> list[Place]:
    """The places with one of these texts in the name; a text that is the whole name of one means that alone."""
    names = {place.name for place in PLACES}
    return [place for place in PLACES if any(t == place.name or (t not in names and t in place.name) for t in texts)]


def killed_there(place: Place, base: Path, folder: Path) -> runs.Ended:
    """A run that kills itself at a place."""
    folder.mkdir()
    arguments = runs.first(folder)
    if place.given != "nothing":
        for part in ("run", "cache"):  # not what was said, which is judged for each folder of its own
            shutil.copytree(base / place.given / part, folder / part)
        arguments = overwriting(folder) if place.given == "finished" else runs.then(folder)

    def die() -> None:
        (folder / "reached").write_bytes(b"")
        os.kill(os.getpid(), signal.SIGKILL)  # all threads of the process end here

    def work() -> None:
        place.arm(folder, die)
        command(arguments)

    return runs.forked(folder, work)


def overwriting(folder: Path) -> list[str]:
    return [*runs.first(folder), "--overwrite"]


def command(arguments: list[str]) -> None:
    """python -m recipes.cv_finetune, in this process."""
    console.run(lambda: cv_finetune.main(arguments))
