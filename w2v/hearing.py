"""What a model hears in recordings of any length: their chunks in batches, the frames of these, phrases with times.

    for news in hear(model, tokenizer, [blocks, blocks]):        # as it is heard, in the recordings' order
    for frames in all_emissions(model, tokenizer, [blocks, blocks]):

Shapes: B chunks of a batch, T frames, V vocabulary.
"""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2v.answers import Batch, Config, DecodeOptions, Emissions, FrameModel, WritingModel
from w2v.audio import SAMPLE_RATE, UnusableAudioError
from w2v.data.batching import cut
from w2v.decoding.ctc import decode
from w2v.decoding.longform import Chunk, Joiner, Phrase
from w2v.errors import InputError
from w2v.heard import End, Heard, Segment, chunks_of, pools
from w2v.precision import autocast
from w2v.text.tokenizer import CharTokenizer
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.writing import hear_in_windows

BATCH_SECONDS = 60.0  # in the terms of a config's `cost`
POOL_SECONDS = 240.0  # of chunks that are sorted by length together
FRAMES_DECODED = 50_000  # at once
NUMBERS_DECODED = 10_000_000  # at once: frames x vocabulary
SILENT = -30.0  # the log-probability of a letter in a silent frame


class Frames(NamedTuple):
    """All frames of one recording."""

    number: int  # of the recording, from 0
    log_probs: Tensor  # (T, V), on the CPU
    seconds: float  # of the recording
    error: InputError | None = None  # why the recording cannot be used


@torch.no_grad()
def hear(
    model: FrameModel | WritingModel,
    tokenizer: CharTokenizer | WhisperTokenizer,
    recordings: Iterable[Iterable[np.ndarray]],
    precision: str = "fp32",
    options: DecodeOptions | None = None,
    eager: bool = False,
) -> Iterator[Heard]:
    """Recordings, each as blocks (samples,) at 16 kHz, -> what is heard, as it is heard and in their order.

    Chunks of many recordings are sorted by length into batches, a pool of them at a time. eager: answer at each pause.
    A recording whose blocks raise InputError is over, and the others go on. The model keeps its mode. A model without
    frame posteriors walks through its own windows: see w2v.writing.
    """
    if model.emissions is None:
        yield from hear_in_windows(model, cast(WhisperTokenizer, tokenizer), recordings, precision, options, eager)
        return
    hop, tokenizer = model.config.hop, cast(CharTokenizer, tokenizer)
    options, joiner = options or DecodeOptions(), Joiner(tokenizer, hop)
    for pool in pools(chunks_of(recordings, hop, eager), 0.0 if eager else POOL_SECONDS):
        frames = iter(core_frames(model, [chunk for _, chunk in pool if isinstance(chunk, Chunk)], precision))
        news: list[tuple[int, list[Phrase], float, End | None]] = []
        for index, chunk in pool:
            if isinstance(chunk, End):
                news.append((index, joiner.end(), joiner.seconds, chunk))
                joiner = Joiner(tokenizer, hop)
            else:
                phrases = joiner.add(next(frames), chunk.ends_in_pause)
                news.append((index, phrases, chunk.core_end / SAMPLE_RATE, None))
        segments = iter(_decode([p for _, phrases, _, _ in news for p in phrases], tokenizer, hop, options))
        for index, phrases, seconds, end in news:
            spoken = [segment for _, segment in zip(phrases, segments, strict=False) if segment.text]
            yield Heard(index, spoken, seconds, end is not None, end.error if end else None)
        _give_back_memory()


@torch.no_grad()
def all_emissions(
    model: FrameModel | WritingModel,
    tokenizer: CharTokenizer,
    recordings: Iterable[Iterable[np.ndarray]],
    precision: str = "fp32",
) -> Iterator[Frames]:
    """The frames of many recordings, each as blocks (samples,) at 16 kHz, in their order; batches by length.

    A silent stretch has blanks only. A recording without anything to hear has an error.
    """
    if model.emissions is None:
        raise InputError(
            "a model must give frame posteriors here, as CTC's do, this one writes text only; use a CTC model"
        )
    held: list[Tensor | int] = []
    seconds = 0.0
    for pool in pools(chunks_of(recordings, model.config.hop, eager=False), POOL_SECONDS):
        frames = iter(core_frames(model, [chunk for _, chunk in pool if isinstance(chunk, Chunk)], precision))
        for index, chunk in pool:
            if isinstance(chunk, Chunk):
                each = next(frames)
                held.append(each if isinstance(each, int) else each.float().cpu())
                seconds = chunk.core_end / SAMPLE_RATE
                continue
            error, width = chunk.error, next((each.shape[1] for each in held if isinstance(each, Tensor)), 0)
            if error is None and not width:
                error = UnusableAudioError(
                    f"nothing to hear in {seconds:.2f} s: it is empty, too short for a frame, or silent"
                )
            log_probs = torch.empty(0, 0)
            if error is None:
                log_probs = torch.cat(
                    [_blanks(x, width, tokenizer.blank_id) if isinstance(x, int) else x for x in held]
                )
            yield Frames(index, log_probs, seconds, error)
            held, seconds = [], 0.0


def _blanks(frames: int, width: int, blank: int) -> Tensor:
    """Log-probabilities (T, V) of a certain blank."""
    log_probs = torch.full((frames, width), SILENT)
    log_probs[:, blank] = 0.0
    return log_probs


def core_frames(model: FrameModel, chunks: list[Chunk], precision: str) -> list[Tensor | int]:
    """The frames of each chunk's core, (T, V); their number where the chunk is silent."""
    hop, device, training = model.config.hop, next(model.parameters()).device, model.training
    frames: list[Tensor | int] = [(chunk.core_end - chunk.core_start) // hop for chunk in chunks]
    model.eval()
    try:
        for numbers, batch in _batches(model.config, [x.samples[:0] if x.is_silent else x.samples for x in chunks]):
            with autocast(precision, device):
                emissions = model.emissions(batch.to(device))
            for i, log_probs, length in zip(numbers, emissions.log_probs, emissions.lengths.tolist(), strict=True):
                frames[i] = chunks[i].core(log_probs[:length], hop)
    finally:
        model.train(training)
    return frames


def _batches(config: Config, waveforms: list[np.ndarray]) -> Iterator[tuple[list[int], Batch]]:
    """(numbers, Batch) from long waveforms to short ones; those too short for one frame are left out."""
    usable = [i for i, waveform in enumerate(waveforms) if config.frames(len(waveform)) >= 1]
    costs = [config.cost(len(waveform)) for waveform in waveforms]
    for numbers in cut(usable, costs, BATCH_SECONDS, config.pads):
        yield numbers, config.collate([waveforms[i] for i in numbers])


def _decode(phrases: list[Phrase], tokenizer: CharTokenizer, hop: int, options: DecodeOptions) -> list[Segment]:
    """The phrases as segments, with times from the recording's start."""
    frame = hop / SAMPLE_RATE  # seconds
    segments: dict[int, Segment] = {}
    lengths = [len(phrase.log_probs) for phrase in phrases]
    most = max(1, min(FRAMES_DECODED, NUMBERS_DECODED // len(tokenizer)))
    for numbers in cut(range(len(phrases)), lengths, most, pads=True):
        rows = pad_sequence([phrases[i].log_probs for i in numbers], batch_first=True)  # (B, T, V)
        emissions = Emissions(rows, torch.tensor([lengths[i] for i in numbers], device=rows.device), frame)
        for i, hypothesis in zip(numbers, decode(emissions, tokenizer, options), strict=True):
            phrase, start = phrases[i], phrases[i].start * frame
            words = [replace(word, start=start + word.start, end=start + word.end) for word in hypothesis.words]
            first, last = phrase.letters
            segments[i] = Segment(" ".join(hypothesis.text.split()), first * frame, last * frame, words)
    return [segments[i] for i in range(len(phrases))]


def _give_back_memory() -> None:
    """glibc keeps freed blocks of many sizes; over an hour of audio they add up to a gigabyte."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
