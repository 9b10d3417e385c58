"""What a run tells while it trains: the lines of metrics.jsonl, a bar or lines for people, and symptoms, each once."""

import math
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from recipes.console import say
from recipes.health import read_history, symptoms
from recipes.settings import Settings
from w2v.training import distributed
from w2v.training.state import Progress
from w2v.training.step import StepResult


def progress_bar(settings: Settings, progress: Progress) -> tqdm:
    """A bar on a terminal, in the first process; elsewhere `show` writes a line at each log interval."""
    hidden = distributed.rank() > 0 or not sys.stderr.isatty()
    return tqdm(total=settings.total_steps, initial=progress.step, desc="training", unit="step", disable=hidden)


def show(bar: tqdm, line: dict, settings: Settings) -> None:
    """Tell people how training goes."""
    numbers = {name: f"{line[name]:.3f}" for name in ("loss", "blank_ratio") if name in line}
    if sys.stderr.isatty():
        bar.set_postfix(numbers)
        return
    words = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in numbers.items())
    say(f"step {line['step']} of {settings.total_steps}: {words}, {line['audio_s_per_s']:.0f} s of speech per second")


def say_above(bar: tqdm, text: str | None) -> None:
    """In the first process; None: there is nothing to say."""
    if text is not None and distributed.rank() == 0:
        bar.write(text, file=sys.stderr)


def sums_of_this_rank(progress: Progress) -> Counter:
    """What a run that goes on had added up since its last log line; with other processes the first has it all."""
    if len(progress.sums) == distributed.world():
        return Counter(progress.sums[distributed.rank()])
    sums: Counter = Counter()
    for counts in progress.sums if distributed.rank() == 0 else []:
        sums.update(counts)
    return sums


def add_up(results: list[StepResult], sums: Counter) -> None:
    """Move what steps did into the sums: loss, weight and counts of their clips. One without a loss has none."""
    for result in results:
        loss = float(result.losses.sum())
        if math.isfinite(loss):
            sums.update({"loss": loss, "weight": sum(result.weights)})
            sums.update({name: float(value) for name, value in result.counts.items()})
    results.clear()


def describe_steps(progress: Progress, rate: float, norm: float) -> dict:
    """One line of metrics.jsonl. Loss, blank ratio and frames per label are those of all ranks' clips since the last
    line, rate and gradient norm those of the last step, throughput that of the whole run."""
    sums: Counter = Counter()
    for counts in progress.sums:
        sums.update(counts)
    line = {
        "step": progress.step,
        "epoch": progress.epoch,
        "lr": rate,
        "grad_norm": norm if norm == norm else math.inf,
        "audio_s_per_s": progress.audio_seconds / max(1e-9, progress.train_seconds),
    }
    if sums["weight"]:  # else every step was skipped
        line["loss"] = sums["loss"] / sums["weight"]
    if progress.skipped:
        line["skipped_steps"] = progress.skipped
    if "blank_frames" in sums:
        line["blank_ratio"] = sums["blank_frames"] / sums["frames"]
        line["frames_per_label"] = sums["frames"] / max(1.0, sums["labels"])
    return line


def tell_symptoms(out: Path, settings: Settings, said: set[str], bar: tqdm) -> None:
    """Say what the log tells of the run's health, each symptom once. said: those that were."""
    if distributed.rank() > 0:
        return
    for name, line in symptoms(read_history(out / "metrics.jsonl"), settings, is_over=False).items():
        if name not in said:
            said.add(name)
            say_above(bar, line)
