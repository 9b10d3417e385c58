"""Audio files of any libsndfile format (mp3, flac, ogg, wav ...) -> mono 16 kHz float32.

    waveform = read_audio("clip.mp3")             # (samples,) numpy float32
    model(torch.from_numpy(normalise(waveform))[None])

soundfile reads the files: torchaudio.load() needs torchcodec since 2.9, and soundfile has had its own mp3 decoder since
0.12.
"""

import io
import math
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from w2v.errors import UnusableAudioError
from w2v.files import open_file
from w2v.resampling import SAMPLE_RATE, resample  # noqa: F401

SILENCE_PEAK = 1e-3  # -60 dB of full scale: a quieter clip holds noise at most
# A header may declare a little more than the decoder returns (mp3 padding). Where it declares more than this, audio is
# missing.
MISSING_SECONDS = 0.25
UNKNOWN_RIFF_SIZE = 0x7FFFFFFF


def read_audio(source: str | Path | bytes) -> np.ndarray:
    """Decode a file, or the bytes of one, to mono 16 kHz float32 in [-1, 1], (samples,).

    Channels are averaged. Raises UnusableAudioError where the file is missing, empty, cut short or not audio.
    """
    data = source if isinstance(source, bytes) else _read_bytes(Path(source))
    if not data:
        raise UnusableAudioError("empty file")
    try:
        # libsndfile opens a path itself: reading through Python's BytesIO takes a sixth longer.
        with soundfile.SoundFile(io.BytesIO(data) if isinstance(source, bytes) else os.fspath(source)) as file:
            rate, declared, kind = file.samplerate, file.frames, file.format
            waveform = file.read(dtype="float32")  # (samples,) or (samples, channels)
            declared = max(declared, _declared_by_riff(file))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:  # TypeError: a headerless .raw
        raise UnusableAudioError(f"unreadable: {str(error).strip() or type(error).__name__}") from None
    if len(waveform) == 0:
        raise UnusableAudioError("no samples")
    missing = (declared - len(waveform)) / rate
    if missing > MISSING_SECONDS or (kind == "MP3" and mp3_is_cut(data)):
        raise UnusableAudioError(f"truncated after {len(waveform) / rate:.2f} s")
    return resample(waveform if waveform.ndim == 1 else waveform.mean(axis=1), rate)


def _declared_by_riff(file: soundfile.SoundFile) -> int:
    """Samples that a wav's data chunk declares, where the file holds fewer; else 0. Only libsndfile's log tells this.

    Programs that write into a pipe declare a size of about 0xFFFFFFFF, which means nothing.
    """
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if not found or int(found[1]) >= UNKNOWN_RIFF_SIZE or not file.frames:
        return 0
    return file.frames * int(found[1]) // max(1, int(found[2]))


def _read_bytes(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read()
    except FileNotFoundError:
        raise UnusableAudioError("missing file") from None
    except OSError as error:
        raise UnusableAudioError(f"unreadable: {error.strerror}") from None
    except ValueError:  # what open() says of a null character
        raise UnusableAudioError("unreadable: no file has such a name") from None


def check_speech(waveform: np.ndarray) -> float:
    """The peak of a waveform, (samples,) float32; UnusableAudioError where it is silent or not finite."""
    peak = float(max(waveform.max(initial=0.0), -waveform.min(initial=0.0)))
    if not math.isfinite(peak):
        raise UnusableAudioError("samples are not finite")
    if peak < SILENCE_PEAK:
        raise UnusableAudioError(f"silent: peak {20 * math.log10(max(peak, 1e-9)):.0f} dB of full scale")
    return peak


def seconds_of(source: str | Path | bytes) -> float | None:
    """Duration from a file's header, without decoding it; None where there is no readable header."""
    try:
        if not isinstance(source, bytes) and not Path(source).is_file():  # opening a pipe could wait for ever
            return None
        # soundfile.info() would also read all the other fields and take one and a half times as long.
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as file:
            return file.frames / file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError):  # TypeError: a headerless .raw
        return None


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


_MP3_KBITS = {  # MPEG version bits -> bit rate in kbit/s by index, layer III
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@lru_cache(maxsize=1024)  # a file repeats a few headers
def _mp3_frame_bytes(header: bytes) -> int:
    """Length of the frame that begins with these three bytes (ISO/IEC 11172-3, layer III); 0 where none does."""
    if header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # sync word, layer III
        return 0
    version, bits, hz, padding = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version not in _MP3_HZ or bits in (0, 15) or hz == 3:
        return 0
    samples = 1152 if version == 3 else 576
    return samples // 8 * 1000 * _MP3_KBITS[version][bits] // _MP3_HZ[version][hz] + padding


def mp3_is_cut(data: bytes) -> bool:
    """Whether an mp3 ends inside a frame, as a broken download does. Decoders drop that frame silently.

    The search goes from frame header to frame header. It ends at trailing tags, which are not frames.
    """
    at = 0
    if data[:3] == b"ID3" and len(data) >= 10:  # the tag's size: four bytes of seven bits
        at = 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
    while at + 4 <= len(data):
        length = _mp3_frame_bytes(data[at : at + 3])
        if not length:
            return False
        at += length
    return at > len(data)
