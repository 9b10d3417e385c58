"""How long a checkpoint takes to become a ready model, and how much memory: ours and transformers', in turn.

    python -m benchmarks.load_time [--model xlsr-53] [--peer transformers] [--repeats 5] [--save]

Writes a random checkpoint of that size to a temporary folder, then loads it in a fresh process each time, from a warm
file cache. Timed from after the imports to a model in evaluation mode; memory is the growth of the resident set.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.common import machine, print_result
from recipes.console import Parser, positive, say
from w2v.models.wav2vec2 import Wav2Vec2ForCTC
from w2v.models.wav2vec2_config import CONFIGS

LOAD = """
import json, sys, time
import {module}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before, start = resident(), time.perf_counter()
model = {call}.from_pretrained(sys.argv[1]).eval()
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "growth": resident() - before}}))
"""
SIDES = {
    "w2v": LOAD.format(module="w2v", call="w2v.Wav2Vec2ForCTC"),
    "transformers": LOAD.format(module="transformers.models.wav2vec2.modeling_wav2vec2 as m", call="m.Wav2Vec2ForCTC"),
}


def load_once(code: str, folder: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = Parser(prog="python -m benchmarks.load_time", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(CONFIGS), default="xlsr-53")
    parser.add_argument("--peer", choices=("transformers", "none"), default="none")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()

    sides = ["w2v"] if args.peer == "none" else ["w2v", "transformers"]
    with tempfile.TemporaryDirectory() as folder:
        Wav2Vec2ForCTC(CONFIGS[args.model]).save_pretrained(folder)
        size = (Path(folder) / "model.safetensors").stat().st_size
        runs: dict[str, list[dict]] = {side: [] for side in sides}
        for repeat in range(args.repeats + 1):
            for side in sides:
                result = load_once(SIDES[side], Path(folder))
                if repeat:  # the first only warms the file cache
                    runs[side].append(result)
    results = {
        side: {
            "seconds": round(statistics.median(r["seconds"] for r in all_runs), 3),
            "seconds_max": round(max(r["seconds"] for r in all_runs), 3),
            "rss_growth_over_file": round(statistics.median(r["growth"] for r in all_runs) / size, 3),
        }
        for side, all_runs in runs.items()
    }
    for side, result in results.items():
        say(f"{side:14}{result['seconds']:>8} s, resident set grows by {result['rss_growth_over_file']} x the file")
    print_result(
        "load_time",
        {"results": results, "file_bytes": size, "model": args.model, "repeats": args.repeats,
         "machine": machine(torch.device("cpu"))},
        args.save,
    )  # fmt: skip


if __name__ == "__main__":
    main()
