"""What a step is made of: a trace for ui.perfetto.dev, a table by kernel, a snapshot of a GPU's memory."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import synchronize
from recipes.console import say
from w2v.files import write_text
from w2v.training import distributed

TRACED = 3  # steps
EVENTS = 100_000  # of the allocator, at most, in a snapshot


class Kernel(NamedTuple):
    """All calls of one kernel, on a CPU of one operator without those that it calls."""

    name: str
    calls: int
    microseconds: float


def trace(run: Callable[[], object], folder: Path, name: str, device: torch.device) -> list[Path]:
    """Profile run(). -> the files: trace-NAME.json.gz and kernels-NAME.txt."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    synchronize(device)
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        synchronize(device)
    file, table = folder / f"trace-{name}.json.gz", folder / f"kernels-{name}.txt"
    profiler.export_chrome_trace(str(file))
    write_text(table, table_of(kernels(profiler, device)))
    return [file, table]


def kernels(profiler: profile, device: torch.device) -> list[Kernel]:
    """From the one that takes longest on."""
    rows = profiler.key_averages()
    if device.type == "cuda":
        on_gpu = [r for r in rows if r.device_type == torch.autograd.DeviceType.CUDA and not r.is_user_annotation]
        found = [Kernel(r.key, r.count, r.self_device_time_total) for r in on_gpu]
    else:
        found = [Kernel(r.key, r.count, r.self_cpu_time_total) for r in rows]
    return sorted(found, key=lambda kernel: -kernel.microseconds)


def table_of(found: list[Kernel]) -> str:
    whole = sum(kernel.microseconds for kernel in found) or 1.0
    lines = [f"{'calls':>8}{'us':>14}{'share':>8}  name"]
    lines += [f"{k.calls:>8}{k.microseconds:>14.1f}{k.microseconds / whole:>8.2%}  {k.name}" for k in found]
    return "\n".join(lines) + "\n"


def memory_snapshot(run: Callable[[], object], file: Path, device: torch.device) -> bool:
    """Write what the allocator did during run(), for pytorch.org/memory_viz. -> whether there is a GPU to ask.

    The one place that calls torch's private _record_memory_history and _dump_snapshot, which its own guide to memory
    names.
    """
    if device.type != "cuda":
        return False
    torch.cuda.memory._record_memory_history(max_entries=EVENTS)
    try:
        run()
        synchronize(device)
        torch.cuda.memory._dump_snapshot(str(file))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return True


def profile_column(run: Callable[[], object], folder: Path, name: str, device: torch.device) -> list[str]:
    """Trace TRACED calls of run(), a step, and on a GPU record the memory of one more. -> names of the files.

    The first rank writes them; the others take the steps with it.
    """
    if distributed.rank() != 0:
        for _ in range(TRACED + (device.type == "cuda")):
            run()
        return []
    folder.mkdir(parents=True, exist_ok=True)
    files = trace(lambda: [run() for _ in range(TRACED)], folder, name, device)
    say(f"{name}: {TRACED} steps are traced in {files[0]}, by kernel in {files[1]}")
    snapshot = folder / f"memory-{name}.pickle"
    if memory_snapshot(run, snapshot, device):
        files.append(snapshot)
    else:
        say(f"{name}: no snapshot of the memory, which only a GPU's allocator gives")
    return [file.name for file in files]
