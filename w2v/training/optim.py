"""AdamW and the two learning-rate schedules of wav2vec 2.0 fine-tuning."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from w2v.errors import InputError
from w2v.kernels.torch_private import divide_gradients_in_update, skip_update

SCHEDULES = ("linear", "tri-stage")
TRI_STAGE_HOLD, TRI_STAGE_FINAL = 0.4, 0.05  # fairseq's fine-tuning: warm up, hold 40%, decay to 5% of the peak


def adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, eps 1e-8, in the fused implementation of their device."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def clip_and_update(optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler, max_norm: float) -> Tensor:
    """Clip the gradients to a total norm of max_norm, 0: not at all, and update. -> the norm before, on the device.

    Where the norm is not finite, weights and moments stay as they are.

    It equals clip_grad_norm_ and step(), and reads the gradients once less: AdamW's fused kernel divides each gradient
    by a number as it reads it. (The number is meant for fp16's loss scale, so fp16 takes the two calls.)
    """
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, max_norm or torch.inf)
        scaler.step(optimizer)
        scaler.update()
        return norm
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    skip_update(optimizer, ~torch.isfinite(norm))
    if max_norm:
        divide_gradients_in_update(optimizer, ((norm + 1e-6) / max_norm).clamp(min=1.0))
    optimizer.step()
    return norm


def schedule(name: str, total_steps: int, warmup_steps: int) -> Callable[[int], float]:
    """-> step (from 0) to the factor on the peak learning rate.

    "linear" (transformers): up from 0 over the warm-up, down to 0 at the end.
    "tri-stage" (fairseq): up from 1% over the warm-up, hold for 40% of the steps, then exponentially down to 5%.
    """
    if name == "linear":

        def factor(step: int) -> float:
            if step < warmup_steps:
                return step / warmup_steps
            return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    elif name == "tri-stage":
        hold_until = warmup_steps + round(TRI_STAGE_HOLD * total_steps)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return 0.01 + 0.99 * step / warmup_steps
            if step < hold_until:
                return 1.0
            decayed = (step - hold_until) / max(1, total_steps - hold_until)
            return TRI_STAGE_FINAL ** min(1.0, decayed)

    else:
        raise InputError(f"`schedule` must be one of {', '.join(SCHEDULES)}, got {name!r}")
    return factor
