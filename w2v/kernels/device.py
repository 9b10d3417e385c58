"""What may run here: Triton's kernels, and code of our own that a tracer does not follow."""

from functools import cache

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether torch.compile, torch.export or the ONNX exporter is reading the code instead of running it.

    The plain way is taken then: compilers fuse it by themselves, and an exported graph is to run anywhere.
    """
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def on_gpu(x: Tensor) -> bool:
    """Whether to take the way of a GPU, or of any device but the CPU. Who asks here can be traced without one."""
    return x.device.type != "cpu"


def use_triton(x: Tensor) -> bool:
    """Whether to take Triton's kernels for x: on a GPU, where Triton and the C compiler that it asks for are there."""
    return x.is_cuda and _has_triton()


@cache
def _has_triton() -> bool:
    try:
        import triton

        triton.runtime.driver.active.get_current_target()  # compiles a first C file
    except Exception:  # ImportError, RuntimeError, AssertionError and CalledProcessError are all known
        return False
    return True
