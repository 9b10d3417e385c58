"""Checkpoints in transformers' layout: config.json beside model.safetensors or pytorch_model.bin, whole or in shards.

Tensors and config fields come out of files and go into files here; this module knows no model. A model is built without
memory (meta device) and given the file's tensors, which stay mapped to the file until they are written to: one copy,
also of the largest models.
"""

import dataclasses
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from w2v.errors import InputError, named, reason, show
from w2v.files import read_json, reading, write_json, write_whole
from w2v.weights import pickles

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", INDEXES[0], "pytorch_model.bin", INDEXES[1])  # the first that is there is read
PICKLES = (".bin", ".pth")
PROCESSOR = "preprocessor_config.json"  # what the model hears
CHECKSUM = "w2v.crc32"  # in the metadata of a .safetensors file
GENERATION = "generation_config.json"  # how a model that generates text does so
log = logging.getLogger("w2v")
Model = TypeVar("Model", bound=nn.Module)
Config = TypeVar("Config")
Fields = TypeVar("Fields", bound="DataclassInstance")


def read_config(path: Path) -> dict:
    """The contents of a config.json; InputError where there is none or it is not JSON."""
    if not path.exists():
        raise InputError(f"a checkpoint needs a config.json beside its weights, found none at {path}")
    return read_json(path, "the checkpoint's")


def locate(path: str | Path) -> tuple[Path, Path]:
    """A checkpoint folder or weights file -> (weights file or index of shards, config.json beside it)."""
    path = Path(path)
    with reading("the checkpoint", path):
        candidates = [path / name for name in WEIGHT_FILES] if path.is_dir() else [path]
        for weights in candidates:
            if weights.is_file() and (weights.suffix in (".safetensors", *PICKLES) or weights.name in INDEXES):
                return weights, weights.parent / "config.json"
        holds_none = f"holds no {' or '.join(WEIGHT_FILES)}"
        what = holds_none if path.is_dir() else "is not one" if path.exists() else "is missing"
    raise InputError(f"a checkpoint is a folder with weights, or a .safetensors, .bin or .pth file; {path} {what}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A weights file, or the shards of an index, as tensors by name, mapped to the file.

    A .bin or .pth (torchaudio's) is a pickle: only tensors are unpickled, and a file that asks for more is refused.
    """
    if path.name in INDEXES:
        return {name: tensor for shard in _shards(path) for name, tensor in read_weights(shard).items()}
    try:
        if path.suffix in PICKLES:
            pickles.check(path)
            mapped = pickles.is_archive(path)  # files of before torch 1.6 cannot be
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        else:
            tensors = load_file(path)
            wanted = _written_checksum(path)
            if wanted is not None and checksum(tensors) != wanted:
                raise InputError(
                    f"{path} is damaged, its checksum is another; fetch the checkpoint again or use another"
                )
        return pickles.plain_tensors(tensors, path)
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can fail in any way; it is the file's fault in each
        raise pickles.refusal(path, error, "read {} as weights", "fetch the checkpoint again or use another") from None


def _weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor, by name. InputError where a shard is not named as a weights file beside the index."""
    shards = read_config(index).get("weight_map")
    if not isinstance(shards, dict):
        raise InputError(f"{index} must hold a weight_map of tensor names; fetch the checkpoint again")
    for shard in shards.values():
        if Path(str(shard)).name != shard or not shard.endswith((".safetensors", ".bin")) or not shard.isprintable():
            raise InputError(
                f"{index} must name .safetensors or .bin files beside it, got {show(shard)}; use another checkpoint"
            )
    return shards


def shard_names(index: Path) -> list[str]:
    return sorted(set(_weight_map(index).values()))


def _shards(index: Path) -> list[Path]:
    shards = [index.parent / name for name in shard_names(index)]
    for shard in shards:
        with reading("the shard", shard):  # a name that is too long
            is_here = shard.is_file()
        if not is_here:
            raise InputError(f"{index} needs its shard {shard.name} beside it; fetch the checkpoint again")
    return shards


def tensor_names(path: Path) -> set[str]:
    """The names in a weights file or index, without reading its tensors where the format allows."""
    if path.name in INDEXES:
        return set(_weight_map(path))
    if path.suffix in PICKLES:
        return set(read_weights(path))
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as safetensors ({reason(error)}); fetch the checkpoint again") from None


def warn_if_not_finite(tensors: dict[str, torch.Tensor], weights: Path) -> None:
    """Log the names of tensors with NaN or infinity. It reads every weight: for commands that do so anyway."""

    def is_finite(tensor: torch.Tensor) -> bool:
        # One pass without a mask in memory; a sum of finite numbers that overflows gets the second, exact look.
        return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())

    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not is_finite(tensor)]
    if broken:
        log.warning("%s holds weights that are not finite: %s", weights, some(sorted(broken)))


def read_fields(path: str | Path) -> dict:
    """What a checkpoint folder or weights file says of its model; see `fields_of_folder`."""
    return fields_of_folder(locate(path)[0].parent)


def fields_of_folder(folder: Path) -> dict:
    """The config.json of a folder; the fields of preprocessor_config.json and generation_config.json under their names.

    Those of files that are not there are left out. transformers 5 saves the former as `feature_extractor` in
    processor_config.json, and reads them there first.
    """
    fields, heard = read_config(folder / "config.json"), None
    for name in (PROCESSOR, GENERATION):
        fields.pop(name, None)
    with reading("the files of", folder):
        held = [name for name in ("processor_config.json", PROCESSOR) if (folder / name).exists()]
        generates = (folder / GENERATION).exists()
    if generates:
        fields[GENERATION] = read_json(folder / GENERATION, "how the model generates,")
    for name in held:
        if heard is None:
            found = read_json(folder / name, "what the model hears,")
            heard = found if name == PROCESSOR else found.get("feature_extractor")
            if not isinstance(heard, dict | None):
                place = f"feature_extractor in {folder / name}"
                raise InputError(f"{place} must be an object, got {show(heard)}; use a complete model folder")
    return fields if heard is None else fields | {PROCESSOR: heard}


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint folder or weights file by name, mapped to their file."""
    return read_weights(locate(path)[0])


def build(
    cls: type[Model],
    config: Config,
    tensors: dict[str, torch.Tensor],
    source: str | Path,
    init: Callable[[nn.Module, Config], None],
    fresh: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> Model:
    """cls(config) with these tensors in fp32, mapped to their file; in evaluation mode, every parameter trainable.

    init(module, config) draws a module's own weights. fresh: parts of names; tensors with one of them are left out and
    drawn. optional: the same for tensors that may be missing; then it is logged.
    Raises InputError naming missing, unexpected and wrongly shaped tensors.
    """
    with torch.device("meta"):
        model = cls(config)
    tensors = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in fresh)}
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    drawn = [name for name in wanted if name not in tensors and any(part in name for part in (*fresh, *optional))]
    given = {name: shape for name, shape in wanted.items() if name not in drawn}
    check_shapes(tensors, given, source, "use its own config, or new_head=True where only the head differs")
    if absent := [name for name in drawn if not any(part in name for part in fresh)]:
        log.warning("%s holds no %s: training starts from a fresh one", source, some(absent))
    model.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=False, assign=True)
    absent_in = [m for m in model.modules() if any(p.is_meta for p in m.parameters(recurse=False))]
    for module in absent_in:
        module.to_empty(device="cpu", recurse=False)
    for module in absent_in:
        init(module, config)
    return model.requires_grad_(True).eval()


def save(
    directory: str | Path,
    tensors: dict[str, torch.Tensor],
    fields: dict,
    processor: dict,
    generation: dict | None = None,
) -> None:
    """Write model.safetensors, config.json and preprocessor_config.json, each whole or not at all.

    generation: the fields of generation_config.json, for a model that generates text.
    """
    directory = Path(directory)
    write_tensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", fields)
    write_json(directory / PROCESSOR, processor)
    if generation is not None:
        write_json(directory / GENERATION, generation)


def override(config: Fields, overrides: dict[str, Any]) -> Fields:
    """A config dataclass with other values in some fields. InputError for a field that it does not have."""
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted(set(overrides) - known):
        raise InputError(
            f"unknown config fields {', '.join(unknown)}; see w2v.{type(config).__name__} for the known ones"
        )
    return dataclasses.replace(config, **overrides)


def write_tensors(file: str | Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a .safetensors file, as transformers reads it, whole or not at all; with a checksum, see `damage`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", CHECKSUM: checksum(tensors)}
    write_whole(file, lambda path: save_file(tensors, path, metadata=metadata))


def checksum(tensors: dict[str, torch.Tensor]) -> str:
    """Of the names and bytes of tensors on the CPU. A gigabyte takes half a second."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _written_checksum(file: Path) -> str | None:
    with safe_open(file, "pt") as opened:
        return (opened.metadata() or {}).get(CHECKSUM)


def damage(file: Path) -> str | None:
    """What is wrong with a .safetensors file that `write_tensors` wrote, or None; files of others have no checksum."""
    try:
        wanted = _written_checksum(file)
        if wanted is not None and checksum(load_file(file)) != wanted:
            return "its checksum is another"
    except Exception as error:  # a damaged file can fail in any way
        return reason(error)
    return None


def check_shapes(
    tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Size], source: str | Path, remedy: str
) -> None:
    """InputError naming missing, unexpected and wrongly shaped tensors."""
    problems = []
    if missing := sorted(wanted.keys() - tensors.keys()):
        problems.append(f"missing {some(missing)}")
    if unexpected := sorted(tensors.keys() - wanted.keys()):
        problems.append(f"unexpected {some(unexpected)}")
    if reshaped := [
        f"{named(name)} {show(tuple(tensors[name].shape))} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]:
        problems.append(f"wrong shape {', '.join(reshaped[:2])}{_more(reshaped, 2)}")
    if problems:
        raise InputError(f"{source} does not fit its config: {'; '.join(problems)}; {remedy}")


def some(names: list[str], most: int = 2) -> str:
    """Names of tensors for people, the first few."""
    return ", ".join(map(named, names[:most])) + _more(names, most)


def _more(names: list[str], most: int) -> str:
    return f" and {len(names) - most} more" if len(names) > most else ""
