"""What trains and how fast: frozen layers, AdamW, and the two learning-rate schedules of wav2vec 2.0 fine-tuning."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from w2v.answers import Model, Parts
from w2v.errors import InputError
from w2v.kernels.torch_private import divide_gradients_in_update, skip_update

SCHEDULES = ("linear", "tri-stage")
TRI_STAGE_HOLD, TRI_STAGE_FINAL = 0.4, 0.05  # fairseq's fine-tuning: warm up, hold 40%, decay to 5% of the peak


def freeze_lowest(model: Model, layers: int) -> None:
    """The lowest layers, and all that lies below them, learn nothing.

    Of a model with several stacks the first is the lowest: Whisper's decoder comes after its encoder, and where a layer
    of it is frozen, all of the encoder is. Its token embedding, which is also its head, learns. InputError for more
    layers than there are.
    """
    parts = model.parts
    stacked = [layer for stack in parts.stacks for layer in stack]
    if not 1 <= layers <= len(stacked):
        raise InputError(
            f"`freeze_layers` must be from 1 to {len(stacked)}, the layers of this model, got {layers}; freeze fewer"
        )
    for part in (*parts.below, *stacked[:layers]):
        part.requires_grad_(False)
    if parts.encoder is not None and layers > len(parts.stacks[0]):
        parts.encoder.requires_grad_(False)


def adamw(
    model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, eps 1e-8, in the fused implementation of their device.

    layer_decay: each layer's rate is so many times that of the layer above it, as in ELECTRA and BEiT. The head has
    `lr`, and so has all else behind the layers: norms, W2V-BERT's adapter, what a module around the model adds. The
    k-th layer from the top has lr * layer_decay**k; what lies below all layers is one layer more. Whisper's decoder
    layers lie above its encoder's; its token embedding is its head. 1.0: one group, in the order of
    `model.parameters()`, which need not be a family's. InputError beyond 0 to 1, and where all layers are frozen.
    """
    if not 0 < layer_decay <= 1:
        raise InputError(
            f"`layer_decay` must be above 0 and at most 1, got {layer_decay:g}; 1 is one rate for all layers"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [trained]
    if layer_decay < 1:
        groups = _from_the_top(cast(Parts, model.parts), trained)
        if not any(groups[1:]):
            raise InputError("`layer_decay` needs layers that learn, all of this model's are frozen; leave it out")
    by_rate = [{"params": group, "lr": lr * layer_decay**k} for k, group in enumerate(groups) if group]
    return torch.optim.AdamW(by_rate, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def _from_the_top(parts: Parts, trained: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The trained parameters behind the layers, of each layer from the top down, and below the layers."""
    layers = [layer for stack in parts.stacks for layer in stack]
    depths = {id(p): k for k, layer in enumerate(reversed(layers), 1) for p in layer.parameters()}
    for part in parts.below:
        parameters = [part] if isinstance(part, nn.Parameter) else part.parameters()
        depths |= {id(p): len(layers) + 1 for p in parameters}
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(layers) + 2)]
    for parameter in trained:
        groups[depths.get(id(parameter), 0)].append(parameter)
    return groups


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
