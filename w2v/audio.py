"""Audio files of any libsndfile format (mp3, flac, ogg, wav ...) -> mono 16 kHz float32.

    waveform = read_audio("clip.mp3")             # (samples,) numpy float32
    model(torch.from_numpy(normalise(waveform))[None])

Read with soundfile: torchaudio.load() needs torchcodec since 2.9, and soundfile has brought its own mp3 decoder
since 0.12.
"""

import io
import math
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch

from w2v.errors import InputError

try:
    import torchaudio
except (ImportError, OSError, RuntimeError) as error:  # its compiled part fits one release of torch
    raise ImportError(
        f"torchaudio does not import beside torch {torch.__version__} ({str(error)[:100]}); install the pair: "
        'pip install "torch==2.11.*" "torchaudio==2.11.*"'
    ) from None

SAMPLE_RATE = 16_000
SILENCE_PEAK = 1e-3  # -60 dB of full scale: below it there is noise at best
# A header may promise a little more than the decoder returns (mp3 padding); more than this is missing audio.
MISSING_SECONDS = 0.25
UNKNOWN_RIFF_SIZE = 0x7FFFFFFF


class UnusableAudioError(InputError):
    """A file that holds no speech a model could use; str() is the reason for skipped.tsv."""


@lru_cache(maxsize=16)
def _resampler(rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, SAMPLE_RATE)  # builds its filter once per rate


def resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    """(samples,) at `rate` Hz -> (ceil(samples * 16000 / rate),) at 16 kHz, windowed-sinc."""
    if rate == SAMPLE_RATE:
        return waveform
    return _resampler(rate)(torch.from_numpy(waveform)).numpy()


def read_audio(source: str | Path | bytes) -> np.ndarray:
    """Decode a file, or the bytes of one, to mono 16 kHz float32 in [-1, 1], (samples,).

    Channels are averaged. Raises UnusableAudioError where the file is missing, empty, cut short or not audio.
    """
    data = source if isinstance(source, bytes) else _read_bytes(Path(source))
    if not data:
        raise UnusableAudioError("empty file")
    try:
        # By path where there is one: reading through Python's BytesIO takes a sixth longer.
        with soundfile.SoundFile(io.BytesIO(data) if isinstance(source, bytes) else os.fspath(source)) as file:
            rate, promised, kind = file.samplerate, file.frames, file.format
            waveform = file.read(dtype="float32")  # (samples,) or (samples, channels)
            promised = max(promised, _promised_by_riff(file))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:  # TypeError: a headerless .raw
        raise UnusableAudioError(f"unreadable: {str(error).strip() or type(error).__name__}") from None
    if len(waveform) == 0:
        raise UnusableAudioError("no samples")
    missing = (promised - len(waveform)) / rate
    if missing > MISSING_SECONDS or (kind == "MP3" and mp3_is_cut(data)):
        raise UnusableAudioError(f"truncated after {len(waveform) / rate:.2f} s")
    return resample(waveform if waveform.ndim == 1 else waveform.mean(axis=1), rate)


def _promised_by_riff(file: soundfile.SoundFile) -> int:
    """Samples a wav's data chunk promises where the file holds fewer; libsndfile says so in its log alone.

    A size of 0xFFFFFFFF or so is what programs write into a pipe, not a promise.
    """
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if not found or int(found[1]) >= UNKNOWN_RIFF_SIZE or not file.frames:
        return 0
    return file.frames * int(found[1]) // max(1, int(found[2]))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UnusableAudioError("missing file") from None
    except OSError as error:
        raise UnusableAudioError(f"unreadable: {error.strerror}") from None


def check_speech(waveform: np.ndarray) -> None:
    """UnusableAudioError where a waveform is silent or not finite."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if not math.isfinite(peak):
        raise UnusableAudioError("samples are not finite")
    if peak < SILENCE_PEAK:
        raise UnusableAudioError(f"silent: peak {20 * math.log10(max(peak, 1e-9)):.0f} dB of full scale")


def seconds_of(source: str | Path | bytes) -> float | None:
    """Duration from a file's header, without decoding it; None where there is no readable header."""
    try:
        return soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)).duration
    except (soundfile.LibsndfileError, RuntimeError, OSError):
        return None


def normalise(waveform: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the clip: (x - mean) / sqrt(var + 1e-7).

    transformers' Wav2Vec2FeatureExtractor. (fairseq and torchaudio use 1e-5, which differs on quiet clips.)
    """
    centred = waveform - waveform.mean()
    variance = centred @ centred / len(centred)  # one pass in BLAS; var() would take three
    centred /= np.sqrt(variance + 1e-7)
    return centred


_MP3_KBITS = {  # MPEG version bits -> bit rate in kbit/s by index, layer III
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mp3_is_cut(data: bytes) -> bool:
    """Whether an mp3 ends inside a frame, as a broken download does; decoders drop that frame without a word.

    Walks the frame headers (ISO/IEC 11172-3, layer III). Trailing tags are not frames and end the walk.
    """
    at = 0
    if data[:3] == b"ID3" and len(data) >= 10:  # the tag's size: four bytes of seven bits
        at = 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:  # sync word, layer III
            return False
        version, bits, hz, padding = (
            data[at + 1] >> 3 & 3,
            data[at + 2] >> 4,
            data[at + 2] >> 2 & 3,
            data[at + 2] >> 1 & 1,
        )
        if version not in _MP3_HZ or bits in (0, 15) or hz == 3:
            return False
        samples = 1152 if version == 3 else 576
        at += samples // 8 * 1000 * _MP3_KBITS[version][bits] // _MP3_HZ[version][hz] + padding
    return at > len(data)
