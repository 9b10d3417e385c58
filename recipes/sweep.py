"""Train once for each of several values of a flag, one run after the other, and compare the runs by dev CER.

    python -m recipes.sweep --lang tr --data cv-corpus-tr.tar.gz --lr 1e-4,3e-4 --max-steps 2000
    python -m recipes.sweep --lang tr --lr 1e-4,3e-4 --mask-time-prob 0.05,0.1     (all four pairs)

Every flag is cv_finetune's; those of SWEPT may hold several values with commas between them. Each run has a folder of
its own in --out, named after its values, and is what cv_finetune makes with these flags. The table is in sweep.tsv.
The runs are compared by dev alone: whoever chooses by test has no test left.
"""

import argparse
import gc
import itertools
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes import cv_finetune
from recipes.console import Parser, run, say, with_flags
from recipes.locking import locked
from recipes.results import percent
from recipes.run_folder import claim, is_left, is_run, read_run
from recipes.settings import parse_arguments
from recipes.stopping import Stop, StoppedError
from w2v.errors import InputError, listed, show
from w2v.files import read_json, write_json, write_text
from w2v.training import distributed
from w2v.training.device import resolve_device

# Numbers that leave the dev split as it is, so that its rates can be compared. --seed is not one of them: it draws that
# split where data has none.
SWEPT = ("lr", "epochs", "batch-seconds", "batch-clips", "accumulation", "warmup-steps", "head-warmup-steps",
         "weight-decay", "mask-time-prob", "mask-feature-prob", "mask-from", "layerdrop", "hidden-dropout",
         "attention-dropout", "start-share", "layer-decay", "freeze-layers", "max-train-clips")  # fmt: skip
RECORD, TABLE = "sweep.json", "sweep.tsv"
MEASURED = ("dev_cer", "dev_wer", "exported_step", "train_seconds")  # of a run's summary, in the table


@dataclass(frozen=True)
class Trial:
    values: dict[str, str]  # flag -> value, as given
    words: list[str]  # cv_finetune's flags, without --out

    @property
    def name(self) -> str:
        """Its folder's, lr-0.0001."""
        return "_".join(f"{flag}-{float(value):g}" for flag, value in self.values.items())


@dataclass(frozen=True)
class Row:
    """What became of a trial. failed: why it has no rates."""

    trial: Trial
    result: dict[str, Any]
    failed: str = ""


def main(argv: list[str] | None = None) -> dict:
    given = list(sys.argv[1:] if argv is None else argv)
    args, rest = own_arguments(given)
    if args.resume:
        if more := [*rest, *(f"--{flag}" for flag in SWEPT if text_of(args, flag) is not None)]:
            raise InputError(f"--resume takes a sweep's flags from its folder, got {listed(more)} too; leave them out")
        given = recorded_arguments(args.out)
        args, rest = own_arguments([*given, "--resume", "--out", str(args.out)])
    trials = trials_of(args, rest)
    first = checked(trials)
    distributed.join(resolve_device(first.device))  # here, so that the first process alone makes the folder
    out = open_sweep(args, given, f"{first.lang}-sweep")
    with locked(out), Stop(f"go on with: {resume_command(out)}") as stop:
        say(f"{len(trials)} runs in {out}: {', '.join(trial.name for trial in trials)}")
        rows: list[Row] = []
        for number, trial in enumerate(trials, 1):
            say(f"\nrun {number} of {len(trials)}: {trial.name}")
            rows.append(row_of(trial, out / trial.name, stop))
            gc.collect()  # a model in a circle of references would keep its GPU memory
        return compare(rows, out)


def own_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own flags and the swept ones, as text; then all others, which go to each run."""
    parser = Parser(
        prog="python -m recipes.sweep", description=(__doc__ or "").split("\n")[0], allow_abbrev=False,
        epilog="All other flags are those of recipes.cv_finetune, and go to each run.",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the sweep (default: the next free runs/LANG-sweep-N)")
    parser.add_argument("--resume", action="store_true", help="make what the sweep in --out lacks")
    group = parser.add_argument_group("one value, or several with commas between them")
    for flag in SWEPT:
        group.add_argument(f"--{flag}", metavar="X,Y...")
    args, rest = parser.parse_known_args(argv)
    if args.resume and args.out is None:
        raise InputError("--resume needs --out, the folder of the sweep to go on with")
    return args, rest


def text_of(args: argparse.Namespace, flag: str) -> str | None:
    """A swept flag's value or values, None where it is not given."""
    return getattr(args, flag.replace("-", "_"))


def trials_of(args: argparse.Namespace, rest: list[str]) -> list[Trial]:
    """One trial for each combination of the swept flags' values. InputError where nothing is swept."""
    swept, fixed = dict[str, list[str]](), list[str]()
    for flag in SWEPT:
        text = text_of(args, flag)
        if text is None:
            continue
        if "," in text:
            swept[flag] = values_of(flag, text)
        else:
            fixed += [f"--{flag}", text]
    if not swept:
        raise InputError("a sweep needs several values of a flag, got none; give them with commas: --lr 1e-4,3e-4")
    trials = []
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        words = [word for flag, value in chosen.items() for word in (f"--{flag}", value)]
        trials.append(Trial(chosen, [*rest, *fixed, *words]))
    return trials


def values_of(flag: str, text: str) -> list[str]:
    """The numbers of a list with commas. InputError where one is missing, no number, or there twice."""
    values = [value.strip() for value in text.split(",")]
    seen = set[str]()
    for value in values:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"--{flag} must hold numbers with commas between them, got {show(text)}; mend it")
        if f"{number:g}" in seen:
            raise InputError(f"--{flag} must hold each number once, {show(text)} has {number:g} twice; leave one out")
        seen.add(f"{number:g}")
    return values


def checked(trials: list[Trial]) -> argparse.Namespace:
    """The first run's arguments, when cv_finetune's parser has read those of all. InputError for what no sweep does."""
    parsed = [parse_arguments(trial.words, "python -m recipes.sweep", "") for trial in trials]
    first = parsed[0]
    if first.dev_split == "none":
        raise InputError("a sweep compares runs by dev, --dev-split is none; leave that out")
    if first.push_to_hub is not None:
        raise InputError("a sweep uploads nothing, got --push-to-hub; leave it out, and upload the best run afterwards")
    if first.overwrite:
        raise InputError("--overwrite deletes single runs, not a sweep's; delete the folder, or choose another --out")
    return first


def recorded_arguments(out: Path) -> list[str]:
    """What the sweep in a folder was given. InputError where there is none."""
    recorded = read_json(out / RECORD, "the sweep's").get("arguments")
    if not isinstance(recorded, list) or not all(isinstance(word, str) for word in recorded):
        raise InputError(
            f"{out / RECORD} must hold the sweep's arguments, it is damaged; begin again in another folder"
        )
    return recorded


@distributed.by_first
def open_sweep(args: argparse.Namespace, given: list[str], name: str) -> Path:
    """Make the sweep's folder, unless it goes on. InputError where --out holds anything."""
    if args.out is None:
        out = claim(Path("runs"), name)
    else:
        out = args.out
        if args.resume:
            return out
        if (out / RECORD).exists():
            raise InputError(f"--out {out} already holds a sweep; add --resume, or choose another folder")
        if out.exists() and (not out.is_dir() or any(not is_left(file) for file in out.iterdir())):
            raise InputError(f"--out must be a new or empty folder, {out} is none; choose another")
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, {"arguments": given})
    return out


def resume_command(out: Path) -> str:
    words = ["python"]
    if distributed.is_launched() and distributed.on_one_machine():
        words = ["torchrun", "--nproc-per-node", str(distributed.world())]
    return shlex.join([*words, "-m", "recipes.sweep", "--resume", "--out", str(out)])


def row_of(trial: Trial, folder: Path, stop: Stop) -> Row:
    """Train, go on with training, or read what a run that is over has measured."""
    result, began = distributed.by_first(state_of)(folder)
    if result is None:
        words = ["--resume"] if began else trial.words
        try:
            result = cv_finetune.main([*words, "--out", str(folder)])
        except StoppedError as error:
            error.remedy = stop.remedy
            raise
        except InputError as error:
            # A rate at which training breaks down is an answer too. Before a run begins its data or a flag is at fault,
            # and so it would be in all others. Of several processes the others may not have met the error.
            if distributed.world() > 1 or not is_run(folder):
                raise
            say(f"{trial.name} failed: {with_flags(str(error))}")
            return Row(trial, {}, with_flags(str(error)))
    if result.get("dev_cer") is None:
        raise InputError(f"a sweep compares runs by dev, {folder} has measured none; give --data with dev clips")
    return Row(trial, result)


def state_of(folder: Path) -> tuple[dict | None, bool]:
    """-> what a run has measured at its end, None before that; and whether it has begun."""
    if not is_run(folder):
        return None, False
    result = read_run(folder).get("result")
    return (result if is_result(result) else None), True


def is_result(result: object) -> bool:
    """Whether this is what a run of ours writes of its end, as far as the table needs it."""
    if not isinstance(result, dict):
        return False
    return all(isinstance(result.get(name), (int, float)) and math.isfinite(result[name]) for name in MEASURED)


def compare(rows: list[Row], out: Path) -> dict:
    """Say and write the table, the lowest dev CER first. -> the summary. InputError where every run failed."""
    rows = sorted(rows, key=lambda row: (bool(row.failed), row.result.get("dev_cer", math.inf)))
    best = rows[0]
    if best.failed:
        raise InputError(f"all {len(rows)} runs failed, the first one: {best.failed}")
    distributed.by_first(write_table)(rows, out)
    for row in rows:
        result = row.result
        said = row.failed or f"dev CER {percent(result['dev_cer'])}, WER {percent(result['dev_wer'])}"
        say(f"  {row.trial.name}: {said}")
    for flag, value in best.trial.values.items():
        tried = sorted({float(row.trial.values[flag]) for row in rows})
        if float(value) in (tried[0], tried[-1]) and len({row.result.get("dev_cer") for row in rows}) > 1:
            end, further = ("lowest", "lower") if float(value) == tried[0] else ("highest", "higher")
            say(f"the best --{flag} is the {end} that was tried: try a {further} one, too")
    say(f"table: {out / TABLE}; the best run: {out / best.trial.name}")
    return {
        "best": best.trial.name,
        "values": {flag: float(value) for flag, value in best.trial.values.items()},
        "dev_cer": best.result["dev_cer"],
        "dev_wer": best.result["dev_wer"],
        "runs": len(rows),
        "failed": sum(bool(row.failed) for row in rows),
        "out": str(out),
    }


def write_table(rows: list[Row], out: Path) -> None:
    lines = ["\t".join(("run", *rows[0].trial.values, *MEASURED, "failed"))]
    for row in rows:
        values = [*row.trial.values.values(), *(str(row.result.get(name, "")) for name in MEASURED)]
        lines.append("\t".join((row.trial.name, *values, row.failed)))
    write_text(out / TABLE, "".join(f"{line}\n" for line in lines))


def command() -> None:
    run(main, if_stopped="the sweep goes on with --out SWEEP --resume")


if __name__ == "__main__":
    command()
