"""Augmentation: speeds, gains, noises and rooms have the values that were asked for, and follow from the generator.

Run: pytest tests/test_augmentation.py
"""

import dataclasses
import pickle

import numpy as np
import pytest

import w2v
from w2v.augmentation import (
    Augmentation,
    add_noise,
    augment,
    babble,
    change_gain,
    change_speed,
    coloured_noise,
    in_room,
    room_response,
    samples_at,
    usable_speeds,
)
from w2v.errors import InputError
from w2v.resampling import SAMPLE_RATE

ALL = Augmentation(speeds=(0.9, 1.0, 1.1), gain_db=6.0, noise=1.0, rooms=1.0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def speech(samples: int = 16_000) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(samples) * 3000).astype(np.int16)


def decibels(power: float) -> float:
    return 10 * np.log10(power)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_a_tone_at_another_speed_has_another_pitch_and_length(speed):
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    got = change_speed(tone, speed)
    assert got.dtype == np.float32
    assert len(got) == samples_at(len(tone), speed) == -(-2 * SAMPLE_RATE * 100 // round(speed * 100))
    spectrum = np.abs(np.fft.rfft(got[:SAMPLE_RATE]))  # bins of 1 Hz
    assert spectrum.argmax() == round(440 * speed)
    assert np.abs(got[1000:-1000]).max() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("speed", [0.49, 2.01, 0.905, float("nan"), float("inf"), -1.0])
def test_speeds_that_are_none(speed):
    with pytest.raises(InputError, match=r"`speed` must be from 0\.5 to 2 in steps of 0\.01"):
        change_speed(speech(), speed)


@pytest.mark.parametrize("samples", [1, 2, 399, 16_000, 80_001])
@pytest.mark.parametrize("speed", [0.5, 0.9, 1.0, 1.1, 1.37, 2.0])
def test_the_length_is_known_beforehand(samples, speed):
    assert len(change_speed(speech(samples), speed)) == samples_at(samples, speed)


def test_a_speed_at_which_a_model_cannot_learn_is_not_drawn():
    config = w2v.XLSR_53
    whole = 400 + 319 + 9 * 320  # samples: 10 frames, as 9 labels and one repeat need
    labels = [1, 1, *range(2, 9)]
    assert config.why_not(whole, labels) is None
    assert usable_speeds((0.9, 1.0, 1.1), whole, labels, config.why_not) == [0.9, 1.0]
    window = 30 * SAMPLE_RATE
    whisper = w2v.WhisperConfig()
    assert usable_speeds((0.9, 1.0, 1.1), window, [1], whisper.why_not) == [1.0, 1.1]
    assert usable_speeds((0.9, 1.0, 1.1), window * 9 // 10, [1], whisper.why_not) == [0.9, 1.0, 1.1]
    assert usable_speeds((0.9,), window, [1], whisper.why_not) == [1.0]


@pytest.mark.parametrize("gain_db", [-6.0, 0.0, 6.0])
def test_gain(gain_db):
    waveform = speech() // 8
    power = decibels(np.square(change_gain(waveform, gain_db)).mean() / np.square(waveform / 32768).mean())
    assert power == pytest.approx(gain_db, abs=1e-3)


def test_gain_ends_at_full_scale():
    waveform = speech()
    got = change_gain(waveform, 40.0)
    assert np.abs(got).max() == pytest.approx(1.0, abs=1e-6)
    assert np.corrcoef(got, waveform)[0, 1] == pytest.approx(1.0, abs=1e-6)  # not clipped
    assert not change_gain(np.zeros(10, np.int16), 6.0).any()


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
def test_noise_has_the_ratio_that_was_asked_for(snr_db, rng):
    waveform = speech()
    for noise in (coloured_noise(16_000, 1.0, rng), speech()[::-1], rng.uniform(-1e-4, 1e-4, 16_000)):
        added = add_noise(waveform, noise, snr_db) - waveform.astype(np.float32) / 32768
        ratio = decibels(np.square(waveform / 32768).mean() / np.square(added.astype(np.float64)).mean())
        assert ratio == pytest.approx(snr_db, abs=0.1)


def test_silent_noise_changes_nothing_and_a_short_one_is_refused():
    waveform = speech()
    assert np.array_equal(add_noise(waveform, np.zeros(16_000), 0.0), waveform.astype(np.float32) / 32768)
    with pytest.raises(InputError, match="16000 samples, got 100"):
        add_noise(waveform, waveform[:100], 0.0)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_as_it_should(slope, rng):
    noise = coloured_noise(200_000, slope, rng)
    assert len(noise) == 200_000 and noise.dtype == np.float32
    power = np.square(np.abs(np.fft.rfft(noise)))
    hertz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)

    def around(centre: float) -> float:
        return power[(hertz > centre / 1.1) & (hertz < centre * 1.1)].mean()

    assert decibels(around(200) / around(3200)) == pytest.approx(slope * decibels(16), abs=1.0)
    assert decibels(around(10) / around(40)) == pytest.approx(0.0, abs=2.0)  # flat below 50 Hz


def test_babble_is_made_of_voices_of_equal_power(rng):
    loud, soft = speech(5_000), (speech(40_000) / 50).astype(np.float32) / 32768
    noise = babble([loud, soft], 20_000, rng)
    assert len(noise) == 20_000
    assert 3 - 0.5 < np.square(noise).mean() < 5 * 8  # 3 to 8 voices of power 1; the same one may come again
    one = babble([np.ones(7, np.int16)], 100, rng)  # a voice that is always the same: their number is the sum
    assert np.unique(one.round(3)).size == 1 and 3 <= one[0].round() <= 8


def test_a_room_keeps_the_place_and_the_level(rng):
    click = np.zeros(8_000, np.float32)
    click[1000] = 0.5
    for _ in range(20):
        heard = in_room(click, room_response(rng))
        assert len(heard) == len(click)
        assert np.abs(heard).argmax() == 1000
        assert np.square(heard).sum() == pytest.approx(0.25, rel=1e-4)
        assert np.abs(heard[:1000]).max() < 1e-5  # nothing is heard before it is said
        assert np.abs(heard[1001:]).max() > 1e-4  # and something after it


def test_a_recorded_room_is_aligned_by_its_direct_path(rng):
    """Its response begins with 40 ms of a quiet room, and an echo comes 100 samples after the direct path."""
    response = rng.standard_normal(4_000).astype(np.float32) * 1e-4
    response[640], response[740] = -0.8, 0.4
    waveform = speech()
    heard = in_room(waveform, response)
    delayed = np.concatenate([np.zeros(100), waveform[:-100]])
    wanted = -0.8 * waveform + 0.4 * delayed
    assert np.corrcoef(heard, wanted)[0, 1] > 0.999
    assert np.square(heard).mean() == pytest.approx(np.square(waveform / 32768).mean(), rel=1e-4)


def test_a_room_equals_convolution():
    waveform, response = speech(3_000), np.exp(-np.arange(500) / 50).astype(np.float32)
    heard, wanted = in_room(waveform, response), np.convolve(waveform / 32768, response)[:3_000]
    wanted *= np.sqrt(np.square(waveform / 32768).mean() / np.square(wanted).mean())
    np.testing.assert_allclose(heard, wanted, rtol=0, atol=1e-6)
    assert np.array_equal(in_room(waveform, np.zeros(100, np.float32)), waveform.astype(np.float32) / 32768)


def test_generated_rooms_are_rooms(rng):
    """From the response alone: the direct path over the rest, and how fast the rest decays."""
    for _ in range(20):
        response = room_response(rng)
        assert response[0] == 1 == np.abs(response).max()
        rest = response[1:].astype(np.float64)
        assert -1e-3 <= decibels(1 / np.square(rest).sum()) <= 15 + 1e-3
        seconds = len(response) / SAMPLE_RATE
        assert 0.1 - 1e-3 <= seconds <= 0.8
        third = len(rest) // 3  # 60 dB in all: 20 dB from one third to the next
        assert decibels(np.square(rest[third : 2 * third]).sum() / np.square(rest[2 * third :]).sum()) == pytest.approx(
            20.0, abs=2.0
        )


def test_the_generator_decides_and_int16_equals_float32(rng):
    waveform = speech()
    one, again, other = (augment(waveform, ALL, np.random.default_rng([42, 3, i])) for i in (7, 7, 8))
    assert one.dtype == np.float32 and np.isfinite(one).all()
    assert np.array_equal(one, again)
    assert not (len(one) == len(other) and np.allclose(one, other))
    as_floats = augment(waveform.astype(np.float32) / 32768, ALL, np.random.default_rng([42, 3, 7]))
    assert np.array_equal(one, as_floats)


def test_all_that_is_off_leaves_a_clip_as_it_is(rng):
    waveform = speech()
    assert np.array_equal(augment(waveform, Augmentation(), rng), waveform.astype(np.float32) / 32768)


def test_each_is_drawn_as_often_as_was_asked(rng):
    waveform = speech(2_000)
    plain = waveform.astype(np.float32) / 32768
    for field in ("noise", "rooms"):
        how = Augmentation(**{field: 0.3})
        changed = sum(not np.array_equal(augment(waveform, how, rng), plain) for _ in range(400))
        assert 0.2 < changed / 400 < 0.4
    lengths = [len(augment(waveform, Augmentation(speeds=(0.9, 1.0, 1.1)), rng)) for _ in range(300)]
    assert {samples: 70 < lengths.count(samples) < 130 for samples in (1819, 2000, 2223)} == dict.fromkeys(
        (1819, 2000, 2223), True
    )


def test_recordings_are_used_where_there_are_some(rng):
    """A noise of one tone, shorter and longer than the clip; a room that turns all around."""
    waveform = speech(4_000)
    for samples in (1_600, 50_000):
        tone = np.sin(2 * np.pi * 1000 * np.arange(samples) / SAMPLE_RATE).astype(np.float32)
        how = Augmentation(noise=1.0, noises=[tone], snr_db=(0.0, 0.0), voices=[waveform])
        added = augment(waveform, how, rng) - waveform.astype(np.float32) / 32768
        assert np.abs(np.fft.rfft(added)).argmax() == 250  # bins of 4 Hz
    turned = augment(waveform, Augmentation(rooms=1.0, responses=[np.array([-1.0], np.float32)]), rng)
    np.testing.assert_allclose(turned, waveform / -32768, rtol=0, atol=1e-6)


def test_it_may_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(ALL)) == ALL


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speeds", ()),
        ("speeds", (0.9, 3.0)),
        ("speeds", (float("nan"),)),
        ("gain_db", -1.0),
        ("gain_db", float("inf")),
        ("noise", 1.5),
        ("rooms", float("nan")),
        ("snr_db", (20.0, 5.0)),
        ("snr_db", (float("nan"), 5.0)),
    ],
)
def test_values_out_of_range(field, value):
    with pytest.raises(InputError, match=f"`{field}` must be"):
        dataclasses.replace(ALL, **{field: value})
