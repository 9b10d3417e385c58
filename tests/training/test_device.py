"""Devices: names, and GPUs that a build of torch has no code for.

Run: pytest tests/training/test_device.py
"""

import pytest
import torch

from w2v.errors import InputError
from w2v.training.device import check_architecture, describe_device, resolve_device

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # of torch 2.11 for CUDA 13


@pytest.mark.parametrize(
    ("capability", "compiled_for", "fits"),
    [
        ((9, 0), WHEEL, True),
        ((8, 9), WHEEL, True),  # code for 8.6 runs on 8.9
        ((7, 5), WHEEL, True),
        ((7, 0), WHEEL, False),  # V100: "no kernel image" at the first operation
        ((6, 1), WHEEL, False),
        ((12, 1), WHEEL, True),
        ((11, 0), WHEEL, False),
        ((11, 0), [*WHEEL, "compute_100"], True),  # compiled anew for later GPUs
        ((9, 0), ["sm_90a"], True),
        ((9, 0), ["gfx90a", "gfx942"], True),  # names of another maker
    ],
)
def test_gpus_without_code_are_refused(capability, compiled_for, fits):
    if fits:
        check_architecture(capability, compiled_for)
    else:
        with pytest.raises(InputError, match=rf"it is of compute capability {capability[0]}\.{capability[1]}; use"):
            check_architecture(capability, compiled_for)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", "meta"])
def test_other_devices_are_refused(name):
    with pytest.raises(InputError, match="`device` must be cpu, cuda or cuda:N"):
        resolve_device(name)


def test_cpu():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.cuda
def test_a_gpu_becomes_the_current_one():
    last = torch.cuda.device_count() - 1
    assert resolve_device(f"cuda:{last}") == torch.device("cuda", last)
    assert torch.cuda.current_device() == last
    with pytest.raises(InputError, match="count them from cuda:0"):
        resolve_device(f"cuda:{last + 1}")


def test_people_are_told_which_processor_it_is(monkeypatch):
    said = describe_device(torch.device("cpu"))
    assert "CPU" in said
    assert said.endswith(f"({torch.get_num_threads()} threads)")
    monkeypatch.setattr("w2v.training.distributed.world", lambda: 2)
    assert describe_device(torch.device("cpu")) == f"2 x {said}"
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA X")
    assert describe_device(torch.device("cuda", 0)) == "2 x NVIDIA X"
