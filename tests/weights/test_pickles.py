"""Pickles that stand for endless work or memory are refused before they are unpickled.

Run: pytest tests/weights/test_pickles.py
"""

import io
import json
import pickle
import re
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from conftest import ROOT

import w2v
from w2v.errors import InputError
from w2v.weights import pickles
from w2v.weights.fairseq import read_checkpoint
from w2v.weights.hf import read_weights

DOUBLE = b"q\x00h\x00\x86"  # the object on the stack becomes a tuple that holds it two times
LISTS = b"q\x00](h\x00h\x00e"  # a list of it two times comes on the stack


def doubled(times: int = 100, step: bytes = DOUBLE) -> bytes:
    return b")" + step * times


HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))).encode()
SLOW = b"X" + len(HAN).to_bytes(4, "little") + HAN

# What is done with the object: a key, a member, a name to be printed, an argument of a call.
HOSTILE = {
    "key": b"\x80\x02}" + doubled() + b"K\x01s.",
    "keys": b"\x80\x02}(" + doubled() + b"K\x01u.",
    "member": b"\x80\x02cbuiltins\nset\n](" + doubled() + b"e\x85R.",
    "key of an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n)R" + doubled() + b"K\x01s.",
    "pairs": b"\x80\x02ccollections\nOrderedDict\n](](" + doubled() + b"K\x01ee\x85R.",
    "storage": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + doubled() + b"X\x03\x00\x00\x00cpuK\x01tQ.",
    "printed": b"\x80\x02" + doubled(step=LISTS) + b"q\x00cbuiltins\nstr\nh\x00\x85R.",
    "by DUP": b"\x80\x02})" + b"2\x86" * 100 + b"K\x01s.",
    "by MEMOIZE": b"\x80\x04})" + b"".join(b"\x94h" + bytes([i, 0x86]) for i in range(100)) + b"K\x01s.",
    "a memo of gigabytes": b"\x80\x02cenum\nEnum\n0}r\xff\xff\xff\x7f.",
    "bytes of gigabytes": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R.",
    "a slow codec": b"\x80\x02c_codecs\nencode\n" + SLOW + b"X\x09\x00\x00\x00!Punycode\x86R.",
    "nested": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
}


def zipped(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """As torch.save packs a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/version", b"3\n")
    return buffer.getvalue()


def legacy(data: bytes) -> bytes:
    """As torch.save did before 1.6."""
    first = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*first, data, pickle.dumps([], protocol=2)])


READ = """
import sys, time
from pathlib import Path
from w2v.errors import InputError
from w2v.weights.fairseq import read_checkpoint
from w2v.weights.hf import read_weights
for file in map(Path, sys.argv[1:]):
    began = time.process_time()
    try:
        (read_checkpoint if file.suffix == ".pt" else read_weights)(file)
        answer = "read"
    except InputError as error:
        answer = str(error)
    print(file.name, f"{time.process_time() - began:.2f}", answer, sep="\\t", flush=True)
status = Path("/proc/self/status")  # not ru_maxrss, which begins with the peak of the process that started this one
lines = status.read_text().splitlines() if status.is_file() else []
print("memory", next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0), "", sep="\\t")
"""


@pytest.mark.slow
def test_objects_that_hold_each_other_without_end_are_refused_in_seconds(tmp_path):
    """In a process of its own: without the check it would hash for ever, and no signal ends that."""
    for name, data in HOSTILE.items():
        for container in (bytes, zipped, legacy):
            for suffix in (".pt", ".bin"):
                (tmp_path / f"{name} {container.__name__}{suffix}").write_bytes(container(data))
    assert min(len(data) for data in HOSTILE.values()) < 673
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", READ, *files], cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == len(files) + 1, f"after {lines[-1:]}: {done.stderr[-500:]}"
    for name, seconds, answer in lines[:-1]:
        assert float(seconds) < 5, (name, seconds)
        assert re.search("so without end|must be numbered in order|asks for .*(bytearray|Punycode)", answer), (
            name,
            answer,
        )
    assert int(lines[-1][1]) < 2000, "MB"


BIG = b"X" + (400_000).to_bytes(4, "little") + b"a" * 400_000 + b"q\x000"
ONE_HASH = b"".join(b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") + b"N" for k in range(1, 50_000))
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
EXPANDED = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00\x8a\x06" + bytes(5) + b"\x01\x85K\x00\x85\x89NtR"
COSTLY = {
    "lists of a text": BIG + b"](" + b"cbuiltins\nset\nh\x00\x85R" * 25_000 + b"e.",
    "encodings of a text": BIG + b"](" + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00utf-32\x86R" * 15_000 + b"e.",
    "a text many times in another": BIG + b"cbuiltins\nstr\n](" + b"h\x00" * 200_000 + b"e\x85R.",
    "keys of one hash": b"}(" + ONE_HASH + b"u.",
    "a tensor's elements in a set": b"cbuiltins\nset\n" + EXPANDED + b"\x85R.",
    "a tensor's elements counted": b"ccollections\nCounter\n" + EXPANDED + b"\x85R.",
    "a call that calls": b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nset\nh\x00" + EXPANDED + b"\x85}tR.",
    "a tensor by its size": b"}X\x01\x00\x00\x00actorch\nTensor\n\x8a\x05\x00\x00\x00\x00\x02\x85Rs.",
    "a storage by its size": b"ctorch.storage\nUntypedStorage\n\x8a\x05\x00\x00\x00\x00\x02\x85R.",
}


@pytest.mark.parametrize("name", COSTLY)
def test_calls_that_make_more_than_the_file_holds_are_refused(name, tmp_path):
    assert len(COSTLY[name]) < 10**6
    for container in (zipped, legacy):
        (tmp_path / "m.bin").write_bytes(container(b"\x80\x02" + COSTLY[name]))
        began = time.process_time()
        with pytest.raises(InputError, match=r"without end|asks for"):
            pickles.check(tmp_path / "m.bin")
        assert time.process_time() - began < 5


def test_an_archive_behind_a_pickle_hides_nothing(tmp_path):
    """Python finds an archive at a file's end; torch looks at its first bytes, and reads the pickle."""
    (tmp_path / "m.bin").write_bytes(legacy(HOSTILE["key"]) + zipped(b"\x80\x02}."))
    with pytest.raises(InputError, match="without end"):
        pickles.check(tmp_path / "m.bin")


def test_a_length_beyond_the_file_makes_no_room_for_it(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"\x80\x02X\xff\xff\xff\xf0aa.")
    with pytest.raises(ValueError, match="beyond the end"):
        pickles.check(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "data", [b"cnumpy\n" + b"9" * 300_000 + b"\n.", b"X" + (300_000).to_bytes(4, "little") + b"9" * 300_000 + b")R."]
)
def test_a_call_of_what_is_too_long_for_a_name_is_refused_in_seconds(data, tmp_path):
    path = tmp_path / "a.bin"
    for pack in (zipped, legacy):
        path.write_bytes(pack(b"\x80\x02" + data))
        start = time.process_time()
        with pytest.raises(InputError, match="calls no function"):
            read_weights(path)
        assert time.process_time() - start < 2


@pytest.mark.parametrize("read", [read_weights, read_checkpoint])
@pytest.mark.parametrize("call", [b"cposix\nsystem\n", b"csubprocess\ncall\n"])
def test_a_refusal_names_what_was_asked_for_and_never_advises_to_run_it(read, call, tmp_path):
    file = tmp_path / "m.bin"
    file.write_bytes(zipped(b"\x80\x02" + call + b"X\x04\x00\x00\x00true\x85R."))
    with pytest.raises(InputError, match=r"asks for (posix.system|subprocess.call); nothing was run") as error:
        read(file)
    assert "weights_only" not in str(error.value)


def test_names_that_share_memory_are_told_apart(tmp_path):
    one = torch.arange(6.0)
    torch.save({"a": one, "b": one, "c": one.view(2, 3)}, tmp_path / "m.bin")
    read = read_weights(tmp_path / "m.bin")
    read["a"].zero_()
    assert read["b"].tolist() == read["c"].flatten().tolist() == one.tolist()


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(2, dtype=torch.complex64), "plain tensors"),
        (torch.zeros(2, dtype=torch.float8_e5m2), "asks for"),
        (torch.zeros([1] * 9), "plain tensors"),
        (torch.zeros(10**6)[:1], None),
    ],
)
def test_only_numbers_of_a_few_dimensions_are_weights(tensor, words, tmp_path):
    torch.save({"a": tensor}, tmp_path / "m.bin")
    if words is None:
        assert read_weights(tmp_path / "m.bin")["a"].tolist() == [0.0]
        return
    with pytest.raises(InputError, match=words):
        read_weights(tmp_path / "m.bin")


def test_names_of_tensors_are_shown_in_one_printable_line(tmp_path):
    w2v.Wav2Vec2ForCTC(w2v.TINY).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({f"\x1b[31m{i}\n" + "x" * 10_000: torch.zeros(1) for i in range(9)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"unexpected .* and 7 more") as error:
        w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_a_file_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    file = tmp_path / "m.bin"
    file.write_bytes(zipped(b"\x80\x02}." + b"\0" * 10**8, zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="must not be compressed"):
        read_weights(file)


def test_tensors_of_more_elements_than_the_file_holds_are_refused(tmp_path):
    huge = {"a": torch.zeros(1, dtype=torch.float16).expand(10**12)}
    torch.save(huge, tmp_path / "m.bin")
    torch.save({"model": huge}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="plain tensors"):
        read_weights(tmp_path / "m.bin")
    with pytest.raises(InputError, match='under "model"'):
        read_checkpoint(tmp_path / "m.pt")
    torch.save({"a": torch.zeros(10**6).to_sparse()}, tmp_path / "m.bin")
    with pytest.raises(InputError, match=r"asks for .*_rebuild_sparse_tensor"):
        read_weights(tmp_path / "m.bin")


@pytest.mark.parametrize("content", [[torch.zeros(2)], {1: torch.zeros(2)}, {"a": 1}, torch.zeros(2), None, {"a": {}}])
def test_other_things_than_tensors_by_name_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "m.bin")
    with pytest.raises(InputError, match="cannot read"):
        read_weights(tmp_path / "m.bin")


@pytest.mark.parametrize("zipped_file", [True, False])
def test_the_state_of_a_large_model_and_its_optimiser_is_far_from_the_limit(zipped_file, tmp_path):
    """The shapes of XLS-R 2B, the largest model that is read here; what counts is the number of objects."""
    with torch.device("meta"):
        model = w2v.Wav2Vec2ForCTC(w2v.XLS_R_2B)
    small = {name: torch.zeros(2) for name in model.state_dict()}
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": t, "exp_avg_sq": t.clone()} for i, t in enumerate(small.values())
    }
    state = {"model": small, "optimizer": {"state": moments, "param_groups": [{"params": list(range(len(small)))}]}}
    file = tmp_path / "state.pt"
    torch.save(state, file, _use_new_zipfile_serialization=zipped_file)
    began = time.process_time()
    pickles.check(file)
    assert time.process_time() - began < 5
    with zipfile.ZipFile(file) if zipped_file else open(file, "rb") as opened:
        data = io.BytesIO(opened.read("state/data.pkl")) if zipped_file else opened
        for _ in range(1 if zipped_file else 4):
            work = pickles.count_work(data, file)
    assert work < pickles.FREE_WORK / 5


@pytest.mark.parametrize(
    "index",
    [
        [1], 3, None, {}, {"weight_map": 3}, {"weight_map": ["a"]}, {"weight_map": {"a": None}},
        {"weight_map": {"a": ["b.bin"]}}, {"weight_map": {"a": "b\0.bin"}}, {"weight_map": {"a": "x" * 5000 + ".bin"}},
        {"weight_map": {"a": "../b.bin"}}, {"weight_map": {"a": "/dev/zero"}}, {"weight_map": {"a": {"b.bin": 1}}},
        {"weight_map": {}}, {"weight_map": {"a": "missing.bin"}}, {"weight_map": {"a": "\ud800.bin"}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_broken_indexes_are_refused_in_one_line(name, index, tmp_path):
    w2v.Wav2Vec2ForCTC(w2v.TINY).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text(json.dumps(index))
    with pytest.raises(InputError) as error:
        w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 6000
