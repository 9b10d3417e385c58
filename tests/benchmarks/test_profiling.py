"""Traces, tables of kernels and snapshots of the memory.

Run: pytest tests/benchmarks/test_profiling.py
"""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import profiling
from benchmarks.profiling import Kernel, kernels, memory_snapshot, profile_column, table_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_table_has_shares_of_the_whole():
    lines = table_of([Kernel("aten::mm", 3, 75.0), Kernel("aten::add <float>", 1, 25.0)]).splitlines()
    assert lines[0].split() == ["calls", "us", "share", "name"]
    assert lines[1].split() == ["3", "75.0", "75.00%", "aten::mm"]
    assert lines[2].endswith("25.00%  aten::add <float>")
    assert len(table_of([]).splitlines()) == 1


def test_on_a_gpu_only_its_kernels_count():
    def row(key: str, kind, us: float, is_user_annotation: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=key, count=2, device_type=kind, self_device_time_total=us, self_cpu_time_total=9.0,
            is_user_annotation=is_user_annotation,
        )  # fmt: skip

    kinds = torch.autograd.DeviceType
    rows = [row("add", kinds.CUDA, 1.0), row("aten::mm", kinds.CPU, 0.0), row("gemm", kinds.CUDA, 5.0)]
    rows += [row("a step", kinds.CUDA, 50.0, is_user_annotation=True)]
    profiler = SimpleNamespace(key_averages=lambda: rows)
    assert kernels(profiler, CUDA) == [Kernel("gemm", 2, 5.0), Kernel("add", 2, 1.0)]
    assert {kernel.microseconds for kernel in kernels(profiler, CPU)} == {9.0}


def test_three_steps_are_traced_and_no_memory_on_a_cpu(tmp_path, capsys):
    x, taken = torch.randn(64, 64), []
    files = profile_column(lambda: taken.append(x @ x), tmp_path, "w2v", CPU)
    assert len(taken) == profiling.TRACED == 3
    assert files == ["trace-w2v.json.gz", "kernels-w2v.txt"]
    table = (tmp_path / "kernels-w2v.txt").read_text().splitlines()
    assert next(line.split()[0] for line in table if line.endswith(" aten::mm")) == "3"
    assert "no snapshot of the memory" in capsys.readouterr().err


def test_other_ranks_take_the_steps_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling.distributed, "rank", lambda: 1)
    taken = []
    assert profile_column(lambda: taken.append(1), tmp_path / "none", "w2v", CUDA) == []
    assert len(taken) == profiling.TRACED + 1, "three traced, one for the snapshot"
    assert not (tmp_path / "none").exists()


def test_a_snapshot_is_of_the_step_and_recording_ends(tmp_path, monkeypatch):
    calls: list = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: calls.append(how))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", calls.append)
    assert memory_snapshot(lambda: calls.append("step"), tmp_path / "m.pickle", CUDA)
    assert calls == [{"max_entries": profiling.EVENTS}, "step", str(tmp_path / "m.pickle"), {"enabled": None}]
    calls.clear()
    with pytest.raises(ZeroDivisionError):
        memory_snapshot(lambda: 1 / 0, tmp_path / "m.pickle", CUDA)
    assert calls[-1] == {"enabled": None}
    assert not memory_snapshot(lambda: calls.append("step"), tmp_path / "m.pickle", CPU)
