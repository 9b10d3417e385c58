"""Whisper's log-mel spectrogram and W2V-BERT's mel pairs equal transformers'.

Run: pytest tests/test_features.py
"""

import numpy as np
import pytest
import torch
from conftest import SHARED
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

from w2v.audio import read_audio
from w2v.features import kaldi_filters, log_mel, mel_energies, mel_filters, mel_pairs

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


@pytest.mark.parametrize("features", [lambda x: log_mel(x, 80, 16_000), mel_pairs], ids=["log_mel", "mel_pairs"])
def test_autocast_around_them_changes_no_bit(features):
    waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = features(waveform)
    assert torch.equal(inside, features(waveform))


def test_a_shorter_window_is_the_beginning_of_a_longer_one():
    assert torch.equal(log_mel(noise(16_000), 80, 32_000), log_mel(noise(16_000), 80, WINDOW)[:, :200])


PEER = SeamlessM4TFeatureExtractor(padding_value=1)


def check_pairs(waveform: np.ndarray) -> None:
    np.testing.assert_allclose(mel_energies(waveform), PEER._extract_fbank_features(waveform).T, rtol=0, atol=2e-6)
    found, wanted = mel_pairs(waveform), PEER(waveform, sampling_rate=16_000)
    frames = int(wanted["attention_mask"].sum())
    assert found.shape == (frames, 160) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted["input_features"][0][:frames], rtol=0, atol=1e-5)


def test_kaldi_filters_are_transformers():
    assert np.array_equal(kaldi_filters(80), PEER.mel_filters.T)


@pytest.mark.parametrize("samples", [560, 719, 720, 879, 880, 16_000, 16_159, 16_160, 16_319, 41_200, 90_000])
def test_pairs_of_any_length_are_transformers(samples):
    """Two frames and more; odd numbers of frames, of which the last is dropped; more than are computed at once."""
    check_pairs(noise(samples))


def test_pairs_of_real_clips(clips):
    for clip in clips[:20]:
        check_pairs(read_audio(clip))


def test_pairs_of_many_languages():
    """Each clip of the first ten of 20 languages; benchmarks.w2v_bert --features names those with a constant bin."""
    files = sorted(SHARED.glob("data/cv6/*/clips/*.mp3"))
    if not files:
        pytest.skip("needs the shared recordings")
    for file in files[:: len(files) // 40]:
        check_pairs(read_audio(file))


def test_pairs_of_integers_are_those_of_floats():
    whole = (noise(20_000) * 32768).clip(-32768, 32767).astype(np.int16)
    assert torch.equal(mel_pairs(whole), mel_pairs(whole.astype(np.float32) / 32768))


def test_pairs_of_silence_are_finite():
    """Every bin is constant: a variance of 0 divides by sqrt(1e-7), and the mean's rounding is what is left."""
    pairs = mel_pairs(np.zeros(16_000, np.float32))
    assert pairs.shape == (49, 160) and pairs.abs().max() < 0.01


def test_each_bin_is_normalised_over_all_frames_of_the_clip():
    """16,160 samples have 99 frames: the last counts in mean and variance, and is left out."""
    waveform = noise(16_160)
    energies = mel_energies(waveform).astype(np.float64)
    assert energies.shape == (80, 99)
    wanted = (energies - energies.mean(1, keepdims=True)) / np.sqrt(energies.var(1, ddof=1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(mel_pairs(waveform).view(98, 80).numpy(), wanted.T[:98], atol=1e-5)
