"""Readers of W2V-BERT 2.0: a fine-tuned folder's files, the body alone as a start of training, Seamless's .pt."""

import contextlib
import dataclasses
import functools
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

import w2v
from recipes import convert
from recipes.start import from_folder, with_adapter
from w2v.answers import Batch
from w2v.models.w2v_bert import Wav2Vec2BertForCTC, Wav2Vec2BertModel
from w2v.models.w2v_bert_config import FIXED, W2V_BERT_TINY
from w2v.weights import seamless

from .harness import Reader
from .model_readers import TOKENIZER, mutate_safetensors, mutate_zip, pickled, put, used
from .mutators import mutate_json

CONFIG = dataclasses.replace(
    W2V_BERT_TINY,
    **W2V_BERT_TINY.for_vocabulary(TOKENIZER),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=4,
    conv_depthwise_kernel_size=3,
    use_intermediate_ffn_before_adapter=True,
    output_hidden_size=4,
)
BODY = dataclasses.replace(
    CONFIG, add_adapter=False, use_intermediate_ffn_before_adapter=False, output_hidden_size=None
)
WAVEFORM = np.random.default_rng(0).normal(0, 0.1, 9_600).astype(np.float32)
# As numbers of layers, heads, frames or a width: allowed in one place or the other, and seldom what a file fits.
SIZES = (0, 1, 2, 3, 4, 5, 7, 8)
LARGE = (10, 16, 99, 100, 9_999, 10_000, 65_535, 65_536, 10**6)
Tensors = dict[str, torch.Tensor]
Save = Callable[[Tensors], bytes]


@functools.cache
def files() -> dict[str, bytes]:
    """A whole model folder, with all parts that a model can have."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Wav2Vec2BertForCTC(CONFIG).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


@functools.cache
def published() -> dict[str, bytes]:
    """A folder as the published one: no prefix, head, adapter or vocabulary, and what is not known is null."""
    torch.manual_seed(0)
    fields = BODY.to_dict() | {"vocab_size": None, "pad_token_id": None, "architectures": ["Wav2Vec2BertModel"]}
    return {
        "config.json": json.dumps(fields, indent=1).encode(),
        "preprocessor_config.json": json.dumps(BODY.processor()).encode(),
        "model.safetensors": save(Wav2Vec2BertModel(BODY).state_dict()),
    }


def learned(model: Wav2Vec2BertForCTC) -> None:
    """A loss and its gradients, where the clip is long enough for its text."""
    labels = TOKENIZER.encode("abc ab")
    batch: Batch = model.config.collate([WAVEFORM, WAVEFORM[:7_000]], [labels, labels[:2]])
    if all(model.config.why_not(n, labels) is None for n in batch.samples):
        model.train()
        model.losses(batch).values.sum().backward()
        model.eval()


def read_model(name: str):
    """A reader of one file of a fine-tuned folder, as recognisers, trainings and conversions read it."""

    def read(folder: Path, data: bytes) -> object:
        put(folder, files())
        (folder / name).write_bytes(data)
        try:
            asr = w2v.load(folder)
        finally:
            with contextlib.suppress(w2v.InputError):  # it may ask for less, and must fail in the same manner
                convert.main([str(folder), str(folder / "converted")])
            with contextlib.suppress(w2v.InputError):
                learned(with_adapter(from_folder(str(folder), folder), None).build(TOKENIZER, {}))
        return used(asr, folder)

    return read


def read_start(name: str):
    """A reader of one file of the published body's folder, as a training with the adapter and one without begin."""

    def read(folder: Path, data: bytes) -> object:
        put(folder, published())
        (folder / name).write_bytes(data)
        start = from_folder(str(folder), folder)
        assert start.tokenizer is None
        with contextlib.suppress(w2v.InputError):
            learned(with_adapter(start, "off").build(TOKENIZER, {"layerdrop": 0.0}))
        start = with_adapter(start, None)
        model = start.build(TOKENIZER, {"layerdrop": 0.0})
        assert model.config.add_adapter and model.wav2vec2_bert.adapter is not None
        learned(model)
        model.save_pretrained(folder / "saved")
        TOKENIZER.save_pretrained(folder / "saved")
        return used(w2v.load(folder / "saved"), folder)

    return read


def read_seamless(folder: Path, data: bytes) -> object:
    """A .pt alone, and beside the config.json of its model: what it becomes is the start of a training."""
    (folder / "a.pt").write_bytes(data)
    with contextlib.suppress(w2v.InputError):
        convert.main([str(folder / "a.pt"), str(folder / "alone")])
        Wav2Vec2BertModel.from_pretrained(folder / "alone")
    put(folder, {"config.json": published()["config.json"]})
    found = convert.main([str(folder / "a.pt"), str(folder / "out")])
    if found["source_layout"] == "seamless":
        learned(with_adapter(from_folder("", folder / "out"), None).build(TOKENIZER, {}))
    return found


def read_beside(name: str):
    """A reader of a file that lies beside a Seamless .pt."""

    def read(folder: Path, data: bytes) -> object:
        put(folder, {"config.json": published()["config.json"], "a.pt": seamless_files()[0], name: data})
        convert.main([str(folder / "a.pt"), str(folder / "out")])
        return Wav2Vec2BertModel.from_pretrained(folder / "out").config

    return read


# --- Seamless's spellings


def spelled(spelling: int) -> Tensors:
    """The body in the names of fairseq (0) or fairseq2 (1), with a head of pretraining."""
    names = {
        f"{hf}.{leaf}": f"{theirs[spelling]}.{leaf}"
        for hf, theirs in seamless.MODULES.items()
        for leaf in seamless.LEAVES[hf]
    } | {"masked_spec_embed": ("mask_emb", "masker.temporal_mask_embed")[spelling]}
    body = load(published()["model.safetensors"])
    found = {names[name.replace(".0.", ".*.", 1)].replace("*", "0"): tensor for name, tensor in body.items()}
    return found | {"final_proj.weight": torch.zeros(2, 2)}


@functools.cache
def seamless_files() -> tuple[bytes, ...]:
    args = {"args": None, "cfg": {"model": {"layer_norm_first": True}}, "extra_state": {"epoch": 1}}
    return (
        pickled({"model": spelled(0), **args}, True),
        pickled({"model": spelled(1)}, True),
        pickled({"model": spelled(1)}, False),
    )


# --- mutators


def change_tensors(rng: random.Random, tensors: Tensors) -> Tensors:
    """Tensors renamed, reshaped, of another type, left out or added: what damaged bytes seldom spell."""
    for _ in range(rng.choice((1, 1, 2))):
        names = sorted(tensors)
        if not names:
            break
        name, other = rng.choice(names), rng.choice(names)
        tensor, how = tensors[name], rng.randrange(10)
        if how == 0:
            tensors = {n: t for n, t in tensors.items() if n != name}
        elif how == 1:  # a whole part: adapter, head, a layer
            part = rng.choice((*name.split("."), "adapter", "lm_head", "intermediate_ffn"))
            tensors = {n: t for n, t in tensors.items() if part not in n.split(".")}
        elif how == 2:
            tensors[rng.choice((other, name.upper(), name + "\n", name[1:], "lm_head." + name, ""))] = tensors.pop(name)
        elif how == 3:
            tensors[name.replace(".0.", rng.choice((".1.", ".00.", ".-1.", f".{10**30}.", ".*.", ".٣.")))] = tensor
        elif how == 4:
            prefix, other = rng.choice((("wav2vec2_bert.", ""), ("", "wav2vec2_bert."), ("", "model.")))
            tensors = {other + n.removeprefix(prefix): t for n, t in tensors.items() if rng.random() < 0.95}
        elif how == 5:
            shapes = ([], [0], [1], [-1], [*tensor.shape, 1], [1, *tensor.shape], [*reversed(tensor.shape)])
            shape = rng.choice(shapes)
            empty = 0 in shape or tensor.numel() == 0
            fits = tensor[:0] if empty and tensor.dim() else tensor.flatten()[:1] if shape in ([], [1]) else tensor
            with contextlib.suppress(RuntimeError):
                tensors[name] = fits.reshape(shape).contiguous()
        elif how == 6:
            shape = [rng.choice((n, 1, n + 1, 2 * n, max(1, n - 1))) for n in tensor.shape]
            tensors[name] = torch.zeros(shape, dtype=tensor.dtype)
        elif how == 7:
            types = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.int8)
            tensors[name] = tensor.to(rng.choice((*types, torch.complex64, torch.float8_e4m3fn)))
        elif how == 8:
            dtype = rng.choice((torch.float16, torch.bfloat16, torch.float64))
            tensors = {n: t.to(dtype) for n, t in tensors.items()}
        else:
            values = (float("nan"), float("inf"), -1e38, 0.0, 1e-40)
            tensors[name] = torch.full(tensor.shape, rng.choice(values))
    return tensors


def mutate_weights(rng: random.Random, data: bytes) -> bytes:
    """The tensors of a .safetensors file, two times in three; else its header or bytes."""
    with contextlib.suppress(Exception):  # an input that is spliced of two
        if rng.random() < 0.7:
            return save(change_tensors(rng, load(data)))
    return mutate_safetensors(rng, data)


def mutate_seamless(rng: random.Random, data: bytes) -> bytes:
    """The tensors of a .pt, two times in three; else its pickle or bytes."""
    with contextlib.suppress(Exception):
        if rng.random() < 0.7:
            content = torch.load(io.BytesIO(data), weights_only=True)
            tensors = change_tensors(rng, content["model"])
            if rng.random() < 0.2:  # some in the other spelling
                tensors |= {n: t for n, t in spelled(rng.randrange(2)).items() if rng.random() < 0.5}
            return pickled(content | {"model": tensors}, rng.random() < 0.8)
    return mutate_zip(rng, data)


def mutate_fields(rng: random.Random, data: bytes) -> bytes:
    """Sizes that are allowed by themselves and activations by name, two times in three; else any JSON."""
    with contextlib.suppress(ValueError, AttributeError):
        if rng.random() < 0.7:
            fields = json.loads(data)
            for _ in range(rng.randint(1, 4)):
                name = rng.choice(sorted(fields.keys() - FIXED.keys() - {"model_type"}))
                value = fields[name]
                if isinstance(value, bool):
                    fields[name] = not value
                elif isinstance(value, str):
                    fields[name] = rng.choice(("silu", "gelu", "relu", "swish", "mean"))
                elif isinstance(value, float):
                    fields[name] = rng.choice((0.0, 0.5, 0.99, 1.0, 10.0))
                else:
                    fields[name] = rng.choice(SIZES if rng.random() < 0.7 else LARGE)
            return json.dumps(fields, indent=1).encode()
    return mutate_json(rng, data)


def seeds(name: str, *folders: Callable[[], dict[str, bytes]]):
    """What is the same for all inputs is made here, before the harness watches the disk."""

    def made(folder: Path) -> list[bytes]:
        files(), published(), seamless_files()
        return [found()[name] for found in folders]

    return made


CONFIG_FILE, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
READERS = [
    Reader("w2v-bert-config", seeds(CONFIG_FILE, files), read_model(CONFIG_FILE), mutate_fields),
    Reader("w2v-bert-processor", seeds(PROCESSOR, files), read_model(PROCESSOR), mutate_json),
    Reader("w2v-bert-weights", seeds(WEIGHTS, files, files, published), read_model(WEIGHTS), mutate_weights),
    Reader("w2v-bert-start", seeds(CONFIG_FILE, published, files), read_start(CONFIG_FILE), mutate_fields),
    Reader("w2v-bert-body", seeds(WEIGHTS, published), read_start(WEIGHTS), mutate_weights),
    Reader("seamless", lambda folder: list(seamless_files()), read_seamless, mutate_seamless),
    Reader("seamless-config", seeds(CONFIG_FILE, published), read_beside(CONFIG_FILE), mutate_fields),
    Reader("seamless-processor", seeds(PROCESSOR, published), read_beside(PROCESSOR), mutate_json),
]
