"""Where training starts: names, folders, and published models fetched from a local server.

Run: pytest tests/recipes/test_start.py
"""

import functools
import http.server
import threading

import pytest
import torch
from safetensors.torch import load_file

import w2v
from recipes import start
from w2v.models.families import published
from w2v.weights import download


@pytest.fixture
def server(small_config, tmp_path):
    """A small checkpoint as the Hub serves XLSR-53: config.json and pytorch_model.bin."""
    site = tmp_path / "site"
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(site)
    torch.save(load_file(site / "model.safetensors"), site / "pytorch_model.bin")
    (site / "model.safetensors").unlink()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_published_model_is_fetched_converted_and_kept(server, tmp_path, monkeypatch, capsys):
    files = tuple(f"{server}/{name}" for name in ("config.json", "pytorch_model.bin"))
    monkeypatch.setitem(download.PUBLISHED, "xlsr-53", files)
    base = start.resolve_model("xlsr-53", tmp_path / "cache")
    folder = tmp_path / "cache" / "models" / "xlsr-53"
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert base.checkpoint == folder
    assert capsys.readouterr().err.count("SHA-256") == 2
    tokenizer = w2v.CharTokenizer.from_texts(["abc"])
    assert base.build(tokenizer, {}).config.vocab_size == len(tokenizer)
    monkeypatch.setitem(download.PUBLISHED, "xlsr-53", ("http://127.0.0.1:9/config.json",))
    assert start.resolve_model("xlsr-53", tmp_path / "cache").checkpoint == folder, "the second time is offline"


def test_every_named_config_has_its_public_repository_or_none():
    assert set(published()) | {"tiny"} == set(w2v.CONFIGS)
    assert published()["xlsr-53"] == "facebook/wav2vec2-large-xlsr-53"


def test_random_names(tmp_path):
    assert start.resolve_model("tiny", tmp_path).checkpoint is None
    assert start.resolve_model("random:xls-r-1b", tmp_path).config == w2v.XLS_R_1B
