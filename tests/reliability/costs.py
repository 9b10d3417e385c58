"""What a checkpoint costs the thread that trains, and whether memory grows over a long run.

python -m tests.reliability checkpoint
python -m tests.reliability soak
"""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

import torch

import w2v
from recipes import cv_finetune
from w2v.training.optim import adamw
from w2v.training.state import Progress, StateWriter
from w2v.training.step import TrainStep

HELD_AT_MOST = 2.0  # seconds, of a state of 3.8 GB
SAVES = 3
SOAK_STEPS = 3000
WARM = SOAK_STEPS // 3  # steps: what is allocated later is a leak
GROWTH_AT_MOST = 1.02


def checkpoint(_: list[str]) -> int:
    """Save states of XLSR-53 and its moments while the thread that trains goes on. -> exit code."""
    torch.manual_seed(0)
    config = dataclasses.replace(w2v.XLSR_53, layerdrop=0.0)  # a layer that is left out has no moments yet
    model = w2v.Wav2Vec2ForCTC(config).train()
    step = TrainStep(model, adamw(model, 1e-4, (0.9, 0.98), 0.0), lambda _: 1.0)
    batch = model.config.collate([torch.randn(16_000).numpy()], [[1, 2, 3]], ["a"])
    step.begin(0)
    step.backward(step.losses(batch, last=True), step.total_weight([batch]))
    step.update()
    states, held = StateWriter(step), []
    states.wait()  # as in a run, whose first state comes later
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SAVES):
            began = time.perf_counter()
            states.save(Path(folder) / f"{number}.pt", Progress(step=number))
            held.append(time.perf_counter() - began)
            states.wait()
            size, whole = (Path(folder) / f"{number}.pt").stat().st_size, time.perf_counter() - began
            (Path(folder) / f"{number}.pt").unlink()
            print(f"{size / 1e9:.2f} GB: training waits {held[-1]:.2f} s, the file is there after {whole:.1f} s")
    holds = max(held) <= HELD_AT_MOST
    print(f"at most {max(held):.2f} s (goal {HELD_AT_MOST:g}): {'holds' if holds else 'MISSED'}")
    return int(not holds)


def soak(_: list[str]) -> int:
    """The sample for 3,000 steps, with evaluations, states and logs: its resident memory. -> exit code."""
    update, memory = TrainStep.update, []

    def measured(step: TrainStep):
        memory.append(resident())
        return update(step)

    TrainStep.update = measured
    with tempfile.TemporaryDirectory() as folder:
        cv_finetune.main(
            ["--lang", "tr", "--max-steps", str(SOAK_STEPS), "--batch-clips", "4", "--device", "cpu", "--eval-steps",
             "300", "--save-steps", "100", "--log-steps", "50", "--out", f"{folder}/run"]
        )  # fmt: skip
    for first in range(0, SOAK_STEPS, 500):
        part = memory[first : first + 500]
        print(f"steps {first + 1} to {first + len(part)}: {min(part) / 1e6:.0f} to {max(part) / 1e6:.0f} MB")
    growth = max(memory[-WARM:]) / max(memory[WARM:-WARM])
    holds = growth <= GROWTH_AT_MOST
    print(f"last third against the second: {growth:.3f} (goal {GROWTH_AT_MOST}): {'holds' if holds else 'MISSED'}")
    return int(not holds)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
