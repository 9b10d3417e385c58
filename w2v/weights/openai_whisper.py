"""Checkpoints in OpenAI's layout: the .pt files of Whisper, `{"dims": {...}, "model_state_dict": {...}}`.

    tensors, dims = read_checkpoint("base.pt")      # only tensors and numbers are unpickled
    tensors, left_out = to_hf(tensors)              # the names of w2v.weights.whisper
    fields = config_of(dims)                        # the fields of transformers' config.json
    write_checkpoint("model.pt", from_hf(tensors)[0], dims_of(fields))   # whisper.load_model("model.pt") takes it

The files hold no vocabulary and no settings of generation; w2v.weights.whisper_generation has the latter.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2v.errors import InputError, show
from w2v.files import open_file, reading, write_whole
from w2v.weights import hf, pickles
from w2v.weights.whisper import BODY, EMBEDDING, model_names
from w2v.weights.whisper_generation import count, token_fields

FILE = "model.pt"  # the one that is written
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
# Modules of a block in transformers' names -> OpenAI's.
BLOCK = {f"self_attn.{hf}": f"attn.{theirs}" for hf, theirs in ATTENTION.items()} | {
    "self_attn_layer_norm": "attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
CROSS = {f"encoder_attn.{hf}": f"cross_attn.{theirs}" for hf, theirs in ATTENTION.items()} | {
    "encoder_attn_layer_norm": "cross_attn_ln"
}
# `*` is the number of a layer.
MODULES = {
    BODY + "encoder.conv1": "encoder.conv1",
    BODY + "encoder.conv2": "encoder.conv2",
    **{f"{BODY}encoder.layers.*.{hf}": f"encoder.blocks.*.{theirs}" for hf, theirs in BLOCK.items()},
    BODY + "encoder.layer_norm": "encoder.ln_post",
    **{f"{BODY}decoder.layers.*.{hf}": f"decoder.blocks.*.{theirs}" for hf, theirs in (BLOCK | CROSS).items()},
    BODY + "decoder.layer_norm": "decoder.ln",
}
TO_OPENAI = {
    f"{hf}.{leaf}": f"{theirs}.{leaf}"
    for hf, theirs in MODULES.items()
    for leaf in ("weight", "bias")
    if (hf.rpartition(".")[2], leaf) != ("k_proj", "bias")  # there is none
} | {
    BODY + "encoder.embed_positions.weight": "encoder.positional_embedding",  # sinusoids, rounded to fp16: never redone
    BODY + "decoder.embed_positions.weight": "decoder.positional_embedding",
    EMBEDDING: "decoder.token_embedding.weight",
}
TO_HF = {theirs: hf for hf, theirs in TO_OPENAI.items()}
LAYER_NUMBER = re.compile(r"(?<=(?:layers|blocks)\.)[0-9]+(?=\.)")

DIMS = {  # OpenAI's names of sizes -> config.json's, in OpenAI's order
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# What every published model has, and OpenAI's code has no setting for.
FIXED = {"activation_function": "gelu", "scale_embedding": False}
FFN = 4  # the width between a block's two linear layers, in widths of the model
BEGINNING = 1 << 20  # bytes: all of the pickle in a published file, which torch writes before the tensors' contents


def is_checkpoint(path: Path) -> bool:
    """Whether a .pt says that it is OpenAI's, by its beginning. OSError is InputError."""
    with reading("the checkpoint", path), open_file(path) as file:
        return b"model_state_dict" in file.read(BEGINNING)


def is_layout(names: Iterable[str]) -> bool:
    """Whether these tensor names are those of OpenAI's Whisper."""
    return any(name.startswith("decoder.blocks.") for name in names)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """OpenAI's .pt -> its tensors in the file's names and types, mapped to the file, and its dims.

    Nothing in the file is run. Raises InputError for one that asks for more than tensors and plain values, for one
    without dims or tensors, and where the two do not fit each other.
    """
    path = Path(path)
    try:
        pickles.check(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=pickles.is_archive(path))
        # dict's own methods: the file may have put others into an OrderedDict.
        content = dict(dict.items(content)) if isinstance(content, dict) else {}
        if not all(isinstance(content.get(key), dict) for key in ("dims", "model_state_dict")):
            raise ValueError("it holds no dims and model_state_dict")
        sizes = dict(dict.items(content["dims"]))
        tensors = pickles.plain_tensors(content["model_state_dict"], path)
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile pickle can fail in any way; it is the file's fault in each
        remedy = "fetch it again or use another"
        raise pickles.refusal(path, error, "read {} as OpenAI's Whisper checkpoint", remedy) from None
    try:
        dims = check_dims(sizes)
    except InputError as error:
        raise InputError(f"cannot use the dims of {path}: {error}") from None
    held = {name: tensor for name, tensor in tensors.items() if _translate(name, TO_HF)}
    hf.check_shapes(held, _shapes_of(dims, len(tensors)), path, "fetch it again or use another")
    return tensors, dims


def write_checkpoint(path: str | Path, tensors: dict[str, Tensor], dims: dict[str, int]) -> None:
    """Write OpenAI's .pt, whole or not at all. InputError where tensors and dims do not fit each other."""
    hf.check_shapes(tensors, _shapes_of(dims, len(tensors)), "the model", "use a complete model folder")
    content = {"dims": dims, "model_state_dict": {name: tensor.contiguous() for name, tensor in tensors.items()}}

    def write(part: Path) -> None:
        with part.open("wb") as file:  # given a path, torch would write its name into the file
            torch.save(content, file)

    write_whole(path, write)


def to_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """OpenAI's names -> transformers', and the names that have no place there."""
    return _renamed(tensors, TO_HF)


def from_hf(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """transformers' names, with or without `model.` -> OpenAI's, and the names that have no place there.

    `proj_out.weight` is the embedding again, and is not counted among those.
    """
    return _renamed(model_names(tensors), TO_OPENAI)


def config_of(dims: dict) -> dict:
    """transformers' config.json from OpenAI's dims, as openai/whisper-base has it on the Hub.

    Settings of generation are left to generation_config.json but for begin_suppress_tokens, whose default in
    transformers is that of the English-only models. Raises InputError for dims that no model has, and for a vocabulary
    that is not published: its token ids cannot be told.
    """
    dims = check_dims(dims)
    width = dims["n_audio_state"]
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        **{field: dims[name] for name, field in DIMS.items()},
        "encoder_ffn_dim": FFN * width,
        "decoder_ffn_dim": FFN * width,
        **FIXED,
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
        **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), 0.0),
        "init_std": 0.02,
        "use_cache": True,
        "is_encoder_decoder": True,
        **token_fields(dims["n_vocab"]),
    }


def dims_of(fields: dict) -> dict[str, int]:
    """OpenAI's dims from a config.json's fields. InputError for a model that OpenAI's code cannot hold."""
    dims = check_dims({name: count(fields, field) for name, field in DIMS.items()})
    wanted = FIXED | dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), FFN * dims["n_audio_state"])
    for name, value in wanted.items():
        if fields.get(name, FIXED.get(name)) != value:
            raise InputError(f"OpenAI's layout holds {name} {value} only, got {show(fields.get(name))}; stay with hf")
    return dims


def check_dims(dims: dict) -> dict[str, int]:
    """The ten sizes of OpenAI's dims, in its order. InputError where one is missing or fits no model."""
    found = {name: count(dims, name) for name in DIMS}
    for side in ("audio", "text"):
        width, heads = found[f"n_{side}_state"], found[f"n_{side}_head"]
        if width % heads:
            raise InputError(f"n_{side}_state must be a multiple of n_{side}_head, got {width} and {heads}; mend dims")
    if found["n_audio_state"] != found["n_text_state"]:
        widths = f"{found['n_audio_state']} and {found['n_text_state']}"
        raise InputError(
            f"n_audio_state and n_text_state must be equal in transformers' layout, got {widths}; mend dims"
        )
    return found


def _renamed(tensors: dict[str, Tensor], table: dict[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    names = {name: _translate(name, table) for name in tensors}
    renamed = {new: tensors[name] for name, new in names.items() if new}
    return renamed, [name for name, new in names.items() if not new]


def _translate(name: str, table: dict[str, str]) -> str | None:
    if "*" in name:
        return None
    number = LAYER_NUMBER.search(name)
    new = table.get(LAYER_NUMBER.sub("*", name, count=1))
    return new and new.replace("*", number[0] if number else "")


def _shapes_of(dims: dict[str, int], tensors: int) -> dict[str, torch.Size]:
    """The shape of every tensor in OpenAI's names. tensors: how many there are; no more layers than that are listed."""
    width, inner = dims["n_audio_state"], FFN * dims["n_audio_state"]
    shapes = {
        "encoder.conv1.weight": (width, dims["n_mels"], 3),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.positional_embedding": (dims["n_audio_ctx"], width),
        "decoder.positional_embedding": (dims["n_text_ctx"], width),
        "decoder.token_embedding.weight": (dims["n_vocab"], width),
    }
    ends: dict[str, tuple[int, ...]] = {
        "mlp.0.weight": (inner, width),
        "mlp.0.bias": (inner,),
        "mlp.2.weight": (width, inner),
        **{f"attn.{module}.weight": (width, width) for module in ATTENTION.values()},
    }
    wanted = {}
    for name in TO_HF:
        shape = shapes.get(name) or next((shape for end, shape in ends.items() if name.endswith(end)), (width,))
        layers = dims["n_audio_layer" if name.startswith("encoder.") else "n_text_layer"]
        for number in range(min(layers, tensors + 1) if "*" in name else 1):
            wanted[name.replace("*", str(number))] = torch.Size(shape)
    return wanted
