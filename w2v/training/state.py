"""Training state on disk: everything a run needs to go on bit for bit as if it had never stopped."""

import math
import threading
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.errors import InputError, named, reason
from w2v.files import write_whole
from w2v.training.step import TrainStep
from w2v.weights import pickles


@dataclass
class Progress:
    """Where a run stands. The next step is number `step`, counted from 0."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best_cer: float | None = None  # on dev
    best_step: int | None = None
    bad_evaluations: int = 0  # since then
    audio_seconds: float = 0.0  # trained on, by all ranks
    train_seconds: float = 0.0  # without evaluation and saving
    evaluated: int = 0  # the last step at which dev was measured
    skipped: int = 0  # steps with a loss or gradient that was not finite
    skipped_in_a_row: int = 0
    sums: list[dict[str, float]] = field(default_factory=list)  # by rank: what the next log line will tell of
    log: list[dict] = field(default_factory=list)  # what was logged: the file beside it may be damaged
    run: str = ""  # which one it is, as run.json says


def save_state(path: Path, step: TrainStep, progress: Progress) -> None:
    """Weights, optimiser, loss scale and progress.

    No generator's state is saved: the number of a step gives its seeds.
    """
    _write(path, _state(step, progress))


def _state(step: TrainStep, progress: Progress) -> dict:
    return {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "progress": asdict(progress),
    }


def _write(path: Path, state: dict) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # through Python, whose errors say what went wrong
            torch.save(state, file)

    write_whole(path, write)


class StateWriter:
    """Saves the states of a TrainStep while it trains on: a copy is made aside, and a thread writes it.

        states = StateWriter(step)
        states.save(path, progress)               # returns once the copy is made; waits for the state before
        states.wait()                             # all is on the disk

    Where a copy would take more than half of the memory that is left, or 2 GB where that cannot be known, `save` writes
    the state itself. What the thread could not write is raised by the next call.
    """

    def __init__(self, step: TrainStep):
        self._step = step
        self._copies: dict[tuple, Tensor] = {}  # kept from one state to the next: new memory takes longer than a copy
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        parameters = [p for group in step.optimizer.param_groups for p in group["params"]]
        size = _size(step.model.state_dict().values()) + 2 * _size(parameters)
        self._aside = size <= _memory_for_copies()
        if self._aside:
            self._begin(self._make_room, parameters)

    def save(self, path: Path, progress: Progress, then: Callable[[], object] = lambda: None) -> None:
        """Save the state as it is now. then: called when it is on the disk, by the thread."""
        self.wait()
        state = _state(self._step, progress)
        if not self._aside:
            _write(path, state)
            then()
            return
        state, copied = self._copy(state, ()), None
        if self._step.device.type == "cuda":  # the copies are queued there, before the next step
            copied = torch.cuda.current_stream(self._step.device).record_event()
        self._begin(self._write, path, state, copied, then)

    def wait(self) -> None:
        """Wait for the state that is being written; raise what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise what went wrong with a state, without waiting."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _begin(self, work: Callable, *arguments: Any) -> None:
        # A daemon: a command that is told to stop at once does not wait for it.
        self._thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._thread.start()

    def _make_room(self, parameters: list[Tensor]) -> None:
        """Memory for the copies, which takes a while to be had."""
        try:
            for name, value in self._step.model.state_dict().items():
                self._room(("model", name), value).zero_()
            for i, parameter in enumerate(parameters):
                for moment in ("exp_avg", "exp_avg_sq"):
                    self._room(("optimizer", "state", i, moment), parameter).zero_()
        except RuntimeError:  # there is no such memory after all
            self._aside = False
            self._copies.clear()

    def _room(self, key: tuple, value: Tensor) -> Tensor:
        room = self._copies.get(key)
        if room is None or room.shape != value.shape or room.dtype != value.dtype:
            on_gpu = self._step.device.type == "cuda"
            room = self._copies[key] = torch.empty(value.shape, dtype=value.dtype, pin_memory=on_gpu)
        return room

    def _copy(self, value: Any, key: tuple) -> Any:
        """A state with its tensors copied aside."""
        if isinstance(value, Tensor):
            return self._room(key, value).copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {name: self._copy(item, (*key, name)) for name, item in value.items()}
        return value

    def _write(self, path: Path, state: dict, copied: torch.cuda.Event | None, then: Callable[[], object]) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            _write(path, state)
            then()
        except Exception as error:  # for the thread that trains
            self._error = error


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _memory_for_copies() -> int:
    """Bytes that a copy may take: half of what is left, where the system tells it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 // 2 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 2 * 10**9


def damage(path: Path) -> str | None:
    """What is wrong with a state's file, or None: torch writes a checksum of each of its parts, and never looks at it.

    A gigabyte takes half a second.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except Exception as error:  # a damaged file can fail in any way
        return reason(error)
    return None if part is None else f"the checksum of {named(part)} is another"


def load_state(path: Path, step: TrainStep) -> Progress:
    """Put a saved state back, and return its progress. InputError where the file is not one of ours."""
    try:
        if (wrong := damage(path)) is not None:
            raise ValueError(wrong)
        pickles.check(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = _checked_progress(state["progress"])
        optimizer = _checked_moments(state["optimizer"], step.optimizer, path)
        step.model.load_state_dict(pickles.plain_tensors(state["model"], path))
        step.optimizer.load_state_dict(optimizer)
        _check_scaler(state["scaler"], step.scaler)
        if state["scaler"]:
            step.scaler.load_state_dict(state["scaler"])
    except Exception as error:  # a damaged file can fail in any way
        remedy = "delete it to resume from the one before"
        if isinstance(error, InputError):
            raise InputError(f"cannot resume from {path}: {str(error).rpartition(';')[0]}; {remedy}") from None
        raise pickles.refusal(path, error, "resume from {}", remedy) from None
    return progress


def _checked_progress(saved: dict) -> Progress:
    progress = Progress(**saved)
    sums = [value for by_name in progress.sums for value in by_name.values()]
    if not all(type(value) in (int, float) for value in sums):
        raise ValueError("its sums are not numbers")
    if not all(type(line) is dict for line in progress.log) or type(progress.run) is not str:
        raise ValueError("its log is damaged")
    for name, value in asdict(progress).items():
        if name in ("sums", "log", "run"):
            continue
        if value is None and name.startswith("best_"):
            continue
        kind = float if name.endswith(("_cer", "_seconds")) else int
        if type(value) not in (int, kind) or not (0 <= value < 2**53 and math.isfinite(value)):
            raise ValueError(f"its {name} is not a {'number' if kind is float else 'whole number'} from 0 on")
    return progress


def _checked_moments(saved: dict, optimizer: torch.optim.Optimizer, path: Path) -> dict:
    """The saved state of AdamW, where it is of these parameters. Its settings are the run's own."""
    own, state = optimizer.state_dict(), saved["state"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in own["param_groups"]]:
        raise ValueError("its optimiser has other parameters")
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    pickles.plain_tensors({f"{i}.{name}": value for i in state for name, value in state[i].items()}, path)
    for i, moments in state.items():
        wanted = {"step": torch.Size([]), "exp_avg": shapes[i], "exp_avg_sq": shapes[i]}
        if {name: value.shape for name, value in moments.items()} != wanted:
            raise ValueError("its optimiser's moments have other shapes")
    return {"state": state, "param_groups": own["param_groups"]}


def _check_scaler(saved: dict, scaler: torch.amp.GradScaler) -> None:
    if saved.keys() != scaler.state_dict().keys():
        raise ValueError("its loss scale is of another precision")
    if not all(type(value) in (int, float) and 0 <= value < 2**53 for value in saved.values()):
        raise ValueError("its loss scale is not a number from 0 on")
