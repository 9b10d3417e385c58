"""fairseq's .pt files and dictionaries, read without running what is in them, damaged and hostile ones included.

Run: pytest tests/weights/test_fairseq_files.py
"""

import argparse
import collections
import enum
import os
import pathlib
import pickle
import subprocess
import sys
import types
import typing
import warnings
import zipfile

import numpy
import pytest
import torch
from test_fairseq import BASES, assert_bit_equal, small

import w2v
from w2v.errors import InputError
from w2v.weights.fairseq import (
    config_of,
    from_hf,
    read_checkpoint,
    read_dictionary,
    to_hf,
)
from w2v.weights.fairseq_pickle import _Record

ARGS = {
    "arch": "wav2vec2", "encoder_attention_heads": 16, "layer_norm_first": True, "dropout": 0.0, "w2v_path": None,
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2", "latent_temp": [2.0, 0.1, 0.999995],
}  # fmt: skip
FINE_TUNED = {"final_dropout": 0.1, "mask_prob": 0.5, "dropout": 0.3}


def save(path, tensors, legacy=False, **content):
    """As fairseq's checkpoint_utils.save_state does, optimiser state included."""
    state = {"step": 7, "exp_avg": torch.randn(50)}
    content = {
        "args": None, "cfg": None, "model": collections.OrderedDict(tensors), "optimizer_history": [{"num_updates": 7}],
        "extra_state": {"epoch": 3, "val_loss": 2.5}, "last_optimizer_state": {"state": {0: state}}, **content,
    }  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


@pytest.fixture
def omegaconf(monkeypatch):
    """Stand-ins for omegaconf's classes, there while a file is written; call `gone` before it is read.

    State as in omegaconf 2.1: containers keep `_content`, values `_val`, and each its parent and its metadata.
    """

    class Category(enum.Enum):
        layer_norm = "layer_norm"

        def __reduce_ex__(self, protocol):
            """As all Pythons write it but 3.11.0 to 3.11.3, whose files ask for getattr."""
            return type(self), (self.value,)

    classes = {
        "omegaconf.dictconfig": ["DictConfig"],
        "omegaconf.listconfig": ["ListConfig"],
        "omegaconf.nodes": ["AnyNode"],
        "omegaconf.base": ["ContainerMetadata", "Metadata"],
        "fairseq.dataclass.configs": ["Wav2Vec2Config"],
    }
    made = {}
    modules = ("omegaconf", "fairseq", "fairseq.dataclass", *classes)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    for module, names in classes.items():
        for name in names:
            made[name] = type(name, (), {"__module__": module})
            setattr(sys.modules[module], name, made[name])
    Category.__module__, Category.__qualname__ = "fairseq.dataclass.configs", "Category"
    sys.modules["fairseq.dataclass.configs"].Category = Category

    def node(cls, parent, metadata, **state):
        one = made[cls].__new__(made[cls])
        one.__dict__.update(state, _metadata=made[metadata](), _parent=parent)
        one._metadata.__dict__.update(
            ref_type=typing.Any, object_type=made["Wav2Vec2Config"], key_type=dict[str, int] and dict, optional=True,
            element_type=typing.Dict[str, typing.Any],  # noqa: UP006 - as older files have it
            resolver_cache=collections.defaultdict(dict, {"a": {}}), flags={},
        )  # fmt: skip
        return one

    def convert(value, parent=None):
        if isinstance(value, dict):
            one = node("DictConfig", parent, "ContainerMetadata", _content={})
            one._content.update({key: convert(item, one) for key, item in value.items()})
        elif isinstance(value, list):
            one = node("ListConfig", parent, "ContainerMetadata", _content=[])
            one._content.extend(convert(item, one) for item in value)
        else:
            one = node("AnyNode", parent, "Metadata", _val=value)
        return one

    def gone():
        for module in modules:
            monkeypatch.delitem(sys.modules, module)

    return types.SimpleNamespace(convert=convert, gone=gone, Category=Category)


@pytest.fixture
def tensors():
    """All kinds of tensors that a file may hold."""
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    return {
        "a": torch.randn(3, 5),
        "half": torch.randn(4).half(),
        "brain": torch.randn(4).bfloat16(),
        "count": torch.tensor(5),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "transposed": table.t(),
        "row": table[2],
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_files_with_a_namespace(tensors, legacy, tmp_path):
    save(tmp_path / "m.pt", tensors, legacy, args=argparse.Namespace(**ARGS))
    loaded, args = read_checkpoint(tmp_path / "m.pt")
    assert_bit_equal(loaded, tensors)
    assert args == ARGS
    inner = argparse.Namespace(w2v_args=argparse.Namespace(**ARGS), data=pathlib.Path, **FINE_TUNED)
    del inner.data
    save(tmp_path / "m.pt", tensors, legacy, args=inner)
    assert read_checkpoint(tmp_path / "m.pt")[1] == {**FINE_TUNED, **ARGS}  # the body's own settings win


def test_files_with_a_plain_cfg(tensors, tmp_path):
    save(tmp_path / "m.pt", tensors, cfg={"model": ARGS, "task": {"normalize": True}})
    assert read_checkpoint(tmp_path / "m.pt")[1] == ARGS
    save(tmp_path / "m.pt", tensors, cfg={"model": {**FINE_TUNED, "w2v_args": {"model": ARGS, "task": {}}}})
    assert read_checkpoint(tmp_path / "m.pt")[1] == {**FINE_TUNED, **ARGS}
    save(tmp_path / "m.pt", tensors)
    loaded, args = read_checkpoint(tmp_path / "m.pt")
    assert_bit_equal(loaded, tensors)
    assert args == {}


def test_files_with_omegaconf_objects(tensors, omegaconf, tmp_path):
    model = {**ARGS, "extractor_mode": omegaconf.Category.layer_norm}
    cfg = omegaconf.convert({"model": model, "task": {"normalize": True}})
    meters = {"loss": numpy.float64(1.5), "numbers": numpy.arange(3)}
    save(tmp_path / "m.pt", tensors, cfg=cfg, extra_state=meters)
    tuned = omegaconf.convert({"model": {**FINE_TUNED, "w2v_args": {"model": ARGS}}})
    save(tmp_path / "tuned.pt", tensors, cfg=tuned)
    # A plain cfg around an old Namespace, beside an object that torch's unpickler refuses.
    mixed = {"model": {**FINE_TUNED, "w2v_args": argparse.Namespace(**ARGS)}}
    save(tmp_path / "mixed.pt", tensors, cfg=mixed, extra_state=meters)
    omegaconf.gone()

    loaded, args = read_checkpoint(tmp_path / "m.pt")
    assert_bit_equal(loaded, tensors)
    assert args == {**ARGS, "extractor_mode": "layer_norm"}
    for name in ("tuned.pt", "mixed.pt"):
        loaded, args = read_checkpoint(tmp_path / name)
        assert_bit_equal(loaded, tensors)
        assert args == {**FINE_TUNED, **ARGS}
    assert not any(name.split(".")[0] in ("omegaconf", "fairseq") for name in sys.modules)


def rewrite(path, change):
    """Let `change(name, data) -> data or None` edit the records of a zipped checkpoint."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            data = change(name, data)
            if data is not None:
                archive.writestr(name, data)


def test_optimiser_state_is_not_read_beside_omegaconf(omegaconf, tmp_path):
    wanted = {"a": torch.randn(3)}
    save(tmp_path / "m.pt", wanted, cfg=omegaconf.convert({"model": ARGS}))
    omegaconf.gone()
    rewrite(tmp_path / "m.pt", lambda name, data: None if "/data/" in name and len(data) == 4 * 50 else data)
    assert_bit_equal(read_checkpoint(tmp_path / "m.pt")[0], wanted)


class Planted:
    def __init__(self, call, *arguments):
        self.planted = (call, arguments)

    def __reduce__(self):
        return self.planted


@pytest.mark.parametrize("where", ["args", "model", "extra_state"])
@pytest.mark.parametrize("container", ["zip", "legacy", "beside omegaconf"])
@pytest.mark.parametrize("call", [os.system, exec, eval, open, getattr, subprocess.Popen, pickle.loads])
def test_planted_code_is_refused_by_name_and_not_run(call, container, where, omegaconf, tmp_path):
    mark = tmp_path / "planted"
    arguments = {
        os.system: (f"touch {mark}",), exec: (f"open({str(mark)!r}, 'w')",), eval: (f"open({str(mark)!r}, 'w')",),
        open: (str(mark), "w"), getattr: ("", "upper"), subprocess.Popen: (["touch", str(mark)],),
        pickle.loads: (pickle.dumps(Planted(open, str(mark), "w")),),
    }[call]  # fmt: skip
    cfg = omegaconf.convert({"model": ARGS}) if container == "beside omegaconf" else None
    file = tmp_path / "m.pt"
    content = {"cfg": cfg, where: {"a": Planted(call, *arguments)}}
    save(file, {"a": torch.randn(2)}, container == "legacy", **{"model": {"a": torch.randn(2)}, **content})
    omegaconf.gone()
    with pytest.raises(InputError, match=rf"asks for \S*\b{call.__name__}\b") as error:
        read_checkpoint(file)
    assert not mark.exists()
    assert "\n" not in str(error.value)
    if call is not pickle.loads and container != "legacy":
        module = getattr(call, "__module__", "builtins")
        assert f"{module.removeprefix('_')}.{call.__name__}" in str(error.value)


@pytest.mark.parametrize(
    ("opcodes", "code"),
    [
        (b"cos\nsystem\n(S'%s'\ntR.", "touch {}"),
        (b"(S'%s'\nios\nsystem\n.", "touch {}"),
        (b"(cos\nsystem\nS'%s'\no.", "touch {}"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c%c%s\x85R.", "touch {}"),
        (b"c__builtin__\neval\n(S'%s'\ntR.", 'open("{}", "w")'),
        (b"cnumpy.testing._private.utils\nrunstring\n(S'%s'\n}tR.", 'open("{}", "w")'),
        (b"ctorch.hub\nos.system\n(S'%s'\ntR.", "touch {}"),
        (b"\x80\x04\x8c\x09torch.hub\x8c\x09os.system\x93\x8c%c%s\x85R.", "touch {}"),
    ],
)
def test_no_opcode_reaches_a_function(opcodes, code, tmp_path):
    """Written by hand, in the forms in which a pickle can name and call something."""
    mark = tmp_path / "planted"
    code = code.format(mark).encode()
    file = tmp_path / "m.pt"
    save(file, {"a": torch.randn(2)})
    attack = opcodes.replace(b"%c", bytes([len(code)])).replace(b"%s", code)
    rewrite(file, lambda name, data: attack if name.endswith("/data.pkl") else data)
    with warnings.catch_warnings(), pytest.raises(InputError):
        warnings.simplefilter("ignore")  # torch's, at the unusual protocol
        read_checkpoint(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("named", "attribute"),
    [
        (b"torch._utils\n_rebuild_tensor_v2", b"__defaults__"),
        (b"torch._utils\n_rebuild_parameter", b"__defaults__"),
        (b"omegaconf.dictconfig\nDictConfig", b"append"),
        (b"collections\nOrderedDict", b"items"),
    ],
)
@pytest.mark.parametrize("slots", [True, False])
def test_a_file_cannot_change_what_others_use(named, attribute, slots, tmp_path):
    """A pickle may set attributes on what it names: after a dict of them, or a tuple whose second half is one."""
    attributes = b"}S'%s'\n(I1\nI2\nts" % attribute
    attack = b"c" + named + b"\n" + (b"(N" + attributes + b"t" if slots else attributes) + b"b0(lp0\n."
    bystanders = (torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter, _Record, collections.OrderedDict)
    before = [(dict(vars(one)), getattr(one, "__defaults__", None)) for one in bystanders]
    file = tmp_path / "m.pt"
    save(file, {"a": torch.randn(2)})
    rewrite(file, lambda name, data: attack if name.endswith("/data.pkl") else data)
    with pytest.raises(InputError):
        read_checkpoint(file)
    assert [(dict(vars(one)), getattr(one, "__defaults__", None)) for one in bystanders] == before


@pytest.mark.parametrize("kind", ["zip", "legacy", "omegaconf"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_truncated_files(kind, keep, omegaconf, tmp_path):
    file = tmp_path / "m.pt"
    cfg = omegaconf.convert({"model": ARGS}) if kind == "omegaconf" else {"model": ARGS}
    save(file, {"a": torch.randn(2_000)}, kind == "legacy", cfg=cfg)
    omegaconf.gone()
    read_checkpoint(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match="cannot read") as error:
        read_checkpoint(file)
    assert "\n" not in str(error.value)


def test_lying_files(omegaconf, tmp_path):
    file = tmp_path / "m.pt"
    save(file, {"a": torch.randn(2_000)}, cfg=omegaconf.convert({"model": ARGS}))
    omegaconf.gone()
    rewrite(file, lambda name, data: data[:4_000] if "/data/" in name and len(data) == 8_000 else data)
    with pytest.raises(InputError, match="4000 bytes instead of 8000"):
        read_checkpoint(file)


def test_a_view_beyond_its_storage_is_refused(omegaconf, tmp_path):
    class Beyond:
        def __init__(self, tensor):
            self.tensor = tensor

        def __reduce__(self):
            storage = torch.storage.TypedStorage(
                wrap_storage=self.tensor.untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (storage, 0, (9_000,), (1,), False, collections.OrderedDict())

    file = tmp_path / "m.pt"
    save(file, {"a": Beyond(torch.randn(10))}, cfg=omegaconf.convert({"model": ARGS}))
    omegaconf.gone()
    with pytest.raises(InputError, match="out of bounds"):
        read_checkpoint(file)


def test_files_without_a_model(tmp_path):
    file = tmp_path / "m.pt"
    for content in ({"a": torch.randn(2)}, [1, 2], {"model": {}}, {"model": {"a": 1}}, {"model": [1]}):
        torch.save(content, file)
        with pytest.raises(InputError, match='under "model"'):
            read_checkpoint(file)
    with pytest.raises(InputError, match="is not a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="is not a file"):
        read_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("base", BASES)
def test_from_a_file_to_a_model(base, omegaconf, tmp_path):
    """All steps together: what fairseq saved computes what the model it came from computed."""
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small(base)).eval()
    args = {"encoder_attention_heads": 1, "layer_norm_first": base == "xlsr-like"}
    cfg = omegaconf.convert({"model": {**FINE_TUNED, "w2v_args": {"model": args}}})
    save(tmp_path / "m.pt", from_hf(model.state_dict())[0], cfg=cfg)
    omegaconf.gone()
    tensors, args = read_checkpoint(tmp_path / "m.pt")
    tensors, left_out = to_hf(tensors)
    assert left_out == []
    loaded = w2v.Wav2Vec2ForCTC(w2v.Wav2Vec2Config.from_dict(config_of(tensors, args))).eval()
    loaded.load_state_dict(tensors)
    waveforms = torch.randn(1, 4_000)
    with torch.no_grad():
        assert torch.equal(loaded(waveforms).logits, model(waveforms).logits)


# --- dictionaries


def test_dictionary(tmp_path):
    file = tmp_path / "dict.ltr.txt"
    file.write_text("| 94802\nE 51860\nİ 7\n' 12\n", encoding="utf-8")
    vocabulary = read_dictionary(file)
    assert vocabulary == {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "İ": 6, "'": 7}
    assert list(vocabulary) == ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "İ", "'"]
    file.write_bytes("| 1\r\n\x85a 2\r\n<pad> 3 #fairseq:overwrite\r\nb 4".encode())
    assert read_dictionary(file) == {"<s>": 0, "<pad>": 6, "</s>": 2, "<unk>": 3, "|": 4, "\x85a": 5, "b": 7}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"| 1\nE\n", r":2 is 'E'"),
        (b"| 1\nE x\n", r":2 is 'E x'"),
        (b"| 1\n| 2\n", r":2 repeats '\|'"),
        (b"<s> 1\n", r":1 repeats '<s>'"),
        (b"", "is empty"),
        (b"\xff\xfe| 1\n", "cannot read"),
    ],
)
def test_broken_dictionaries(content, words, tmp_path):
    (tmp_path / "dict.ltr.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_dictionary(tmp_path / "dict.ltr.txt")


def test_missing_dictionary(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_dictionary(tmp_path / "dict.ltr.txt")
