"""A folder as a recogniser: what it takes, what it says of recordings that it cannot use.

Run: pytest tests/test_transcribe.py
"""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

import w2v
from w2v.audio import SAMPLE_RATE, UnusableAudioError

WAVEFORM = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)


@pytest.fixture(scope="module")
def asr() -> w2v.Recogniser:
    """It hears "a" in whatever it listens to."""
    tokenizer = w2v.CharTokenizer({"[PAD]": 0, "[UNK]": 1, "|": 2, "a": 3})
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=1, vocab_size=4, pad_token_id=0)
    model = w2v.Wav2Vec2ForCTC(config)
    model.lm_head.bias.data[3] = 1000.0
    return w2v.Recogniser(model, tokenizer)


def texts(transcripts) -> list[str]:
    assert isinstance(transcripts, list)
    return [transcript.text for transcript in transcripts]


def test_one_recording_is_a_list_of_one(asr, clips):
    for one in (str(clips[0]), clips[0], WAVEFORM, torch.from_numpy(WAVEFORM), (1000 * WAVEFORM).astype(np.int16)):
        assert texts(asr.transcribe(one)) == ["a"]


def test_several_recordings_of_any_kind(asr, clips):
    assert texts(asr.transcribe([str(clips[0]), clips[1], WAVEFORM, torch.from_numpy(WAVEFORM)])) == ["a"] * 4
    assert texts(asr.transcribe(iter([WAVEFORM]))) == ["a"]
    assert texts(asr.transcribe(np.stack([WAVEFORM, WAVEFORM]))) == ["a"] * 2
    assert texts(asr.transcribe(np.array([str(clips[0]), str(clips[1])]))) == ["a"] * 2
    assert asr.transcribe([]) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_that_are_not_finite_are_refused(asr, tmp_path, bad, rate):
    waveform = WAVEFORM.copy()
    waveform[5000] = bad
    soundfile.write(tmp_path / "a.wav", waveform, rate, subtype="FLOAT")
    with pytest.raises(UnusableAudioError, match=rf"^{tmp_path}/a\.wav: samples are not finite$"):
        asr.transcribe([WAVEFORM, tmp_path / "a.wav"])
    with pytest.raises(UnusableAudioError, match=r"^recording 1: samples are not finite$"):
        asr.transcribe([WAVEFORM, waveform], sample_rate=rate)


def test_silence_is_no_text_and_no_error(asr, tmp_path):
    silence = np.zeros(SAMPLE_RATE, np.float32)
    soundfile.write(tmp_path / "a.wav", silence, SAMPLE_RATE)
    got = asr.transcribe([silence, WAVEFORM, tmp_path / "a.wav", silence + np.float32(5e-4), silence[:10]], words=True)
    assert texts(got) == ["", "a", "", "", ""]
    assert got[0].words == []


def test_errors_name_the_recording(asr, tmp_path, clips):
    with pytest.raises(UnusableAudioError, match=rf"^{tmp_path}/no\.mp3: missing file$"):
        asr.transcribe([clips[0], str(tmp_path / "no.mp3")])
    with pytest.raises(UnusableAudioError, match=rf"^{tmp_path}: unreadable: Is a directory$"):
        asr.transcribe(tmp_path)
    with pytest.raises(w2v.InputError, match=r"^recording 2: a waveform must be mono, .* got shape \(2, 16000\)"):
        asr.transcribe([WAVEFORM, clips[0], np.stack([WAVEFORM, WAVEFORM])])
    with pytest.raises(UnusableAudioError, match=r"^recording 0: the sample rate must be .* got 1000$"):
        asr.transcribe(WAVEFORM, sample_rate=1000)


def test_unusual_sample_rate(asr):
    assert texts(asr.transcribe([WAVEFORM], sample_rate=24_414)) == ["a"]
