"""What the families with a CTC head answer alike: a clip's cost, what a vocabulary decides, losses and counts.

Shapes: B clips, T frames, V vocabulary.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from w2v.answers import Batch, Losses
from w2v.audio import SAMPLE_RATE
from w2v.ctc import ctc_losses
from w2v.errors import InputError, named
from w2v.layout import Padded
from w2v.text.tokenizer import CharTokenizer

# Attention grows with the square of a clip's length: a clip this long costs twice its seconds.
QUADRATIC_SECONDS = 60.0
# The logit of a token that a clip's text is not made of: its exponential is 0 beside any other's. With -inf torch's CTC
# gives a gradient that is no number.
FORBIDDEN = -1e9


class ModelOutput(NamedTuple):
    last_hidden_state: Tensor  # (B, T, D)
    frame_lengths: Tensor  # (B,) real frames of each row


class CTCOutput(NamedTuple):
    logits: Tensor  # (B, T, V) float32, also under autocast
    logit_lengths: Tensor  # (B,) real frames of each row
    blank_id: int
    zero_infinity: bool = False  # whether clips that CTC cannot align count as 0


class Head(Protocol):
    """The fields of a config that must fit a vocabulary."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_token_id(self) -> int: ...


def cost(samples: int) -> float:
    """Seconds of work and memory that a clip stands for in a batch's budget: its own, with a quadratic term."""
    seconds = samples / SAMPLE_RATE
    return seconds * (1 + seconds / QUADRATIC_SECONDS)


def fields_of_vocabulary(tokenizer: CharTokenizer) -> dict:
    """The config fields that a vocabulary decides: the head's size, CTC's blank."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.blank_id,
        "bos_token_id": None,
        "eos_token_id": None,
        "ctc_loss_reduction": "mean",
    }


def check_vocabulary(config: Head, tokenizer: CharTokenizer, directory: str | Path) -> None:
    """InputError where the head and the vocabulary of a folder do not belong together."""
    if config.vocab_size != len(tokenizer):
        raise InputError(
            f"the head and vocab.json of {directory} must have the same size, got {config.vocab_size} and "
            f"{len(tokenizer)}; use the vocabulary that the model was trained with"
        )
    if config.pad_token_id != tokenizer.blank_id:
        raise InputError(
            f"pad_token_id and the id of {named(tokenizer.pad)} in {directory} must be equal, got "
            f"{config.pad_token_id} and {tokenizer.blank_id}; CTC's blank is that token"
        )


def losses(out: CTCOutput, batch: Batch) -> Losses:
    """Each clip's CTC loss divided by its number of labels, and counts for the log.

    Where the batch says which tokens are `allowed`, a clip's probabilities are over these alone.
    """
    if batch.allowed is not None:
        out = out._replace(logits=out.logits.masked_fill(~batch.allowed[:, None], FORBIDDEN))
    values = ctc_losses(
        out.logits, out.logit_lengths, batch.labels, batch.label_lengths, out.blank_id, out.zero_infinity
    )
    with torch.no_grad():
        real = Padded.of(out.logit_lengths, out.logits.shape[1]).real
        counts = {
            "frames": out.logit_lengths.sum(),
            "blank_frames": ((out.logits.argmax(-1) == out.blank_id) & real).sum(),
            "labels": batch.label_lengths.sum(),
        }
    return Losses(values, counts)
