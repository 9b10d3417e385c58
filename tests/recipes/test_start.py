"""Where training starts: names, folders, and models fetched from a Hub of our own.

Run: pytest tests/recipes/test_start.py
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from conftest import reach_hub_at
from safetensors.torch import load_file

import w2v
from recipes import cv_finetune, start
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.language_model import LanguageModel, save_language_model
from w2v.errors import InputError
from w2v.models import families
from w2v.models.w2v_bert_config import W2V_MINI


@pytest.fixture
def published(small_config, tmp_path, hub):
    """publish(repository, pickled) -> the commit of a small checkpoint, weights as XLSR-53's or as safetensors."""
    site = tmp_path / "site"
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(site)
    torch.save(load_file(site / "model.safetensors"), site / "pytorch_model.bin")

    def publish(repository: str, pickled: bool = False) -> str:
        names = ("config.json", "pytorch_model.bin" if pickled else "model.safetensors")
        return hub.publish(repository, **{name: (site / name).read_bytes() for name in names})

    return publish


def test_published_model_is_fetched_converted_and_kept(published, tmp_path, monkeypatch):
    commit = published("facebook/wav2vec2-large-xlsr-53", pickled=True)
    base = start.resolve_model("xlsr-53", tmp_path / "cache")
    folder = tmp_path / "cache" / "models" / f"facebook--wav2vec2-large-xlsr-53@{commit}"
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert base.checkpoint == folder
    assert (base.name, base.short_name) == ("xlsr-53", "xlsr-53")
    assert (base.hub_id, base.commit) == ("facebook/wav2vec2-large-xlsr-53", commit)
    tokenizer = w2v.CharTokenizer.from_texts(["abc"])
    assert base.build(tokenizer, {}).config.vocab_size == len(tokenizer)
    reach_hub_at(monkeypatch, "http://127.0.0.1:9")
    assert start.resolve_model("xlsr-53", tmp_path / "cache") == base, "the second time is offline"


def test_any_repository_at_any_revision(published, tmp_path):
    old = published("some-one/some.model-2.0")
    new = published("some-one/some.model-2.0", pickled=True)
    assert start.resolve_model("some-one/some.model-2.0", tmp_path / "cache").commit == new
    base = start.resolve_model(f"some-one/some.model-2.0@{old}", tmp_path / "cache")
    assert (base.hub_id, base.commit, base.short_name) == ("some-one/some.model-2.0", old, "some.model-2.0")
    assert base.checkpoint.name == old, "safetensors are read where the Hub's cache holds them"
    with pytest.raises(InputError, match="has no revision v9"):
        start.resolve_model("some-one/some.model-2.0@v9", tmp_path / "cache")


def test_a_run_records_repository_and_commit(published, tmp_path, monkeypatch):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    commit = published("some-one/model")
    few = ["--max-train-clips", "4", "--batch-clips", "2", "--max-steps", "1", "--device", "cpu"]
    cv_finetune.main(["--lang", "tr", "--model", "some-one/model", "--out", str(tmp_path / "out"), *few])
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["model"], run["model_commit"]) == ("some-one/model", commit)
    assert "base_model: some-one/model\n" in (tmp_path / "out" / "README.md").read_text()


def test_the_licence_is_the_checkpoints_own(small_config, tmp_path):
    """MMS may not be used commercially: a card that says apache-2.0 of a model made from it would be false."""
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(tmp_path)
    assert start.resolve_model(str(tmp_path), tmp_path).licence == ""
    (tmp_path / "README.md").write_text("---\ntags:\n- mms\nlicense: cc-by-nc-4.0\n---\n# MMS\nlicense: mit\n")
    assert start.resolve_model(str(tmp_path), tmp_path).licence == "cc-by-nc-4.0"
    assert start.resolve_model(str(tmp_path / "model.safetensors"), tmp_path).licence == "cc-by-nc-4.0"
    assert start.resolve_model("random:tiny", tmp_path).licence == ""
    for card, licence in (
        ("---\ntitle: a --- b\nlicense: 'mit' # free\n---\n", "mit"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", ""),
        ("---\nlicense: {a: b\n---\n", ""),
        ("---\nlicense: |\n  mit\n  tags: x\n---\n", ""),
        ("---\nlicense: mit\n---\n" + "x" * 1_000_000, "mit"),
        ("---\nlicense: " + "[" * 10_000 + "\n---\n", ""),
        ("no front matter\nlicense: mit\n", ""),
    ):
        (tmp_path / "README.md").write_text(card)
        assert start.resolve_model(str(tmp_path), tmp_path).licence == licence


@pytest.mark.parametrize(
    "card",
    [b"", b"---", b"---\nlicense: \n---", b"---\nlicense: " + b"x" * 10**6 + b"\n---", b"\xff\xfe---\nlicense: mit",
     b"---\nlicense: \xd9\xa3\n---", b"---\nlicense: ---\n", "---\nlicense: \u202emit\n---".encode()],
)  # fmt: skip
def test_a_licence_that_is_none_is_left_out(card, small_config, tmp_path):
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes(card)
    assert start.resolve_model(str(tmp_path), tmp_path).licence == ""


def test_a_card_need_not_be_text_to_its_end(small_config, tmp_path):
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes(b"---\nlicense: 'mit'\n---\n\xff" + b"text" * 10**5)
    assert start.resolve_model(str(tmp_path), tmp_path).licence == "mit"


def test_a_path_wins(small_config, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in ("some-one/model", "xlsr-53"):
        w2v.Wav2Vec2ForCTC(small_config).save_pretrained(tmp_path / spec)
        base = start.resolve_model(spec, tmp_path / "cache")
        assert (str(base.checkpoint), base.hub_id, base.commit) == (spec, "", "")
    assert not hub.requests


def test_every_named_config_has_its_public_repository_or_none():
    assert set(families.published()) | {"tiny", "w2v-bert-tiny", "w2v-mini"} == set(families.shapes())


def test_the_boxed_model_is_small_pretrained_and_told_of(tmp_path):
    """At most 4 million parameters and 8 MB, in half precision; its card says of what and by which command."""
    boxed = start.resolve_model(start.BOX.name, tmp_path)
    assert (boxed.name, boxed.short_name, boxed.checkpoint) == ("w2v-mini", "w2v-mini", start.BOX)
    for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "add_adapter"):
        assert getattr(boxed.config, name) == getattr(W2V_MINI, name)
    tensors = load_file(start.BOX / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors.values()) <= 4e6
    assert sum(file.stat().st_size for file in start.BOX.iterdir()) <= 8e6
    card = (start.BOX / "README.md").read_text(encoding="utf-8")
    assert "python -m benchmarks.mini" in card and boxed.licence == "cc0-1.0"
    assert start.default_model(is_sample=True) == "w2v-mini"
    assert start.resolve_model("random:w2v-mini", tmp_path).checkpoint is None


def test_others_can_load_the_boxed_model(tmp_path):
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    theirs = transformers.Wav2Vec2BertForCTC.from_pretrained(start.BOX, dtype=torch.float32).eval()
    ours = start.resolve_model(start.BOX.name, tmp_path)
    model = ours.build(ours.tokenizer, {}).eval()
    batch = model.config.collate([waveform])
    with torch.no_grad():
        torch.testing.assert_close(model(batch).logits, theirs(batch.inputs).logits, atol=1e-4, rtol=0)


def test_random_names(tmp_path):
    assert start.resolve_model("tiny", tmp_path).checkpoint is None
    assert start.resolve_model("random:xls-r-1b", tmp_path).config == w2v.XLS_R_1B


def test_shapes_of_published_models_need_no_network(hub, tmp_path):
    start_of = start.resolve_model("xlsr-53", tmp_path, weights=False)
    assert (start_of.config, start_of.checkpoint) == (w2v.XLSR_53, None)
    assert not hub.requests


def test_other_architectures_are_refused_before_their_weights_are_fetched(hub, tmp_path):
    hub.publish("some-one/hubert", **{"config.json": b'{"model_type": "hubert"}', "model.safetensors": b"\0" * 1000})
    with pytest.raises(InputError, match="must be one of wav2vec2"):
        start.resolve_model("some-one/hubert", tmp_path)
    assert not any("model.safetensors" in str(request) for request in hub.requests)


def test_a_recogniser_is_loaded_from_the_hub(small_config, hub, tmp_path):
    tokenizer = w2v.CharTokenizer.from_texts(["abcdef"])
    w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, **small_config.for_vocabulary(tokenizer))).save_pretrained(
        tmp_path / "m"
    )
    tokenizer.save_pretrained(tmp_path / "m")
    hub.publish("some-one/model", **{file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()})
    assert len(w2v.load("some-one/model").transcribe([torch.randn(16_000)])) == 1
    corpus = Corpus()
    corpus.add(["abc", "def"])
    save_language_model(tmp_path / "m", LanguageModel(estimate_ngram(corpus, 2).ngram, alpha=0.7), tokenizer)
    files = {str(f.relative_to(tmp_path / "m")): f.read_bytes() for f in (tmp_path / "m").rglob("*") if f.is_file()}
    hub.publish("some-one/with-lm", **files)
    assert w2v.load("some-one/with-lm").lm.alpha == 0.7
    assert w2v.load("some-one/with-lm", lm=False).lm is None
