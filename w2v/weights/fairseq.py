"""Checkpoints in fairseq's layout: the .pt files of wav2vec 2.0, XLSR-53 and XLS-R, pretrained or fine-tuned with CTC.

    tensors, args = read_checkpoint("xlsr_53_56k.pt")     # nothing in the file is run, fairseq is not needed
    tensors, left_out = to_hf(tensors)                    # the names of w2v.weights.wav2vec2
    config = config_of(tensors, args)                     # the fields of transformers' config.json
    vocabulary = read_dictionary("dict.ltr.txt")          # of a fine-tuned checkpoint

Pretrained files name the body alone; fine-tuned ones put `w2v_encoder.w2v_model.` before it, the head is
`w2v_encoder.proj`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from w2v.errors import InputError, named, show
from w2v.files import read_bytes
from w2v.weights.fairseq_pickle import read_checkpoint as read_checkpoint
from w2v.weights.wav2vec2 import BODY, HEAD, PRETRAINING, check_weight_norm, current_weight_norm

ENCODER = "w2v_encoder."
MODEL = "w2v_model."
# Modules in transformers' names -> fairseq's, each with a weight and mostly a bias; `*` is the number of a layer.
MODULES = {
    BODY + "feature_extractor.conv_layers.*.conv": "feature_extractor.conv_layers.*.0",
    BODY + "feature_extractor.conv_layers.*.layer_norm": "feature_extractor.conv_layers.*.2.1",
    BODY + "feature_projection.layer_norm": "layer_norm",
    BODY + "feature_projection.projection": "post_extract_proj",
    BODY + "encoder.layer_norm": "encoder.layer_norm",
    BODY + "encoder.layers.*.attention.k_proj": "encoder.layers.*.self_attn.k_proj",
    BODY + "encoder.layers.*.attention.v_proj": "encoder.layers.*.self_attn.v_proj",
    BODY + "encoder.layers.*.attention.q_proj": "encoder.layers.*.self_attn.q_proj",
    BODY + "encoder.layers.*.attention.out_proj": "encoder.layers.*.self_attn.out_proj",
    BODY + "encoder.layers.*.layer_norm": "encoder.layers.*.self_attn_layer_norm",
    BODY + "encoder.layers.*.feed_forward.intermediate_dense": "encoder.layers.*.fc1",
    BODY + "encoder.layers.*.feed_forward.output_dense": "encoder.layers.*.fc2",
    BODY + "encoder.layers.*.final_layer_norm": "encoder.layers.*.final_layer_norm",
    "quantizer.weight_proj": "quantizer.weight_proj",
    "project_q": "project_q",
    "project_hid": "final_proj",
    "lm_head": "proj",
}
POSITIONAL, POSITIONAL_FAIRSEQ = BODY + "encoder.pos_conv_embed.conv.", "encoder.pos_conv.0."
TO_FAIRSEQ = {f"{hf}.{leaf}": f"{fs}.{leaf}" for hf, fs in MODULES.items() for leaf in ("weight", "bias")} | {
    BODY + "masked_spec_embed": "mask_emb",
    "quantizer.codevectors": "quantizer.vars",
    POSITIONAL + "bias": POSITIONAL_FAIRSEQ + "bias",
    POSITIONAL + "parametrizations.weight.original0": POSITIONAL_FAIRSEQ + "weight_g",
    POSITIONAL + "parametrizations.weight.original1": POSITIONAL_FAIRSEQ + "weight_v",
}
# The one norm of a base model's extractor, after its first convolution, sits one module higher than the LayerNorms.
GROUP_NORM = {
    BODY + "feature_extractor.conv_layers.0.layer_norm.weight": "feature_extractor.conv_layers.0.2.weight",
    BODY + "feature_extractor.conv_layers.0.layer_norm.bias": "feature_extractor.conv_layers.0.2.bias",
}
TO_HF = {fs: hf for hf, fs in [*TO_FAIRSEQ.items(), *GROUP_NORM.items()]} | {
    POSITIONAL_FAIRSEQ + "parametrizations.weight.original0": POSITIONAL + "parametrizations.weight.original0",
    POSITIONAL_FAIRSEQ + "parametrizations.weight.original1": POSITIONAL + "parametrizations.weight.original1",
}
SECOND_NORM = BODY + "feature_extractor.conv_layers.1.layer_norm.weight"  # only layer-norm extractors have one
LAYER_NUMBER = re.compile(r"(?<=layers\.)\d+(?=\.)")

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # of every published model

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of a fairseq wav2vec 2.0 model, pretrained or fine-tuned."""
    marks = ("feature_extractor.conv_layers.0.0.weight", "post_extract_proj.weight")
    return any(_plain_name(name) in marks for name in names)


def to_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """fairseq's names -> transformers', and the names that have no place there.

    The body gets the prefix `wav2vec2.`, a CTC head becomes `lm_head`, the heads of pretraining become `quantizer`,
    `project_q` and `project_hid`. Both spellings of weight norm are read.
    Raises InputError for half a weight norm and for a tensor given twice.
    """
    check_weight_norm(tensors)
    renamed: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in tensors.items():
        _place(renamed, left_out, name, _translate(_plain_name(name), TO_HF), tensor)
    return renamed, left_out


def from_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """transformers' names, with or without `wav2vec2.` -> fairseq's, and the names that have no place there.

    With an `lm_head` the names are those of a fine-tuned file, without one those of a pretrained file. Weight norm
    is written as weight_g and weight_v. Raises InputError as `to_hf` does.
    """
    check_weight_norm(tensors)
    ours = {name: _hf_name(name) for name in tensors}
    table = TO_FAIRSEQ if SECOND_NORM in ours.values() else TO_FAIRSEQ | GROUP_NORM
    fine_tuned = any(name.startswith(HEAD) for name in tensors)
    renamed: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in tensors.items():
        theirs = _translate(ours[name], table)
        if theirs and fine_tuned:
            theirs = ENCODER + theirs if name.startswith(HEAD) else ENCODER + MODEL + theirs
        _place(renamed, left_out, name, theirs, tensor)
    return renamed, left_out


def config_of(tensors: dict[str, Tensor], args: dict | None = None) -> dict:
    """transformers' config fields from the names and shapes of HF-named tensors, and fairseq's `args` where known.

    Some things do not show in shapes:
    - do_stable_layer_norm: True with a layer-norm extractor, False with a group-norm one, as in every published
      model; `layer_norm_first` in args wins.
    - num_attention_heads: 16 for the widths 1280 and 1920 (XLS-R 1B and 2B), else one per 64 channels, as in base,
      large, XLSR-53 and XLS-R 300M; `encoder_attention_heads` in args wins.
    - conv_stride: `conv_feature_layers` in args where it agrees with the weights; else 5, 2, 2, 2, 2, 2, 2 for the
      published kernels 10, 3, 3, 3, 3, 2, 2, and an InputError for others.
    vocab_size is given with a head only, the quantiser's sizes with a quantiser only. Dropouts and masks are left to
    the defaults. Raises InputError where a tensor that it needs is missing.
    """
    args = args or {}
    shapes = {_hf_name(name): tuple(tensor.shape) for name, tensor in tensors.items()}

    def shape(name: str, dimensions: int = 2) -> tuple[int, ...]:
        if name not in shapes:
            raise InputError(f"a wav2vec 2.0 checkpoint holds {name}, this one lacks it; fetch the checkpoint again")
        if len(shapes[name]) != dimensions or 0 in shapes[name]:
            raise InputError(
                f"{name} must have {dimensions} dimensions, got {show(shapes[name])}; fetch the checkpoint again"
            )
        return shapes[name]

    convolution = BODY + "feature_extractor.conv_layers.{}.conv.weight"
    convolutions = [shape(convolution.format(0), 3)]
    while convolution.format(len(convolutions)) in shapes:
        convolutions.append(shape(convolution.format(len(convolutions)), 3))
    dims, kernels = tuple(s[0] for s in convolutions), tuple(s[2] for s in convolutions)
    layer = BODY + "encoder.layers.{}.feed_forward.intermediate_dense.weight"
    layers = 1
    intermediate, width = shape(layer.format(0))
    while layer.format(layers) in shapes:
        layers += 1
    _, group_width, positions = shape(POSITIONAL + "parametrizations.weight.original1", 3)
    extractor_norm = "layer" if SECOND_NORM in shapes else "group"

    norm_first = args.get("layer_norm_first")
    heads = args.get("encoder_attention_heads")
    if not isinstance(heads, int) or not 0 < heads <= width:
        heads = {1280: 16, 1920: 16}.get(width, width // 64)
        if width % 64:
            raise InputError(f"the number of heads is told from widths of whole 64s, got {width}; give a config.json")
    config: dict[str, Any] = {
        "model_type": "wav2vec2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "feat_extract_norm": extractor_norm,
        "do_stable_layer_norm": norm_first if isinstance(norm_first, bool) else extractor_norm == "layer",
        "conv_dim": dims,
        "conv_kernel": kernels,
        "conv_stride": _strides(dims, kernels, args.get("conv_feature_layers")),
        "conv_bias": BODY + "feature_extractor.conv_layers.0.conv.bias" in shapes,
        "num_conv_pos_embeddings": positions,
        "num_conv_pos_embedding_groups": width // group_width,
    }
    if HEAD + "weight" in shapes:
        config["vocab_size"] = shape(HEAD + "weight")[0]
    if "quantizer.codevectors" in shapes:
        _, vectors, vector_width = shape("quantizer.codevectors", 3)
        config["proj_codevector_dim"], config["codevector_dim"] = shape("project_q.weight")
        config["num_codevector_groups"] = max(1, config["codevector_dim"] // vector_width)
        config["num_codevectors_per_group"] = vectors // config["num_codevector_groups"]
    return config


def read_dictionary(path: str | Path) -> dict[str, int]:
    """fairseq's dict.ltr.txt, a token and its count a line -> vocab.json's mapping from token to id.

    fairseq puts four tokens of its own first: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3; the lines follow in order.
    CTC's blank is `<s>`, id 0, in fairseq, and `<pad>` is not used: a caller who goes on in transformers' manner,
    where the pad token is the blank, has to make id 0 the pad token.
    Raises InputError for a missing or empty file, a line without a count and a token given twice.
    """
    data = read_bytes("the dictionary", path, "give fairseq's dict.ltr.txt")
    try:
        lines = data.decode("utf-8").split("\n")  # splitlines would break at rarer marks as well
    except ValueError as error:
        raise InputError(f"cannot read the dictionary {path} ({error}); give fairseq's dict.ltr.txt") from None
    ids = {token: number for number, token in enumerate(SPECIALS)}
    size = len(ids)
    for number, line in enumerate(lines, 1):
        line, overwrite = line.rstrip(), False
        if not line:
            continue
        if line.endswith(" #fairseq:overwrite"):  # a later row may take a token's name over; the older id stays unused
            line, overwrite = line.removesuffix(" #fairseq:overwrite"), True
        token, _, count = line.rpartition(" ")
        if not token or not count.isdecimal():
            raise InputError(f"a dictionary's line is a token and its count, {path}:{number} is {show(line)}; mend it")
        if token in ids and not overwrite:
            raise InputError(f"a dictionary holds each token once, {path}:{number} repeats {show(token)}; remove it")
        ids[token] = size
        size += 1
    if size == len(SPECIALS):
        raise InputError(f"a dictionary holds at least one token, {path} is empty; give fairseq's dict.ltr.txt")
    return ids


# --- names


def _plain_name(name: str) -> str:
    return name.removeprefix(ENCODER).removeprefix(MODEL)


def _hf_name(name: str) -> str:
    """A name in transformers' layout with the body's prefix and in the new spelling of weight norm."""
    if not name.startswith((BODY, HEAD, *PRETRAINING)):
        name = BODY + name
    return current_weight_norm(name)


def _translate(name: str, table: dict[str, str]) -> str | None:
    if "*" in name:
        return None
    number = LAYER_NUMBER.search(name)
    new = table.get(name) or table.get(LAYER_NUMBER.sub("*", name, count=1))
    return new and new.replace("*", number[0] if number else "")


def _place(renamed: dict[str, Tensor], left_out: list[str], name: str, new: str | None, tensor: Tensor) -> None:
    if new is None:
        left_out.append(name)
    elif new in renamed:
        raise InputError(
            f"a checkpoint must hold each tensor once, {named(name)} is there in another spelling; remove one"
        )
    else:
        renamed[new] = tensor


def _strides(dims: tuple[int, ...], kernels: tuple[int, ...], feature_layers: Any) -> tuple[int, ...]:
    """fairseq evaluates `[(512, 10, 5)] + [(512, 3, 2)] * 4` as Python; here only this form is understood."""
    layers = []
    for group, times in re.findall(r"\[([^\[\]]*)\](?:\s*\*\s*(\d{1,2})\b)?", str(feature_layers)):
        found = re.findall(r"\(\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\)", group)
        layers += [tuple(map(int, layer)) for layer in found] * int(times or 1)
    if [layer[:2] for layer in layers] == list(zip(dims, kernels, strict=True)):
        return tuple(stride for _, _, stride in layers)
    if kernels != KERNELS:
        raise InputError(
            f"conv strides are known for the kernels {KERNELS} only, got {show(kernels)}; give a config.json"
        )
    return STRIDES
