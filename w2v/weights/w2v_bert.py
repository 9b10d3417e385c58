"""Tensor names of W2V-BERT 2.0 in transformers' layout -> the ones our model uses, which are transformers' own.

The published file holds the body alone, without the prefix that a CTC model puts before it.
"""

from collections.abc import Iterable

from torch import Tensor

BODY = "wav2vec2_bert."
HEAD = "lm_head."
MASK_EMBEDDING = "masked_spec_embed"
ADAPTER = ("wav2vec2_bert.adapter.", "wav2vec2_bert.intermediate_ffn.")  # between the stack of layers and the head


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of a W2V-BERT model in transformers' layout."""
    return any(name.removeprefix(BODY).endswith(".conv_module.depthwise_conv.weight") for name in names)


def body_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The body's tensors without its prefix; a head is left out."""
    return {name.removeprefix(BODY): t for name, t in tensors.items() if not name.startswith(HEAD)}


def model_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a model with a CTC head: the body under its prefix, the head beside it."""
    return {n if n.startswith(HEAD) else BODY + n.removeprefix(BODY): tensor for n, tensor in tensors.items()}
