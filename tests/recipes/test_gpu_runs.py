"""A whole run of each family on a GPU: compiled layers, half precision, evaluation, export.

Run: pytest --device cuda tests/recipes/test_gpu_runs.py          (about a minute each, most of it compiling)
"""

import json
import math

import pytest
from test_whisper_recipes import make_whisper

import w2v
from recipes import cv_finetune

MODELS = ["tiny", "random:w2v-bert-tiny", "whisper"]
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Models that no name gives: Whisper's smallest would write on and on with random weights."""
    return {"whisper": make_whisper(tmp_path_factory.mktemp("whisper"))}


def run_there(model: str, out, *flags: str) -> dict:
    args = ["--lang", "tr", "--model", model, "--device", "cuda", "--out", str(out), "--max-train-clips", "12"]
    return cv_finetune.main(
        [*args, "--no-audio", "--batch-clips", "4", "--max-steps", "6", "--eval-steps", "3", *flags]
    )


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_trains_measures_and_exports_there(tmp_path, capsys, clips, folders, model, precision):
    summary = run_there(folders.get(model, model), tmp_path / "run", "--precision", precision)
    assert "without compiled layers" not in capsys.readouterr().err
    assert summary["steps"] == 6 and all(summary[rate] >= 0.0 for rate in ("wer", "cer", "dev_cer", "train_cer"))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses and all(map(math.isfinite, losses))
    heard = w2v.load(tmp_path / "run", device="cuda").transcribe([clips[0]])[0]
    assert isinstance(heard.text, str)  # of random weights, whose text a last digit may change


@pytest.mark.cuda
@pytest.mark.parametrize("model", MODELS)
def test_a_run_with_checkpointing_has_the_losses_of_one_without(tmp_path, folders, model):
    found = []
    for checkpointing in ("off", "on"):
        out = tmp_path / checkpointing
        run_there(folders.get(model, model), out, "--precision", "fp32", "--gradient-checkpointing", checkpointing)
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        found.append([line["loss"] for line in lines if "loss" in line])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
