"""Four clips of the sample and a training loop, for the scripts beside this file. Your own data go in their place."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import w2v
from w2v.answers import Batch, Model
from w2v.data.corpus import read_corpus
from w2v.data.manifest import Clip
from w2v.training.step import TrainStep

SAMPLE = Path(__file__).parents[2] / "recipes" / "sample" / "tr"


class Sample(NamedTuple):
    clips: list[Clip]
    texts: list[str]
    waveforms: list[np.ndarray]  # (samples,) each, 16 kHz
    tokenizer: w2v.CharTokenizer
    config: w2v.Wav2Vec2Config
    batch: Batch


def sample(count: int = 4, **overrides) -> Sample:
    """The first clips; the tiny config with other fields and the size of their vocabulary; the clips as its batch."""
    clips = read_corpus([SAMPLE], "tr", SAMPLE).tables["validated"][:count]
    texts = [w2v.Normaliser("tr")(clip.sentence) for clip in clips]
    waveforms = [w2v.read_audio(clip.path) for clip in clips]
    tokenizer = w2v.CharTokenizer.from_texts(texts)
    config = dataclasses.replace(w2v.TINY, **w2v.TINY.for_vocabulary(tokenizer), **overrides)
    labels = [tokenizer.encode(text) for text in texts]
    batch = config.collate(waveforms, labels, [clip.name for clip in clips])
    return Sample(clips, texts, waveforms, tokenizer, config, batch)


def train(
    model: Model,
    batch: Batch,
    optimizer: torch.optim.AdamW | None = None,
    steps: int = 20,
    lr_factor: Callable[[int], float] = lambda step: 1.0,
) -> list[float]:
    """Steps on one batch -> the loss of each. recipes.cv_finetune.fit has the loop over an epoch's batches.

    optimizer: TrainStep takes a fused AdamW.
    """
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    step = TrainStep(model, optimizer or torch.optim.AdamW(trained, lr=1e-3, fused=True), lr_factor)
    losses = []
    for number in range(steps):
        step.begin(number)
        total = step.total_weight([batch])
        step.backward(step.losses(batch, last=True), total)
        losses.append(step.update().losses.mean().item())
    print(f"loss {losses[0]:.2f}, then {losses[-1]:.2f}")
    return losses
