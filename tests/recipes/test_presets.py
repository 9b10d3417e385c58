"""Presets: by hours of speech, by what a GPU's memory holds, and what they set of a family's config.

Run: pytest tests/recipes/test_presets.py
"""

import dataclasses
from pathlib import Path

import pytest
import torch

import w2v
from recipes import presets
from recipes.settings import choose_preset
from recipes.start import StartingPoint
from w2v.models.families import FAMILIES


def shape(config: w2v.Wav2Vec2Config) -> w2v.Wav2Vec2ForCTC:
    with torch.device("meta"):
        return w2v.Wav2Vec2ForCTC(config)


@pytest.mark.parametrize(("hours", "name"), [(0.1, "small"), (19.9, "small"), (20, "medium"), (200, "large")])
def test_by_hours(hours, name):
    assert presets.choose(hours, False, False, "wav2vec2", None).name == name
    assert presets.choose(hours, True, False, "wav2vec2", None).name == "sample"
    assert presets.choose(hours, False, True, "wav2vec2", None).name == "adapter"


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert", "another"])
def test_fresh_and_small_models_have_presets_of_their_own(family):
    """Whisper's have not: its family has none that a laptop trains."""
    large, small = (presets.choose(5.0, False, False, family, c, fresh=True) for c in (w2v.XLSR_53, w2v.TINY))
    assert (large.name, large.gradient_checkpointing, large.precision) == ("scratch", True, "auto")
    assert (small.name, small.gradient_checkpointing, small.precision) == ("scratch", False, "fp32")
    assert presets.choose(5.0, False, False, family, w2v.TINY).name == "mini"
    assert presets.choose(5.0, False, False, family, w2v.XLSR_53).name in ("small", "w2v-bert-small")
    assert presets.choose(5.0, False, False, "whisper", w2v.WhisperConfig(), fresh=True).name == "whisper-small"
    assert presets.choose(5.0, True, False, family, w2v.TINY, fresh=True).name == "sample"


def test_a_batch_of_every_preset_holds_the_longest_clip():
    """--max-seconds is 20 by default, a clip counts more than that, and its slowest version is a ninth longer."""
    longest = max(w2v.XLSR_53.cost(int(20 / 0.9 * 16_000)), w2v.W2V_BERT_2.cost(int(20 / 0.9 * 16_000)))
    for preset in (presets.SCRATCH, presets.MINI, presets.SMALL, presets.W2V_BERT_SMALL):
        assert preset.batch_seconds >= longest


def test_a_large_gpu_takes_the_effective_batch_at_once():
    """XLSR-53 needs 5 GB of states and 7 GB of activations for 160 s: counted in reference figures of 24 layers."""
    preset = presets.for_memory(presets.SMALL, shape(w2v.XLSR_53), 80 * 10**9)
    assert (preset.batch_seconds, preset.accumulation, preset.gradient_checkpointing) == (160.0, 1, False)
    assert presets.SMALL.batch_seconds * presets.SMALL.accumulation == preset.batch_seconds
    assert "12 GB of this GPU's 80" in preset.reason
    assert presets.for_memory(presets.SMALL, shape(w2v.XLSR_53), 12 * 10**9) == presets.SMALL
    assert presets.for_memory(presets.SMALL, shape(w2v.XLS_R_2B), 40 * 10**9) == presets.SMALL
    assert presets.for_memory(presets.SAMPLE, shape(w2v.TINY), 80 * 10**9) == presets.SAMPLE


class Args:
    """What choose_preset reads of the flags."""

    adapter = False
    batch_seconds = batch_clips = accumulation = gradient_checkpointing = None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 160.0),
        ({"accumulation": 4}, 80.0),  # of the preset that people know
        ({"batch_clips": 8}, 80.0),
        ({"gradient_checkpointing": "on"}, 80.0),
    ],
)
def test_a_flag_that_sizes_the_batch_keeps_the_preset(given, seconds, monkeypatch):
    args = type("Given", (Args,), given)()
    memory = type("Properties", (), {"total_memory": 80 * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    start = StartingPoint("xlsr-53", FAMILIES["wav2vec2"], w2v.XLSR_53, Path("xlsr-53"))
    preset = choose_preset(args, start, 1.0, False, torch.device("cuda", 0), None, 0.3)
    assert preset.batch_seconds == seconds


def test_a_run_goes_on_with_its_own_batches_on_another_gpu(monkeypatch):
    recorded = {"batch_seconds": 160.0, "batch_clips": None, "accumulation": 1, "gradient_checkpointing": False}
    start = StartingPoint("xlsr-53", FAMILIES["wav2vec2"], w2v.XLSR_53, Path("xlsr-53"))
    preset = choose_preset(Args(), start, 1.0, False, torch.device("cpu"), recorded, 0.3)
    assert {name: getattr(preset, name) for name in recorded} == recorded


def test_every_field_that_a_preset_sets_is_the_familys():
    known = {field.name for field in dataclasses.fields(w2v.Wav2Vec2Config)}
    for preset in (
        presets.SAMPLE, presets.SCRATCH, presets.MINI, presets.SMALL, presets.MEDIUM, presets.LARGE, presets.ADAPTER
    ):  # fmt: skip
        fields = presets.model_fields(preset, "wav2vec2")
        assert fields
        assert set(fields) <= known
    for config in (w2v.WhisperConfig, w2v.Wav2Vec2BertConfig):
        known |= {field.name for field in dataclasses.fields(config)}
    assert set(presets.MODEL_FLAGS) <= known
    assert presets.model_fields(presets.SMALL, "another") == {}
