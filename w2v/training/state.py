"""Training state on disk: everything a run needs to go on bit for bit as if it had never stopped."""

from pathlib import Path
from pickle import UnpicklingError

import torch

from w2v.errors import InputError
from w2v.files import write_whole
from w2v.training.step import TrainStep


def save_state(path: Path, step: TrainStep, progress: dict) -> None:
    """Weights, optimiser and loss scale, with `progress`: plain numbers, strings, lists.

    Randomness needs no place here: a step draws from its number.
    """
    state = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "progress": progress,
    }

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # through Python, whose errors say what went wrong
            torch.save(state, file)

    write_whole(path, write)


def load_state(path: Path, step: TrainStep) -> dict:
    """Put a saved state back, and return its `progress`. InputError where the file is not one of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        step.model.load_state_dict(state["model"])
        step.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError, UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"cannot resume from {path} ({reason}); delete it to resume from the one before") from None
    if state["scaler"]:
        step.scaler.load_state_dict(state["scaler"])
    return state["progress"]
