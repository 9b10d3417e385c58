"""Shared by all tests: the device option, the real Turkish clips, a small model."""

import dataclasses
import json
from pathlib import Path

import recipes  # noqa: F401  before torch, as in every command: torch's threads burn less time beside other processes

# isort: split
import pytest
import torch
from fake_hub import FakeHub
from huggingface_hub import constants

import w2v

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "recipes" / "sample" / "tr"
SHARED = ROOT.parent / "shared"  # larger material, where it is at hand
LISTS = ROOT / "tests" / "lists"  # names and shapes of the tensors of published models


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes and rarely break")
    parser.addoption("--whisper", metavar="DIR", help="also run the tests that read Whisper's real files: its folders "
                     "base and tiny.en, as shared/tools/whisper_weights.py writes them")  # fmt: skip
    parser.addoption("--device", default="cpu", help="also run the tests that need this device: cpu or cuda")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skipif(True, reason="needs --long"))
    if config.getoption("--device") == "cuda" and torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skipif(True, reason="needs --device cuda"))


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    return sorted((SAMPLE / "clips").glob("*.mp3"))


def published(file: str) -> dict[str, torch.Tensor]:
    """The tensors of a list, on the meta device: names and shapes, no numbers."""
    lines = (LISTS / file).read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {name: torch.empty(json.loads(shape), device="meta") for name, shape in rows}


@pytest.fixture(scope="session")
def whisper_folder(request):
    """name -> the folder of that name among Whisper's real ones (base, tiny.en); skips where it is not at hand."""
    root = request.config.getoption("--whisper")

    def folder(name: str) -> Path:
        if root is None or not (Path(root) / name).is_dir():
            pytest.skip(f"needs --whisper DIR with {name}")
        return Path(root) / name

    return folder


@pytest.fixture(scope="session")
def decoded(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cache(decoded):
    """The commands' cache, which the modules that ask for it share: the sample is decoded once."""
    patch = pytest.MonkeyPatch()
    patch.setenv("W2V_CACHE", str(decoded))
    patch.delenv("COMMON_VOICE_ROOT", raising=False)
    yield
    patch.undo()


@pytest.fixture
def small_config() -> w2v.Wav2Vec2Config:
    """All of XLSR's parts at a size that runs in milliseconds, nothing random in training mode."""
    return dataclasses.replace(
        w2v.TINY,
        num_hidden_layers=2,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        final_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of our own with an empty cache and no token: huggingface_hub reaches no other, and waits for nothing."""
    hub = FakeHub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    reach_hub_at(monkeypatch, hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go to the Hub itself, not to Xet's store
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield hub
    hub.close()


def reach_hub_at(monkeypatch, url: str) -> None:
    """Set what HF_ENDPOINT sets while huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
