"""Runs that are killed: at random moments, and at places that are named.

    python -m tests.reliability kills --count 50     # a process is killed after a random time, goes on, and is compared
    python -m tests.reliability places               # one kills itself at exactly one place, for each place there is

Places know files by their names, and what torch does by its public hooks; they know no function of the product. Each
must be reached: the process died by SIGKILL, and left a mark that it was its own.
"""

import argparse
import builtins
import io
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from recipes import console, cv_finetune

from . import runs

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
    wrong = runs.wrong(whole, folder, ended)
    result = f"WRONG, {'; '.join(wrong)} (in {folder})" if wrong else "bit-equal"
    more = runs.too_many(whole, folder)
    print(f"{line} -> {result}{', more than needed: ' + ', '.join(more) if more and not wrong else ''}", flush=True)
    if not wrong:
        shutil.rmtree(folder)
    return not wrong


def told_all(right: int, count: int, what: str, base: Path) -> int:
    print(f"{right} of {count} {what}")
    if right == count:
        shutil.rmtree(base)
    return int(right < count)


class Place(NamedTuple):
    """Where a process kills itself. arm: is told the run's folder and what to call there.

    given: what it starts from. nothing; interrupted: a run that was killed in its eighth step, after the checkpoint of
    the fifth; finished: a whole run, which the process overwrites, and so does the one that goes on.
    """

    name: str
    arm: Callable[[Path, Callable[[], None]], None]
    given: str = "nothing"


def places(args: argparse.Namespace) -> int:
    """Kill a run at each place, let it go on, compare."""
    wanted = [place for place in PLACES if not args.only or any(text in place.name for text in args.only)]
    assert wanted, f"no place has {args.only} in its name"
    base = Path(tempfile.mkdtemp(prefix="places-"))
    whole_run(base / "finished")
    interrupted = Place("interrupted", on_step(register_optimizer_step_pre_hook, steps=3, once=STATE))
    killed_there(interrupted, base, base / "interrupted")
    right = 0
    for number, place in enumerate(wanted, 1):
        folder = base / f"{number:02d}"
        ended = killed_there(place, base, folder)
        if ended.code != KILLED or not (folder / "reached").exists():
            print(f"{number:>4}  {place.name}: WRONG, not reached: exit code {ended.code} (in {folder})", flush=True)
            continue
        line = f"{number:>4}  {place.name}: {runs.there(folder)}"
        arguments = overwriting(folder) if place.given == "finished" else runs.then(folder)
        right += told(line, base / "finished", folder, runs.forked(folder, partial(command, arguments)))
    return told_all(right, len(wanted), "places", base)


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


# What a place replaces in its process. file: the end of a path, with *. once: a file that must be there already.


def is_file(path: Any, folder: Path, file: str, once: str) -> bool:
    named = isinstance(path, (str, os.PathLike)) and Path(os.fsdecode(path)).match(file)
    return named and (not once or (folder / once).exists())


def torn(file: str, once: str = "") -> Callable:
    """In the middle of writing: half of the bytes are in the part file."""

    def half(part: Path) -> None:
        os.truncate(part, part.stat().st_size // 2)

    return on_rename(file, once, before=half)


def unnamed(file: str, once: str = "") -> Callable:
    """All of it is written, under another name yet."""
    return on_rename(file, once, before=lambda part: None)


def renamed(file: str, once: str = "") -> Callable:
    """It has its name; nothing that comes after that is done."""
    return on_rename(file, once, before=None)


def on_rename(file: str, once: str, before: Callable[[Path], None] | None) -> Callable:
    def arm(folder: Path, die: Callable[[], None]) -> None:
        for name in ("replace", "rename"):
            real = getattr(os, name)

            def told(source, target, *rest, real=real, **named):
                here = is_file(target, folder, file, once)
                if here and before is not None:
                    before(Path(source))
                    die()
                real(source, target, *rest, **named)
                if here:
                    die()

            setattr(os, name, told)

    return arm


class Dying:
    """A file whose `nth` write is the process's last: a part of it is on the disk then.

    part: how many of so many bytes or characters.
    """

    def __init__(self, file: Any, die: Callable[[], None], nth: int, part: Callable[[int], int]):
        self._file, self._die, self._left, self._part = file, die, nth, part

    def write(self, data: Any) -> int:
        self._left -= 1
        if self._left:
            return self._file.write(data)
        data = data if isinstance(data, str) else memoryview(data).cast("B")
        self._file.write(data[: self._part(len(data))])
        self._file.flush()
        self._die()
        return 0

    def __enter__(self) -> "Dying":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def odd_half(size: int) -> int:
    return size // 2 | 1  # a sample has two bytes


def on_write(file: str, nth: int = 1, part: Callable[[int], int] = odd_half, once: str = "") -> Callable:
    """In a write to a file that is opened under its own name."""

    def arm(folder: Path, die: Callable[[], None]) -> None:
        real = builtins.open

        def told(path, mode="r", *rest, **named):
            here = set(mode) & set("wax") and is_file(path, folder, file, once)
            opened = real(path, mode, *rest, **named)
            return Dying(opened, die, nth, part) if here else opened

        builtins.open = io.open = told

    return arm


def on_delete(file: str, before: bool, once: str = "") -> Callable:
    def arm(folder: Path, die: Callable[[], None]) -> None:
        for owner, name in ((Path, "unlink"), (os, "unlink"), (os, "remove")):
            real = getattr(owner, name)

            def told(path, *rest, real=real, **named):
                here = is_file(path, folder, file, once) and os.path.lexists(path)
                if here and before:
                    die()
                real(path, *rest, **named)
                if here:
                    die()

            setattr(owner, name, told)

    return arm


def on_rmtree(tree: str, first: str) -> Callable:
    """A folder is deleted, and the files that match `first` are gone. rmtree has no order that could be relied on."""

    def arm(folder: Path, die: Callable[[], None]) -> None:
        real = shutil.rmtree

        def told(path, *rest, **named):
            if is_file(path, folder, tree, ""):
                for file in Path(path).rglob(first):
                    if file.is_file():
                        file.unlink()
                die()
            real(path, *rest, **named)

        shutil.rmtree = told

    return arm


def on_step(register: Callable, steps: int, once: str) -> Callable:
    """In an optimiser's step. register: torch's, of what is called before or after one."""

    def arm(folder: Path, die: Callable[[], None]) -> None:
        seen: list[None] = []

        def told(*_) -> None:
            if (folder / once).exists():
                seen.append(None)
                if len(seen) == steps:
                    die()

        register(told)

    return arm


def on_evaluation(once: str) -> Callable:
    """In a forward pass of a model that does not train."""

    def arm(folder: Path, die: Callable[[], None]) -> None:
        def told(module: torch.nn.Module, _) -> None:
            if isinstance(module, torch.nn.Linear) and not module.training and (folder / once).exists():
                die()

        register_module_forward_pre_hook(told)

    return arm


STATE = "run/checkpoints/step-0000005.pt"  # of the first checkpoint
NEXT_STATE = "run/checkpoints/step-0000010.pt"
BEST, NEXT_BEST = "run/checkpoints/best-0000003", "run/checkpoints/best-0000006"
WRITTEN = {  # whole: a name for people -> the file, and what is there before it is written
    "run.json": ("run/run.json", ""),
    "skipped.tsv": ("run/skipped.tsv", ""),
    "the first best weights": (f"{BEST}/model.safetensors", ""),
    "the first state": (STATE, ""),
    "better weights": (f"{NEXT_BEST}/model.safetensors", ""),
    "the config of better weights": (f"{NEXT_BEST}/config.json", ""),
    "a later state": (NEXT_STATE, ""),
    "the exported weights": ("run/model.safetensors", ""),
    "the exported config": ("run/config.json", ""),
    "preprocessor_config.json": ("run/preprocessor_config.json", ""),
    "vocab.json": ("run/vocab.json", ""),
    "tokenizer_config.json": ("run/tokenizer_config.json", ""),
    "normaliser.json": ("run/normaliser.json", ""),
    "predictions": ("run/predictions-dev.tsv", ""),
    "README.md": ("run/README.md", ""),
    "report.html": ("run/report.html", ""),
    "run.json with the result": ("run/run.json", "run/report.html"),
}
MOMENTS = {"torn": torn, "before its rename": unnamed, "after its rename": renamed}
SHARD, INDEX = "cache/audio/*/audio-0001.i16", "cache/audio/*/index-0001.tsv"
PLACES = [
    Place("store: torn samples", on_write(SHARD, nth=12)),
    Place("store: between samples and index line", on_write(INDEX, nth=12, part=lambda size: 0)),
    Place("store: torn index line", on_write(INDEX, nth=12)),
    Place("run.lock: empty", on_write("run/run.lock", part=lambda size: 0)),
    Place("run.lock: torn", on_write("run/run.lock", nth=5)),
    *(Place(f"{name}: {when}", at(*file)) for name, file in WRITTEN.items() for when, at in MOMENTS.items()),
    Place("metrics.jsonl: torn line of dev", on_write("run/metrics.jsonl")),
    Place("metrics.jsonl: torn line after a checkpoint", on_write("run/metrics.jsonl", once=STATE)),
    Place("a step: before the update", on_step(register_optimizer_step_pre_hook, 2, STATE)),
    Place("a step: after the update", on_step(register_optimizer_step_post_hook, 2, STATE)),
    Place("an evaluation", on_evaluation(STATE)),
    Place("the last evaluation", on_evaluation("run/normaliser.json")),
    Place("the old state: before it is deleted", on_delete(STATE, before=True)),
    Place("the old state: after it is deleted", on_delete(STATE, before=False)),
    Place("old best weights: the weights are deleted", on_rmtree(BEST, "*.safetensors")),
    Place("old best weights: all files are deleted", on_rmtree(BEST, "*")),
    Place("run.lock: before it is deleted", on_delete("run/run.lock", before=True)),
    *(
        Place(f"resuming, metrics.jsonl: {when}", at("run/metrics.jsonl"), "interrupted")
        for when, at in MOMENTS.items()
    ),
    Place("resuming, in a step", on_step(register_optimizer_step_post_hook, 1, STATE), "interrupted"),
    Place("overwriting: checkpoints are half deleted", on_rmtree("run/checkpoints", "*.pt"), "finished"),
    Place("overwriting: some files are deleted", on_delete("run/metrics.jsonl", before=False), "finished"),
    Place("overwriting: before run.json is deleted", on_delete("run/run.json", before=True), "finished"),
    Place("overwriting: after run.json is deleted", on_delete("run/run.json", before=False), "finished"),
]
