"""Steps that are skipped, and spikes of loss and gradient norm: counted, named, and the end of a run that diverges.

Run: pytest tests/recipes/test_guards.py
"""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from recipes import cv_finetune
from recipes.guards import FEWEST, MOST_SKIPPED, SPIKES, Usual, count_skipped, note_spikes
from w2v.errors import InputError
from w2v.models.wav2vec2 import Wav2Vec2ForCTC
from w2v.training.state import Progress
from w2v.training.step import StepResult

FP32, FP16 = (SimpleNamespace(precision=precision, total_steps=1000) for precision in ("fp32", "fp16"))


def result(number: int, losses=(1.0, 3.0), norm: float = 1.0, weights=(1.0, 1.0)) -> StepResult:
    names = [f"clip{i}.mp3" for i in range(len(losses))]
    updated = torch.tensor(math.isfinite(norm))
    return StepResult(number, torch.tensor(losses), names, list(weights), {}, torch.tensor(norm), updated, None)


def test_a_run_stops_after_so_many_skipped_steps_in_a_row():
    progress = Progress()
    for number in range(MOST_SKIPPED - 1):
        line = count_skipped(result(number, (1.0, math.nan), math.nan), progress, FP32)
        assert line == f"step {number + 1} is skipped: the loss is not finite for clip1.mp3"
    assert count_skipped(result(50), progress, FP32) is None
    assert (progress.skipped, progress.skipped_in_a_row) == (MOST_SKIPPED - 1, 0)
    for number in range(MOST_SKIPPED - 1):
        line = count_skipped(result(number, norm=math.inf), progress, FP32)
        assert line == f"step {number + 1} is skipped: a gradient is not finite, with the clips clip0.mp3, clip1.mp3"
    with pytest.raises(InputError, match="20 steps in a row could not be taken, in step 60 a gradient is not finite"):
        count_skipped(result(59, norm=math.inf), progress, FP32)


def test_an_overflow_in_half_precision_is_not_worth_a_line():
    progress = Progress()
    assert count_skipped(result(0, norm=math.inf), progress, FP16) is None
    assert progress.skipped == 1
    assert "clip1" in count_skipped(result(1, (1.0, math.inf), math.inf), progress, FP16)


def test_spikes_name_the_clips_with_the_highest_losses(tmp_path):
    usual = Usual()
    calm = [result(number, (0.8, 1.0 + number % 3 / 10)) for number in range(FEWEST)]
    assert note_spikes(calm, usual, tmp_path) is None
    assert not (tmp_path / SPIKES).exists()
    line = note_spikes([result(20, (0.9, 9.1)), result(21), result(22, norm=math.nan)], usual, tmp_path)
    assert line == "step 21: loss 5, 0.95 is usual; highest losses: clip1.mp3 9.1, clip0.mp3 0.9"
    line = note_spikes([result(23, norm=11.0), result(24, (10.0, 10.0))], usual, tmp_path)
    assert line.startswith("step 24: gradient norm 11, 1 is usual") and line.endswith(
        f"; 1 more in {tmp_path / SPIKES}"
    )
    rows = [line.split("\t") for line in (tmp_path / SPIKES).read_text().splitlines()]
    assert rows[0] == ["step", "what", "value", "usual", "clips"]
    assert [row[:2] for row in rows[1:]] == [["21", "loss"], ["24", "gradient norm"], ["25", "loss"]]
    assert rows[1][4] == "clip1.mp3 9.100, clip0.mp3 0.900"


def test_losses_are_compared_by_what_clips_weigh(tmp_path):
    """Whisper's are sums over tokens: a long text is no spike."""
    usual = Usual()
    note_spikes([result(n, (10.0, 20.0), weights=(10.0, 20.0)) for n in range(FEWEST)], usual, tmp_path)
    assert note_spikes([result(20, (100.0, 200.0), weights=(100.0, 200.0))], usual, tmp_path) is None


def test_training_goes_on_over_a_clip_without_a_finite_loss(cache, tmp_path, monkeypatch, capsys):
    """It is named, counted in the log, and nothing of it gets into the weights or the mean loss."""
    losses, seen = Wav2Vec2ForCTC.losses, []

    def told(model, batch):
        found = losses(model, batch)
        seen.extend(batch.names)
        factor = [math.nan if name == seen[0] else 1.0 for name in batch.names]
        return found._replace(values=found.values * torch.tensor(factor))

    monkeypatch.setattr(Wav2Vec2ForCTC, "losses", told)
    out = tmp_path / "run"
    cv_finetune.main(["--lang", "tr", "--model", "tiny", "--max-train-clips", "8", "--batch-clips", "2",
                      "--max-steps", "6", "--log-steps", "1", "--eval-steps", "6", "--device", "cpu",
                      "--out", str(out)])  # fmt: skip
    assert f"step 1 is skipped: the loss is not finite for {seen[0]}\n" in capsys.readouterr().err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    log = [line for line in lines if "lr" in line]
    assert "loss" not in log[0] and all(math.isfinite(line["loss"]) for line in log[1:4])
    assert log[0]["skipped_steps"] == 1 and log[-1]["skipped_steps"] == 2, "once in each epoch of four steps"
    assert all(torch.isfinite(weight).all() for weight in load_file(out / "model.safetensors").values())
