"""Several languages on one body: one vocabulary for all, or a head for each?

    python -m benchmarks.language_heads --out OUT --seeds 0 1 2 --data tr=PATH --data ky=PATH ... [flags of cv_finetune]

Runs recipes.cv_finetune with either --heads for each seed, in OUT/HEADS-SEED. A run that is over is not made again.
Prints the test rates of each language and their means, over the seeds, and which heads have the lower mean CER. Exit
code 1 where those are not what a CTC model has by default, a head for each.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean, stdev

from recipes import cv_finetune
from recipes.data_settings import PER_LANGUAGE, SHARED
from w2v.files import read_json

HEADS = (SHARED, PER_LANGUAGE)
Results = dict[str, list[dict]]  # by heads: the summaries of the seeds


def main(argv: list[str] | None = None) -> Results:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="All other flags are cv_finetune's.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args, rest = parser.parse_known_args(argv)
    results: Results = {
        heads: [summary_of(args.out / f"{heads}-{seed}", [*rest, "--heads", heads, "--seed", str(seed)])
                for seed in args.seeds]
        for heads in HEADS
    }  # fmt: skip
    for line in lines_of(results):
        print(line)
    return results


def summary_of(out: Path, flags: list[str]) -> dict:
    """The run's summary, from its folder where it is over."""
    if (out / "run.json").is_file() and (result := read_json(out / "run.json", "the run's").get("result")):
        return result
    return cv_finetune.main([*flags, "--out", str(out), *(["--overwrite"] if out.exists() else [])])


def lines_of(results: Results) -> list[str]:
    """A row for each language and for their means; then the verdict. Rates are means over seeds, in percent."""
    lines = [f"{'test':12}" + "".join(f"{f'{heads} {rate}':>22}" for rate in ("CER", "WER") for heads in HEADS)]
    for lang in [*results[SHARED][0]["languages"], ""]:
        cells = [spread([rate_of(run, lang, rate) for run in results[heads]])
                 for rate in ("cer", "wer") for heads in HEADS]  # fmt: skip
        lines.append(f"{lang or 'means':12}" + "".join(f"{cell:>22}" for cell in cells))
    cers, better = mean_cers(results), better_of(results)
    pairs = zip(results[SHARED], results[PER_LANGUAGE], strict=True)
    wins = sum((one["cer"] < other["cer"]) == (better == SHARED) for one, other in pairs)
    lines.append(f"lower mean CER: {better}, in {wins} of {len(results[SHARED])} seeds")
    return [*lines, json.dumps({heads: {"cer": cers[heads]} for heads in HEADS})]


def mean_cers(results: Results) -> dict[str, float]:
    return {heads: fmean(run["cer"] for run in results[heads]) for heads in HEADS}


def better_of(results: Results) -> str:
    cers = mean_cers(results)
    return min(HEADS, key=cers.__getitem__)


def rate_of(run: dict, lang: str, rate: str) -> float:
    return 100 * (run["languages"][lang] if lang else run)[rate]


def spread(rates: list[float]) -> str:
    return f"{fmean(rates):.2f}" + (f" +- {stdev(rates):.2f}" if len(rates) > 1 else "")


if __name__ == "__main__":
    sys.exit(int(better_of(main(sys.argv[1:])) != PER_LANGUAGE))
