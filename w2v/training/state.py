"""Training state on disk: everything a run needs to go on bit for bit as if it had never stopped."""

import math
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

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


def save_state(path: Path, step: TrainStep, progress: Progress) -> None:
    """Weights, optimiser, loss scale and progress.

    No generator's state is saved: the number of a step gives its seeds.
    """
    state = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "progress": asdict(progress),
    }

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # through Python, whose errors say what went wrong
            torch.save(state, file)

    write_whole(path, write)


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
    for name, value in asdict(progress).items():
        if name == "sums":
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
