"""Recordings of any length as blocks of mono 16 kHz float32, in memory that does not grow with them.

    for block in read_blocks("lecture.m4a"):      # (samples,) float32, a minute each at most

soundfile reads what libsndfile knows. Phones and cameras write other containers: ffmpeg reads those, where it is
installed.
"""

import mmap
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import soundfile

from w2v.audio import (
    BLOCK_SECONDS,
    DECODER_ERRORS,
    LARGEST_BYTES,
    check_length,
    declared_by_riff,
    mono_blocks,
    open_stream,
    opening,
    reason_of,
)
from w2v.containers import Contents, look
from w2v.errors import UnusableAudioError
from w2v.files import open_file
from w2v.resampling import SAMPLE_RATE, check_rate, resample_blocks

READ = {".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"}
CONVERTED = {".m4a", ".mp4", ".aac", ".webm", ".mkv", ".mka", ".mov", ".wma", ".amr", ".3gp", ".avi", ".wv"}
# Containers that hold audio themselves. A playlist could make ffmpeg open other files, or addresses in the net.
FFMPEG_FORMATS = "mov,matroska,aac,asf,amr,avi,flv,mpegts,mpeg,caf,ac3,eac3,wv,ape,tta,mp3,ogg,flac,wav"


def read_blocks(path: str | Path) -> Iterator[np.ndarray]:
    """The blocks of a file at 16 kHz, (samples,) float32 in [-1, 1]; channels are averaged.

    The numbers are those of 16 bits, as in the store that models learn from (w2v.data.store) and as ffmpeg gives them:
    W2V-BERT's logarithm of what an mp3 leaves of silence was another text in 4 of 10 clips.
    Raises UnusableAudioError where w2v.audio.read_audio would, but never for a recording's length. That it is cut short
    may be known only behind its last block.
    """
    path = Path(path)
    contents = _look(path)
    source = contents.mended or path
    try:
        stream = open_stream(source)
    except DECODER_ERRORS as error:
        yield from _convert(path, reason_of(error))
        return
    with stream as file:
        rate, done = file.samplerate, 0
        try:
            for block in resample_blocks(_until_damage(path, file, contents), check_rate(rate)):
                done += len(block)
                yield np.rint(32767 * block) / np.float32(32768)
        except UnusableAudioError:
            raise
        except DECODER_ERRORS as error:
            raise UnusableAudioError(f"unreadable: {reason_of(error)}") from None
        check_length(done, rate, max(file.frames, declared_by_riff(file)), contents, path.stat().st_size)


def _look(path: Path) -> Contents:
    """What the file's bytes say of its length. In a larger file than read_audio takes libsndfile's reading holds."""
    with opening(path), open_file(path) as file:
        size = path.stat().st_size
        if not size:
            raise UnusableAudioError("empty file")
        if size > LARGEST_BYTES:
            return Contents()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return look(cast(bytes, data))  # it is indexed and sliced as bytes are


def _until_damage(path: Path, file: soundfile.SoundFile, contents: Contents) -> Iterator[np.ndarray]:
    """The blocks of an open file at its own rate. Where a mended header leads to an error, the file as it is goes on:
    a flac's decoder takes a tag behind the last frame for a damaged frame."""
    done = 0
    try:
        for block in mono_blocks(file, file.frames):
            done += len(block)
            yield block
    except DECODER_ERRORS:
        if contents.mended is None:
            raise
        with open_stream(path) as unmended:
            for block in mono_blocks(unmended, unmended.frames):
                if done >= len(block):  # both ways give the same blocks
                    done -= len(block)
                else:
                    yield block


def _convert(path: Path, reason: str) -> Iterator[np.ndarray]:
    """What ffmpeg makes of a file that libsndfile cannot open, for this reason."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        remedy = f"; ffmpeg reads {path.suffix} files, install it" if path.suffix.lower() in CONVERTED else ""
        raise UnusableAudioError(f"unreadable: {reason}{remedy}")
    command = [ffmpeg, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FFMPEG_FORMATS]
    command += ["-i", f"file:{path}", "-map", "0:a:0", "-f", "s16le", "-ac", "1", "-ar", str(SAMPLE_RATE), "pipe:1"]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages) as process,
    ):
        assert process.stdout is not None  # it is a pipe
        done = 0
        try:
            while data := process.stdout.read(2 * BLOCK_SECONDS * SAMPLE_RATE):
                done += len(data)
                yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
            failed = process.wait() != 0
        finally:
            process.kill()  # where nobody wants the rest
        if failed or not done:
            messages.seek(0)
            said = messages.read(10_000).decode("utf-8", "replace").strip().rpartition(": ")[2]
            raise UnusableAudioError(f"unreadable: {reason}; ffmpeg: {said or 'no audio'}")
