"""The states of a run on disk: saved while it trains, the newest sound one loaded, old ones deleted."""

import re
import shutil
from functools import partial
from pathlib import Path

from recipes.console import say
from recipes.run_folder import read_run, restore_log
from w2v.errors import InputError
from w2v.training.distributed import by_first
from w2v.training.state import Progress, StateWriter, damage, load_state
from w2v.training.step import TrainStep


def best_folder(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"best-{step:07d}"


def checkpoints(out: Path) -> list[Path]:
    """The training states, oldest first. A copy under a name of its own is not one of them."""
    return sorted(file for file in (out / "checkpoints").glob("step-*.pt") if re.fullmatch(r"step-\d+", file.stem))


def save_here(out: Path, states: StateWriter, progress: Progress, keep: int, wait: bool = False) -> None:
    """Save the training state; then drop older states, and best weights that no state on disk refers to any more.

    wait: until all of it is on the disk; else it is written while training goes on. Nothing is saved among steps that
    are skipped: a state on disk is a good one.
    """
    if progress.skipped_in_a_row:
        return
    file = out / "checkpoints" / f"step-{progress.step:07d}.pt"
    states.save(file, progress, then=partial(drop_older, out, progress.best_step, keep))
    if wait:
        states.wait()


save_checkpoint = by_first(save_here)


def drop_older(out: Path, best_step: int | None, keep: int) -> None:
    """Delete all states but the newest, and best weights that are older than these and not the best any more."""
    for old in checkpoints(out)[:-keep]:
        old.unlink()
    oldest_kept = int(checkpoints(out)[0].stem.split("-")[1])
    for best in (out / "checkpoints").glob("best-*"):
        if not re.fullmatch(r"best-\d+", best.name):
            continue
        number = int(best.name.split("-")[1])
        # Keep weights that are newer than a kept state: a run that goes on from that state may choose them.
        if number < oldest_kept and number != best_step:
            shutil.rmtree(best)


@by_first
def newest_state(out: Path) -> Path | None:
    """The newest training state. Damaged ones are set aside, and said; InputError where no other is left."""
    states = checkpoints(out)
    while states:
        wrong = damage(states[-1])
        if wrong is None:
            return states[-1]
        aside = states[-1].with_name(f"{states[-1].name}.damaged")
        states.pop().replace(aside)
        say(f"the newest training state is damaged ({wrong}): it is set aside as {aside}")
        if not states:
            raise InputError(f"no training state of {out} is sound; restore one, or begin again with --overwrite")
    return None


def load_progress(out: Path, step: TrainStep, keep: int) -> Progress:
    """Load the newest checkpoint that is not damaged, if there is one yet, and drop what was logged after it.

    keep: states that stay, as in save_here: a run that was killed there leaves one too many.
    """
    saved = newest_state(out)
    progress = Progress()
    if saved is not None:
        progress = load_state(saved, step)
        if progress.run and progress.run != read_run(out)["id"]:
            raise InputError(
                f"{out / 'run.json'} must be of the run whose states lie there, it is of another; restore it"
            )
        say(f"resuming from {saved}")
        by_first(drop_older)(out, progress.best_step, keep)
    restore_log(out / "metrics.jsonl", progress.log)
    return progress
