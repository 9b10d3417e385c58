"""What a small model learns on a CPU from minutes of speech: the rows of docs/RESULTS.md.

    python -m benchmarks.learning --sample --out OUT                          # each row is one command
    python -m benchmarks.learning --curve --out OUT
    python -m benchmarks.learning --kathleen --data DIR/metadata.tsv --out OUT
    python -m benchmarks.learning --twi --data DIR --out OUT
    python -m benchmarks.learning --augment --data DIR --out OUT

The runs are those of recipes.cv_finetune with its presets, each a process of its own; a run that OUT holds is not made
again. Held-out rates are those of dev and test together, under the run's own text rules. DIR: a reader's table of clips
(--kathleen), a release with official splits (--twi), the folder of Common Voice 6.1's languages (--augment). Decoded
audio is kept in OUT/cache: the first run decodes it.
"""

import resource
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.against import ROOT, run_in
from benchmarks.common import Row, run_rows
from recipes.console import Parser, run
from w2v.errors import InputError
from w2v.files import read_json, write_json
from w2v.metrics import ErrorRates, error_rates

MOST_SECONDS, MOST_GB = 240, 3.0  # of a run on the sample
MOST_CER, GAIN = 0.6, 0.2  # held out, from w2v-mini, and below what scratch reaches
BY_HEART = 0.05  # training CER of the small model of fresh weights, by the first seed, which is the command's own
READER_CER, READER_MINUTES = 0.35, 60  # of Kathleen from scratch; of a CPU core
CLIPS = (10, 20, 40, 80)  # of training; the sample has 80
MINI, SCRATCH = "w2v-mini", "tiny"
LEFT_OUT = ("hu", "tt")  # languages of Common Voice 6.1 that w2v-mini never heard, beside Turkish
PARTS = (
    "none",
    "speed",
    "speed,noise",
    "speed,rooms",
)  # of --augment; models but Whisper level a clip, and hear no gain
RECORD = "learning.json"  # in a run's folder: what the run took


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.learning", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the runs lie")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--data", type=Path, help="of --kathleen, --twi and --augment")
    return run_rows(parser, ROWS, argv)


def trained(out: Path, *flags: str) -> dict:
    """What a run gave and took: its summary, `held_out` rates, seconds, CPU minutes, GB of the largest process."""
    if (out / RECORD).is_file():
        return read_json(out / RECORD, "the run's")
    children, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    flags = (*flags, "--out", str(out.resolve()), "--overwrite")
    where = {"W2V_CACHE": str(out.parent.resolve() / "cache"), "COMMON_VOICE_ROOT": ""}
    summary = run_in(ROOT, "recipes.cv_finetune", *flags, **where)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    rates = held_out(out)
    record = summary | {
        "held_out": {"cer": rates.cer, "wer": rates.wer, "clips": rates.clips},
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_minutes": round(used / 60, 1),
        "gb": round(after.ru_maxrss / 1e6, 2),  # of all runs so far: an upper bound
    }
    write_json(out / RECORD, record)
    return record


def held_out(out: Path) -> ErrorRates:
    """Of the clips of dev and test together, as the run wrote them."""
    lines = [
        line.split("\t")
        for split in ("dev", "test")
        for line in (out / f"predictions-{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    return error_rates([line[1] for line in lines], [line[2] for line in lines])


def on_sample(args, model: str, clips: int = CLIPS[-1]) -> list[dict]:
    """A run for each seed, on so many of the sample's training clips."""
    few = [] if clips == CLIPS[-1] else ["--max-train-clips", str(clips)]
    return [
        trained(args.out / f"tr-{model}-{clips}-{seed}", "--lang", "tr", "--model", model, "--seed", str(seed), *few)
        for seed in args.seeds
    ]


def sample(args) -> Row:
    """The sample from w2v-mini, and by a small model of fresh weights: held-out CER, time, memory, over the seeds."""
    runs = {model: on_sample(args, model) for model in (MINI, SCRATCH)}
    cers = {model: fmean(r["held_out"]["cer"] for r in each) for model, each in runs.items()}
    slowest, largest = (max(r[what] for r in runs[MINI]) for what in ("seconds", "gb"))
    by_heart = [round(r["train_cer"], 3) for r in runs[SCRATCH]]
    figures: dict[str, Any] = {
        f"{model}, {what} by seed": [round(r["held_out"][what], 3) for r in each]
        for model, each in runs.items() for what in ("cer", "wer")
    }  # fmt: skip
    figures |= {"mean CER": {model: round(cer, 3) for model, cer in cers.items()}, "seconds": slowest, "GB": largest}
    figures |= {f"training CER of {SCRATCH} by seed": by_heart}
    goal = (
        f"CER at most {MOST_CER} and {GAIN} below scratch, at most {MOST_SECONDS} s and {MOST_GB:g} GB; fresh weights "
        f"learn their clips to a CER of {BY_HEART}, the first seed"
    )
    transfers = cers[MINI] <= MOST_CER and cers[MINI] <= cers[SCRATCH] - GAIN
    fits = slowest <= MOST_SECONDS and largest <= MOST_GB
    return figures, goal, transfers and fits and by_heart[0] <= BY_HEART


def curve(args) -> Row:
    """Held-out CER of the sample after 10, 20, 40 and 80 clips of training, from w2v-mini and from scratch."""
    figures = {
        f"{model}, {clips} clips": round(fmean(r["held_out"]["cer"] for r in on_sample(args, model, clips)), 3)
        for model in (MINI, SCRATCH)
        for clips in CLIPS
    }
    return figures, "stated", True


def data_of(args, row: str) -> str:
    """InputError where there is none."""
    if args.data is None:
        raise InputError(f"--{row} needs --data, which the module's text describes; add it")
    return str(args.data.resolve())


def kathleen(args) -> Row:
    """One reader from scratch, by sentence: held-out CER, and the CPU minutes that it took.

    Without the adapter a frame is 20 ms: one of 40 leaves 1.65 for a label of hers, and learns less (docs/RESULTS.md).
    """
    flags = ["--lang", "en", "--data", data_of(args, "kathleen"), "--model", f"random:{MINI}", "--add-adapter", "off"]
    result = trained(args.out / "kathleen", *flags)
    cer, minutes = result["held_out"]["cer"], result["cpu_minutes"]
    figures = {"cer": round(cer, 3), "wer": round(result["held_out"]["wer"], 3), "CPU minutes": minutes}
    goal = f"a CER of at most {READER_CER} within {READER_MINUTES} CPU minutes"
    return figures, goal, cer <= READER_CER and minutes <= READER_MINUTES


def twi(args) -> Row:
    """A release with official splits, from w2v-mini: rates of its test."""
    result = trained(args.out / "twi", "--lang", "tw", "--data", data_of(args, "twi"), "--model", MINI)
    figures = {what: result[what] for what in ("cer", "wer", "dev_cer", "test_clips", "cpu_minutes")}
    return figures, "stated", True


def augment(args) -> Row:
    """Two languages from w2v-mini with parts of --augment: held-out CER of each, and the mean."""
    data = Path(data_of(args, "augment"))
    figures: dict[str, Any] = {}
    for parts in PARTS:
        cers = {
            f"{lang} {seed}": trained(
                args.out / f"{lang}-{parts.replace(',', '-')}-{seed}", "--lang", lang, "--data", str(data / lang),
                "--model", MINI, "--augment", parts, "--seed", str(seed),
            )["held_out"]["cer"]
            for lang in LEFT_OUT for seed in args.seeds
        }  # fmt: skip
        figures[parts] = {name: round(cer, 3) for name, cer in cers.items()} | {"mean": round(fmean(cers.values()), 3)}
    return figures, "stated", True


ROWS = {"sample": sample, "curve": curve, "kathleen": kathleen, "twi": twi, "augment": augment}


if __name__ == "__main__":
    run(main)
