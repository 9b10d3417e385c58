"""Which device a process computes on."""

import platform
import re
from pathlib import Path

import torch

from w2v.errors import InputError
from w2v.training import distributed


def resolve_device(name: str | None) -> torch.device:
    """cpu, cuda or cuda:N -> the device; None: a GPU where there is one. Under torchrun each process has its own.

    A GPU becomes torch's current one: streams and events then are its own. Raises InputError for another name, a GPU
    that is not there, and one that this build of torch holds no code for.
    """
    if distributed.is_launched() and torch.cuda.is_available() and name in (None, "cuda"):
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(f"`device` must be cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"`device` must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise InputError("`device` cuda needs a CUDA GPU that torch can use, found none; use `device` cpu")
    device = torch.device("cuda", device.index or 0)
    if device.index >= torch.cuda.device_count():
        raise InputError(f"`device` {name} must be one of {torch.cuda.device_count()} GPUs; count them from cuda:0")
    check_architecture(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list())
    torch.cuda.set_device(device)
    return device


def check_architecture(capability: tuple[int, int], compiled_for: list[str]) -> None:
    """InputError where a build of torch has no code for a GPU of this compute capability.

    compiled_for: torch.cuda.get_arch_list(). Code for sm_80 also runs on 8.6; compute_90 is compiled anew for any
    later GPU.
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in compiled_for]  # sm_90a
    for kind, major, minor in (found.groups() for found in known if found):
        built = (int(major), int(minor))
        same_generation = built[0] == capability[0] and built <= capability
        if same_generation if kind == "sm" else built <= capability:
            return
    if not any(known):  # another maker's GPUs have other names
        return
    raise InputError(
        f"the GPU must be one that this build of torch holds code for ({', '.join(compiled_for)}), it is of compute "
        f"capability {capability[0]}.{capability[1]}; use a newer GPU, a build of torch for an older CUDA release, or "
        "`device` cpu"
    )


def describe_device(device: torch.device) -> str:
    """For people: the names of the GPUs of all processes, or of the CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()} ({torch.get_num_threads()} threads)"
    return f"{distributed.world()} x {name}" if distributed.world() > 1 else name


def _cpu_name() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)", facts, re.MULTILINE)
    except OSError:  # not Linux
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return name if "CPU" in name else f"CPU {name}".strip()
