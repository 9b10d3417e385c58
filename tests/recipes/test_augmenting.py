"""--augment and its folders: what they refuse, which clips they change, and how a run with them goes on.

Run: pytest tests/recipes/test_augmenting.py          (whole runs: -m slow)
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import SAMPLE

from recipes import cv_finetune
from recipes.augmenting import augmentations
from recipes.settings import parse_arguments
from w2v.augmentation import augment
from w2v.data import loading
from w2v.errors import InputError
from w2v.resampling import SAMPLE_RATE

QUICK = ["--lang", "tr", "--data", str(SAMPLE), "--model", "tiny", "--max-train-clips", "8", "--accumulation", "1"]
ALL = ["--augment", "speed,gain,noise,rooms"]
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def noises(tmp_path) -> Path:
    folder = tmp_path / "noises"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.wav", "deep/b.flac"):
        soundfile.write(folder / name, rng.uniform(-0.1, 0.1, SAMPLE_RATE), SAMPLE_RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def augmented(monkeypatch) -> list[int]:
    """The samples of each clip that was augmented, before and in the order of that."""
    found: list[int] = []

    def noted(waveform, *rest):
        found.append(len(waveform))
        return augment(waveform, *rest)

    monkeypatch.setattr(loading, "augment", noted)
    return found


def last_weights(out: Path) -> dict[str, torch.Tensor]:
    """Of the newest state: what is exported may be older."""
    return torch.load(max((out / "checkpoints").glob("step-*.pt")), weights_only=True)["model"]


def test_parts_have_one_order():
    assert augmentations("rooms, speed") == "speed,rooms"
    assert augmentations("none") == "none"


@pytest.mark.parametrize("text", ["", "none,speed", "echo", "speed,"])
def test_parts_that_are_none(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["--lang", "tr", "--augment", text], "x", "y")
    assert stopped.value.code == 2
    assert "argument --augment: must be none or of speed, gain, noise, rooms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise-folder", "{}"], "--noise-folder needs noise in --augment, which is speed,gain"),
        (["--augment", "speed", "--room-folder", "{}"], "--room-folder needs rooms in --augment, which is speed"),
        (["--augment", "noise", "--noise-folder", "{}"], "empty must hold audio files that can be read, it holds none"),
        (["--augment", "noise", "--noise-folder", "{}/none"], "cannot read the folder .*none: No such file"),
        (["--augment", "rooms", "--room-folder", "{}/../bad"], "bad must hold .*, a.wav is unreadable"),
    ],
)
def test_folders_that_are_of_no_use_are_one_line(flags, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"RIFF")
    words = [word.format(tmp_path / "empty") for word in flags]
    with pytest.raises(InputError, match=message) as refused:
        cv_finetune.main([*QUICK, *words, "--batch-clips", "4", "--out", str(tmp_path / "run")])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_batch_seconds_bounds_the_slowest_clips(tmp_path):
    """What the longest clip counts as, by the message of a budget that holds none."""

    def longest(*more: str) -> float:
        with pytest.raises(InputError, match="`batch_seconds` must hold the longest clip") as refused:
            cv_finetune.main([*QUICK, "--batch-seconds", "1", "--out", str(tmp_path / "run"), *more])
        return float(re.search(r"counts as ([\d.]+) s", str(refused.value))[1])

    plain = longest("--augment", "none")
    assert longest("--augment", "gain,noise,rooms") == plain
    assert longest("--augment", "speed") > plain / 0.9 - 0.1


@pytest.mark.slow
def test_a_run_augments_what_it_trains_on_alone_and_goes_on(noises, augmented, tmp_path, capsys):
    """Six steps of four clips. Two make an epoch, and a state is saved in the middle of one."""
    out, copy = tmp_path / "run", tmp_path / "copy"
    steps = ["--batch-clips", "4", "--max-steps", "6", "--eval-steps", "3", "--save-steps", "3", "--lr", "1e-3"]
    command = [*QUICK, *ALL, *steps, "--mask-from", "4", "--noise-folder", str(noises)]
    cv_finetune.main([*command, "--out", str(out)])
    assert len(augmented) == 6 * 4, "neither evaluations nor the worst batch"
    said = capsys.readouterr().err
    assert "--noise-folder: broken.wav is skipped, unreadable" in said
    assert "notes.txt" not in said
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert re.search(
        r"speed 0\.9, 1\.0, 1\.1; gain .*; noise .*, from 2 recordings \(\w+\); rooms", settings["augment"]
    )
    assert f"augmentation: {settings['augment']}" in said
    assert settings["mask_from"] == 4

    shutil.copytree(out, copy)
    (copy / "checkpoints" / "step-0000006.pt").unlink()
    augmented.clear()
    cv_finetune.main(["--resume", "--out", str(copy)])
    assert len(augmented) == 3 * 4
    one, two = (last_weights(folder) for folder in (out, copy))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(InputError, match="--augment was speed,gain,noise,rooms, now gain"):
        cv_finetune.main(["--resume", "--out", str(copy), "--augment", "gain,noise"])
    soundfile.write(noises / "c.wav", np.full(100, 0.5), SAMPLE_RATE)
    with pytest.raises(InputError, match="--resume needs the run's own settings: augment was"):
        cv_finetune.main(["--resume", "--out", str(copy)])


@pytest.mark.slow
def test_epochs_differ_and_none_changes_nothing(augmented, tmp_path):
    steps = ["--batch-clips", "8", "--max-steps", "2", "--eval-steps", "9", "--log-steps", "1"]
    none = ["--augment", "none"]
    runs = {name: tmp_path / name for name in ("plain", "again", "all")}
    for name, more in zip(runs, (none, none, ALL), strict=True):
        cv_finetune.main([*QUICK, *steps, *more, "--out", str(runs[name])])
    assert len(augmented) == 2 * 8
    assert sorted(augmented[:8]) == sorted(augmented[8:])  # all clips in each epoch
    plain, again, every = (last_weights(out) for out in runs.values())
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert not all(torch.equal(plain[name], every[name]) for name in plain)
