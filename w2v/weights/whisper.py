"""Tensor names of Whisper in transformers' layout, all spellings -> the ones our model uses.

Our names are those of transformers' WhisperForConditionalGeneration. What differs between files is the `model.` prefix,
which a WhisperModel's file lacks, and the output layer: it is the embedding, which a file may hold twice or once.
"""

from collections.abc import Iterable

from torch import Tensor

BODY = "model."
OUTPUT = "proj_out.weight"
EMBEDDING = BODY + "decoder.embed_tokens.weight"
# No other architecture has both: those with convolutions have no learned positions, or none at all.
MARKS = {"encoder.conv1.weight", "decoder.embed_positions.weight"}


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of a Whisper model in transformers' layout."""
    return {name.removeprefix(BODY) for name in names} >= MARKS


def model_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the body's prefix and without the output layer, which gives the embedding where that is missing.

    That the two are equal is not looked at: it takes a second for the largest, and no published file breaks it.
    """
    prefix = "" if any(name.startswith(BODY) for name in tensors) else BODY
    found = {prefix + name: tensor for name, tensor in tensors.items() if name != OUTPUT}
    if OUTPUT in tensors:
        found.setdefault(EMBEDDING, tensors[OUTPUT])
    return found
