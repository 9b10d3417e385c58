"""Checkpoints in transformers' layout: config.json beside model.safetensors, in shards or as pytorch_model.bin.

Our parameter names are transformers' own, so reading is a matter of a few spellings: the `wav2vec2.` prefix that a
CTC model puts before the body, two generations of weight-norm names, and pretraining heads that CTC does not use.

A model is built without memory (meta device) and given the file's tensors, which stay mapped to the file until they are
written to: one copy, also of the largest models.
"""

import dataclasses
import json
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from w2v.errors import InputError
from w2v.files import write_json, write_whole
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2ForCTC

INDEX = "model.safetensors.index.json"
WEIGHT_FILES = ("model.safetensors", INDEX, "pytorch_model.bin")
PICKLES = (".bin", ".pth")
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
# Settings whose other values would need code we do not have: refusing beats computing something else.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "conv_pos_batch_norm": False,
    "position_embeddings_type": None,
}
log = logging.getLogger("w2v")


def read_config(path: Path) -> dict:
    """The contents of a config.json; InputError where there is none or it is not JSON."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"a checkpoint needs a config.json beside its weights, found none at {path}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {path} as JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path} must hold a JSON object; fetch the checkpoint again")
    return fields


def parse_config(fields: dict, **overrides) -> Wav2Vec2Config:
    """transformers' config fields -> Wav2Vec2Config. InputError for another architecture or an unknown variant."""
    if fields.get("model_type") != "wav2vec2":
        raise InputError(
            f"the checkpoint's architecture must be wav2vec2, config.json says {fields.get('model_type')!r}; "
            "use a wav2vec 2.0 or XLS-R checkpoint"
        )
    for name, value in FIXED.items():
        if fields.get(name, value) != value:
            raise InputError(f"{name} must be {value!r}, config.json says {fields[name]!r}; use another checkpoint")
    known = {field.name for field in dataclasses.fields(Wav2Vec2Config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise InputError(f"unknown config fields {', '.join(unknown)}; see w2v.Wav2Vec2Config for the known ones")
    return Wav2Vec2Config(**{**{k: v for k, v in fields.items() if k in known}, **overrides})


def locate(path: str | Path) -> tuple[Path, Path]:
    """A checkpoint folder or weights file -> (weights file or index of shards, config.json beside it)."""
    path = Path(path)
    candidates = [path / name for name in WEIGHT_FILES] if path.is_dir() else [path]
    for weights in candidates:
        if weights.is_file() and (weights.suffix in (".safetensors", *PICKLES) or weights.name == INDEX):
            return weights, weights.parent / "config.json"
    what = (
        f"holds no {' or '.join(WEIGHT_FILES)}" if path.is_dir() else "is not one" if path.is_file() else "is missing"
    )
    raise InputError(f"a checkpoint is a folder with weights, or a .safetensors, .bin or .pth file; {path} {what}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A weights file, or the shards of an index, as tensors by name, mapped to the file.

    A .bin or .pth (torchaudio's) is a pickle: only tensors are unpickled, and a file that asks for more is refused.
    """
    if path.name == INDEX:
        return {name: tensor for shard in _shards(path) for name, tensor in read_weights(shard).items()}
    try:
        if path.suffix in PICKLES:
            mapped = zipfile.is_zipfile(path)  # files of before torch 1.6 cannot be
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        else:
            tensors = load_file(path)
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            raise ValueError("it holds more than tensors")
    except (SafetensorError, UnpicklingError, AttributeError, EOFError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"cannot read {path} as weights ({reason}); fetch the checkpoint again") from None
    return tensors


def _shards(index: Path) -> list[Path]:
    names = read_config(index).get("weight_map", {})
    shards = [index.parent / name for name in sorted(set(names.values()))]
    for shard in shards:
        if shard.parent != index.parent or not shard.is_file():
            raise InputError(f"{index} needs its shard {shard.name} beside it; fetch the checkpoint again")
    return shards


def tensor_names(path: Path) -> set[str]:
    """The names in a weights file or index, without reading its tensors where the format allows."""
    if path.name == INDEX:
        return set(read_config(path).get("weight_map", {}))
    if path.suffix in PICKLES:
        return set(read_weights(path))
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path} as safetensors ({error}); fetch the checkpoint again") from None


def warn_if_not_finite(tensors: dict[str, torch.Tensor], weights: Path) -> None:
    """Log the names of tensors with NaN or infinity. It reads every weight, so only commands that will anyway ask."""

    def is_finite(tensor: torch.Tensor) -> bool:
        # One pass without a mask in memory; a sum of finite numbers that overflows gets the second, exact look.
        return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())

    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not is_finite(tensor)]
    if broken:
        log.warning("%s holds weights that are not finite: %s", weights, _some(sorted(broken)))


def check_weight_norm(names: Iterable[str]) -> None:
    """InputError where one half is missing: a tolerant loader would leave the other at its random start."""
    names = set(names)
    for name in names:
        for pair in HALVES:
            for half, other in (pair, pair[::-1]):
                wanted = name.removesuffix(half) + other
                if "pos_conv" in name and name.endswith(half) and wanted not in names:
                    raise InputError(
                        f"weight norm needs two tensors, found {name} without {wanted}; fetch the checkpoint again"
                    )


def rename_body(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Strip the body's prefix, bring weight norm to its current names, leave out the pretraining heads."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(BODY)
        if name.startswith(PRETRAINING):
            continue
        for old, new in WEIGHT_NORM.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def load_model(
    cls: type[nn.Module],
    path: str | Path,
    config: Wav2Vec2Config | None,
    overrides: dict,
    new_head: bool = False,
    new_adapters: bool = False,
) -> nn.Module:
    """Build `cls` (Wav2Vec2ForCTC or Wav2Vec2Model) from a checkpoint; the two `from_pretrained` document it."""
    weights, config_file = locate(path)
    if config is None:
        config = parse_config(read_config(config_file), **overrides)
    else:
        config = dataclasses.replace(config, **overrides)
    tensors = rename_body(read_weights(weights))
    with torch.device("meta"):
        model = cls(config)
    with_head = issubclass(cls, Wav2Vec2ForCTC)
    if not with_head or new_head:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    if with_head:
        tensors = {name if name.startswith(HEAD) else BODY + name: tensor for name, tensor in tensors.items()}
    if with_head and new_head:
        weight = torch.empty(config.vocab_size, config.hidden_size)
        tensors[HEAD + "weight"] = weight.normal_(std=config.initializer_range)
        tensors[HEAD + "bias"] = torch.zeros(config.vocab_size)
    if new_adapters:
        tensors = {name: tensor for name, tensor in tensors.items() if ADAPTER not in name}
        fresh = {name: tensor for name, tensor in model.state_dict().items() if ADAPTER in name}
        tensors.update(_fresh_adapters(fresh, config.initializer_range))
    mask_embedding = BODY * with_head + MASK_EMBEDDING
    if mask_embedding not in tensors:  # layouts without it exist (torchaudio's); only masked training uses it
        tensors[mask_embedding] = torch.empty(config.hidden_size).uniform_()
        log.warning("%s holds no %s: a fresh one is drawn, which masked training will learn", weights, MASK_EMBEDDING)

    _check(tensors, {name: tensor.shape for name, tensor in model.state_dict().items()}, weights)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(True)
    return model.eval()


def save_model(model: Wav2Vec2ForCTC, directory: str | Path) -> None:
    directory = Path(directory)
    config = {
        "model_type": "wav2vec2",
        "architectures": [type(model).__name__],
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        **dataclasses.asdict(model.config),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(directory / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(directory / "config.json", config)


def load_adapter(model: Wav2Vec2ForCTC, file: str | Path) -> None:
    """See Wav2Vec2ForCTC.load_adapter."""
    file = Path(file)
    if not file.is_file():
        raise InputError(f"an adapter is a file such as adapter.tur.safetensors, found none at {file}")
    tensors = {name: tensor.float() for name, tensor in read_weights(file).items()}
    wanted = {k: v.shape for k, v in model.state_dict().items() if ADAPTER in k or k.startswith(HEAD)}
    if HEAD + "weight" in tensors:  # every language has its own characters
        size = tensors[HEAD + "weight"].shape[0]
        wanted[HEAD + "weight"], wanted[HEAD + "bias"] = (
            torch.Size([size, model.config.hidden_size]),
            torch.Size([size]),
        )
    _check(tensors, wanted, file)
    device = model.lm_head.weight.device
    if model.config.vocab_size != len(tensors[HEAD + "bias"]):
        model.config.vocab_size = len(tensors[HEAD + "bias"])
        model.lm_head = nn.Linear(model.config.hidden_size, model.config.vocab_size, device=device)
    model.load_state_dict(tensors, strict=False)  # _check was strict: the rest is the shared body


def save_adapter(model: Wav2Vec2ForCTC, file: str | Path) -> None:
    state = model.state_dict()
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items() if ADAPTER in k or k.startswith(HEAD)}
    write_whole(file, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def _fresh_adapters(shapes: dict[str, torch.Tensor], spread: float) -> dict[str, torch.Tensor]:
    """transformers' start: linear weights N(0, spread), norms the identity."""
    fresh = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(shape.shape)
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        elif name.endswith("weight"):
            tensor.normal_(std=spread)
        fresh[name] = tensor
    return fresh


def _check(tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Size], weights: Path) -> None:
    """InputError naming missing, unexpected and wrongly shaped tensors."""
    problems = []
    if missing := sorted(wanted.keys() - tensors.keys()):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(tensors.keys() - wanted.keys()):
        problems.append(f"unexpected {_some(unexpected)}")
    if reshaped := [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]:
        problems.append(f"wrong shape {_some(reshaped)}")
    if problems:
        remedy = "; pass new_head=True to start a fresh head" if any(HEAD in p for p in problems) else ""
        raise InputError(f"{weights} does not fit its config: {'; '.join(problems)}{remedy}")


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
