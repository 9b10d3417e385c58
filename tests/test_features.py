"""Whisper's log-mel spectrogram equals transformers'.

Run: pytest tests/test_features.py
"""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from w2v.features import log_mel, mel_filters

WINDOW = 480_000


def theirs(waveform: np.ndarray, bins: int) -> torch.Tensor:
    padded = np.pad(waveform[:WINDOW], (0, max(0, WINDOW - len(waveform))))
    return torch.from_numpy(WhisperFeatureExtractor(feature_size=bins)._torch_extract_fbank_features(padded))


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
def test_filters_are_librosas(bins):
    wanted = WhisperFeatureExtractor(feature_size=bins).mel_filters.T
    np.testing.assert_allclose(mel_filters(bins).numpy(), wanted, atol=1e-8)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 399, 400, 401, 63_360, WINDOW - 300, WINDOW, WINDOW + 1])
def test_any_length_is_as_in_transformers(samples, bins):
    found = log_mel(noise(samples), bins, WINDOW)
    assert found.shape == (bins, 3000) and found.dtype == torch.float32
    torch.testing.assert_close(found, theirs(noise(samples), bins), atol=1e-6, rtol=0)


def test_silence():
    silent = np.zeros(1000, np.float32)
    torch.testing.assert_close(log_mel(silent, 80, WINDOW), theirs(silent, 80), atol=1e-6, rtol=0)


@pytest.mark.parametrize("samples", [0, 20_000, WINDOW + 1])
def test_integers_are_parts_of_full_scale(samples):
    whole = (noise(samples) * 32768).clip(-32768, 32767).astype(np.int16)
    found, as_floats = log_mel(whole, 80, WINDOW), whole.astype(np.float32) / 32768
    assert torch.equal(found, log_mel(as_floats, 80, WINDOW))
    torch.testing.assert_close(found, theirs(as_floats, 80), atol=1e-6, rtol=0)


def test_padding_has_the_clips_least_value_and_it_depends_on_the_loudest_bin():
    loud = log_mel(noise(16_000), 80, WINDOW)
    assert loud[:, -1].unique().tolist() == [loud.min().item()]
    assert (loud.max() - loud.min()).item() == pytest.approx(2.0)  # 8 / 4


def test_a_shorter_window_is_the_beginning_of_a_longer_one():
    assert torch.equal(log_mel(noise(16_000), 80, 32_000), log_mel(noise(16_000), 80, WINDOW)[:, :200])
