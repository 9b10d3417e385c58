"""The columns of benchmarks.step_time that do not train: inference of batches, and evaluation from samples to texts.

Inference begins with a batch as the collator makes it and ends with emissions or, of Whisper, with greedy text.
Evaluation begins with int16 samples: ours is w2v.asr.recognise, as recipes call it, which makes features, sorts clips
by length and decodes; a peer's is its processor, its model and its tokenizer on 16 clips at a time, in their order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.columns import Column, Work
from benchmarks.common import StageClock
from benchmarks.peer_step import Inputs, Peer, PeerDataset, compile_regions
from benchmarks.speech import Speech
from w2v.answers import Batch, DecodeOptions
from w2v.asr import recognise
from w2v.precision import autocast

PEER_CLIPS = 16  # of a peer's batch in an evaluation


class Waveforms(torch.utils.data.Dataset):
    """int16 samples of the clips of a batch, as a store has them."""

    def __init__(self, speech: Speech):
        self.speech = speech

    def __getitem__(self, numbers: list[int]) -> list[np.ndarray]:
        return [self.speech.audio[self.speech.clips[i]] for i in numbers]

    def __len__(self) -> int:
        return len(self.speech.clips)


def hearing_columns(work: Work, peer: Peer | None, ours: str, theirs: list[str]) -> list[Column]:
    """Ours first, then the peer's, one for each precision, all of the same weights. ours, theirs: precisions."""
    columns = [our_column(work, ours)]
    if peer:
        peer.model.eval()
        if peer.compiled:
            compile_regions(peer, checkpointing=False)
        columns += [peer_column(work, peer, precision, peer.named(precision, theirs)) for precision in theirs]
    return columns


def our_column(work: Work, precision: str) -> Column:
    """As recipes hear: no layer is compiled."""
    model, tokenizer = work.subject.model.eval(), work.subject.tokenizer

    def infer(batch: Batch) -> None:
        with autocast(precision, next(model.parameters()).device):
            if model.emissions is None:
                model.decode(batch, tokenizer, DecodeOptions())
            else:
                model.emissions(batch)

    def evaluate(waveforms: list[np.ndarray]) -> list[str]:
        return recognise(model, tokenizer, waveforms, precision)

    return hearing_column(work, "w2v", precision, model, infer, evaluate, work.speech.dataset(model.config), False)


def peer_column(work: Work, peer: Peer, precision: str, name: str) -> Column:
    padded = PeerDataset(work.speech.dataset(work.subject.model.config, pad=True), peer.inputs)
    device, write = next(peer.model.parameters()).device, None
    if work.what == "evaluation" and peer.writer is not None:
        write = peer.writer(work.subject.tokenizer, precision)

    def infer(inputs: Inputs) -> None:
        with autocast(precision, device):
            peer.hear(inputs)

    def evaluate(waveforms: list[np.ndarray]) -> list[str]:
        assert write is not None  # step_time has refused peers without
        cut = [waveforms[first : first + PEER_CLIPS] for first in range(0, len(waveforms), PEER_CLIPS)]
        return [text for batch in cut for text in write(batch)]

    return hearing_column(work, name, precision, peer.model, infer, evaluate, padded, peer.as_run)


def hearing_column(
    work: Work,
    name: str,
    precision: str,
    model: torch.nn.Module,
    infer: Callable[[Any], object],
    evaluate: Callable[[list[np.ndarray]], list[str]],
    batches: Any,
    by_count: bool,
) -> Column:
    """batches: a dataset. by_count: whether they are of a fixed count of clips, not grouped by length."""
    speech, evaluates = work.speech, work.what == "evaluation"
    texts: list[str] = []

    @torch.no_grad()
    def step(inputs: Any, number: int, clock: StageClock) -> None:
        if evaluates:
            texts.extend(evaluate([waveform.numpy() for waveform in inputs]))  # a loader makes tensors of arrays
        else:
            infer(inputs)
        clock("hearing" if evaluates else "forward")

    order = speech.by_count() if by_count or evaluates else speech.batches
    return Column(name, precision, model, None, step, Waveforms(speech) if evaluates else batches, order, texts=texts)
