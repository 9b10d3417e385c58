"""A fine-tuned folder as a recogniser.

asr = w2v.load("runs/tr-xlsr-53-1")
asr.transcribe("a.mp3")[0].text
asr.transcribe(["a.mp3", waveform], sample_rate=16000)
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from w2v.answers import Batch, DecodeOptions, Hypothesis, Word
from w2v.audio import SAMPLE_RATE, SILENCE_PEAK, finite_peak, read_audio
from w2v.data.batching import cut
from w2v.errors import InputError
from w2v.files import reading
from w2v.models.families import family_of
from w2v.precision import autocast
from w2v.resampling import resample
from w2v.weights import hf, hub

INFERENCE_BATCH_SECONDS = 120.0  # in the terms of a config's `cost`
Recording = str | Path | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Transcript:
    text: str
    words: list[Word] = field(default_factory=list)  # with times and confidences, where asked for


@dataclass
class Recogniser:
    model: nn.Module
    tokenizer: Any  # the family's

    def transcribe(
        self,
        recordings: Recording | Iterable[Recording],
        sample_rate: int = SAMPLE_RATE,
        words: bool = False,
    ) -> list[Transcript]:
        """Files of any format, or mono waveforms (samples,) at `sample_rate`, -> one Transcript each, in order.

        recordings: several, or a single one, which gives a list of one. words: also give each word's times and
        confidence. Silence (a peak under -60 dB of full scale) and less than one frame give "". Raises InputError with
        the recording's path or index: UnusableAudioError for a file that cannot be read or for samples that are not
        finite.
        """
        waveforms = [_waveform(recording, sample_rate, i) for i, recording in enumerate(_several(recordings))]
        hypotheses = recognise(self.model, self.tokenizer, waveforms, options=DecodeOptions(words=words))
        return [Transcript(hypothesis.text, hypothesis.words) for hypothesis in hypotheses]


def _several(recordings) -> Iterable:
    """A single recording, which is a path or the samples of a waveform, becomes a list of one."""
    is_one = isinstance(recordings, (str, Path))
    if isinstance(recordings, torch.Tensor):
        is_one = recordings.ndim == 1
    if isinstance(recordings, np.ndarray):
        is_one = recordings.ndim == 1 and np.issubdtype(recordings.dtype, np.number)
    return [recordings] if is_one else recordings


def _waveform(recording: Recording, sample_rate: int, index: int) -> np.ndarray:
    """-> 16 kHz, (samples,) float32; none where the recording is silent. Errors name its path or index."""
    try:
        if isinstance(recording, (str, Path)):
            waveform = read_audio(recording)
        else:
            waveform = _from_samples(recording, sample_rate)
        return waveform if finite_peak(waveform) >= SILENCE_PEAK else waveform[:0]
    except InputError as error:
        name = recording if isinstance(recording, (str, Path)) else f"recording {index}"
        raise type(error)(f"{name}: {error}") from None


def _from_samples(recording: np.ndarray | torch.Tensor, sample_rate: int) -> np.ndarray:
    waveform = np.asarray(recording, dtype=np.float32)
    if waveform.ndim != 1:
        raise InputError(f"a waveform must be mono, (samples,), got shape {waveform.shape}; average its channels")
    return resample(np.ascontiguousarray(waveform), sample_rate)


def load(source: str | Path, device: str | torch.device = "cpu", target_lang: str | None = None) -> Recogniser:
    """Model and tokenizer of a folder in transformers' layout, or of a Hub repository, owner/name[@revision].

    target_lang: a language of an MMS model (ISO 639-3: tur), whose adapter.LANG.safetensors is put in.
    InputError where model or tokenizer is missing or they differ.
    """
    adapter = () if target_lang is None else (f"adapter.{target_lang}.safetensors",)
    folder = Path(source)
    with reading("the model", folder):  # a name that is too long, a folder closed to the user
        is_here = folder.exists()
    if not is_here and hub.SPEC.fullmatch(str(source)):
        try:
            folder = hub.fetch(*hub.parse_spec(str(source)), extra=adapter).folder
        except InputError as error:
            raise InputError(f"{source} is no folder here, and {error}") from None
    family = family_of(hf.read_fields(folder))
    tokenizer = family.tokenizer.from_pretrained(folder, target_lang)
    model = family.model.from_pretrained(folder)
    for name in adapter:
        model.load_adapter(folder / name)
    model.config.check_vocabulary(tokenizer, folder)
    return Recogniser(model.to(device), tokenizer)


@torch.no_grad()
def recognise(
    model,
    tokenizer,
    waveforms: list[np.ndarray],
    precision: str = "fp32",
    options: DecodeOptions | None = None,
) -> list[Hypothesis]:
    """What the model hears in 16 kHz waveforms (samples,), int16 or float32, in their order.

    The model keeps its mode. A clip too short for one frame has an empty text.
    """
    hypotheses = [Hypothesis("", [], 0.0)] * len(waveforms)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for numbers, batch in inference_batches(model.config, waveforms):
            with autocast(precision, device):
                found = model.decode(batch.to(device), tokenizer, options or DecodeOptions())
            for i, hypothesis in zip(numbers, found, strict=True):
                hypotheses[i] = hypothesis
    finally:
        model.train(training)
    return hypotheses


def inference_batches(config, waveforms: list[np.ndarray]) -> Iterable[tuple[list[int], Batch]]:
    """(clip numbers, Batch) from long clips to short ones; clips too short for one frame are left out."""
    usable = [i for i, waveform in enumerate(waveforms) if config.frames(len(waveform)) >= 1]
    costs = [config.cost(len(waveform)) for waveform in waveforms]
    for batch in cut(usable, costs, INFERENCE_BATCH_SECONDS, config.pads):
        yield batch, config.collate([waveforms[i] for i in batch])
