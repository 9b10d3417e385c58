"""Two results of benchmarks.step_time side by side: how many times as fast B is as A, column by column.

    python -m benchmarks.compare A.json B.json [--least 0.95]

A table goes to stderr, one JSON object to stdout. What differs between the two runs is named first. A ratio is B's
audio_s_per_s by A's; times are means. With --least the exit code is 1 where a column of B is slower than that.
"""

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import fail
from recipes.console import Parser, not_negative, run, say
from w2v.errors import InputError, named, show
from w2v.files import read_json

# What must be alike for a ratio to say something of the code alone.
SETTINGS = (
    "model", "what", "precision", "precision_asked", "checkpointing", "feature_encoder", "compiled", "ranks",
    "length_mix", "steps", "clips_per_step", "audio_seconds_per_step", "peer",
)  # fmt: skip
MACHINE = ("gpu", "cpu", "cores", "threads", "torch", "cuda", "cudnn", "nccl", "python", "platform")
STATE = ("driver", "watts_at_most", "sm_mhz_at_most")
REMEDY = "give a file that benchmarks.step_time --save has written"
WIDTH = 26


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("a", type=Path, metavar="A.json")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument("--least", type=not_negative, metavar="RATIO", help="exit code 1 where B is slower than this")
    args = parser.parse_args(argv)
    a, b = read_result(args.a), read_result(args.b)
    shared = [name for name in a["results"] if name in b["results"]]
    if not shared:
        raise InputError(
            f"two results must share a column, {args.a} has {names(a)} and {args.b} has {names(b)}; give others"
        )
    differ = differences(a, b)
    for what, values in differ.items():
        say(f"DIFFERS: {what}: {show(values[0])} in A, {show(values[1])} in B")
    rows = {name: row_of(a["results"][name], b["results"][name]) for name in shared}
    print_rows(rows)
    summary = {"columns": rows, "differ": differ, "least": args.least}
    slow = [name for name, row in rows.items() if args.least is not None and row["ratio"] < args.least]
    if slow:
        fail(summary, f"B must be at least {args.least:g} times as fast as A, {', '.join(map(named, slow))} is slower")
    return summary


def names(result: dict) -> str:
    return ", ".join(map(named, result["results"])) or "none"


def read_result(file: Path) -> dict[str, Any]:
    """A result with numbers where they are needed. InputError, one line, for any other file."""
    try:
        result = read_json(file, "the result")
    except InputError as error:  # whose remedy speaks of models
        raise InputError(f"{str(error).rpartition('; ')[0]}; {REMEDY}") from None
    columns = result.get("results")
    if not isinstance(columns, dict) or not all(isinstance(column, dict) for column in columns.values()):
        raise InputError(f"a result must hold `results` by column, {file} holds {show(columns)}; {REMEDY}")
    for name, column in columns.items():
        times, stages = column.get("ms_by_step"), column.get("stages_ms")
        if not isinstance(times, list) or not times or not all(map(is_positive, times)):
            raise InputError(f"{file}: ms_by_step of {named(name)} must hold times, got {show(times)}; {REMEDY}")
        if not is_positive(rate := column.get("audio_s_per_s")):
            raise InputError(f"{file}: audio_s_per_s of {named(name)} must be above 0, got {show(rate)}; {REMEDY}")
        if not isinstance(stages, dict) or not all(is_number(stage) for stage in stages.values()):
            raise InputError(f"{file}: stages_ms of {named(name)} must hold times, got {show(stages)}; {REMEDY}")
        if not (column.get("peak_bytes") is None or is_number(column["peak_bytes"])):
            peak = show(column["peak_bytes"])
            raise InputError(f"{file}: peak_bytes of {named(name)} must be a number, got {peak}; {REMEDY}")
    return result


def is_number(value: object) -> bool:
    """Finite, and of a size that a sum or a quotient of it is too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15


def is_positive(value: object) -> bool:
    return isinstance(value, int | float) and is_number(value) and value > 1e-15


def differences(a: dict, b: dict) -> dict[str, list]:
    """What is not alike in two results -> its values in both."""
    sides = []
    for result in (a, b):
        machine = result.get("machine")
        machine = machine if isinstance(machine, dict) else {}
        state = machine.get("gpu_state")
        state = state if isinstance(state, dict) else {}
        sides.append(
            {name: result.get(name) for name in SETTINGS}
            | {f"machine, {name}": machine.get(name) for name in MACHINE}
            | {f"machine, {name}": state.get(name) for name in STATE}
        )
    one, other = ({what: plain(value) for what, value in side.items()} for side in sides)
    return {what: [one[what], other[what]] for what in one if one[what] != other[what]}


def plain(value: object) -> str | float | None:
    return value if value is None or isinstance(value, str | int | float) else show(value)


def row_of(a: dict, b: dict) -> dict[str, Any]:
    """Figures of a column in A and B, and the ratio of the rates."""
    pairs = {
        "ms_per_step": [round(statistics.mean(side["ms_by_step"]), 2) for side in (a, b)],
        "audio_s_per_s": [side["audio_s_per_s"] for side in (a, b)],
        "peak_bytes": [side.get("peak_bytes") for side in (a, b)],
        "precision": [side.get("precision") for side in (a, b)],
    }
    stages = {name: [side["stages_ms"].get(name) for side in (a, b)] for name in {**a["stages_ms"], **b["stages_ms"]}}
    return {**pairs, "stages_ms": stages, "ratio": round(b["audio_s_per_s"] / a["audio_s_per_s"], 3)}


def print_rows(rows: dict[str, dict]) -> None:
    say(f"{'':{WIDTH}}{'A':>14}{'B':>14}{'ratio':>10}   above 1: B needs less, or does more")
    for name, row in rows.items():
        say(f"{named(name, WIDTH)}: B is {row['ratio']:.3f} times as fast")
        if row["precision"][0] != row["precision"][1]:
            say(f"  DIFFERS: precision: {show(row['precision'][0])} in A, {show(row['precision'][1])} in B")
        say_pair("ms/step", row["ms_per_step"])
        for stage, pair in row["stages_ms"].items():
            say_pair(f"  {named(stage, WIDTH - 4)}", pair)
        say_pair("audio s/s", row["audio_s_per_s"], more_is_better=True)
        say_pair("peak GB", [None if peak is None else peak / 1e9 for peak in row["peak_bytes"]])


def say_pair(name: str, pair: list[float | None], more_is_better: bool = False) -> None:
    cells = "".join(f"{'-' if value is None else format(value, '.2f'):>14}" for value in pair)
    a, b = pair[::-1] if more_is_better else pair
    quotient = "-" if a is None or not b or not math.isfinite(a / b) else f"{a / b:.3f}"
    say(f"  {name:{WIDTH - 2}}{cells}{quotient:>10}")


if __name__ == "__main__":
    run(main)
