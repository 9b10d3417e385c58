"""What the benchmarks share: interleaved timing, clocks and memory of a step, what a machine can do, saved results.

Shapes: N side of a square matrix.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from benchmarks.gpu import gpu_state, software
from recipes.console import Parser, say
from w2v.errors import InputError
from w2v.files import write_json
from w2v.kernels.linear import linear
from w2v.training import distributed

RESULTS = Path(__file__).parent / "results"
CEILING_SIDE = {"cuda": 8192, "cpu": 1024}  # N of the matrix product that stands for the hardware's best
CEILING_REPEATS = 20
COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes, many times what caches hold


def interleave(
    runs: Mapping[str, Callable[[], object]], repeats: int, warmup: int, device: torch.device
) -> dict[str, dict]:
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


class StageClock:
    """When each stage of a step ended: events in the GPU's stream, which nothing waits for, or the CPU's clock."""

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[tuple[str, float | torch.cuda.Event, float]] = []
        self("start")

    def __call__(self, stage: str) -> None:
        """`stage` ends here."""
        now = time.perf_counter()
        mark: float | torch.cuda.Event = now
        if self.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self.marks.append((stage, mark, now))

    def wait(self) -> None:
        mark = self.marks[-1][1]
        if not isinstance(mark, float):
            mark.synchronize()

    def stages(self) -> dict[str, float]:
        """Seconds of each stage; waits for the last."""
        self.wait()
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return {stage: self._seconds(start, end) for (_, start, _), (stage, end, _) in pairs}

    def _seconds(self, start, end) -> float:
        return start.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - start

    @property
    def host_seconds(self) -> float:
        """How long the host was busy with the step; a GPU may work on after it."""
        return self.marks[-1][2] - self.marks[0][2]


class MemoryPeak:
    """The highest memory since it was made.

    On a GPU what the allocator handed out beyond what was taken at the start. On a CPU the whole resident set, where
    Linux lets a process forget its last peak, else None.
    """

    def __init__(self, device: torch.device):
        self.device, self.start = device, None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self.start = 0
            except OSError:
                pass

    def bytes(self) -> int | None:
        if self.start is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.start
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def allocator_retries(device: torch.device) -> int:
    """How often a GPU's allocator gave all its free memory back, to find room for one more tensor."""
    return torch.cuda.memory_stats(device)["num_alloc_retries"] if device.type == "cuda" else 0


def size_in_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def matmul_ceiling(precision: str, device: torch.device) -> float:
    """FLOP/s of a large square matrix product, the median of several: what this machine can do at its best."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    side = CEILING_SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype)  # (N, N); zeros would run faster than real data
    clocks = []
    for _ in range(CEILING_REPEATS):
        clocks.append(StageClock(device))
        linear(a, b.mT, training=True)  # a @ b by the faster of the ways that a CPU has
        clocks[-1]("product")
    return 2 * side**3 / statistics.median(clock.stages()["product"] for clock in clocks[2:])


def memory_rate(device: torch.device) -> float:
    """Bytes per second of a large copy, those read and those written, the median of several."""
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target, clocks = torch.empty_like(source), []
    for _ in range(CEILING_REPEATS):
        clocks.append(StageClock(device))
        target.copy_(source)
        clocks[-1]("copy")
    return 2 * size_in_bytes([source]) / statistics.median(clock.stages()["copy"] for clock in clocks[2:])


def gpu_busy(run: Callable[[], object], device: torch.device) -> float | None:
    """The share of run()'s time in which the GPU computes; a lower bound, for profiling slows the host down.

    None where the profiler sees no GPU.
    """
    from torch.profiler import ProfilerActivity, profile

    synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        run()
        synchronize(device)
    events = [event for event in profiler.events() if not event.is_user_annotation]
    on_gpu = [event.time_range for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    if not on_gpu:
        return None
    span = max(r.end for r in on_gpu) - min(event.time_range.start for event in events)
    return covered([(r.start, r.end) for r in on_gpu]) / span


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and software, and how busy both were when this was called."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        **software(device),
        "gpu_state": gpu_state(device),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def print_result(name: str, summary: dict, save: bool) -> None:
    """The result as the last line on stdout, and, with --save, in benchmarks/results/NAME.json."""
    print(json.dumps(with_command(name, summary, save)))


def fail(summary: dict, reason: str) -> NoReturn:
    """End with exit code 1: the result is the last line on stdout as ever, the reason is on stderr."""
    print(json.dumps(summary), flush=True)
    print(f"failed: {reason}", file=sys.stderr, flush=True)
    sys.exit(1)


def with_command(name: str, summary: dict, save: bool) -> dict:
    """The result behind the command that gave it; with --save, also in benchmarks/results/NAME.json."""
    launcher = ["python"]
    if distributed.is_launched():
        launcher = ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])]
    command = [*launcher, "-m", f"benchmarks.{name.split('-')[0]}", *sys.argv[1:]]
    summary = {"command": " ".join(command), **summary}
    if save and distributed.rank() == 0:
        write_json(RESULTS / f"{name}.json", summary)
    return summary


Row = tuple[dict[str, Any], str, bool]  # figures, the goal in words, whether it holds


def run_rows(parser: Parser, rows: Mapping[str, Callable[[Any], Row]], argv: list[str] | None) -> dict:
    """Measure the rows of docs/NUMBERS.md that the flags ask for. Exit code 1 where one misses its goal.

    parser: of `python -m benchmarks.NAME`, with the flags that the rows themselves read.
    """
    parser.add_argument("--save", action="store_true", help="also write each row to benchmarks/results/NAME-ROW.json")
    for row, what in rows.items():
        text = " ".join((what.__doc__ or "").split("\n\n")[0].split())
        parser.add_argument(f"--{row}", action="store_true", help=text.replace("%", "%%"))
    args = parser.parse_args(argv)
    asked = [row for row in rows if getattr(args, row.replace("-", "_"))]
    if not asked:
        raise InputError(f"at least one row must be asked for; give {', '.join(f'--{row}' for row in rows)}")
    name, where = parser.prog.rpartition(".")[2], {"machine": machine(torch.device("cpu"))}
    found, missed = {}, []
    for row in asked:
        figures, goal, holds = rows[row](args)
        found[row] = figures | {"holds": holds}
        with_command(f"{name}-{row}", {row: found[row], "goal": goal, **where}, args.save)
        said = ", ".join(f"{name} {figure}" for name, figure in figures.items())
        say(f"{row}: {said}; goal: {goal}: {'holds' if holds else 'misses'}")
        missed += [] if holds else [row]
    summary = with_command(name, {"rows": found, **where}, save=False)
    if missed:
        fail(
            summary, f"{', '.join(missed)}: the goal is missed, see above; docs/NUMBERS.md says which rows are known to"
        )
    return summary
