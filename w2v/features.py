"""What a model hears of a waveform at 16 kHz: Whisper's log-mel spectrogram, W2V-BERT's pairs of mel frames.

Both are equal to transformers' feature extractors, within the rounding that tests/test_features.py states.

Shapes: S samples, N frames of 10 ms, M mel bins, T pairs of frames, of 20 ms.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from w2v.resampling import SAMPLE_RATE

WINDOW, HOP = 400, 160  # samples: 25 and 10 ms
SILENCE = 1e-10  # the least power that is told apart from none
RANGE = 8.0  # in log10, below a clip's loudest bin: 80 dB
TRANSFORM = 512  # samples of Kaldi's Fourier transform, the window padded with zeros
PREEMPHASIS = 0.97
FLOOR = 1.192092955078125e-07  # Kaldi's least energy
PAIR_BINS = 80  # mel bins of a frame in a pair
FRAMES_AT_ONCE = 24  # arrays under 128 kB: for larger ones the system maps fresh memory each time, half as fast


@functools.cache
def mel_filters(bins: int) -> Tensor:
    """(M, 201): triangles of equal area, evenly spaced between 0 and 8 kHz on Slaney's mel scale; librosa's default.

    In double precision, as librosa and transformers compute them: torchaudio's of single precision are 4e-4 off.
    """
    edges = _hertz(np.linspace(0.0, _mel(SAMPLE_RATE / 2), bins + 2))
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    widths, slopes = np.diff(edges), edges[:, None] - frequencies  # (M + 1,), (M + 2, 201)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]).float()


def _mel(hertz: float) -> float:
    """Slaney's scale: linear up to 1 kHz, which is 15 mel, then logarithmic."""
    return hertz * 3 / 200 if hertz < 1000.0 else 15.0 + np.log(hertz / 1000.0) * 27.0 / np.log(6.4)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


@torch.autocast("cpu", enabled=False)  # whoever calls computes in half precision: features are exact all the same
def log_mel(waveform: np.ndarray, bins: int, samples: int) -> Tensor:
    """int16 or float32 samples (S,) -> (M, N) float32, of the waveform cut or padded with zeros to `samples`.

    samples: a multiple of 160. Equal to transformers' WhisperFeatureExtractor on torch. The least value depends on the
    clip's loudest bin, and padding has that value. Frames that hear padding only are not computed: their power is 0.
    """
    waveform = waveform[:samples]
    heard = min(samples, -(-len(waveform) // HOP) * HOP + WINDOW // HOP * HOP)  # up to where all windows hear zeros
    padded = torch.zeros(max(heard, 2 * WINDOW))
    scale = np.float32(1 / 32768 if waveform.dtype == np.int16 else 1.0)
    np.multiply(waveform, scale, out=padded[: len(waveform)].numpy(), casting="unsafe")
    spectrum = torch.stft(padded, WINDOW, HOP, window=_hann(), return_complex=True)  # (201, heard / 160 + 1)
    power = spectrum[:, : heard // HOP].abs().square().contiguous()
    mel = (mel_filters(bins) @ power).clamp(min=SILENCE).log10()  # (M, heard / 160)
    mel = F.pad(mel, (0, (samples - heard) // HOP), value=float(np.log10(SILENCE)))
    return (mel.clamp(min=float(mel.max()) - RANGE) + 4.0) / 4.0


@functools.cache
def _hann() -> Tensor:
    return torch.hann_window(WINDOW)


def mel_pairs(waveform: np.ndarray) -> Tensor:
    """int16 or float32 samples (S,) -> (T, 160) float32: Kaldi's log-mel energies, normalised, two frames in a row.

    Each of the 80 bins has zero mean and unit variance over the clip's N = (S - 400) // 160 + 1 frames. An odd last
    frame counts in that, and is then left out. At least 560 samples: one frame has no variance, and makes no pair.
    """
    energies = mel_energies(waveform)  # (80, N)
    means, variances = energies.mean(1, keepdims=True), energies.var(1, ddof=1, keepdims=True)
    frames = ((energies - means) / np.sqrt(variances + 1e-7)).T  # (N, 80)
    return torch.from_numpy(np.ascontiguousarray(frames[: len(frames) // 2 * 2]).reshape(-1, 2 * PAIR_BINS))


def mel_energies(waveform: np.ndarray) -> np.ndarray:
    """int16 or float32 samples (S,) -> (80, N) float32: the natural logarithm of each frame's energy in mel bins.

    Frames of 25 ms that begin 10 ms apart, without padding; "povey" windows. In double precision but for the spectrum,
    which transformers rounds to single: Kaldi's and torchaudio's single precision is 2.6e-4 off.
    """
    scale = 1.0 if waveform.dtype == np.int16 else 2.0**15  # Kaldi's samples are 16-bit numbers
    frames = sliding_window_view(waveform, WINDOW)[::HOP]  # (N, 400), a view
    energies = np.empty((PAIR_BINS, len(frames)), np.float32)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        some = np.multiply(frames[first : first + FRAMES_AT_ONCE], scale, dtype=np.float64)
        some -= some.mean(1, keepdims=True)
        emphasised = np.empty_like(some)
        np.multiply(some[:, :-1], -PREEMPHASIS, out=emphasised[:, 1:])
        emphasised[:, 1:] += some[:, 1:]
        np.multiply(some[:, 0], 1 - PREEMPHASIS, out=emphasised[:, 0])
        emphasised *= _povey()
        spectrum = np.fft.rfft(emphasised, TRANSFORM).astype(np.complex64)  # (n, 257)
        power = spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2
        energies[:, first : first + len(some)] = np.log(np.maximum(power @ kaldi_filters(PAIR_BINS).T, FLOOR)).T
    return energies


@functools.cache
def kaldi_filters(bins: int) -> np.ndarray:
    """(M, 257) float64: triangles evenly spaced on Kaldi's mel scale, 20 Hz to 8 kHz, and straight on that scale."""
    mel = 1127.0 * np.log(1.0 + np.arange(TRANSFORM // 2 + 1) * SAMPLE_RATE / TRANSFORM / 700.0)
    lowest, highest = 1127.0 * np.log(1.0 + np.array([20.0, SAMPLE_RATE / 2]) / 700.0)
    edges = np.linspace(lowest, highest, bins + 2)
    widths, slopes = np.diff(edges), edges[:, None] - mel  # (M + 1,), (M + 2, 257)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


@functools.cache
def _povey() -> np.ndarray:
    return np.hanning(WINDOW) ** 0.85
