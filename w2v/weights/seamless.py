"""W2V-BERT 2.0 as Seamless Communication publishes it, conformer_shaw.pt: fairseq's names, or fairseq2's.

    tensors, _ = fairseq.read_checkpoint("conformer_shaw.pt")   # {"model": {...}}, with fairseq's settings or without
    tensors, left_out = to_hf(tensors)                          # the names of w2v.weights.w2v_bert, without its prefix
    fields = config_of(tensors)                                 # the fields of transformers' config.json

No published file was at hand. The names are those of the two programs that read one: seamless_communication's
models/conformer_shaw/loader.py has fairseq's and fairseq2's, transformers' convert_wav2vec2_seamless_checkpoint.py has
fairseq2's and transformers'. The second list is SeamlessM4T's too: its `encoder.inner` and `adaptor_layers` stand in
that model only, here fairseq2 calls the stack `encoder.layers`. Both programs leave out the heads of pretraining. The
first also drops `encoder.layer_norm`: fairseq's pretraining put that norm after the stack by accident, says
models/unity/loader.py there, and transformers' model has none.
"""

import re
from collections.abc import Iterable

from torch import Size, Tensor

from w2v.errors import InputError, named, show
from w2v.weights.hf import check_shapes
from w2v.weights.w2v_bert import MASK_EMBEDDING

LAYER = "encoder.layers.*."  # `*` is the number of a layer
DISTANCES = "self_attn.distance_embedding"
# Modules of a layer in transformers' names -> fairseq's and fairseq2's.
IN_LAYER = {
    "ffn1_layer_norm": ("ffn1.layer_norm", "ffn1_layer_norm"),
    "ffn1.intermediate_dense": ("ffn1.w_1", "ffn1.inner_proj"),
    "ffn1.output_dense": ("ffn1.w_2", "ffn1.output_proj"),
    "self_attn_layer_norm": ("self_attn_layer_norm", "self_attn_layer_norm"),
    "self_attn.linear_q": ("self_attn.q_proj", "self_attn.q_proj"),
    "self_attn.linear_k": ("self_attn.k_proj", "self_attn.k_proj"),
    "self_attn.linear_v": ("self_attn.v_proj", "self_attn.v_proj"),
    "self_attn.linear_out": ("self_attn.out_proj", "self_attn.output_proj"),
    DISTANCES: ("self_attn.rel_k_embedding", "self_attn.sdpa.rel_k_embed"),
    "conv_module.layer_norm": ("conv_module.layer_norm", "conv_layer_norm"),
    "conv_module.pointwise_conv1": ("conv_module.pointwise_conv1", "conv.pointwise_conv1"),
    "conv_module.depthwise_conv": ("conv_module.depthwise_conv", "conv.depthwise_conv"),
    "conv_module.depthwise_layer_norm": ("conv_module.layer_norm2", "conv.layer_norm"),
    "conv_module.pointwise_conv2": ("conv_module.pointwise_conv2", "conv.pointwise_conv2"),
    "ffn2_layer_norm": ("ffn2.layer_norm", "ffn2_layer_norm"),
    "ffn2.intermediate_dense": ("ffn2.w_1", "ffn2.inner_proj"),
    "ffn2.output_dense": ("ffn2.w_2", "ffn2.output_proj"),
    "final_layer_norm": ("final_layer_norm", "layer_norm"),
}
MODULES = {
    "feature_projection.layer_norm": ("layer_norm", "encoder_frontend.post_extract_layer_norm"),
    "feature_projection.projection": ("post_extract_proj", "encoder_frontend.model_dim_proj"),
    **{LAYER + hf: tuple(LAYER + name for name in theirs) for hf, theirs in IN_LAYER.items()},
}
WITHOUT_BIAS = (DISTANCES, ".pointwise_conv1", ".depthwise_conv", ".pointwise_conv2")
LEAVES = {hf: ("weight",) if hf.endswith(WITHOUT_BIAS) else ("weight", "bias") for hf in MODULES}
TO_HF = {
    f"{name}.{leaf}": f"{hf}.{leaf}" for hf, theirs in MODULES.items() for name in theirs for leaf in LEAVES[hf]
} | {"mask_emb": MASK_EMBEDDING, "masker.temporal_mask_embed": MASK_EMBEDDING}
# Where another tensor means another model; elsewhere it is a head of pretraining or a counter.
BODY = ("encoder.layers.", "encoder.pos_conv.", "encoder_frontend.", "feature_extractor.")
LAYER_NUMBER = re.compile(r"(?<=^encoder\.layers\.)[0-9]+(?=\.)")

LEFT, RIGHT = 64, 8  # the distances of the published model; the table's rows tell only their sum
REMEDY = "fetch the checkpoint again"


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of W2V-BERT 2.0 in fairseq's or fairseq2's spelling."""
    return any((_translate(name) or "").endswith(f".{DISTANCES}.weight") for name in names)


def to_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """fairseq's or fairseq2's names -> transformers' of the body alone, and the names that have no place there.

    Raises InputError for a tensor given twice, and for one that is part of a body which W2V-BERT 2.0 does not have.
    """
    renamed: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in tensors.items():
        new = _translate(name)
        if new is None:
            if name.startswith(BODY):
                raise InputError(f"W2V-BERT 2.0 has no {named(name)}, this is another model; use another checkpoint")
            left_out.append(name)
        elif new in renamed:
            raise InputError(
                f"a checkpoint must hold each tensor once, {named(name)} is there in another spelling; remove one"
            )
        else:
            renamed[new] = tensor
    return renamed, left_out


def config_of(tensors: dict[str, Tensor]) -> dict:
    """transformers' config fields from the shapes of HF-named tensors; what shows in no shape is left to the defaults.

    A row of the table of distances is as wide as a head. 73 rows are the published 64 to the left and 8 to the right.
    Raises InputError for other rows, and for a tensor that is missing, unexpected or of another shape.
    """

    def shape(name: str, dimensions: int = 2) -> Size:
        if name not in tensors:
            raise InputError(f"a W2V-BERT 2.0 checkpoint holds {name}, this one lacks it; {REMEDY}")
        found = tensors[name].shape
        if len(found) != dimensions or 0 in found:
            raise InputError(f"{name} must have {dimensions} dimensions, got {show(tuple(found))}; {REMEDY}")
        return found

    width, features = shape("feature_projection.projection.weight")
    first = LAYER.replace("*", "0")
    rows, head_width = shape(f"{first}{DISTANCES}.weight")
    if width % head_width:
        raise InputError(
            f"the width must be a multiple of a head's, got {width} and {head_width} in {first}{DISTANCES}; {REMEDY}"
        )
    if rows != LEFT + 1 + RIGHT:
        raise InputError(
            f"distances to the left and right are known for {LEFT + 1 + RIGHT} rows only, {first}{DISTANCES} has "
            f"{rows}; give a config.json"
        )
    layers = 1
    while f"{LAYER.replace('*', str(layers))}{DISTANCES}.weight" in tensors:
        layers += 1
    fields = {
        "model_type": "wav2vec2-bert",
        "architectures": ["Wav2Vec2BertModel"],
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // head_width,
        "intermediate_size": shape(f"{first}ffn1.intermediate_dense.weight")[0],
        "feature_projection_input_dim": features,
        "left_max_position_embeddings": LEFT,
        "right_max_position_embeddings": RIGHT,
        "conv_depthwise_kernel_size": shape(f"{first}conv_module.depthwise_conv.weight", 3)[2],
    }
    wanted = _shapes_of(fields)
    if MASK_EMBEDDING not in tensors:  # only training with masks asks for it
        del wanted[MASK_EMBEDDING]
    check_shapes(tensors, wanted, "the W2V-BERT 2.0 checkpoint", REMEDY)
    return fields


def _translate(name: str) -> str | None:
    if "*" in name:
        return None
    number = LAYER_NUMBER.search(name)
    new = TO_HF.get(LAYER_NUMBER.sub("*", name))
    return new and new.replace("*", number[0] if number else "")


def _shapes_of(fields: dict) -> dict[str, Size]:
    """The shape of every tensor of the body in transformers' names."""
    width, inner, features = (
        fields[name] for name in ("hidden_size", "intermediate_size", "feature_projection_input_dim")
    )
    weights = {  # of what is no norm over the width
        "feature_projection.layer_norm": (features,),
        "feature_projection.projection": (width, features),
        **{f"{LAYER}ffn{half}.intermediate_dense": (inner, width) for half in "12"},
        **{f"{LAYER}ffn{half}.output_dense": (width, inner) for half in "12"},
        **{f"{LAYER}self_attn.linear_{part}": (width, width) for part in ("q", "k", "v", "out")},
        LAYER + DISTANCES: (LEFT + 1 + RIGHT, width // fields["num_attention_heads"]),
        LAYER + "conv_module.pointwise_conv1": (2 * width, width, 1),
        LAYER + "conv_module.depthwise_conv": (width, 1, fields["conv_depthwise_kernel_size"]),
        LAYER + "conv_module.pointwise_conv2": (width, width, 1),
    }
    wanted = {MASK_EMBEDDING: Size((width,))}
    for module, leaves in LEAVES.items():
        weight = Size(weights.get(module, (width,)))
        for number in range(fields["num_hidden_layers"] if "*" in module else 1):
            for leaf in leaves:
                wanted[f"{module.replace('*', str(number))}.{leaf}"] = weight if leaf == "weight" else weight[:1]
    return wanted
