"""A fine-tuned folder as a recogniser.

asr = w2v.load("runs/tr-xlsr-53-1")
asr.transcribe("lecture.mp3")[0].text
asr.transcribe(["a.mp3", waveform], sample_rate=16000, words=True)
asr.align("lecture.mp3", "what is said in it").words
"""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from w2v.answers import Batch, DecodeOptions, Emissions, Word
from w2v.audio import SAMPLE_RATE, UnusableAudioError, finite_peak
from w2v.data.batching import cut
from w2v.decoding.align import Alignment, align
from w2v.decoding.ctc import greedy
from w2v.decoding.longform import Chunk, Joiner, Phrase, cut_into_chunks
from w2v.errors import InputError
from w2v.files import reading
from w2v.models.families import family_of
from w2v.precision import autocast
from w2v.recordings import read_blocks
from w2v.resampling import resample
from w2v.text.normalise import Normaliser
from w2v.text.words import WrittenWord, written_words
from w2v.weights import hf, hub

INFERENCE_BATCH_SECONDS = 60.0  # in the terms of a config's `cost`
POOL_SECONDS = 240.0  # of chunks that are sorted by length together
FRAMES_DECODED = 50_000  # at once
SILENT = -30.0  # the log-probability of a letter in a silent frame
Recording = str | Path | np.ndarray | Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of speech between two pauses; start and end are those of its first and last letter, in seconds."""

    text: str
    start: float
    end: float
    words: list[Word] = field(default_factory=list)  # with times and confidences, where asked for


@dataclass(frozen=True)
class Transcript:
    text: str
    segments: list[Segment] = field(default_factory=list)

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.segments for word in segment.words]


class Heard(NamedTuple):
    """News of one recording: what was heard since the last news."""

    number: int  # of the recording, from 0
    segments: list[Segment]
    seconds: float  # of the recording, heard so far
    is_over: bool
    error: InputError | None = None  # why the recording cannot be used, or not further


class Frames(NamedTuple):
    """All frames of one recording."""

    number: int  # of the recording, from 0
    log_probs: Tensor  # (T, V), on the CPU
    seconds: float  # of the recording
    error: InputError | None = None  # why the recording cannot be used


@dataclass
class Recogniser:
    model: nn.Module
    tokenizer: Any  # the family's
    normaliser: Normaliser | None = None  # the folder's, where it has one

    def transcribe(
        self,
        recordings: Recording | Iterable[Recording],
        sample_rate: int = SAMPLE_RATE,
        words: bool = False,
    ) -> list[Transcript]:
        """Files of any format and length, or mono waveforms (samples,) at `sample_rate`, -> one Transcript each.

        recordings: several, or a single one, which gives a list of one. words: also give each word's times and
        confidence. Silence (a peak under -60 dB of full scale) and less than one frame give "". Raises InputError with
        the recording's path or index: UnusableAudioError for a file that cannot be read or for samples that are not
        finite.
        """
        named = list(_several(recordings))
        segments: list[list[Segment]] = [[] for _ in named]
        for news in self.hear((blocks_of(each, sample_rate) for each in named), words):
            if news.error is not None:
                name = named[news.number]
                place = name if isinstance(name, (str, Path)) else f"recording {news.number}"
                raise type(news.error)(f"{place}: {news.error}")
            segments[news.number] += news.segments
        return [self.transcript(each) for each in segments]

    def transcript(self, segments: list[Segment]) -> Transcript:
        """The segments of one recording and their texts as one."""
        between = "" if self.tokenizer.vocab.get(self.tokenizer.space) is None else " "
        return Transcript(between.join(segment.text for segment in segments), segments)

    def emissions(self, recording: Recording, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """The frame posteriors of a recording of any length, (T, V) log-probabilities; a frame is `hop` samples.

        InputError where the recording cannot be used, silence included, and where the model gives no posteriors.
        """
        heard = next(self.all_emissions([blocks_of(recording, sample_rate)]))
        if heard.error is not None:
            raise heard.error
        return heard.log_probs

    def all_emissions(self, recordings: Iterable[Iterable[np.ndarray]], precision: str = "fp32") -> Iterator[Frames]:
        """The frames of many recordings, each as blocks (samples,) at 16 kHz, in their order; batches by length."""
        return all_emissions(self.model, self.tokenizer.blank_id, recordings, precision)

    def align(
        self, recording: Recording, text: str, lang: str | None = None, sample_rate: int = SAMPLE_RATE
    ) -> Alignment:
        """Where each word of a known text is said in a recording of any length -> Alignment.

        lang: the text's locale, for a folder without text rules of its own. InputError where the recording cannot be
        used, where the text holds no word or more than the recording has frames for, and where `lang` is needed.
        """
        words = self.written_words(text, lang)
        return self.align_frames(self.emissions(recording, sample_rate), words)

    def align_frames(self, log_probs: Tensor, words: list[WrittenWord]) -> Alignment:
        """The same for the frames (T, V) of `emissions`."""
        config: Any = self.model.config
        return align(log_probs, words, self.tokenizer, config.hop / SAMPLE_RATE)

    def written_words(self, text: str, lang: str | None = None) -> list[WrittenWord]:
        """The words of a text under the folder's text rules, or those of `lang`. Phonemes stay as they are."""
        if self.tokenizer.phonemes:
            return written_words(text, lambda phoneme: phoneme)
        normaliser = self.normaliser or (Normaliser(lang) if lang else None)
        if normaliser is None:
            raise InputError(
                "`lang` is needed for a model without normaliser.json; give the text's language, such as tr"
            )
        return written_words(text, normaliser, normaliser.lang)

    def hear(
        self, recordings: Iterable[Iterable[np.ndarray]], words: bool = False, eager: bool = False
    ) -> Iterator[Heard]:
        """Recordings, each as blocks (samples,) at 16 kHz, -> what is heard, as it is heard and in their order.

        eager: answer at each pause, for somebody who speaks, instead of computing much at once. A recording whose
        blocks raise InputError is over, and the others go on.
        """
        return hear(self.model, self.tokenizer, recordings, options=DecodeOptions(words=words), eager=eager)


def _several(recordings) -> Iterable:
    """A single recording, which is a path or the samples of a waveform, becomes a list of one."""
    is_one = isinstance(recordings, (str, Path))
    if isinstance(recordings, Tensor):
        is_one = recordings.ndim == 1
    if isinstance(recordings, np.ndarray):
        is_one = recordings.ndim == 1 and np.issubdtype(recordings.dtype, np.number)
    return [recordings] if is_one else recordings


def blocks_of(recording: Recording, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """A file, or a waveform at `sample_rate`, -> its blocks at 16 kHz, (samples,) float32.

    Raises InputError: UnusableAudioError for a file that cannot be read and for samples that are not finite.
    """
    blocks = read_blocks(recording) if isinstance(recording, (str, Path)) else [_from_samples(recording, sample_rate)]
    for block in blocks:
        finite_peak(block)
        yield block


def _from_samples(recording: np.ndarray | Tensor, sample_rate: int) -> np.ndarray:
    waveform = np.asarray(recording, dtype=np.float32)
    if waveform.ndim != 1:
        raise InputError(f"a waveform must be mono, (samples,), got shape {waveform.shape}; average its channels")
    return resample(np.ascontiguousarray(waveform), sample_rate)


def load(source: str | Path, device: str | torch.device = "cpu", target_lang: str | None = None) -> Recogniser:
    """Model and tokenizer of a folder in transformers' layout, or of a Hub repository, owner/name[@revision].

    target_lang: a language of an MMS model (ISO 639-3: tur), whose adapter.LANG.safetensors is put in.
    InputError where model or tokenizer is missing or they differ.
    """
    folder = folder_of(source, target_lang)
    family = family_of(hf.read_fields(folder))
    tokenizer = family.tokenizer.from_pretrained(folder, target_lang)
    model = family.model.from_pretrained(folder)
    for name in _adapters(target_lang):
        model.load_adapter(folder / name)
    model.config.check_vocabulary(tokenizer, folder)
    has_rules = (folder / "normaliser.json").is_file()
    return Recogniser(model.to(device), tokenizer, Normaliser.from_pretrained(folder) if has_rules else None)


def folder_of(source: str | Path, target_lang: str | None = None) -> Path:
    """The folder itself where `source` is one, else that of a Hub repository in the Hub's cache, fetched into it."""
    folder = Path(source)
    with reading("the model", folder):  # a name that is too long, a folder closed to the user
        is_here = folder.exists()
    if not is_here and hub.SPEC.fullmatch(str(source)):
        try:
            return hub.fetch(*hub.parse_spec(str(source)), extra=_adapters(target_lang)).folder
        except InputError as error:
            raise InputError(f"{source} is no folder here, and {error}") from None
    return folder


def _adapters(target_lang: str | None) -> tuple[str, ...]:
    return () if target_lang is None else (f"adapter.{target_lang}.safetensors",)


def recognise(model, tokenizer, waveforms: list[np.ndarray], precision: str = "fp32") -> list[str]:
    """The texts of 16 kHz waveforms (samples,), int16 or float32, in their order. The model keeps its mode."""
    asr = Recogniser(model, tokenizer)
    segments: list[list[Segment]] = [[] for _ in waveforms]
    for news in hear(model, tokenizer, ([waveform] for waveform in waveforms), precision):
        segments[news.number] += news.segments
    return [asr.transcript(each).text for each in segments]


class _End(NamedTuple):
    """Stands behind the last chunk of a recording."""

    error: InputError | None


@torch.no_grad()
def hear(
    model,
    tokenizer,
    recordings: Iterable[Iterable[np.ndarray]],
    precision: str = "fp32",
    options: DecodeOptions | None = None,
    eager: bool = False,
) -> Iterator[Heard]:
    """See Recogniser.hear. Chunks of many recordings are sorted by length into batches, a pool of them at a time."""
    hop = model.config.hop
    options, joiner = options or DecodeOptions(), Joiner(tokenizer, hop)
    for pool in _pools(_chunks_of(recordings, hop, eager), 0.0 if eager else POOL_SECONDS):
        frames = iter(_frames(model, [chunk for _, chunk in pool if isinstance(chunk, Chunk)], precision))
        news: list[tuple[int, list[Phrase], float, _End | None]] = []
        for index, chunk in pool:
            if isinstance(chunk, _End):
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


def _give_back_memory() -> None:
    """glibc keeps freed blocks of many sizes; over an hour of audio they add up to a gigabyte."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@torch.no_grad()
def all_emissions(
    model, blank: int, recordings: Iterable[Iterable[np.ndarray]], precision: str = "fp32"
) -> Iterator[Frames]:
    """See Recogniser.all_emissions. A silent stretch has blanks only."""
    held: list[Tensor | int] = []
    seconds = 0.0
    for pool in _pools(_chunks_of(recordings, model.config.hop, eager=False), POOL_SECONDS):
        frames = iter(_frames(model, [chunk for _, chunk in pool if isinstance(chunk, Chunk)], precision))
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
                log_probs = torch.cat([_blanks(x, width, blank) if isinstance(x, int) else x for x in held])
            yield Frames(index, log_probs, seconds, error)
            held, seconds = [], 0.0


def _blanks(frames: int, width: int, blank: int) -> Tensor:
    """Log-probabilities (T, V) of a certain blank."""
    log_probs = torch.full((frames, width), SILENT)
    log_probs[:, blank] = 0.0
    return log_probs


def _chunks_of(recordings, hop: int, eager: bool) -> Iterator[tuple[int, Chunk | _End]]:
    """(number of the recording, chunk) in order, and an end behind each recording."""
    for index, blocks in enumerate(recordings):
        error = None
        try:
            for chunk in cut_into_chunks(blocks, hop, eager):
                yield index, chunk
        except InputError as found:
            error = found
        yield index, _End(error)


def _pools(chunks: Iterable[tuple[int, Chunk | _End]], budget: float) -> Iterator[list[tuple[int, Chunk | _End]]]:
    """Lists of these of about `budget` seconds of audio; 0 gives each alone."""
    pool, seconds = [], 0.0
    for index, chunk in chunks:
        pool.append((index, chunk))
        seconds += len(chunk.samples) / SAMPLE_RATE if isinstance(chunk, Chunk) else 0.0
        if seconds >= budget:
            yield pool
            pool, seconds = [], 0.0
    if pool:
        yield pool


def _frames(model, chunks: list[Chunk], precision: str) -> list[Tensor | int]:
    """The frames of each chunk's core, (T, V); their number where the chunk is silent."""
    hop, device, training = model.config.hop, next(model.parameters()).device, model.training
    frames: list[Tensor | int] = [(chunk.core_end - chunk.core_start) // hop for chunk in chunks]
    model.eval()
    try:
        for numbers, batch in _batches(model.config, [x.samples[:0] if x.is_silent else x.samples for x in chunks]):
            with autocast(precision, device):
                emissions = model.emissions(batch.to(device))
            if emissions is None:
                raise InputError(
                    "a model must give frame posteriors here, as CTC does, this one gives text only; use another"
                )
            for i, log_probs, length in zip(numbers, emissions.log_probs, emissions.lengths.tolist(), strict=True):
                frames[i] = chunks[i].core(log_probs[:length], hop)
    finally:
        model.train(training)
    return frames


def _batches(config, waveforms: list[np.ndarray]) -> Iterator[tuple[list[int], Batch]]:
    """(numbers, Batch) from long waveforms to short ones; those too short for one frame are left out."""
    usable = [i for i, waveform in enumerate(waveforms) if config.frames(len(waveform)) >= 1]
    costs = [config.cost(len(waveform)) for waveform in waveforms]
    for numbers in cut(usable, costs, INFERENCE_BATCH_SECONDS, config.pads):
        yield numbers, config.collate([waveforms[i] for i in numbers])


def _decode(phrases: list[Phrase], tokenizer, hop: int, options: DecodeOptions) -> list[Segment]:
    """The phrases as segments, with times from the recording's start."""
    frame = hop / SAMPLE_RATE  # seconds
    segments: dict[int, Segment] = {}
    lengths = [len(phrase.log_probs) for phrase in phrases]
    for numbers in cut(range(len(phrases)), lengths, FRAMES_DECODED, pads=True):
        rows = pad_sequence([phrases[i].log_probs for i in numbers], batch_first=True)  # (B, T, V)
        emissions = Emissions(rows, torch.tensor([lengths[i] for i in numbers], device=rows.device), frame)
        for i, hypothesis in zip(numbers, greedy(emissions, tokenizer, options), strict=True):
            phrase, start = phrases[i], phrases[i].start * frame
            words = [replace(word, start=start + word.start, end=start + word.end) for word in hypothesis.words]
            first, last = phrase.letters
            segments[i] = Segment(hypothesis.text, first * frame, last * frame, words)
    return [segments[i] for i in range(len(phrases))]
