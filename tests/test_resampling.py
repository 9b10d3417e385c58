"""Resampling: equal to torchaudio's at any rate, in bounded time and memory.

Run: pytest tests/test_resampling.py
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torchaudio
from conftest import ROOT

from w2v import resampling
from w2v.errors import UnusableAudioError
from w2v.resampling import SAMPLE_RATE, resample, resample_blocks

USUAL_RATES = [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000, 384_000]


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)


@pytest.mark.parametrize("rate", [4_000, *USUAL_RATES, 400_000])
@pytest.mark.parametrize("samples", [1, 40, 1000, 100_003])
def test_usual_rates_equal_torchaudio_and_take_the_fast_path(rate, samples, monkeypatch):
    monkeypatch.setattr(resampling, "_resample_directly", lambda *_: pytest.fail("the slower path"))
    waveform = noise(samples)
    got = resample(waveform, rate)
    assert got.dtype == np.float32
    assert len(got) == -(-samples * SAMPLE_RATE // rate)
    wanted = torchaudio.functional.resample(torch.from_numpy(waveform).double(), rate, SAMPLE_RATE)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [4_100, 8_020, 15_980, 16_020, 44_050, 399_900, 44_100, 11_025])
@pytest.mark.parametrize("samples", [1, 40, 50_003])
def test_direct_path_equals_torchaudio(rate, samples, monkeypatch):
    """At unusual rates whose filters torchaudio can still hold, and at two usual ones."""
    monkeypatch.setattr(resampling, "DIRECT_NUMBERS", 1 << 14)  # several chunks
    waveform = noise(samples)
    got = resampling._resample_directly(waveform, rate)
    assert got.dtype == np.float32
    assert len(got) == -(-samples * SAMPLE_RATE // rate)
    wanted = torchaudio.functional.resample(torch.from_numpy(waveform).double(), rate, SAMPLE_RATE)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [48_000, 47_999])
def test_what_16_khz_cannot_hold_is_removed(rate):
    tone = np.sin(2 * np.pi * 11_000 * np.arange(rate) / rate).astype(np.float32)
    assert np.abs(resample(tone, rate)[500:-500]).max() < 0.02


@pytest.mark.parametrize("rate", [8_001, 44_056])
def test_unusual_rates_take_the_direct_path(rate, monkeypatch):
    monkeypatch.setattr(resampling, "_resample_by_matrix", lambda *_: pytest.fail("hundreds of megabytes of filters"))
    assert len(resample(noise(rate), rate)) == SAMPLE_RATE


@pytest.mark.parametrize("rate", [16_001, 399_989])
def test_a_second_at_an_unusual_rate_takes_little_time(rate):
    clock = time.process_time()
    got = resample(np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32), rate)
    assert time.process_time() - clock < 2
    assert np.abs(got - np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000))[200:-200].max() < 1e-3


@pytest.mark.slow
def test_a_second_at_any_rate_takes_little_time_and_memory():
    """torchaudio would need 98 s and 8.9 GB at 16,001 Hz."""
    code = """if True:
        import json, time
        from pathlib import Path
        import numpy as np
        import w2v

        def peak():  # not ru_maxrss, which begins with the peak of the process that started this one
            status = Path("/proc/self/status")
            lines = status.read_text().splitlines() if status.is_file() else []
            return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)

        before, seconds, errors = peak(), [], []
        for rate in (16_001, 24_414, 44_056, 44_101, 47_999, 399_989):
            waveform = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
            clock = time.process_time()
            got = w2v.resample(waveform, rate)
            seconds.append(time.process_time() - clock)
            wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
            errors.append(float(np.abs(got - wanted)[200:-200].max()))
        print(json.dumps([max(seconds), max(errors), (peak() - before) / 1024]))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, error, megabytes = json.loads(done.stdout)
    assert seconds < 2
    assert error < 1e-3
    assert megabytes < 300


@pytest.mark.parametrize("rate", [0, -8_000, 3_999, 400_001, 44_100.5, float("nan"), float("inf"), 10**30])
def test_other_rates_are_refused_by_name(rate):
    with pytest.raises(UnusableAudioError, match=rf"from 4000 to 400000 Hz, got {rate}".replace("+", r"\+")):
        resample(noise(100), rate)


def test_whole_rate_may_be_a_float():
    np.testing.assert_array_equal(resample(noise(4410), 44_100.0), resample(noise(4410), 44_100))


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000, 24_414])
@pytest.mark.parametrize("seconds", [0.4, 2.0, 2.3, 4.0, 5.0001])
def test_blocks_end_to_end_equal_the_whole(rate, seconds):
    waveform = noise(int(rate * seconds))
    blocks = [waveform[at : at + 2 * rate] for at in range(0, len(waveform), 2 * rate)]
    got = list(resample_blocks(iter(blocks), rate))
    assert len(got) == len(blocks)
    np.testing.assert_allclose(np.concatenate(got), resample(waveform, rate), rtol=0, atol=1e-6)


def test_no_blocks():
    assert list(resample_blocks([], 44_100)) == []
