"""A fine-tuned folder as a recogniser.

asr = w2v.load("runs/tr-xlsr-53-1")
asr.transcribe(["a.mp3", waveform], sample_rate=16000)[0].text
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from w2v.audio import SAMPLE_RATE, read_audio, resample
from w2v.data.batching import batch_cost
from w2v.data.collate import Batch, collate
from w2v.decoding.greedy import greedy_decode
from w2v.errors import InputError
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2ForCTC
from w2v.text import CharTokenizer
from w2v.training.step import autocast

INFERENCE_BATCH_SECONDS = 120.0


@dataclass(frozen=True)
class Transcript:
    text: str


@dataclass
class Recogniser:
    model: Wav2Vec2ForCTC
    tokenizer: CharTokenizer

    def transcribe(
        self, recordings: Iterable[str | Path | np.ndarray | torch.Tensor], sample_rate: int = 16_000
    ) -> list[Transcript]:
        """Files of any format, or mono waveforms (samples,) at `sample_rate`, -> one Transcript each, in order.

        Raises UnusableAudioError (an InputError) for a file that cannot be read. Less than one frame gives "".
        """
        waveforms = [self._waveform(recording, sample_rate) for recording in recordings]
        texts = transcribe_waveforms(self.model, self.tokenizer, waveforms)
        return [Transcript(text) for text in texts]

    @staticmethod
    def _waveform(recording, sample_rate: int) -> np.ndarray:
        if isinstance(recording, (str, Path)):
            return read_audio(recording)
        waveform = np.asarray(recording, dtype=np.float32)
        if waveform.ndim != 1:
            raise InputError(f"a waveform must be mono, (samples,), got shape {waveform.shape}; average its channels")
        return resample(np.ascontiguousarray(waveform), sample_rate)


def load(directory: str | Path, device: str | torch.device = "cpu", target_lang: str | None = None) -> Recogniser:
    """Model and tokenizer of a folder in transformers' layout. InputError where either is missing or they differ.

    target_lang: a language of an MMS folder (ISO 639-3: tur), whose adapter.LANG.safetensors is put in.
    """
    tokenizer = CharTokenizer.from_pretrained(directory, target_lang)
    model = Wav2Vec2ForCTC.from_pretrained(directory)
    if target_lang is not None:
        model.load_adapter(Path(directory) / f"adapter.{target_lang}.safetensors")
    check_vocabulary(model.config, tokenizer, directory)
    return Recogniser(model.to(device), tokenizer)


def check_vocabulary(config: Wav2Vec2Config, tokenizer: CharTokenizer, directory: str | Path) -> None:
    """InputError where the head and the vocabulary of a folder do not belong together."""
    if config.vocab_size != len(tokenizer):
        raise InputError(
            f"the head and vocab.json of {directory} must have the same size, got {config.vocab_size} and "
            f"{len(tokenizer)}; use the vocabulary that the model was trained with"
        )
    if config.pad_token_id != tokenizer.blank_id:
        raise InputError(
            f"pad_token_id and the id of {tokenizer.pad} in {directory} must be equal, got "
            f"{config.pad_token_id} and {tokenizer.blank_id}; CTC's blank is that token"
        )


def transcribe_waveforms(
    model: Wav2Vec2ForCTC, tokenizer: CharTokenizer, waveforms: list[np.ndarray], precision: str = "fp32"
) -> list[str]:
    """Greedy texts of 16 kHz waveforms (samples,), int16 or float32, in their order."""
    texts = [""] * len(waveforms)
    for numbers, batch in inference_batches(model, waveforms):
        for i, text in zip(numbers, transcribe_batch(model, tokenizer, batch, precision), strict=True):
            texts[i] = text
    return texts


def inference_batches(model: Wav2Vec2ForCTC, waveforms: list[np.ndarray]) -> Iterable[tuple[list[int], Batch]]:
    """(clip numbers, Batch) in order of length, packed; clips too short for one frame are left out.

    Group-norm models go one clip at a time: neither padding nor packing leaves their output as it is.
    """
    lengths = [len(waveform) for waveform in waveforms]
    usable = (i for i, length in enumerate(lengths) if length >= model.config.receptive_field)
    pack_for = model.config if model.config.can_pack else None
    batches: list[list[int]] = []
    for i in sorted(usable, key=lambda i: lengths[i]):
        fits = batches and batch_cost(lengths[i] / SAMPLE_RATE, len(batches[-1]) + 1) <= INFERENCE_BATCH_SECONDS
        if fits and pack_for:
            batches[-1].append(i)
        else:
            batches.append([i])
    for batch in batches:
        yield batch, collate([waveforms[i] for i in batch], pack_for=pack_for)


@torch.no_grad()
def transcribe_batch(model: Wav2Vec2ForCTC, tokenizer: CharTokenizer, batch: Batch, precision: str) -> list[str]:
    device = model.lm_head.weight.device
    training = model.training
    model.eval()
    with autocast(precision, device):
        out = model(batch.to(device))
    model.train(training)
    return greedy_decode(out.logits, out.logit_lengths, tokenizer)
