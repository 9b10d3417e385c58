"""Checkpoints in torchaudio's layout: the state dict of `torchaudio.models.Wav2Vec2Model`, as its bundles download it.

Modules inside the blocks are named as transformers names them, so that only prefixes change. The layout has no place
for the mask embedding nor for the heads of pretraining; both directions return the names they had to leave out.

    tensors, left_out = to_hf(state_dict)     # wav2vec2.* and lm_head.*, ready for w2v.weights.wav2vec2
    model.load_state_dict(from_hf(tensors)[0])   # model: a torchaudio.models.wav2vec2_model(...)
"""

import re
from collections.abc import Iterable

from torch import Tensor

from w2v.errors import InputError, named
from w2v.weights.wav2vec2 import BODY, HEAD, PRETRAINING, check_weight_norm, current_weight_norm

PREFIXES = {  # transformers' -> torchaudio's
    BODY + "feature_extractor.": "feature_extractor.",
    BODY + "feature_projection.": "encoder.feature_projection.",
    BODY + "encoder.": "encoder.transformer.",
    HEAD: "aux.",
}
# What both layouts hold, in transformers' names. A prefix alone would let parts of other architectures through.
HELD = re.compile(
    r"""wav2vec2\.( feature_extractor\.conv_layers\.\d+\.(conv|layer_norm)
                  | feature_projection\.(layer_norm|projection)
                  | encoder\.layer_norm
                  | encoder\.layers\.\d+\.( attention\.(k|v|q|out)_proj | layer_norm | final_layer_norm
                                          | feed_forward\.(intermediate|output)_dense )
                  )\.(weight|bias)
      | wav2vec2\.encoder\.pos_conv_embed\.conv\.(bias|parametrizations\.weight\.original[01])
      | lm_head\.(weight|bias)""",
    re.VERBOSE,
)


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of a torchaudio model."""
    return any(name.startswith("encoder.transformer.") for name in names)


def to_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """torchaudio's names -> transformers', and the names that have no place there.

    The body gets the prefix `wav2vec2.`, the head `aux` becomes `lm_head`. Both spellings of weight norm are read.
    Raises InputError for half a weight norm and for a tensor given twice.
    """
    check_weight_norm(tensors)
    renamed: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in tensors.items():
        ours = next((hf + name.removeprefix(ta) for hf, ta in PREFIXES.items() if name.startswith(ta)), "")
        _place(renamed, left_out, name, current_weight_norm(ours), tensor)
    return renamed, left_out


def from_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """transformers' names, with or without `wav2vec2.` -> torchaudio's, and the names that have no place there.

    Those are `masked_spec_embed`, `quantizer.*`, `project_q.*`, `project_hid.*` and any adapters. Weight norm is
    written in its new spelling, torchaudio 2.11's own. Raises InputError as `to_hf` does.
    """
    check_weight_norm(tensors)
    held: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in tensors.items():
        outside_body = name.startswith((BODY, HEAD, *PRETRAINING))
        _place(held, left_out, name, current_weight_norm(name if outside_body else BODY + name), tensor)
    renamed = {}
    for name, tensor in held.items():
        hf = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        renamed[PREFIXES[hf] + name.removeprefix(hf)] = tensor
    return renamed, left_out


def _place(held: dict[str, Tensor], left_out: list[str], name: str, ours: str, tensor: Tensor) -> None:
    if not HELD.fullmatch(ours):
        left_out.append(name)
    elif ours in held:
        raise InputError(
            f"a checkpoint must hold each tensor once, {named(name)} is there in another spelling; remove one"
        )
    else:
        held[ours] = tensor
