"""Recordings of any length in memory that does not grow with them: cut into chunks, their frames joined, then phrases.

A recording is cut at quiet places into cores. The model hears each core with the seconds before and after it, and only
the core's frames are kept. A model whose frames depend on less than that context gives the same frames as it would on
the whole recording, except for what a normalisation over the whole would change.

Shapes: S samples, T frames, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from w2v.audio import SILENCE_PEAK, finite_peak
from w2v.resampling import SAMPLE_RATE
from w2v.text.tokenizer import CharTokenizer

CORE_SECONDS = 24.0
CONTEXT_SECONDS = 3.0  # on either side; chunks of 30 s are longer than nearly all clips that models are trained on
LEVEL_SECONDS = 0.2  # a quiet place is at least that long
PAUSE_SECONDS = 0.5  # without a letter: a phrase may end
PAUSE_SHARE = 0.01  # of the loudest place's energy: -20 dB
SPEECH_LEVEL = 1e-5  # mean square: -50 dB of full scale
LONGEST_PHRASE_SECONDS = 60.0  # a phrase is decoded at once, so it must end somewhere


class Chunk(NamedTuple):
    """What the model hears at once, and which part of it is kept; in samples at 16 kHz."""

    samples: np.ndarray  # (S,): context, core, context
    start: int  # of `samples`, in the recording
    core_start: int
    core_end: int  # of the last one: the recording's end
    ends_in_pause: bool = False  # found while somebody waits

    @property
    def is_silent(self) -> bool:
        scale = 32768 if self.samples.dtype == np.int16 else 1
        return finite_peak(self.samples) < SILENCE_PEAK * scale

    def core(self, frames: Tensor, hop: int) -> Tensor:
        """The frames of `samples`, (T, V) -> those of the core. Behind its end the last chunk has no frames."""
        return frames[(self.core_start - self.start) // hop : -(-(self.core_end - self.start) // hop)]


def cut_into_chunks(blocks: Iterable[np.ndarray], hop: int, eager: bool = False) -> Iterator[Chunk]:
    """A recording's blocks, (S,) each, end to end -> its chunks. Cores begin at multiples of `hop` samples.

    A recording of up to 30 s is one chunk. eager: end a core at each pause too, for somebody who waits for the text;
    it then has no more context after it than has been heard.
    """
    core, context = _in_hops(CORE_SECONDS, hop), _in_hops(CONTEXT_SECONDS, hop)
    held, start, core_start = np.empty(0, np.float32), 0, 0  # what is kept of the recording, and where that begins
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        while True:
            inside = held[core_start - start :]
            if len(inside) > core + 2 * context:
                core_end, is_pause = core_start + _quietest(inside[:core], core // 2, hop), False
            elif eager and (pause := _pause_at_end(inside, hop)):
                core_end, is_pause = core_start + pause, True
            else:
                break
            yield Chunk(held[: core_end + context - start], start, core_start, core_end, is_pause)
            held = held[max(0, core_end - context - start) :]
            start, core_start = max(start, core_end - context), core_end
    if core_start < start + len(held):
        yield Chunk(held, start, core_start, start + len(held))


def _in_hops(seconds: float, hop: int) -> int:
    return round(seconds * SAMPLE_RATE / hop) * hop


def _levels(samples: np.ndarray, hop: int) -> np.ndarray:
    """Energy around each boundary between two hops, over LEVEL_SECONDS from there on."""
    whole = np.square(samples[: len(samples) // hop * hop], dtype=np.float64).reshape(-1, hop).mean(axis=1)
    wide = max(1, round(LEVEL_SECONDS * SAMPLE_RATE / hop))
    return np.convolve(whole, np.full(wide, 1 / wide), "valid") if len(whole) >= wide else np.empty(0)


def _quietest(samples: np.ndarray, first: int, hop: int) -> int:
    """The middle of the quietest place behind sample `first`, a multiple of `hop`."""
    levels = _levels(samples[first // hop * hop :], hop)
    return first // hop * hop + _in_hops(int(levels.argmin()) * hop / SAMPLE_RATE + LEVEL_SECONDS / 2, hop)


def _pause_at_end(samples: np.ndarray, hop: int) -> int | None:
    """The middle of a pause in which these samples end; None where they hold no speech yet or do not end in one."""
    levels = _levels(samples, hop)
    least = round(PAUSE_SECONDS * SAMPLE_RATE / hop)
    if len(levels) <= 2 * least or levels.max() < SPEECH_LEVEL:
        return None
    is_quiet = levels[-least:].max() < PAUSE_SHARE * levels.max()
    return (len(levels) - least // 2) * hop if is_quiet else None


class Phrase(NamedTuple):
    """Frames between two pauses."""

    log_probs: Tensor  # (T, V)
    start: int  # its first frame, in the recording
    letters: tuple[int, int]  # from the first frame with a letter to the one after the last, in the recording


class Joiner:
    """Takes the frames of one recording in turn and gives its phrases. It holds the frames of one phrase at most."""

    def __init__(self, tokenizer: CharTokenizer, hop: int):
        self.is_letter = np.array([bool(tokenizer.decode([token])) for token in range(len(tokenizer))])  # (V,)
        self.space = tokenizer.space_id
        self.frame = hop / SAMPLE_RATE  # seconds
        self.pause, self.longest = round(PAUSE_SECONDS / self.frame), round(LONGEST_PHRASE_SECONDS / self.frame)
        self.held: list[Tensor] = []  # (T, V) each
        self.best = np.empty(0, np.int64)  # (T,): the likeliest token of each frame held
        self.start = 0  # of the first frame held, in the recording

    def add(self, frames: Tensor | int, is_end: bool = False) -> list[Phrase]:
        """The next frames, (T, V), or a number of silent ones -> the phrases that end in them; is_end: the last one
        ends with them."""
        if isinstance(frames, int):
            phrases = self.end()
            self.start += frames
            return phrases
        self.held.append(frames)
        self.best = np.concatenate([self.best, frames.argmax(-1).cpu().numpy()])
        return self.end() if is_end else self._cut(self._ends())

    @property
    def seconds(self) -> float:
        """Of the recording, up to the last frame."""
        return (self.start + len(self.best)) * self.frame

    def end(self) -> list[Phrase]:
        """The phrase that is left."""
        return self._cut([*self._ends(), len(self.best)])

    def _ends(self) -> list[int]:
        """Where phrases end: in the middle of pauses. Where the vocabulary has a space, a pause must hold one, because
        slow speakers pause within words too. A phrase that grows too long ends at its longest pause."""
        letters = np.flatnonzero(self.is_letter[self.best])
        gaps = np.diff(letters)
        ends = []
        for i in np.flatnonzero(gaps > self.pause):
            if self.space is None or (self.best[letters[i] : letters[i + 1]] == self.space).any():
                ends.append((letters[i] + letters[i + 1] + 1) // 2)
        last = ends[-1] if ends else 0
        while len(self.best) - last > self.longest:
            near = letters[(letters >= last) & (letters < last + self.longest)]
            last += self.longest
            if len(near):
                gaps = np.diff(near, append=last)
                longest = len(gaps) - 1 - int(gaps[::-1].argmax())
                last = int(near[longest] + (gaps[longest] + 1) // 2)
            ends.append(last)
        return ends

    def _cut(self, ends: list[int]) -> list[Phrase]:
        if not ends:
            return []
        frames = torch.cat(self.held) if self.held else torch.empty(0, 0)
        letters, phrases, begin = np.flatnonzero(self.is_letter[self.best]), [], 0
        for end in map(int, ends):
            inside = letters[(letters >= begin) & (letters < end)]
            if len(inside):
                span = (self.start + int(inside[0]), self.start + int(inside[-1]) + 1)
                phrases.append(Phrase(frames[begin:end], self.start + begin, span))
            begin = end
        self.held, self.best, self.start = [frames[begin:]], self.best[begin:], self.start + begin
        return phrases
