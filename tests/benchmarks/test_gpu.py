"""What nvidia-smi says is read, whatever is missing.

Run: pytest tests/benchmarks/test_gpu.py
"""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu

STATE = {
    "name": "NVIDIA H100 80GB HBM3", "driver_version": "570.86.15", "clocks.sm": "345", "clocks.max.sm": "1980",
    "clocks.mem": "2619", "power.draw": "118.52", "power.limit": "700.00", "temperature.gpu": "34",
    "utilization.gpu": "7", "memory.used": "5321",
}  # fmt: skip
APPS = "4242, 1000\n77, 512\n78, [N/A]\n"
CUDA = torch.device("cuda", 1)


@pytest.fixture
def smi(monkeypatch) -> dict:
    """A fake nvidia-smi: its answers by what is asked, and the commands that it got."""
    answers: dict = {"--query-gpu": STATE, "--query-compute-apps": APPS, "commands": []}

    def run(command: list[str], **_) -> SimpleNamespace:
        answers["commands"].append(command)
        what, _, fields = command[1].partition("=")
        answer = answers[what]
        if isinstance(answer, dict):  # in the order in which it is asked
            answer = ", ".join(answer[field] for field in fields.split(",")) + "\n"
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "uuid_of", lambda device: "GPU-1234")
    monkeypatch.setattr(gpu.os, "getpid", lambda: 4242)
    return answers


def test_clocks_load_and_other_processes_are_read(smi):
    assert gpu.gpu_state(CUDA) == {
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "570.86.15",
        "sm_mhz": 345.0,
        "sm_mhz_at_most": 1980.0,
        "memory_mhz": 2619.0,
        "watts": 118.52,
        "watts_at_most": 700.0,
        "celsius": 34.0,
        "busy_percent": 7.0,
        "memory_mib": 5321.0,
        "bytes_of_others": 512 * 2**20,
    }
    for command in smi["commands"]:
        assert command[0] == "nvidia-smi" and "--id=GPU-1234" in command
        assert "--format=csv,noheader,nounits" in command
    assert "clocks.sm" in smi["commands"][0][1] and "used_memory" in smi["commands"][1][1]


def test_what_is_hidden_is_none(smi):
    smi["--query-gpu"] = "Tesla T4, 535.1, [N/A], [Not Supported], 5001, [N/A], 70.00, 40\n"
    smi["--query-compute-apps"] = subprocess.CalledProcessError(6, "nvidia-smi")
    state = gpu.gpu_state(CUDA)
    assert state["name"] == "Tesla T4" and state["watts_at_most"] == 70.0
    missing = ("sm_mhz", "sm_mhz_at_most", "watts", "busy_percent", "memory_mib", "bytes_of_others")
    assert [state[name] for name in missing] == [None] * len(missing)
    smi["--query-gpu"] = ""
    assert set(gpu.gpu_state(CUDA).values()) == {None}


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(), subprocess.CalledProcessError(9, "nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 20)],
)
def test_without_nvidia_smi_there_is_no_state(error, smi):
    smi["--query-gpu"] = error
    assert gpu.gpu_state(CUDA) is None
    assert gpu.gpu_state(torch.device("cpu")) is None
    assert gpu.software(torch.device("cpu")) == {}
