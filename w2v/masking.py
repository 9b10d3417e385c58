"""SpecAugment span masks (Park et al. 2019), as wav2vec 2.0 fine-tuning uses them.

Counts and placement follow transformers' `_compute_mask_indices`: one epsilon per call rounds the span
count up or down, starts are drawn without replacement, spans may overlap. One stated deviation: the peer
clamps the count by the *padded* length, so a short clip is masked more when it is batched with a long one;
here every row is clamped by its own length and a clip's mask does not depend on its neighbours.

Everything stays on the device of `lengths`: no value is read back to the host.
"""

from typing import Protocol

import torch
from torch import Tensor

from w2v.layout import Layout


class SpecAugment(Protocol):
    """The fields of a config that say how much of a clip is masked, over time and over features."""

    @property
    def mask_time_prob(self) -> float: ...
    @property
    def mask_time_length(self) -> int: ...
    @property
    def mask_time_min_masks(self) -> int: ...
    @property
    def mask_feature_prob(self) -> float: ...
    @property
    def mask_feature_length(self) -> int: ...
    @property
    def mask_feature_min_masks(self) -> int: ...


def draw_masks(layout: Layout, width: int, config: SpecAugment) -> tuple[Tensor | None, Tensor | None]:
    """-> time mask (B, T) and feature mask (B, D), True = masked; None where the config's probability is 0."""
    time_mask = feature_mask = None
    if config.mask_time_prob > 0:
        time_mask = span_mask(
            layout.lengths, layout.longest, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        )
    if config.mask_feature_prob > 0:
        feature_mask = span_mask(
            torch.full_like(layout.lengths, width),
            width,
            config.mask_feature_prob,
            config.mask_feature_length,
            config.mask_feature_min_masks,
        )
    return time_mask, feature_mask


def apply_masks(
    x: Tensor, layout: Layout, embedding: Tensor, time_mask: Tensor | None, feature_mask: Tensor | None
) -> Tensor:
    """Frames (R, N, D) -> the same: `embedding` (D,) at masked frames, zeros in masked features of whole clips."""
    if time_mask is not None:
        x = torch.where(layout.stream(time_mask)[:, :, None], embedding.to(x.dtype), x)
    if feature_mask is not None:
        by_frame = feature_mask[:, None, :].expand(-1, layout.longest, -1)  # (B, T, D)
        x = x.masked_fill(layout.stream(by_frame), 0.0)
    return x


def span_mask(lengths: Tensor, size: int, prob: float, span: int, min_spans: int = 0) -> Tensor:
    """Draw a random span mask for each row.

    lengths: (B,) how many leading positions of a row are real; only those are ever masked.
    size: width of the mask, at least the largest length.
    prob: expected share of positions covered, were spans not to overlap.
    span: positions per span. min_spans: spans per row where the row has room for them.
    Returns a boolean mask (B, size), True = masked. A row shorter than one span is left unmasked.
    """
    device = lengths.device
    epsilon = torch.rand((), device=device)
    count = (prob * lengths / span + epsilon).long().clamp(min=min_spans)  # (B,)
    count = torch.minimum(count, lengths // span)
    starts_available = (lengths - span + 1).clamp(min=0)
    count = torch.minimum(count, starts_available)

    # Drawing without replacement, for all rows at once: rank random keys and keep the `count` largest.
    keys = torch.rand(len(lengths), size, device=device)
    keys = keys.masked_fill(torch.arange(size, device=device) >= starts_available[:, None], -1.0)
    rank = keys.argsort(dim=1, descending=True).argsort(dim=1)
    is_start = rank < count[:, None]  # (B, size)

    # A position is masked if a span started at most span - 1 positions before it.
    started = is_start.long().cumsum(dim=1)
    ended = torch.nn.functional.pad(started, (span, 0))[:, :size]
    return started > ended
