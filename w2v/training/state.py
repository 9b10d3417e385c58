"""Training state on disk: everything a run needs to go on bit for bit as if it had never stopped."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from w2v.errors import InputError
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


def load_state(path: Path, step: TrainStep) -> Progress:
    """Put a saved state back, and return its progress. InputError where the file is not one of ours."""
    try:
        pickles.check(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        step.model.load_state_dict(state["model"])
        step.optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise InputError(f"cannot resume from {path} ({reason}); delete it to resume from the one before") from None
    if state["scaler"]:
        step.scaler.load_state_dict(state["scaler"])
    return progress
