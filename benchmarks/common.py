"""What the benchmarks share: interleaved timing, the machine in words, saved results."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from w2v.files import write_json

RESULTS = Path(__file__).parent / "results"


def interleave(runs: dict[str, Callable[[], None]], repeats: int, warmup: int, device: torch.device) -> dict[str, dict]:
    """Time each callable `repeats` times in turn, A B A B ...: a machine whose speed drifts then slows all alike.

    -> {name: {"median_s", "min_s", "max_s"}}
    """
    for _ in range(warmup):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {
        name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t), "repeats": repeats}
        for name, t in times.items()
    }


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, str | int]:
    words = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        words["gpu"] = torch.cuda.get_device_name(device)
    return words


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def conclude(name: str, summary: dict, save: bool) -> None:
    """The result as the last line on stdout, and, with --save, in benchmarks/results/NAME.json."""
    summary = {"command": " ".join(["python -m", f"benchmarks.{name.split('-')[0]}", *sys.argv[1:]]), **summary}
    if save:
        write_json(RESULTS / f"{name}.json", summary)
    print(json.dumps(summary))
