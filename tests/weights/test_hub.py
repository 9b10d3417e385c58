"""Models from a Hub of our own: what is fetched, what is kept, and every way in which it fails.

Run: pytest tests/weights/test_hub.py
"""

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, reach_hub_at
from huggingface_hub import constants
from safetensors.torch import load_file, save

from w2v.errors import InputError
from w2v.weights import hub as ours
from w2v.weights.hf import read_weights
from w2v.weights.hub import as_safetensors, fetch, parse_spec

REPOSITORY = "someone/some-model.v2"
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
CLOSED = "http://127.0.0.1:9"  # no server listens there: the network is down
SMALL = {"config.json": b"{}", "vocab.json": b'{"a": 0}', "README.md": b"#"}
OTHERS = {  # a repository is full of what nobody needs
    "optimizer.pt": b"o", "flax_model.msgpack": b"f", "tf_model.h5": b"t", "training_args.bin": b"x",
    "model.fp16.safetensors": b"h", "onnx/model.safetensors": b"n", "checkpoint-1/config.json": b"{}", "log.json": b"l",
    "adapter.tur.safetensors": b"tur", "adapter.kir.safetensors": b"kir",
}  # fmt: skip


def pickled(tensors: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


WHOLE = {"model.safetensors": save(TENSORS)}
PICKLE = {"pytorch_model.bin": pickled(TENSORS)}


def shards(whole: str, write) -> dict[str, bytes]:
    """TENSORS in two files and their index."""
    stem, suffix = whole.split(".")
    names = {"a": f"{stem}-00001-of-00002.{suffix}", "b": f"{stem}-00002-of-00002.{suffix}"}
    files = {file: write({name: TENSORS[name]}) for name, file in names.items()}
    return {**files, f"{whole}.index.json": json.dumps({"weight_map": names}).encode()}


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        fetch(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "--model" not in line
    return line


@pytest.mark.parametrize("files", [
    WHOLE, PICKLE, shards("model.safetensors", save), shards("pytorch_model.bin", pickled),
])  # fmt: skip
def test_fresh_fetch_then_offline(hub, monkeypatch, tmp_path, capsys, files):
    commit = hub.publish(REPOSITORY, **SMALL, **OTHERS, **files)
    fetched = fetch(REPOSITORY)
    assert fetched.commit == commit
    assert {file.name for file in fetched.folder.iterdir()} == {*SMALL, *files}
    assert hub.fetched() == sorted({*SMALL, *files}), "each file is sent once"
    assert capsys.readouterr().err == "", "no bars where nobody watches"

    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(REPOSITORY) == fetched
    assert len(hub.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    reach_hub_at(monkeypatch, CLOSED)
    assert fetch(REPOSITORY) == fetch(REPOSITORY, commit) == fetched

    folder = as_safetensors(fetched.folder, tmp_path / "converted")
    assert (folder == fetched.folder) == any("safetensors" in name for name in files)
    weights = next(folder.glob("*.index.json"), folder / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in read_weights(weights).items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    assert (folder / "vocab.json").read_bytes() == SMALL["vocab.json"]


def test_safetensors_are_preferred(hub):
    hub.publish(REPOSITORY, **SMALL, **PICKLE, **WHOLE)
    fetch(REPOSITORY)
    assert hub.fetched() == ["README.md", "config.json", "model.safetensors", "vocab.json"]


def test_new_commits_and_old_revisions(hub):
    old = hub.publish(REPOSITORY, **SMALL, **WHOLE)
    assert fetch(REPOSITORY).commit == old
    new = hub.publish(REPOSITORY, **{**SMALL, "vocab.json": b'{"b": 0}'}, **WHOLE)
    fetched = fetch(REPOSITORY)
    assert fetched.commit == new
    assert (fetched.folder / "vocab.json").read_bytes() == b'{"b": 0}'
    assert fetch(REPOSITORY, old).commit == old
    assert hub.fetched().count("model.safetensors") == 1, "equal files are kept once"


def test_adapters_come_on_demand(hub):
    hub.publish(REPOSITORY, **SMALL, **OTHERS, **WHOLE)
    folder = fetch(REPOSITORY, extra=("adapter.tur.safetensors",)).folder
    assert (folder / "adapter.tur.safetensors").read_bytes() == b"tur"
    assert not (folder / "adapter.kir.safetensors").exists()
    assert "adapter.deu.safetensors" in refusal(REPOSITORY, extra=("adapter.deu.safetensors",))


def test_converted_weights_are_reused_and_run_no_code(hub, tmp_path):
    twice = TENSORS["a"]
    tensors = {"a": twice, "tied": twice, "part": twice[1], "turned": twice.T}
    hub.publish(REPOSITORY, **SMALL, **{"pytorch_model.bin": pickled(tensors)})
    target = tmp_path / "target"
    assert as_safetensors(fetch(REPOSITORY).folder, target) == target
    written = load_file(target / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    before = (target / "model.safetensors").stat().st_mtime_ns
    as_safetensors(fetch(REPOSITORY).folder, target)
    assert (target / "model.safetensors").stat().st_mtime_ns == before

    hub.publish(REPOSITORY, **SMALL, **{"pytorch_model.bin": pickled({"a": Path("evil")})})
    with pytest.raises(InputError, match="cannot read"):
        as_safetensors(fetch(REPOSITORY).folder, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_token_opens_a_gated_repository(hub, monkeypatch):
    hub.publish(REPOSITORY, **SMALL, **WHOLE)
    hub.gated[REPOSITORY] = "hf_right"
    for token in ("", "hf_wrong"):
        monkeypatch.setenv("HF_TOKEN", token)
        line = refusal(REPOSITORY)
        assert "is gated" in line
        assert f"{hub.url}/{REPOSITORY}" in line
        assert "`hf auth login` or set HF_TOKEN" in line
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch(REPOSITORY)


def test_what_is_not_there(hub, monkeypatch):
    hub.publish(REPOSITORY, **SMALL, **OTHERS)
    assert "shows no repository some/one; check its name" in refusal("some/one")
    with monkeypatch.context() as known:
        known.setenv("HF_TOKEN", "hf_right")
        assert "HF_TOKEN" in refusal("some/one")
    assert "has no revision v9; choose a branch" in refusal(REPOSITORY, "v9")
    assert "model.safetensors or pytorch_model.bin" in refusal(REPOSITORY)
    for malformed in ("a/b/c", "a b/c", "-a/b", "a/b--c", "a/b.git", "", "a/" + "b" * 200):
        assert "is written owner/name" in refusal(malformed)


@pytest.mark.parametrize(("status", "words"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (500, "500"), (429, "429")])
def test_a_server_that_refuses(hub, status, words):
    hub.publish(REPOSITORY, **SMALL, **WHOLE)
    hub.status = status
    assert words in refusal(REPOSITORY)
    hub.status = 200
    fetched = fetch(REPOSITORY)
    hub.status = status
    assert fetch(REPOSITORY) == fetched, "the cache is enough"


def test_no_network_and_nothing_or_not_all_cached(hub, monkeypatch):
    commit = hub.publish(REPOSITORY, **SMALL, **WHOLE)
    command = f"`hf download {REPOSITORY} --revision {commit} --include"
    with monkeypatch.context() as down:
        reach_hub_at(down, CLOSED)
        line = refusal(REPOSITORY, commit)
        assert "Connection refused" in line
        assert command in line
        assert "HF_HUB_OFFLINE=1" in line
        assert "HF_ENDPOINT" in line
        reach_hub_at(down, "no-address")
        assert "HF_ENDPOINT" in refusal(REPOSITORY)
        reach_hub_at(down, hub.url)
        down.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "(HF_HUB_OFFLINE is set)" in refusal(REPOSITORY)
        kept = Path(constants.HF_HUB_CACHE, "models--some--one")  # by a program that read the config alone
        (kept / "snapshots" / commit).mkdir(parents=True)
        (kept / "snapshots" / commit / "config.json").write_text("{}")
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(commit)
        assert "(HF_HUB_OFFLINE is set)" in refusal("some/one")
    (fetch(REPOSITORY).folder / "model.safetensors").unlink()
    reach_hub_at(monkeypatch, CLOSED)
    assert "is not whole in" in refusal(REPOSITORY)


def test_connections_that_break(hub):
    hub.publish(REPOSITORY, **SMALL, **WHOLE)
    hub.cuts["model.safetensors"] = 1
    assert load_file(fetch(REPOSITORY).folder / "model.safetensors")["a"].tolist() == TENSORS["a"].tolist()

    hub.publish(REPOSITORY, **SMALL, **{"model.safetensors": b""}, **{"tokenizer.json": b"[]" * 50})
    hub.cuts["tokenizer.json"] = 1_000
    assert "cannot be fetched" in refusal(REPOSITORY)
    assert not [*Path(constants.HF_HUB_CACHE).rglob("*.incomplete")], "no half file is left"


@pytest.mark.parametrize(("error", "words"), [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "set HF_HOME to a larger disk"),
    (RuntimeError("Xet: I/O error: No space left on device (os error 28)"), "set HF_HOME to a larger disk"),
    (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "cannot write /a/b (Permission denied)"),
    (RuntimeError("Xet: CAS service\nerror"), "(Xet: CAS service)"),
    (ValueError(), "(ValueError)"),
])  # fmt: skip
def test_other_failures_name_their_remedy(hub, monkeypatch, error, words):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(ours, "snapshot_download", fail)
    assert words in refusal(REPOSITORY)


def test_a_portal_that_answers_in_place_of_the_hub(hub):
    hub.page = b"<html>please log in</html>"
    assert "cannot be fetched" in refusal(REPOSITORY)


@pytest.mark.slow
def test_the_named_command_brings_what_is_missing(hub, tmp_path, monkeypatch):
    """In processes of their own, with the variables that people set."""
    commit = hub.publish(REPOSITORY, **SMALL, **OTHERS, **PICKLE)
    with monkeypatch.context() as down:
        down.setattr(constants, "HF_HUB_OFFLINE", True)
        command = shlex.split(re.search(r"`(hf download .*?)`", refusal(REPOSITORY))[1])
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    environment |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1"}  # which asks the package index
    environment.pop("HF_HUB_CACHE", None)
    subprocess.run([Path(sys.executable).with_name("hf"), *command[1:]], env=environment, check=True)
    code = f"from w2v.weights.hub import fetch; print(fetch({REPOSITORY!r}))"
    environment |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": CLOSED}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert commit in done.stdout, done.stderr
    assert str(tmp_path / "home") in done.stdout


def test_specs():
    assert parse_spec("owner/name") == ("owner/name", None)
    assert parse_spec("facebook/w2v-bert-2.0@refs/pr/3") == ("facebook/w2v-bert-2.0", "refs/pr/3")
    for spec in ("name", "a/b/c", "/a/b", "./a", "../a", "owner/name@", "owner/na me", "owner/"):
        with pytest.raises(InputError, match="owner/name@revision"):
            parse_spec(spec)
