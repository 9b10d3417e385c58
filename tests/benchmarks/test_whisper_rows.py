"""The rows of benchmarks.whisper: what they count, and the cheap ones end to end.

Run: pytest tests/benchmarks/test_whisper_rows.py          (the rows themselves: add --whisper DIR -m slow)
"""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common, whisper
from benchmarks.flops import whisper_products
from benchmarks.products import seconds_of
from benchmarks.whisper_clips import training_batch
from recipes.console import Parser
from w2v.asr import Recogniser
from w2v.errors import InputError
from w2v.models.whisper import WhisperForConditionalGeneration
from w2v.models.whisper_config import WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer


def test_case_and_punctuation_do_not_count():
    assert whisper.bare("And so, my fellow Americans: ask not") == "and so my fellow americans ask not"
    assert whisper.bare("ill-disposed") == "ill disposed"


def test_lateness_is_that_of_words_heard_as_written():
    known = [("mister", 0.2), ("john", 0.5), ("had", 1.0), ("leisure", 1.5)]
    heard = [("mr", 0.3), ("john", 0.4), ("has", 9.0), ("leisure", 1.5)]
    assert whisper.lateness(known, heard) == pytest.approx([0.1, -0.1, 0.0])


def test_a_row_must_be_asked_for_and_the_weights_be_there(tmp_path):
    with pytest.raises(InputError, match="at least one row"):
        whisper.main(["--weights", str(tmp_path)])
    with pytest.raises(InputError, match=r"--weights must be a folder with base in it.*whisper_weights.py"):
        whisper.main(["--weights", str(tmp_path), "--parity"])


def test_a_row_is_saved_and_one_that_misses_ends_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["this.py", "--good", "--bad-one"])
    rows = {"good": lambda args: ({"figure": 1}, "stated", True), "bad-one": lambda args: ({}, "more", False)}
    assert common.run_rows(Parser(prog="python -m benchmarks.this"), rows, ["--good"])["rows"]["good"]["holds"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        common.run_rows(Parser(prog="python -m benchmarks.this"), rows, ["--good", "--bad-one", "--save"])
    assert ended.value.code == 1 and "bad-one: the goal is missed" in capsys.readouterr().err
    saved = json.loads((tmp_path / "this-good.json").read_text())
    assert saved["good"] == {"figure": 1, "holds": True} and saved["goal"] == "stated"
    assert saved["command"].startswith("python -m benchmarks.this ") and saved["machine"]["torch"]
    assert not json.loads((tmp_path / "this-bad-one.json").read_text())["bad-one"]["holds"]


@pytest.fixture(scope="module")
def small() -> Recogniser:
    tokenizer = WhisperTokenizer.from_texts(["a"]).for_language("tr")
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=40, max_source_positions=400,
    )  # fmt: skip
    config = dataclasses.replace(config, **config.for_vocabulary(tokenizer))
    return Recogniser(WhisperForConditionalGeneration(config), tokenizer)


@pytest.mark.parametrize("way", ["trained", "frozen", "kept"])
def test_bare_products_are_those_of_a_step(small, way):
    """As many floating-point operations as torch counts in the step; one clip, so that no label is padding."""
    batch = training_batch(small, 1)
    small.model.parts.encoder.requires_grad_(way == "trained")
    if way == "kept":
        batch = dataclasses.replace(batch, heard=small.model.hear(batch).detach())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        small.model.losses(batch).values.sum().backward()
    found = whisper_products(small.model.config, batch.label_lengths.tolist(), way)
    flops = sum(
        2 * each.times * each.at_once * each.rows * each.inner * each.columns * (1 + each.gradients) for each in found
    )
    assert flops == counter.get_total_flops()


def test_each_product_is_timed():
    assert all(seconds > 0 for size in ((1, 8, 8, 8), (2, 8, 8, 8)) for seconds in seconds_of(*size))


@pytest.mark.slow
def test_the_cheap_rows_hold(whisper_folder):
    weights = whisper_folder("base").parent
    whisper_folder("tiny.en")
    rows = whisper.main(["--weights", str(weights), "--jfk"])["rows"]
    assert all(figures["holds"] for figures in rows.values())
