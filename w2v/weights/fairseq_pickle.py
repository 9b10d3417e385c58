"""fairseq's .pt files: pickles of weights, settings (as argparse or omegaconf objects) and optimiser state.

Only tensors and plain values are taken from them, and nothing in them is run.
"""

import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from w2v.errors import InputError
from w2v.weights import pickles

# What fairseq's checkpoints mention besides tensors: settings, training meters, type annotations. `_TensorsOnly` puts
# inert records in their place; anything else has no business in a checkpoint and is refused by name.
RECORDED = re.compile(
    r"(argparse|collections|enum|fairseq|hydra|numpy|omegaconf|torch|typing)\..*"
    r"|builtins\.(bool|bytes|complex|dict|float|frozenset|int|list|object|set|slice|str|tuple|type)"
    r"|copyreg\._reconstructor|_?operator\.getitem|_codecs\.encode|pathlib\.(Pure)?(Posix|Windows)?Path"
)
# Of those, what torch's own reader of plain files would refuse or call: records here too.
INERT = ["argparse.Namespace", *(f"builtins.{name}" for name in "dict list tuple int float str bool".split())]
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """A fairseq .pt -> its model's tensors, in the file's names and types, and its model's settings.

    The settings are plain values by name, from `args` or `cfg.model`; those of the pretrained model that a fine-tuned
    one was built on (`w2v_args`) win, for they describe the body. {} where the file has none.
    Nothing in the file is run: tensors are read with torch's restricted unpickler, and where the file holds other
    objects (omegaconf's) by one that records instead of calling. Raises InputError for a file that names a function
    or class which no checkpoint needs, for one without a `model` and for a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"a fairseq checkpoint is a .pt file, {path} is not a file")
    try:
        pickles.check(path)
        zipped = pickles.is_archive(path)  # how torch saves since 1.6; older files are bare pickles
        try:
            harmless: list[Any] = [(_Record, name) for name in INERT]
            with torch.serialization.safe_globals(harmless):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except UnpicklingError:
            if not zipped:
                raise
            content = _read_tensors_only(path)
        model = content.get("model") if isinstance(content, dict) else None
        try:
            tensors = pickles.plain_tensors(model, path)
        except ValueError:
            tensors = {}
        if not tensors:
            raise InputError(f'a fairseq checkpoint holds tensors by name under "model", {path} does not; use another')
        return tensors, _model_args(content)
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile pickle can fail in any way; it is the file's fault in each
        raise pickles.refusal(path, error, "read {} as a fairseq checkpoint", "fetch it again or use another") from None


class _Record:
    """Stands for an object of a class that is not loaded: keeps what the file says of it, does nothing."""

    args: tuple
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Record":
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    # Contents of subclasses of dict and list: no setting is kept in one.
    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int


class _LazyTensor(NamedTuple):
    """A tensor not read yet: most of a checkpoint is optimiser state, which nobody asks for."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _TensorsOnly(Unpickler):
    """Reads a pickle without importing or calling anything that it names.

    The file may call whatever find_class returns, with arguments of its choice, and set attributes on it: so that is
    a function made on the spot, never torch's own, or _Record, whose __setstate__ stands before any attribute.
    """

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes protocol 2, where Python gives even its own functions the names of Python 2.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *rest: _LazyTensor(storage, offset, size, stride)
        if full in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return lambda tensor, *rest: tensor
        if full in STORAGES:
            return STORAGES[full]
        if full == "collections.OrderedDict":
            return OrderedDict
        if not RECORDED.fullmatch(full):
            raise UnpicklingError(f"GLOBAL {full}")
        return _Record

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, numel = pid
        return _Storage(key, dtype, numel)


def _read_tensors_only(path: Path) -> Any:
    """The content of a zipped checkpoint, `model` with its tensors, all other objects as records."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
        with archive.open(pickled) as file:
            content = _TensorsOnly(file, encoding="utf-8").load()
        storages = {}  # tensors may share one

        def read(tensor: Any) -> Any:
            if not isinstance(tensor, _LazyTensor):
                return tensor
            key, dtype, numel = tensor.storage
            if key not in storages:
                data = bytearray(archive.read(pickled.removesuffix("data.pkl") + f"data/{key}"))
                if len(data) != numel * dtype.itemsize:
                    raise ValueError(f"storage {key} has {len(data)} bytes instead of {numel * dtype.itemsize}")
                storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            # as_strided refuses what lies outside of the storage.
            return storages[key].as_strided(tensor.size, tensor.stride, tensor.offset)

        if isinstance(content, dict) and isinstance(content.get("model"), dict):
            content["model"] = {name: read(tensor) for name, tensor in content["model"].items()}
    return content


def _model_args(content: dict) -> dict:
    args = _fields(content.get("args")) or _fields(_fields(content.get("cfg")).get("model"))
    body = _fields(args.get("w2v_args"))
    body = _fields(body["model"]) if "model" in body else body
    flat = {name: _unwrap(value) for name, value in (args | body).items()}
    flat = {
        name: [_unwrap(item) for item in value] if isinstance(value, (list, tuple)) else value
        for name, value in flat.items()
    }
    return {name: value for name, value in flat.items() if isinstance(name, str) and _is_setting(value)}


def _fields(node: Any) -> dict:
    """The fields of a Namespace or DictConfig (both read as records) or of a dict; {} for anything else."""
    if isinstance(node, _Record):
        node = node.state
        node = node.get("_content", node) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _unwrap(node: Any) -> Any:
    """What an omegaconf node, an omegaconf list or an enum's member holds; anything else as it is."""
    if isinstance(node, _Record) and isinstance(node.state, dict):
        node = node.state.get("_content", node.state.get("_val", node))
    if isinstance(node, _Record) and len(node.args) == 1 and node.state is None:
        node = node.args[0]  # a member is pickled as a call of its enum with its value
    return node


def _is_setting(value: Any) -> bool:
    plain = (bool, int, float, str, type(None))
    return isinstance(value, plain) or (isinstance(value, list) and all(isinstance(item, plain) for item in value))
