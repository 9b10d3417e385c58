"""--freeze-layers and --layer-decay: what they refuse, what a run with them trains, and how it goes on.

Run: pytest tests/recipes/test_layer_flags.py          (a run that goes on, two processes: -m slow)
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SAMPLE
from safetensors.torch import load_file

from recipes import cv_finetune
from recipes.settings import parse_arguments
from w2v.errors import InputError

QUICK = ["--lang", "tr", "--data", str(SAMPLE), "--max-train-clips", "8", "--batch-clips", "4", "--accumulation", "1"]
FLAGS = ["--freeze-layers", "2", "--layer-decay", "0.8", "--head-warmup-steps", "1", "--gradient-checkpointing", "on"]
SIX_STEPS = ["--max-steps", "6", "--eval-steps", "2", "--save-steps", "2", "--lr", "1e-3", "--layerdrop", "0"]
pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("flag", ["--freeze-encoder", "--adapter", "--train-feature-encoder"])
def test_flags_that_contradict_each_other(flag):
    with pytest.raises(InputError, match=f"--freeze-layers says which layers learn, {flag} says otherwise; give one"):
        parse_arguments(["--lang", "tr", "--freeze-layers", "1", flag], "x", "y")


@pytest.mark.parametrize(
    "words", [["--layer-decay", "0"], ["--layer-decay", "1.5"], ["--layer-decay", "nan"], ["--freeze-layers", "-1"]]
)
def test_values_that_are_none(words, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--lang", "tr", *words], "x", "y")
    assert f"argument {words[0]}: must" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze-layers", "5"], "`freeze_layers` must be from 1 to 4, the layers of this model, got 5"),
        (["--freeze-encoder", "--layer-decay", "0.9"], "`layer_decay` needs layers that learn"),
    ],
)
def test_what_the_model_cannot_do_ends_before_a_run_folder_is_made(flags, message, tmp_path):
    with pytest.raises(InputError, match=message):
        cv_finetune.main([*QUICK, "--model", "random:tiny", *flags, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_with_both_trains_the_upper_layers_and_goes_on(tmp_path):
    """From a checkpoint, so that the frozen weights can be compared with its own."""
    first, out = tmp_path / "first", tmp_path / "run"
    cv_finetune.main([*QUICK, "--model", "random:tiny", "--max-steps", "1", "--out", str(first)])
    command = [*QUICK, *FLAGS, *SIX_STEPS, "--model", str(first), "--out", str(out)]
    cv_finetune.main(command)
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (settings["freeze_layers"], settings["layer_decay"]) == (2, 0.8)
    before, after = (load_file(folder / "model.safetensors") for folder in (first, out))
    still = {name for name in before if torch.equal(before[name], after[name])}
    below = ("feature_extractor", "feature_projection", "masked_spec_embed", "encoder.pos_conv_embed")
    below += ("encoder.layers.0.", "encoder.layers.1.")
    assert {name for name in still if "encoder.layers." in name} == {
        name for name in before if name.startswith(("wav2vec2.encoder.layers.0.", "wav2vec2.encoder.layers.1."))
    }
    assert {name for name in before if name.removeprefix("wav2vec2.").startswith(below)} <= still
    assert "lm_head.weight" not in still

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "checkpoints" / "step-0000006.pt").unlink()
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"--layer-decay was 0\.8, now 0\.9"):
        cv_finetune.main(["--resume", "--out", str(copy), "--layer-decay", "0.9"])
    cv_finetune.main(["--resume", "--out", str(copy)])
    again = load_file(copy / "model.safetensors")
    assert all(torch.equal(after[name], again[name]) for name in after)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Frozen layers, rates by layer, the head's warm-up and checkpointing under DistributedDataParallel."""
    drawn = ("hidden-dropout", "attention-dropout", "activation-dropout", "mask-time-prob", "mask-feature-prob")
    alike = ["--log-steps", "1", "--augment", "none", *(word for name in drawn for word in (f"--{name}", "0"))]
    command = [*QUICK[:-4], *FLAGS, *SIX_STEPS, *alike, "--model", "random:tiny", "--batch-clips", "2"]
    cv_finetune.main([*command, "--accumulation", "2", "--out", str(tmp_path / "one")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = ["-m", "recipes.cv_finetune", *command, "--accumulation", "1", "--out", str(tmp_path / "two")]
    done = subprocess.run([*launcher, *run], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]
