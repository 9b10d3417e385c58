"""Segments of long recordings -> mono 16 kHz float32, without a decode of the whole file for each.

    waveform = read_segment(Segment("lecture.wav", start=12.34, seconds=3.26))  # (samples,)

A thread keeps the recording that it read last. Segments that follow each other in time cost one pass over it, and no
more than one of them is held in memory.
"""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v.audio import BLOCK_SECONDS, DECODER_ERRORS, LONGEST_HOURS, mono_blocks, open_stream, opening, read_audio
from w2v.containers import is_absurd
from w2v.errors import UnusableAudioError
from w2v.files import open_file
from w2v.resampling import SAMPLE_RATE, check_rate, resample_blocks

# libsndfile finds any sample of these at once. In an mp3 libmpg123 prints a line to stderr for each jump, and a jump
# forward in an ogg lands beside its target: those are read from their beginning to the segment.
SEEKABLE = {"WAV", "WAVEX", "W64", "RF64", "AIFF", "AU", "CAF", "FLAC"}
PLAIN = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # compressed samples (ADPCM, mp3) occur in a wav too
# A segment may end a little behind the recording, because tables round. It must have this share of its length.
LEAST_SHARE = 0.9
SAME_LENGTH = 0.1  # seconds: a segment of all but this is the whole recording


class Segment(NamedTuple):
    path: str
    start: float  # seconds
    seconds: float | None = None  # None: to the end of the recording


def read_segment(segment: Segment) -> np.ndarray:
    """(samples,) float32 at 16 kHz, as a file that holds this segment alone would give.

    Raises UnusableAudioError where the recording cannot be read, where it ends before the segment begins, and where the
    segment is longer than 2 hours. A segment that the recording cuts short is given as far as it goes.
    """
    path, start, seconds = segment
    recording = _recording(path)
    if start == 0 and seconds is not None and recording.lasts(seconds):
        return read_audio(path)  # with all its checks of a file's end
    waveform = recording.read(start, seconds)
    if waveform is None:  # the header holds less than the segment needs, and may be wrong
        whole = recording.decode_whole()
        first = round(start * SAMPLE_RATE)
        if first >= len(whole):
            end = len(whole) / SAMPLE_RATE
            raise UnusableAudioError(f"outside the recording: begins at {start:.2f} s, {end:.2f} s are all there is")
        last = len(whole) if seconds is None else round((start + seconds) * SAMPLE_RATE)
        waveform = whole[first:last].copy()
    return waveform


_kept = threading.local()


def _recording(path: str) -> "_Recording":
    with opening(Path(path)):
        status = Path(path).stat()
        key = (path, status.st_size, status.st_mtime_ns)
        kept = getattr(_kept, "recording", None)
        if kept is None or kept.key != key:
            open_file(path).close()  # refuses what is no regular file, and says why a file cannot be read
            _kept.recording = kept = _Recording(key)
    return kept


class _Recording:
    """A file that stays open. `rest` holds the samples from number `at` on that were read for the last segment."""

    def __init__(self, key: tuple[str, int, int]):
        self.key = key
        self.path, self.size, _ = key
        self.whole: np.ndarray | UnusableAudioError | None = None
        self._open()

    def _open(self) -> None:
        self.at, self.rest = 0, np.empty(0, np.float32)
        try:
            self.file = open_stream(self.path)
        except DECODER_ERRORS:
            self.file = None  # type: ignore[assignment]  # read_audio says what is wrong with it
        else:
            self.rate = check_rate(self.file.samplerate)
            self.can_seek = self.file.format in SEEKABLE and self.file.subtype.startswith(PLAIN)

    def _frames(self) -> int:
        """What the header declares; 0 where that means nothing."""
        frames = self.file.frames if self.file else 0
        return 0 if is_absurd(frames / self.rate if frames else 0, self.size) else frames

    def lasts(self, seconds: float) -> bool:
        """Whether the header says that this is the length of the whole."""
        frames = self._frames()
        return bool(frames) and abs(frames / self.rate - seconds) <= SAME_LENGTH

    def decode_whole(self) -> np.ndarray:
        """All of it at 16 kHz, kept for the next segments; UnusableAudioError each time where that fails."""
        if self.whole is None:
            try:
                self.whole = read_audio(self.path)
            except UnusableAudioError as error:
                self.whole = error
        if isinstance(self.whole, UnusableAudioError):
            raise UnusableAudioError(str(self.whole))
        return self.whole

    def read(self, start: float, seconds: float | None) -> np.ndarray | None:
        """The segment at 16 kHz; None where the file does not hold it, or not by its header."""
        frames = self._frames()
        if not frames or start * self.rate >= frames:
            return None
        first = round(start * self.rate)
        wanted = frames - first if seconds is None else round((start + seconds) * self.rate) - first
        samples = min(wanted, frames - first)
        if samples > LONGEST_HOURS * 3600 * self.rate:
            raise UnusableAudioError(f"longer than {LONGEST_HOURS} hours")
        if samples < LEAST_SHARE * wanted or not samples:
            return None
        try:
            waveform = self._samples(first, samples)
        except DECODER_ERRORS:
            self._open()  # it may stand anywhere
            return None
        if len(waveform) < samples:
            return None
        block = BLOCK_SECONDS * self.rate
        blocks = list(resample_blocks((waveform[i : i + block] for i in range(0, samples, block)), self.rate))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _samples(self, first: int, samples: int) -> np.ndarray:
        """So many of them from number `first` on, at the file's own rate; fewer where the file ends."""
        assert self.file is not None
        if self.can_seek:
            self.file.seek(first)
            return _join(mono_blocks(self.file, samples))
        if first < self.at:
            self._open()
        behind = self.at + len(self.rest)  # where the file stands
        for block in mono_blocks(self.file, max(0, first - behind)):
            behind += len(block)
        self.rest = self.rest[max(0, first - self.at) :]
        self.at = behind - len(self.rest)
        if self.at == first and len(self.rest) < samples:
            self.rest = _join([self.rest, *mono_blocks(self.file, samples - len(self.rest))])
        return self.rest[:samples].copy() if self.at == first else self.rest[:0]


def _join(blocks: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([*blocks, np.empty(0, np.float32)])
