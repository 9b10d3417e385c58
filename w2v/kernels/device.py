"""What the machine can run."""

from functools import cache

from torch import Tensor


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
