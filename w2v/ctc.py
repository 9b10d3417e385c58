"""Connectionist temporal classification: loss and feasibility.

Shapes: B batch, T frames, V vocabulary, U labels. The blank is the tokenizer's pad token.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.kernels.device import use_triton


def frames_needed(labels: Sequence[int]) -> int:
    """Fewest frames on which CTC can align `labels`: one each, plus a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def ctc_losses(
    logits: Tensor,
    logit_lengths: Tensor,
    labels: Tensor,
    label_lengths: Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of each clip divided by its number of labels, loss_i / U_i.

    logits (B, T, V) of any float type, logit_lengths (B,), labels (B, U) padded with anything, label_lengths (B,).
    Returns (B,) float32. A clip with too few frames gives inf, or 0 with zero_infinity, and then no gradient.
    On a GPU nothing is read back to the host, unless Triton is missing.
    """
    if use_triton(logits):
        from w2v.kernels.ctc_triton import fused_ctc_losses

        losses = fused_ctc_losses(logits, logit_lengths, labels, label_lengths, blank)
        if zero_infinity:
            losses = losses.masked_fill(losses == torch.inf, 0.0)
    else:
        # fp32 has too few digits for sums of log-probabilities over hundreds of frames: it leaves an error of 4e-6 to
        # 1e-3 in the gradient, which moves with the last digit of any logit. On a GPU doubles would be slow.
        precise = torch.float32 if logits.is_cuda else torch.float64
        log_probs = F.log_softmax(logits.to(precise), dim=-1).transpose(0, 1)  # (T, B, V)
        # cuDNN's CTC does not return the same gradient twice, and it cannot report clips one by one.
        with torch.backends.cudnn.flags(enabled=False):
            losses = F.ctc_loss(
                log_probs,
                labels,
                logit_lengths,
                label_lengths,
                blank=blank,
                reduction="none",
                zero_infinity=zero_infinity,
            )
    return losses.float() / label_lengths.clamp(min=1)


class Output(Protocol):
    """What a model with a CTC head gives."""

    @property
    def logits(self) -> Tensor:
        """(B, T, V)"""

    @property
    def logit_lengths(self) -> Tensor:
        """(B,)"""

    @property
    def blank_id(self) -> int: ...

    @property
    def zero_infinity(self) -> bool:
        """Whether clips that CTC cannot align count as 0: the config's ctc_zero_infinity."""


def ctc_loss(output: Output, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Mean over clips of loss_i / U_i: torch's and transformers' "mean" reduction.

    output: a CTCOutput, or anything with its four fields. labels (B, U), label_lengths (B,).
    Returns a float32 scalar. (fairseq instead divides the sum by the clips: its learning rates differ.)
    """
    return ctc_losses(
        output.logits, output.logit_lengths, labels, label_lengths, output.blank_id, output.zero_infinity
    ).mean()
