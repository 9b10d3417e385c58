"""What is heard in recordings, as news of them, and recordings as the chunks that a model hears at once.

Shapes: S samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from w2v.answers import Word
from w2v.audio import SAMPLE_RATE
from w2v.decoding.longform import Chunk, cut_into_chunks
from w2v.errors import InputError


@dataclass(frozen=True)
class Segment:
    """A stretch of speech between two pauses; start and end are those of its first and last letter, in seconds."""

    text: str
    start: float
    end: float
    words: list[Word] = field(default_factory=list)  # with times and confidences, where asked for


class Heard(NamedTuple):
    """News of one recording: what was heard since the last news."""

    number: int  # of the recording, from 0
    segments: list[Segment]
    seconds: float  # of the recording, heard so far
    is_over: bool
    error: InputError | None = None  # why the recording cannot be used, or not further


class End(NamedTuple):
    """Stands behind the last chunk of a recording."""

    error: InputError | None


def chunks_of(recordings: Iterable[Iterable[np.ndarray]], hop: int, eager: bool) -> Iterator[tuple[int, Chunk | End]]:
    """(number of the recording, chunk) in order, and an end behind each recording."""
    for index, blocks in enumerate(recordings):
        error = None
        try:
            for chunk in cut_into_chunks(blocks, hop, eager):
                yield index, chunk
        except InputError as found:
            error = found
        yield index, End(error)


def pools(chunks: Iterable[tuple[int, Chunk | End]], budget: float) -> Iterator[list[tuple[int, Chunk | End]]]:
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
