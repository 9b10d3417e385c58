"""What a model hears of a waveform at 16 kHz: Whisper's log-mel spectrogram (Radford et al. 2022).

Shapes: S samples, N frames of 10 ms, M mel bins.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.resampling import SAMPLE_RATE

WINDOW, HOP = 400, 160  # samples: 25 and 10 ms
SILENCE = 1e-10  # the least power that is told apart from none
RANGE = 8.0  # in log10, below a clip's loudest bin: 80 dB


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
