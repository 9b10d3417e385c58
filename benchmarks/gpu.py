"""What nvidia-smi says of a GPU: its driver, clocks, temperature, and who else is busy on it. Nothing is set.

All of it may be missing: there is no nvidia-smi, it does not answer, or a machine's owner hides some of it.
"""

import os
import subprocess
from typing import Any

import torch

SECONDS = 20  # that nvidia-smi may take
MEBI = 2**20
# The fields that are asked for, and what they are called here. All but the first two are numbers.
FIELDS = {
    "name": "name",
    "driver_version": "driver",
    "clocks.sm": "sm_mhz",
    "clocks.max.sm": "sm_mhz_at_most",
    "clocks.mem": "memory_mhz",
    "power.draw": "watts",
    "power.limit": "watts_at_most",
    "temperature.gpu": "celsius",
    "utilization.gpu": "busy_percent",
    "memory.used": "memory_mib",
}
WORDS = ("name", "driver")


def ask(*words: str) -> str | None:
    """What nvidia-smi prints; None where it does not."""
    command = ["nvidia-smi", *words, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def gpu_state(device: torch.device) -> dict[str, Any] | None:
    """Clocks and load of the GPU now, and the memory of other processes. None on a CPU, and without nvidia-smi."""
    if device.type != "cuda":
        return None
    chosen = f"--id={uuid_of(device)}"
    state = ask(f"--query-gpu={','.join(FIELDS)}", chosen)
    if state is None:
        return None
    apps = ask("--query-compute-apps=pid,used_memory", chosen)
    return read_state(state) | {"bytes_of_others": None if apps is None else bytes_of_others(apps, os.getpid())}


def uuid_of(device: torch.device) -> str:
    """How nvidia-smi calls the GPU whatever CUDA_VISIBLE_DEVICES says; its number where torch does not know."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"GPU-{uuid}" if uuid is not None else str(device.index or 0)


def read_state(text: str) -> dict[str, Any]:
    """The first line of `--query-gpu`; None for what is hidden, [N/A]."""
    lines = text.splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    cells += [""] * (len(FIELDS) - len(cells))
    return {
        name: (cell or None) if name in WORDS else number(cell)
        for name, cell in zip(FIELDS.values(), cells, strict=False)
    }


def bytes_of_others(text: str, own: int) -> int:
    """The memory in `--query-compute-apps` of processes but this one; what is hidden counts as none."""
    total = 0
    for line in text.splitlines():
        pid, _, mebibytes = line.partition(",")
        if pid.strip() != str(own):
            total += int(number(mebibytes) or 0) * MEBI
    return total


def number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def software(device: torch.device) -> dict[str, Any]:
    """The versions that a GPU's step runs on; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": None if nccl is None else ".".join(map(str, nccl)),
    }
