"""Damaged files of a run, read as --resume reads them: refused in one line, or as good as the whole file.

    python -m tests.reliability mutations [FILE ...] [--inputs 2000]

The files are a training state, run.json, metrics.jsonl and the index of a store. Damage is that of disks, crashes and
people: flipped bits, cut, moved, repeated and blank parts, lines and values that change places or become others. A
file is loaded the same where nothing differs from what the whole one gives, or where a line tells of what is left out
and nothing else differs. Exit code 1 where one is loaded wrongly, or where an answer is neither a value nor a refusal.
"""

import argparse
import contextlib
import functools
import io
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from recipes import checkpoints, cv_finetune, run_folder
from recipes.data_settings import DataSettings
from w2v.training.state import Progress, StateWriter
from w2v.training.step import TrainStep

from ..fuzz import data_readers, model_readers
from ..fuzz.harness import Reader, Result, fuzz, kinds
from ..fuzz.mutators import cut, drop, flip, mutate_bytes, mutate_json, mutate_jsonl, mutate_text, set_byte, several

WRONG = "wrong value"  # the harness's word for what a reader's check does not take
RUN = ["--lang", "tr", "--model", "random:tiny", "--max-train-clips", "4", "--batch-clips", "2", "--max-steps", "6",
       "--device", "cpu"]  # fmt: skip
# They change nothing of a run, or what comes of them is compared: the data, which `Beginning` gives too.
WITHOUT_EFFECT = {"resume", "out"} | {field.name for field in fields(DataSettings)} - {"lang", "seed"}
SAVED = 6  # the step of the states
HEADER = f"{'file':<14}{'inputs':>8}{'refused':>9}{'loaded the same':>17}{'loaded wrongly':>16}{'undocumented':>14}"


class Loaded(NamedTuple):
    """What came of a file, and of the whole one; what was said on stderr."""

    value: object
    right: object
    said: str = ""


def is_same(loaded: Loaded) -> bool:
    return loaded.value == loaded.right


def either(*mutators: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    return lambda rng, data: rng.choice(mutators)(rng, data)


def swap_bytes(rng: random.Random, data: bytes) -> bytes:
    if len(data) < 2:
        return data
    one, two = sorted(rng.sample(range(len(data)), 2))
    return data[:one] + data[two : two + 1] + data[one + 1 : two] + data[one : one + 1] + data[two + 1 :]


def other_digit(rng: random.Random, data: bytes) -> bytes:
    """The file stays what it was to any parser."""
    digits = [match.start() for match in re.finditer(rb"\d", data)] or [0]
    at = rng.choice(digits)
    return data[:at] + str(rng.randrange(10)).encode() + data[at + 1 :]


slight = several([flip, flip, set_byte, swap_bytes, other_digit, other_digit, cut, drop])


# --- a training state


def of_state(step: TrainStep, progress: Progress) -> dict:
    """All that training goes on with, tensors as their bytes."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(map(plain, value)) if isinstance(value, (list, tuple)) else value

    states = {"model": step.model.state_dict(), "optimizer": step.optimizer.state_dict()}
    return plain({**states, "scaler": step.scaler.state_dict(), "progress": asdict(progress)})


def trained() -> tuple[TrainStep, Progress]:
    torch.manual_seed(0)
    step = model_readers.new_step()
    for number in range(2):
        model_readers.one_step(step, number)
    return step, Progress(step=SAVED, epoch=1, best_cer=0.5, best_step=3, audio_seconds=3.5, sums=[{"loss": 2.5}])


@functools.cache
def right_state() -> dict:
    return of_state(*trained())


def newest_of(folder: Path) -> Path:
    return checkpoints.checkpoints(folder)[-1]


def states(folder: Path) -> list[bytes]:
    step, progress = trained()
    checkpoints.save_here(folder, StateWriter(step), progress, keep=1, wait=True)
    right_state()  # the readers' processes have it then
    return [newest_of(folder).read_bytes()]


def read_state(folder: Path, data: bytes) -> Loaded:
    state = folder / "run" / "checkpoints" / f"step-{SAVED:07d}.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(data)
    step = model_readers.new_step()
    return Loaded(of_state(step, checkpoints.load_progress(folder / "run", step, keep=1)), right_state())


# --- run.json


class ReachedError(Exception):
    """The command is about to train."""


class Beginning:
    """The command up to its training, with what it will train on. Data that were prepared once are not prepared again:
    what `prepare` gives depends on its arguments alone."""

    def __init__(self):
        self.prepare, self.known = cv_finetune.prepare, {}
        self.decoded = Path()  # a cache that holds the sample

    def __call__(self, argv: list[str], folder: Path) -> dict:
        """-> what the run does, by name."""
        seen: dict = {}

        def data_settings(args):
            seen["arguments"] = {name: value for name, value in vars(args).items() if name not in WITHOUT_EFFECT}
            return replace(settle(args), cache=folder / "cache", workers=1)

        def fit(step, upcoming, settings, prepared, *_):
            trains = {name for name, weight in step.model.named_parameters() if weight.requires_grad}
            seen.update(settings=settings, data=prepared.fingerprint, config=step.model.config.to_dict(), trains=trains)
            raise ReachedError

        settle = cv_finetune.data_settings
        replaced = {"data_settings": data_settings, "prepare": self._prepare, "fit": fit}
        with mock.patch.multiple(cv_finetune, **replaced), mock.patch.object(run_folder, "git_commit", lambda: None):
            try:
                cv_finetune.main(argv)
            except ReachedError:
                return seen
        raise AssertionError("it did not train")

    def _prepare(self, settings, start):
        key = repr((replace(settings, cache=Path()), start.name, start.config))
        if key not in self.known:
            if self.decoded.name:
                shutil.copytree(self.decoded, settings.cache, dirs_exist_ok=True)
            self.known[key] = self.prepare(settings, start)
        return self.known[key]


begin = Beginning()
right_run: dict = {}


def runs(folder: Path) -> list[bytes]:
    right_run.update(begin([*RUN, "--out", str(folder / "run")], folder))
    begin.decoded = folder / "cache"
    return [(folder / "run" / "run.json").read_bytes()]


def read_run(folder: Path, data: bytes) -> Loaded:
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_bytes(data)
    return Loaded(begin(["--resume", "--out", str(folder / "run")], folder), right_run)


# --- metrics.jsonl


stopped: dict = {}  # a run after step 6 whose log goes on to step 8


def logs(folder: Path) -> list[bytes]:
    run, fit = folder / "run", cv_finetune.fit

    def keep_step(step, *rest):
        stopped["step"] = step
        fit(step, *rest)

    more = ["--max-steps", "8", "--log-steps", "2", "--eval-steps", "3", "--save-steps", str(SAVED), "--out", str(run)]
    replaced = {"fit": keep_step, "export_best": mock.Mock(side_effect=ReachedError)}
    with (
        mock.patch.multiple(cv_finetune, **replaced),
        contextlib.suppress(ReachedError),
    ):
        cv_finetune.main([*RUN, *more, "--cache", str(folder / "cache")])
    newest_of(run).unlink()
    lines = run_folder.read_metrics(run / "metrics.jsonl")
    stopped.update(run=run, state=newest_of(run), right=[line for line in lines if line["step"] <= SAVED])
    return [(run / "metrics.jsonl").read_bytes()]


def read_log(folder: Path, data: bytes) -> Loaded:
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / stopped["state"].name).hardlink_to(stopped["state"])
    shutil.copy(stopped["run"] / "run.json", run)
    (run / "metrics.jsonl").write_bytes(data)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        checkpoints.load_progress(run, stopped["step"], keep=1)
        lines = run_folder.read_metrics(run / "metrics.jsonl")
    return Loaded(lines, stopped["right"], said.getvalue())


def is_same_log(loaded: Loaded) -> bool:
    """Or lines are left out, and that is said; what is left stands in its order."""
    rest = iter(loaded.right)
    return loaded.value == loaded.right or (
        "metrics.jsonl" in loaded.said and all(line in rest for line in loaded.value)
    )


READERS = {
    "state": Reader("state", states, read_state, either(mutate_bytes, slight), is_same),
    "run.json": Reader("run.json", runs, read_run, either(mutate_json, mutate_bytes, slight), is_same),
    "metrics.jsonl": Reader("metrics.jsonl", logs, read_log, either(mutate_jsonl, mutate_bytes, slight), is_same_log),
    "index": Reader(
        "index", data_readers.stored, data_readers.read_stored,
        either(mutate_text(b"\t"), mutate_bytes, slight), data_readers.is_stored,
    ),
}  # fmt: skip


def row(result: Result) -> str:
    wrong = sum(finding.kind == WRONG for finding in result.findings)
    return (
        f"{result.reader:<14}{result.inputs:>8}{result.refusals:>9}{result.values:>17}{wrong:>16}"
        f"{len(result.findings) - wrong:>14}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="python -m tests.reliability mutations")
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"default: all of {', '.join(READERS)}")
    parser.add_argument("--inputs", type=int, default=2000, help="of each file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that are not answered rightly")
    args = parser.parse_args(argv)
    if unknown := set(args.files) - set(READERS):
        parser.error(f"no file {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    readers = [READERS[name] for name in args.files or READERS]
    start = time.monotonic()
    print(HEADER, flush=True)
    results = fuzz(
        readers, args.inputs, args.seed, args.keep, args.jobs, log=lambda line: print(line, file=sys.stderr, flush=True)
    )
    for result in results:
        print(row(result))
    findings = [finding for result in results for finding in result.findings]
    for group in kinds(findings):
        print(f"{len(group):>6} x {group[0].line()}")
    wrong = sum(finding.kind == WRONG for finding in findings)
    total, took = sum(result.inputs for result in results), time.monotonic() - start
    print(f"{total} inputs in {took:.0f} s: {wrong} loaded wrongly, {len(findings) - wrong} undocumented")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
