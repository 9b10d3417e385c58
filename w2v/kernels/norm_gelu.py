"""LayerNorm over channels and then exact (erf) GELU, on a GPU as one Triton kernel.

Every convolution of the feature encoder ends in the two, on the largest activations of the model: 160 s of speech are
512,000 frames of 512 channels after the first. Under autocast torch moves 28 bytes for each of these numbers: 6 to cast
it from bf16 to fp32, 8 in LayerNorm, 8 in GELU, 6 to cast it back for the next product. The kernel moves 4: it reads
and writes bf16, and computes in fp32 between. Its backward pass moves 6, and finds the statistics anew.

Shapes: C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.kernels.device import is_traced, use_triton


def norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """GELU(LayerNorm(x)): x (..., C), weight (C,), bias (C,) -> (..., C).

    On a GPU the kernel keeps x's dtype, also under autocast; the reference then gives fp32, as torch's LayerNorm does.
    """
    if _has_kernel(x):
        from w2v.kernels.norm_gelu_triton import fused_norm_gelu

        return fused_norm_gelu(x, weight, bias, eps)
    return reference_norm_gelu(x, weight, bias, eps)


def reference_norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.gelu(F.layer_norm(x, weight.shape, weight, bias, eps))


def _has_kernel(x: Tensor) -> bool:
    # A wider row would not fit into the registers of a few warps.
    fits = x.dtype in (torch.float32, torch.float16, torch.bfloat16) and x.shape[-1] <= 2048
    return fits and not is_traced() and use_triton(x)
