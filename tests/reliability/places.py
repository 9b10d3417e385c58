"""The places at which a run kills itself, and how its process gets there.

A place replaces functions of Python that write, rename and delete, in a process of its own, and knows files by their
names; what torch does it knows by torch's public hooks. It knows no function of the product.
    file     the end of a path, with *
    once     a file that must be there already, seen from the folder that holds the run and its cache
"""

import builtins
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Place(NamedTuple):
    """Where a process kills itself. arm: is told the run's folder and what to call at the place.

    given: what it starts from. nothing; interrupted: a run that was killed in its eighth step, after the checkpoint of
    the fifth; finished: a whole run, which the process overwrites. again: what goes on overwrites too, where --resume
    would do.
    """

    name: str
    arm: Callable[[Path, Callable[[], None]], None]
    given: str = "nothing"
    again: bool = False


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


def on_step(register: Callable, nth: int) -> Callable:
    """In an optimiser's nth step of the process. register: torch's, of what is called before or after one."""

    def arm(folder: Path, die: Callable[[], None]) -> None:
        steps = iter(range(nth - 1))

        def told(*_) -> None:
            if next(steps, None) is None:
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
NEXT_STATE, LAST_STATE = "run/checkpoints/step-0000010.pt", "run/checkpoints/step-0000011.pt"
BEST, NEXT_BEST = "run/checkpoints/best-0000003", "run/checkpoints/best-0000006"
INTERRUPTED = Place("in the eighth step", on_step(register_optimizer_step_pre_hook, 8))
WRITTEN = {  # each of them whole or not at all: a name for people -> the file, and what is there before
    "run.json": ("run/run.json", ""),
    "skipped.tsv": ("run/skipped.tsv", ""),
    "the first best weights": (f"{BEST}/model.safetensors", ""),
    "the first state": (STATE, ""),
    "better weights": (f"{NEXT_BEST}/model.safetensors", ""),
    "the config of better weights": (f"{NEXT_BEST}/config.json", ""),
    "the last file of better weights": (f"{NEXT_BEST}/preprocessor_config.json", ""),
    "a later state": (NEXT_STATE, ""),
    "the exported weights": ("run/model.safetensors", ""),
    "the exported config": ("run/config.json", ""),
    "preprocessor_config.json": ("run/preprocessor_config.json", ""),
    "vocab.json": ("run/vocab.json", ""),
    "tokenizer_config.json": ("run/tokenizer_config.json", ""),
    "special_tokens_map.json": ("run/special_tokens_map.json", ""),
    "normaliser.json": ("run/normaliser.json", ""),
    "predictions-test.tsv": ("run/predictions-test.tsv", ""),
    "predictions-dev.tsv": ("run/predictions-dev.tsv", ""),
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
    Place("a step: before the update", on_step(register_optimizer_step_pre_hook, 7)),
    Place("a step: after the update", on_step(register_optimizer_step_post_hook, 7)),
    Place("an evaluation", on_evaluation(f"{BEST}/preprocessor_config.json")),
    Place("the last evaluation", on_evaluation("run/normaliser.json")),
    Place("the old state: before it is deleted", on_delete(STATE, before=True)),
    Place("the old state: after it is deleted", on_delete(STATE, before=False)),
    Place("the last state: after its rename", renamed(LAST_STATE)),
    Place("old best weights: the weights are deleted", on_rmtree(BEST, "*.safetensors")),
    Place("old best weights: all files are deleted", on_rmtree(BEST, "*")),
    Place("run.lock: before it is deleted", on_delete("run/run.lock", before=True)),
    *(
        Place(f"resuming, {name}: {when}", at(f"run/{name}"), "interrupted")
        for name in ("run.json", "metrics.jsonl")
        for when, at in MOMENTS.items()
    ),
    Place("resuming, in a step", on_step(register_optimizer_step_post_hook, 2), "interrupted"),
    Place("overwriting: checkpoints are half deleted", on_rmtree("run/checkpoints", "*.pt"), "finished"),
    Place("overwriting: some files are deleted", on_delete("run/metrics.jsonl", before=False), "finished", again=True),
    *(
        Place(f"overwriting: before run.json is deleted, {how}", on_delete("run/run.json", True), "finished", again)
        for how, again in {"resumed": False, "overwritten again": True}.items()
    ),
    Place("overwriting: after run.json is deleted", on_delete("run/run.json", before=False), "finished", again=True),
]
