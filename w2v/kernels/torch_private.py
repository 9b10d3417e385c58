"""What we use of torch that is not its public API, in one place.

tests/kernels/test_torch_private.py fails where a new release of torch changes it.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def flash_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, dropout: float) -> Tensor:
    """FlashAttention over clips of one stream: q, k, v (F, H, K), offsets (B + 1,) int32 -> (F, H, K), on a GPU.

    What torch.nn.attention.varlen calls; that public wrapper leaves dropout out.
    """
    out, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, offsets, offsets, longest, longest, dropout, False, False
    )
    return out


def softmax_backward(gradient: Tensor, out: Tensor) -> Tensor:
    """Gradient of softmax(dim=-1) at its input, from that at its output `out`; fp32, any equal shapes."""
    return torch._softmax_backward_data(gradient, out, -1, torch.float32)


def cpu_has_bf16_products() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def has_onednn_linear() -> bool:
    """Whether oneDNN's linear maps, below, are in this build of torch."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None = None) -> Tensor:
    """oneDNN's linear map: x (..., C), weight (O, C), bias (O,) -> (..., O), fp32 on a CPU, without gradients.

    plus (..., O): is added to it.

    What torch.compile makes of linear maps whose weights are frozen.
    """
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()  # of other strides oneDNN has no kernel: a loop takes a thousand times as long
    if plus is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, plus, weight, bias, "add")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def is_observed() -> bool:
    """Whether others see each operator: torch.func's transforms, fake tensors, counters. They know torch's own best."""
    return torch.utils._python_dispatch.is_in_torch_dispatch_mode() or (
        torch._C._functorch.peek_interpreter_stack() is not None
    )


def divide_gradients_in_update(optimizer: torch.optim.AdamW, divisor: Tensor) -> None:
    """Let fused AdamW divide each gradient by `divisor` as it reads it: the place of fp16's loss scale."""
    optimizer.grad_scale = divisor  # type: ignore[attr-defined]  # only the fused kernel knows it


def skip_update(optimizer: torch.optim.AdamW, skip: Tensor) -> None:
    """Let fused AdamW leave everything as it is where `skip`, a scalar bool, holds: as after an overflow in fp16."""
    optimizer.found_inf = skip.float()  # type: ignore[attr-defined]


def compile_modules(modules: Iterable[nn.Module], on: bool) -> None:
    """torch.compile each module in place with dynamic shapes, or take that back: nn.Module has no public way to."""
    # Lengths vary from batch to batch, probabilities do not: as tensors they would be read back.
    torch._dynamo.config.specialize_float = True
    # Padded batches on old GPUs and in fp32 make up to 7 graphs, and one clip alone gets its own; the default is 8.
    torch._dynamo.config.recompile_limit = 32
    if on:
        from torch._inductor import config as inductor  # takes a second to import

        # A norm's backward pass sums rows and columns in one kernel. By default that is another graph, with guards on
        # the number of frames, so a batch of less than 5,120 would be compiled for anew in mid-training.
        inductor.triton.mix_order_reduction_non_strict_mode = True
    for module in modules:
        module._compiled_call_impl = None
        if on:
            module.compile(dynamic=True)


@contextmanager
def compiling_quietly() -> Iterator[None]:
    """Within it torch.compile does not say that TF32 is off, which is what fp32 means here, nor what it tried in vain.

    Its arithmetic of shapes warns of powers that it cannot bound and then does without, as seen on an H200.
    """
    shapes = logging.getLogger("torch.utils._sympy.interp")
    level = shapes.level
    shapes.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            yield
    finally:
        shapes.setLevel(level)


def is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None
