"""Audio files of any libsndfile format (mp3, flac, ogg, wav ...) -> mono 16 kHz float32.

    waveform = read_audio("clip.mp3")             # (samples,) numpy float32
    model(torch.from_numpy(normalise(waveform))[None])

soundfile reads the files: torchaudio.load() needs torchcodec since 2.9, and soundfile has had its own mp3 decoder since
0.12.
"""

import io
import math
import mmap
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import soundfile

from w2v.containers import Contents, begins_as_mp3, is_absurd, look, mp3_declares_its_length
from w2v.errors import InputError, UnusableAudioError
from w2v.files import TOO_MANY_OPEN, open_file
from w2v.resampling import SAMPLE_RATE, check_rate, resample_blocks

SILENCE_PEAK = 1e-3  # -60 dB of full scale: a quieter clip holds noise at most
# Floats of some recorders are scaled as integers are, by 2 ** 15, 2 ** 23 or 2 ** 31, and resampling can double a peak.
# What lies beyond is no recording: of damaged Opus libsndfile gives memory that it has not filled, up to 1e34.
LARGEST_PEAK = 2.0**32
# A header may declare a little more than the decoder returns (mp3 padding). Where it declares more than this, audio is
# missing.
MISSING_SECONDS = 0.25
UNKNOWN_RIFF_SIZE = 0x7FFFFFFF
# What reads and holds a recording is bounded by these. An utterance lasts seconds, a lecture an hour or two.
LONGEST_HOURS = 2  # 460 MB at 16 kHz, and twice that while the blocks are joined
LARGEST_BYTES = 1 << 30  # of a file
TOO_LARGE = f"larger than {LARGEST_BYTES >> 30} GiB"
BLOCK_SECONDS = 60
BLOCK_NUMBERS = 1 << 23  # samples times channels that are decoded at once
# What soundfile raises for broken files. TypeError: a headerless .raw.
DECODER_ERRORS = (
    soundfile.LibsndfileError, RuntimeError, TypeError, ValueError, AssertionError, OverflowError, MemoryError
)  # fmt: skip


class _Stream(soundfile.SoundFile):
    """A file that is read once from its beginning to its end.

    soundfile seeks after each block of a seekable file. That fails, or misleads, where the length is unknown.
    """

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """The bytes of a file. A damaged header can send libsndfile before their beginning.

    An exception there could not reach the caller: Python would print its traceback.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def read_audio(source: str | Path | bytes) -> np.ndarray:
    """Decode a file, or the bytes of one, to mono 16 kHz float32 in [-1, 1], (samples,).

    Channels are averaged. A file is read until it ends, whatever length its header declares. Raises UnusableAudioError
    where it is missing, empty, cut short, longer than 2 hours, larger than 1 GiB, no regular file or not audio.
    """
    data = source if isinstance(source, bytes) else _read_bytes(Path(source))
    if not data:
        raise UnusableAudioError("empty file")
    if len(data) > LARGEST_BYTES:
        raise UnusableAudioError(TOO_LARGE)
    contents = look(data)
    try:
        try:
            waveform, rate, declared = _decode(contents.mended or source)
        except DECODER_ERRORS:  # a flac's decoder takes a tag behind the last frame for a damaged frame
            if contents.mended is None:
                raise
            waveform, rate, declared = _decode(source)
    except UnusableAudioError:
        raise
    except DECODER_ERRORS as error:
        raise UnusableAudioError(f"unreadable: {reason_of(error)}") from None
    check_length(len(waveform), rate, declared, contents, len(data))
    return waveform


def check_length(samples: int, rate: int, declared: int, contents: Contents, size: int) -> None:
    """UnusableAudioError where a file of `size` bytes gave fewer samples at 16 kHz than it should.

    declared: samples at its own rate, as libsndfile understands its header.
    """
    if not samples:
        raise UnusableAudioError("no samples")
    if contents.declared is not None:
        declared = contents.declared
    seconds = samples / SAMPLE_RATE
    is_missing = declared / rate - seconds > MISSING_SECONDS and not is_absurd(declared / rate, size)
    if is_missing or contents.is_cut:
        raise UnusableAudioError(f"truncated after {seconds:.2f} s")


def _decode(source: str | Path | bytes) -> tuple[np.ndarray, int, int]:
    """-> the whole file at 16 kHz (samples,); its own sample rate, and how many samples it declares at that rate."""
    # libsndfile opens a path itself: reading through Python's BytesIO takes a sixth longer.
    with open_stream(source) as file:
        blocks = list(resample_blocks(mono_blocks(file), check_rate(file.samplerate)))
        waveform = blocks[0] if len(blocks) == 1 else np.concatenate([*blocks, np.empty(0, np.float32)])
        return waveform, file.samplerate, max(file.frames, declared_by_riff(file))


def open_stream(source: str | Path | bytes) -> _Stream:
    """A file, or the bytes of one, to be read from its beginning on."""
    if not isinstance(source, bytes) and _is_mp3_by_name_alone(Path(source)):
        source = Path(source).read_bytes()
    return _Stream(_Bytes(source) if isinstance(source, bytes) else os.fspath(source))


def _is_mp3_by_name_alone(path: Path) -> bool:
    """Whether libsndfile would take a file for an mp3 for its name's sake.

    Its bytes would be refused in an archive, and libmpg123 prints lines to stderr about them.
    """
    if path.suffix.lower() != ".mp3":
        return False
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return not begins_as_mp3(cast(bytes, data))  # it is indexed and sliced as bytes are
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def mono_blocks(file: _Stream, samples: int | None = None) -> Iterator[np.ndarray]:
    """The next samples of an open file, (samples,) float32 at its own rate, in blocks of whole seconds.

    samples: how many; None for all until the file ends.
    """
    size = file.samplerate * max(1, min(BLOCK_SECONDS, BLOCK_NUMBERS // (file.samplerate * file.channels)))
    limit = file.frames if samples is None else samples  # libsndfile gives no more than the header declares
    done = 0
    while done < limit:
        wanted = min(size, limit - done)
        block = file.read(out=np.empty(wanted if file.channels == 1 else (wanted, file.channels), np.float32))
        done += len(block)
        if samples is None and done > LONGEST_HOURS * 3600 * file.samplerate:
            raise UnusableAudioError(f"longer than {LONGEST_HOURS} hours")
        if len(block):
            yield block if block.ndim == 1 else block.mean(axis=1)
        if len(block) < wanted:
            return


def declared_by_riff(file: soundfile.SoundFile) -> int:
    """Samples that a wav's data chunk declares, where the file holds fewer; else 0. Only libsndfile's log tells this.

    Programs that write into a pipe declare a size of about 0xFFFFFFFF, which means nothing.
    """
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if not found or int(found[1]) >= UNKNOWN_RIFF_SIZE or not file.frames:
        return 0
    return file.frames * int(found[1]) // max(1, int(found[2]))


def reason_of(error: Exception) -> str:
    """What an exception says of a file, in one line without the file's name."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    if text.startswith("File does not exist"):  # libsndfile, where libmpg123 finds no frame in a file that is there
        text = "Format not recognised"
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _read_bytes(path: Path) -> bytes:
    with opening(path), open_file(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_BYTES:
            raise UnusableAudioError(TOO_LARGE)
        return file.read()


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Raise UnusableAudioError, a reason without the file's name, where it cannot be opened or read."""
    try:
        yield
    except UnusableAudioError:
        raise
    except FileNotFoundError:
        raise UnusableAudioError("missing file") from None
    except OSError as error:
        if error.errno in TOO_MANY_OPEN:  # no fault of this file
            raise InputError(f"cannot read {path}: {error.strerror}; raise the limit, `ulimit -n`") from None
        raise UnusableAudioError(f"unreadable: {error.strerror}") from None
    except ValueError:  # what open() says of a null character
        raise UnusableAudioError("unreadable: no file has such a name") from None
    except MemoryError as error:
        raise UnusableAudioError(f"unreadable: {reason_of(error)}") from None


def finite_peak(waveform: np.ndarray) -> float:
    """The peak of a waveform, (samples,) float32; UnusableAudioError where it is not finite, or beyond 2 ** 32."""
    peak = float(max(waveform.max(initial=0.0), -waveform.min(initial=0.0)))
    if not math.isfinite(peak):
        raise UnusableAudioError("samples are not finite")
    if peak > LARGEST_PEAK:
        raise UnusableAudioError("samples are out of range")
    return peak


def check_speech(waveform: np.ndarray) -> float:
    """The peak of a waveform, (samples,) float32; UnusableAudioError where it is silent, not finite or out of range."""
    peak = finite_peak(waveform)
    if peak < SILENCE_PEAK:
        raise UnusableAudioError(f"silent: peak {20 * math.log10(max(peak, 1e-9)):.0f} dB of full scale")
    return peak


def seconds_of(source: str | Path | bytes) -> float | None:
    """Duration from a file's header, without decoding it; None where no header tells it.

    A length of 0, or one that a file of this size cannot hold, tells nothing. The length of an mp3 that declares none
    is an estimate; it is counted where the file's bytes are given and its bit rate varies.
    """
    try:
        if isinstance(source, bytes):
            size = len(source)
        else:
            status = Path(source).stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe could wait for ever
                return None
            size = status.st_size
        # soundfile.info() would also read all the other fields and take one and a half times as long.
        with open_stream(source) as file:
            samples, rate, kind = file.frames, file.samplerate, file.format
    except (OSError, *DECODER_ERRORS):
        return None
    if isinstance(source, bytes) and kind == "MP3" and not mp3_declares_its_length(source):
        contents = look(source)
        samples = contents.counted or samples if contents.mended else samples
    seconds = samples / rate
    return None if not samples or is_absurd(seconds, size) else seconds


def normalise(waveform: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Zero mean and unit variance over the clip: (x - mean) / sqrt(var + 1e-7), (samples,) float32.

    waveform: (samples,) float32, or int16 that counts as x / 32768. out: where to write the result, else a new array.
    It equals transformers' Wav2Vec2FeatureExtractor. (fairseq and torchaudio use 1e-5, which differs on quiet clips.)
    """
    out = np.empty(len(waveform), np.float32) if out is None else out
    np.copyto(out, waveform)
    out -= out.sum() / len(out)  # faster than mean()
    variance = out @ out / len(out)  # one pass in BLAS; var() would take three
    epsilon = 1e-7 * 32768**2 if waveform.dtype == np.int16 else 1e-7  # saves a pass that divides the samples
    out *= np.float32(1 / math.sqrt(variance + epsilon))
    return out
