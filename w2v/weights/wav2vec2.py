"""Tensor names of wav2vec 2.0 in transformers' layout, all spellings -> the ones our model uses.

Our names are transformers' own. What differs between files is the `wav2vec2.` prefix that a CTC model puts before the
body, two generations of weight-norm names, and pretraining heads that CTC does not use.
"""

from collections.abc import Iterable

from torch import Tensor

from w2v.errors import InputError, named

BODY = "wav2vec2."
HEAD = "lm_head."
ADAPTER = ".adapter_layer."
# Heads of the pretraining task: ignored by name, so that anything else unexpected is still an error.
PRETRAINING = ("quantizer.", "project_q.", "project_hid.")
MASK_EMBEDDING = "masked_spec_embed"
WEIGHT_NORM = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}
HALVES = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of a wav2vec 2.0 model in transformers' layout."""
    return any(name.removeprefix(BODY).startswith("encoder.layers.") for name in names)


def check_weight_norm(names: Iterable[str]) -> None:
    """InputError where one half is missing: a tolerant loader would leave the other at its random start."""
    names = set(names)
    for name in names:
        for pair in HALVES:
            for half, other in (pair, pair[::-1]):
                wanted = name.removesuffix(half) + other
                if "pos_conv" in name and name.endswith(half) and wanted not in names:
                    raise InputError(
                        f"weight norm needs two tensors, found {named(name)} without {named(wanted)}; fetch the "
                        "checkpoint again"
                    )


def current_weight_norm(name: str) -> str:
    """A tensor's name with the positional convolution's weight norm in its newer spelling."""
    for old, new in WEIGHT_NORM.items():
        name = name.replace(old, new)
    return name


def body_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the body's prefix, weight norm in its newer spelling, without the pretraining heads."""
    names = {name: current_weight_norm(name.removeprefix(BODY)) for name in tensors}
    return {ours: tensors[name] for name, ours in names.items() if not ours.startswith(PRETRAINING)}


def model_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a model with a CTC head: the body under its prefix, the head beside it."""
    return {name if name.startswith(HEAD) else BODY + name: tensor for name, tensor in body_names(tensors).items()}
