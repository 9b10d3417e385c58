"""MMS's per-language files: the adapters and the head of a model, as adapter.LANG.safetensors."""

from pathlib import Path

import torch
from torch import Tensor

from w2v.errors import InputError
from w2v.weights.hf import check_shapes, read_weights, write_tensors
from w2v.weights.wav2vec2 import ADAPTER, HEAD


def of_language(name: str) -> bool:
    """Whether a tensor of this name belongs to a language, not to the shared body."""
    return ADAPTER in name or name.startswith(HEAD)


def read(file: str | Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A language's tensors for a model with this state; every language has a head of its own size."""
    file = Path(file)
    if not file.is_file():
        raise InputError(f"an adapter is a file such as adapter.tur.safetensors, found none at {file}")
    tensors = {name: tensor.float() for name, tensor in read_weights(file).items()}
    wanted = {name: tensor.shape for name, tensor in state.items() if of_language(name)}
    if HEAD + "weight" in tensors and tensors[HEAD + "weight"].ndim == 2:
        size, width = len(tensors[HEAD + "weight"]), state[HEAD + "weight"].shape[1]
        wanted |= {HEAD + "weight": torch.Size([size, width]), HEAD + "bias": torch.Size([size])}
    check_shapes(tensors, wanted, file, "use an adapter that was made for this model")
    return tensors


def write(file: str | Path, state: dict[str, Tensor]) -> None:
    """Write the language's part of a model's state."""
    write_tensors(file, {name: tensor for name, tensor in state.items() if of_language(name)})
