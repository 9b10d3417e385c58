"""What a model that writes its text (Whisper) hears in recordings: windows of 30 s, written side by side or in turn.

    for news in hear_in_windows(model, tokenizer, [blocks, blocks]):    # in the recordings' order

A recording of up to 30 s is one window. A longer one is walked through as openai/whisper does: the timestamps that the
model writes say where the next window begins, and a window may read what was written before it. Its windows depend on
one another; `GenerateOptions.chunked` instead cuts at quiet places, so that windows are written side by side.
Each window has a log-mel spectrogram of its own, as in training: memory does not grow with the recording.

Shapes: S samples, B windows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from w2v.answers import DecodeOptions, Word, WritingConfig, WritingModel
from w2v.audio import SAMPLE_RATE, SILENCE_PEAK, finite_peak
from w2v.decoding.longform import Chunk
from w2v.decoding.seq2seq import Rules, Written, is_silence, tokenizers_of, write
from w2v.decoding.word_times import word_times
from w2v.errors import InputError
from w2v.heard import End, Heard, Segment, chunks_of
from w2v.precision import autocast
from w2v.text.whisper_tokenizer import WhisperTokenizer

WINDOWS_AT_ONCE = 16
POOL_WINDOWS = 64  # windows that are sorted by length together: texts of a batch are then about equally long
STEP_SECONDS = 0.02  # of timestamps
LEAST_STEP_SECONDS = 1.0  # from window to window; a model that ends its phrases sooner would hardly come to the end
UNSURE_TEMPERATURE = 0.5  # text drawn above it is not read by the next window


class Window(NamedTuple):
    samples: np.ndarray  # (S,)
    start: float  # seconds from the recording's start


class Long(NamedTuple):
    """A recording of more than one window."""

    blocks: Iterator[np.ndarray]


class Phrase(NamedTuple):
    """What lies between two timestamps; times in seconds from the window's start."""

    tokens: list[int]
    start: float
    end: float


@torch.no_grad()
def hear_in_windows(
    model: WritingModel,
    tokenizer: WhisperTokenizer,
    recordings: Iterable[Iterable[np.ndarray]],
    precision: str = "fp32",
    options: DecodeOptions | None = None,
    eager: bool = False,
) -> Iterator[Heard]:
    """Recordings, each as blocks (S,) at 16 kHz, -> what is heard, as it is heard and in their order.

    eager: answer at each pause. A recording whose blocks raise InputError is over, and the others go on. Without a
    language in the tokenizer each recording gets the one that is heard in its first window, or in the longest of those
    that are written side by side. The model keeps its mode.
    """
    options, training = options or DecodeOptions(), model.training
    writer = _Writer(model, tokenizer, precision, options)
    by_chunks = eager or options.generate.chunked
    pool: list[tuple[int, Window | End]] = []
    model.eval()
    try:
        for index, item in _items(recordings, model.config, by_chunks, eager):
            if isinstance(item, Long):
                yield from writer.side_by_side(pool)
                pool = []
                yield from writer.in_turn(index, item.blocks)
                continue
            pool.append((index, item))
            if eager or sum(isinstance(each, Window) for _, each in pool) >= POOL_WINDOWS:
                yield from writer.side_by_side(pool)
                pool = []
        yield from writer.side_by_side(pool)
    finally:
        model.train(training)


def _items(
    recordings: Iterable[Iterable[np.ndarray]], config: WritingConfig, by_chunks: bool, eager: bool
) -> Iterator[tuple[int, Window | Long | End]]:
    """(number of the recording, its windows and its end, or all of it where it is long), in order."""
    if by_chunks:
        for index, item in chunks_of(recordings, config.hop, eager):
            if isinstance(item, Chunk):  # without the seconds around its core, whose text would come twice
                core = item.samples[item.core_start - item.start : item.core_end - item.start]
                for first in range(0, len(core), config.window):  # all of it but in models of shorter windows
                    part = core[first : first + config.window]
                    yield index, Window(part, (item.core_start + first) / SAMPLE_RATE)
            else:
                yield index, item
        return
    for index, given in enumerate(recordings):
        blocks, error = iter(given), None
        held: list[np.ndarray] = []
        try:
            while sum(len(block) for block in held) <= config.window and (block := next(blocks, None)) is not None:
                held.append(block)
        except InputError as found:
            error = found
        if sum(len(block) for block in held) > config.window:
            yield index, Long(chain(held, blocks))
            continue
        if held:
            yield index, Window(np.concatenate(held), 0.0)
        yield index, End(error)


class _Writer:
    """A model, and how it is to write."""

    def __init__(self, model: WritingModel, tokenizer: WhisperTokenizer, precision: str, options: DecodeOptions):
        self.model, self.tokenizer, self.precision, self.options = model, tokenizer, precision, options
        self.device = next(model.parameters()).device
        self.rules = Rules.of(model, tokenizer, options.generate.timestamps)
        self.told: dict[int, WhisperTokenizer] = {}  # the tokenizer of each recording, with its language
        self.seconds = 0.0  # of the recording whose windows are told

    def hear(self, windows: list[np.ndarray]) -> Tensor:
        """Windows (S,) -> the encoder's output (B, T, D)."""
        with autocast(self.precision, self.device):
            return self.model.hear(self.model.config.collate(windows).to(self.device))

    def tokenizers(self, heard: Tensor, recordings: list[int]) -> list[WhisperTokenizer]:
        """The tokenizer of each window, with its recording's language."""
        if not self.told.keys() >= set(recordings):
            for number, told in zip(recordings, tokenizers_of(self.model, heard, self.tokenizer), strict=True):
                self.told.setdefault(number, told)
        return [self.told[number] for number in recordings]

    def side_by_side(self, pool: list[tuple[int, Window | End]]) -> Iterator[Heard]:
        """News of windows that do not depend on one another, and of their recordings' ends."""
        found: dict[int, list[Segment]] = {}  # by place in the pool
        audible = [
            (place, index, item)
            for place, (index, item) in enumerate(pool)
            if isinstance(item, Window) and _is_audible(item.samples)
        ]
        audible.sort(key=lambda each: -len(each[2].samples))
        for first in range(0, len(audible), WINDOWS_AT_ONCE):
            places, numbers, windows = zip(*audible[first : first + WINDOWS_AT_ONCE], strict=True)
            heard = self.hear([window.samples for window in windows])
            with autocast(self.precision, self.device):
                tokenizers = self.tokenizers(heard, list(numbers))
                texts = write(self.model, heard, tokenizers, self.rules, self.options.generate)
                for place, window, x, of_window, text in zip(places, windows, heard, tokenizers, texts, strict=True):
                    seconds = len(window.samples) / SAMPLE_RATE
                    phrases = [Phrase(text.tokens, 0.0, seconds)]
                    if self.rules.timestamps:  # else those that are drawn by chance mean nothing
                        phrases, _ = split_at_timestamps(text.tokens, of_window, seconds)
                    found[place] = self.segments(phrases, text, x, of_window, window)
        for place, (index, item) in enumerate(pool):
            if isinstance(item, End):
                yield Heard(index, [], self.seconds, True, item.error)
                self.seconds = 0.0
            else:
                self.seconds = item.start + len(item.samples) / SAMPLE_RATE
                yield Heard(index, found.get(place, []), self.seconds, False)

    def in_turn(self, index: int, blocks: Iterator[np.ndarray]) -> Iterator[Heard]:
        """News of a long recording, window after window."""
        options = replace(self.options.generate, timestamps=True)
        rules = replace(self.rules, timestamps=True)
        size = self.model.config.window
        held, start = np.empty(0, np.float32), 0  # samples from the window's first on, and its place
        earlier: list[int] = []
        error, is_end = None, False
        while not is_end or len(held):
            try:
                while not is_end and len(held) < size:
                    block = next(blocks, None)
                    is_end = block is None
                    if block is not None:  # whose kind of number, int16 or float32, stays
                        held = np.concatenate([held, block]) if len(held) else block
            except InputError as found:
                error, is_end = found, True
            window = Window(held[:size], start / SAMPLE_RATE)
            seconds, segments = len(window.samples) / SAMPLE_RATE, []
            step = len(window.samples)
            if step and _is_audible(window.samples):
                heard = self.hear([window.samples])
                with autocast(self.precision, self.device):
                    tokenizer = self.tokenizers(heard, [index])[0]
                    read = [earlier if options.earlier_text else []]
                    text = write(self.model, heard, [tokenizer], rules, options, read)[0]
                    if not is_silence(text, options):
                        phrases, until = split_at_timestamps(text.tokens, tokenizer, seconds)
                        segments = self.segments(phrases, text, heard[0], tokenizer, window)
                        step = min(step, round(max(until, LEAST_STEP_SECONDS) * SAMPLE_RATE))
                        earlier += [token for phrase in phrases for token in phrase.tokens]
                        if text.temperature > UNSURE_TEMPERATURE:
                            earlier = []
            held, start = held[step:], start + step
            is_over = is_end and not len(held)
            yield Heard(index, segments, start / SAMPLE_RATE, is_over, error if is_over else None)

    def segments(
        self, phrases: list[Phrase], text: Written, heard: Tensor, tokenizer: WhisperTokenizer, window: Window
    ) -> list[Segment]:
        """The phrases of a window whose encoder output is (T, D), with times from the recording's start."""
        spoken = [(phrase, said) for phrase in phrases if (said := tokenizer.decode(phrase.tokens))]
        if not spoken or is_silence(text, self.options.generate):
            return []
        words: list[Word] = []
        if self.options.words:
            tokens = [token for phrase, _ in spoken for token in phrase.tokens]
            words = word_times(self.model, heard, tokens, tokenizer, len(window.samples))
        segments = []
        for (phrase, said), after in zip_longest(spoken, spoken[1:]):
            own = [w for w in words if after is None or w.start + w.end < 2 * after[0].start]
            words = words[len(own) :]
            start, end = (own[0].start, own[-1].end) if own else (phrase.start, phrase.end)
            own = [replace(w, start=window.start + w.start, end=window.start + w.end) for w in own]
            segments.append(Segment(said, window.start + start, window.start + end, own))
        return segments


def _is_audible(samples: np.ndarray) -> bool:
    return finite_peak(samples) >= SILENCE_PEAK * (32768 if samples.dtype == np.int16 else 1)


def split_at_timestamps(tokens: list[int], tokenizer: WhisperTokenizer, seconds: float) -> tuple[list[Phrase], float]:
    """A window's tokens -> its phrases, and the second at which the next window begins.

    Two timestamps side by side end a phrase and begin the next. What follows the last pair was cut off by the window's
    end and is left to the next one, unless a single timestamp says that the speech ended there. Without pairs all of it
    is one phrase.
    """
    first = tokenizer.timestamp_begin
    is_stamp = [token >= first for token in tokens]
    ends = [i for i in range(1, len(tokens)) if is_stamp[i] and is_stamp[i - 1]]
    ended = len(tokens) > 1 and is_stamp[-1] and not is_stamp[-2]
    if not ends:
        stamps = [token for token in tokens if token >= first]
        end = (stamps[-1] - first) * STEP_SECONDS if stamps and stamps[-1] > first else seconds
        return [Phrase(tokens, 0.0, min(end, seconds))] if tokens else [], seconds
    phrases, begin = [], 0
    for end in [*ends, len(tokens)] if ended else ends:
        part = tokens[begin:end]
        times = [min((stamp - first) * STEP_SECONDS, seconds) for stamp in (part[0], part[-1])]
        phrases.append(Phrase(part, *times))
        begin = end
    return phrases, seconds if ended else (tokens[begin - 1] - first) * STEP_SECONDS
