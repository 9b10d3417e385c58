"""Whether the sample still trains in four minutes and still learns its clips by heart; exit code 1 where not.

python -m benchmarks.sample_time
"""

import tempfile
import time

import torch

from benchmarks.against import ROOT, run_in
from benchmarks.common import fail, machine, with_command
from recipes.console import Parser, run, say

MOST_SECONDS = 240
MOST_CER = 0.05  # of the training clips


def main(argv: list[str] | None = None) -> dict:
    Parser(prog="python -m benchmarks.sample_time", description=__doc__.split("\n")[0]).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        variables = {"W2V_CACHE": f"{folder}/cache", "COMMON_VOICE_ROOT": ""}
        start = time.perf_counter()
        result = run_in(ROOT, "recipes.cv_finetune", "--lang", "tr", "--out", f"{folder}/run", **variables)
        seconds = round(time.perf_counter() - start, 1)
    got = f"{seconds} s and a train_cer of {result['train_cer']:.3f}"
    say(f"the sample took {got}")
    summary = {"seconds": seconds, "train_cer": result["train_cer"], "machine": machine(torch.device("cpu"))}
    summary = with_command("sample_time", summary, save=False)
    if seconds > MOST_SECONDS or result["train_cer"] > MOST_CER:
        most = f"at most {MOST_SECONDS} s and a train_cer of at most {MOST_CER}"
        fail(summary, f"the sample must take {most}, got {got}; repeat it on a quiet machine, then look for the change")
    return summary


if __name__ == "__main__":
    run(main)
