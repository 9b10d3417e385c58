"""Number formats of training and inference: which one a device computes best, and the context that switches it on."""

import torch

from w2v.errors import InputError
from w2v.kernels.torch_private import cpu_has_bf16_products

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_precision(name: str, device: torch.device) -> str:
    """The default, "auto", is bf16 where the hardware multiplies it natively, fp16 on older GPUs, fp32 on other CPUs.

    torch.cuda.is_bf16_supported() counts emulation; native bf16 starts at compute capability 8.0. A CPU without
    AVX512-BF16 or AMX emulates it too, at a third of the speed of fp32 (benchmarks.parts): there "bf16" is fp32,
    which is the more precise one as well.
    """
    if name not in PRECISIONS:
        raise InputError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name == "fp16" and device.type == "cpu":
        raise InputError("`precision` fp16 needs a GPU, got the CPU; use bf16 or fp32")
    if device.type == "cpu" and name in ("auto", "bf16"):
        return "bf16" if cpu_has_bf16_products() else "fp32"
    if name != "auto":
        return name
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The mixed-precision context for a forward pass; weights, gradients and the loss stay fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
