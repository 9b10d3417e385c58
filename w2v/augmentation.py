"""Other versions of a training clip: at another speed, in a room, with noise, louder or softer.

    how = Augmentation(speeds=(0.9, 1.0, 1.1), gain_db=6.0, noise=0.5, rooms=0.3)
    waveform = augment(waveform, how, np.random.default_rng([seed, epoch, clip]))

All functions take waveforms at 16 kHz, (samples,) float32, or int16 that counts as x / 32768, and give float32. What
they draw comes from the generator alone: the same generator gives the same samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from w2v.errors import InputError
from w2v.resampling import SAMPLE_RATE, resample

SLOWEST, FASTEST = 0.5, 2.0
SPEED_STEP = 0.01  # the filters of such speeds are few, and kept
MOST_GAIN_DB = 40.0
SNR_RANGE_DB = (-20.0, 100.0)
VOICES = (3, 8)  # that speak at once in babble
BABBLE_SHARE = 0.5  # of the clips with noise, where there are voices and no recorded noises; the others get coloured
STEEPEST = 2.0  # exponent of 1 / f: 0 is white noise, 1 pink, 2 brown
FLAT_BELOW = 50.0  # Hz: with more of what nobody hears, the noise would be soft where speech lies
REVERBERATION_SECONDS = (0.1, 0.8)  # until it is 60 dB softer: a furnished room, a hall
DIRECT_TO_REVERBERANT_DB = (0.0, 15.0)
FIRST_REFLECTION_SECONDS = (0.002, 0.02)  # after the direct path: a detour of 0.7 to 7 m
BEFORE_PEAK, AFTER_PEAK = SAMPLE_RATE // 50, 2 * SAMPLE_RATE  # samples of a room's response that are heard


class Recordings(Protocol):
    """Waveforms by number: a list of arrays, or clips of a store."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Augmentation:
    """What may become of a clip. By default nothing does. InputError for values out of range."""

    speeds: tuple[float, ...] = (1.0,)  # one is drawn for each clip, all alike
    gain_db: float = 0.0  # a clip becomes up to so much softer or louder
    noise: float = 0.0  # probability that a clip gets noise
    rooms: float = 0.0  # probability that a clip sounds as in a room
    snr_db: tuple[float, float] = (5.0, 30.0)  # least and most, of speech over noise
    noises: Recordings = ()  # recordings of noise; without them it is generated
    responses: Recordings = ()  # impulse responses of rooms; without them they are generated
    voices: Recordings = ()  # clips of speech that babble is made of

    def __post_init__(self) -> None:
        if not self.speeds or not all(_is_speed(speed) for speed in self.speeds):
            raise InputError(
                f"`speeds` must be numbers from {SLOWEST} to {FASTEST:g} in steps of {SPEED_STEP}, got {self.speeds}; "
                "use 0.9, 1.0 and 1.1"
            )
        if not 0 <= self.gain_db <= MOST_GAIN_DB:
            raise InputError(f"`gain_db` must be from 0 to {MOST_GAIN_DB:g}, got {self.gain_db}; use 6")
        for name in ("noise", "rooms"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"`{name}` must be a probability from 0 to 1, got {getattr(self, name)}; 0 turns it off"
                )
        if not SNR_RANGE_DB[0] <= self.snr_db[0] <= self.snr_db[1] <= SNR_RANGE_DB[1]:
            raise InputError(
                f"`snr_db` must be the least and the most, from {SNR_RANGE_DB[0]:g} to {SNR_RANGE_DB[1]:g}, got "
                f"{self.snr_db}; use 5 and 30"
            )


def augment(
    waveform: np.ndarray, how: Augmentation, rng: np.random.Generator, speeds: Sequence[float] | None = None
) -> np.ndarray:
    """(samples,) float32 or int16 -> another version of it, float32, of another length where its speed changes.

    speeds: those of `how` that this clip may have, see usable_speeds. The speaker is in the room, the noise is not.
    """
    speeds = how.speeds if speeds is None else speeds
    waveform = change_speed(waveform, speeds[int(rng.integers(len(speeds)))])
    if rng.random() < how.rooms:
        waveform = in_room(waveform, _one_of(how.responses, rng) if len(how.responses) else room_response(rng))
    if rng.random() < how.noise:
        waveform = add_noise(waveform, _some_noise(len(waveform), how, rng), rng.uniform(*how.snr_db))
    if how.gain_db:
        waveform = change_gain(waveform, rng.uniform(-how.gain_db, how.gain_db))
    return waveform


def usable_speeds(
    speeds: Sequence[float], samples: int, label_ids: list[int], why_not: Callable[[int, list[int]], str | None]
) -> list[float]:
    """The speeds at which a model can still learn from a clip of so many samples; 1 where there is no other.

    why_not: the model's config.why_not. A clip may become too short for its text, or too long for the model.
    """
    usable = [speed for speed in speeds if speed == 1 or why_not(samples_at(samples, speed), label_ids) is None]
    return usable or [1.0]


def slowest_samples(
    speeds: Sequence[float], samples: int, label_ids: list[int], why_not: Callable[[int, list[int]], str | None]
) -> int:
    """How long a clip can become: what it stands for in the budget of a batch."""
    return samples_at(samples, min(usable_speeds(speeds, samples, label_ids, why_not)))


def samples_at(samples: int, speed: float) -> int:
    """The length of a clip of so many samples after change_speed."""
    return math.ceil(samples * SAMPLE_RATE / _rate(speed))


def change_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    """(samples,) -> (samples_at(samples, speed),): as a tape that runs so many times as fast, pitch included.

    Ko et al. 2015 train on 0.9, 1 and 1.1. speed: from 0.5 to 2 in steps of 0.01, else InputError.
    """
    if not _is_speed(speed):
        raise InputError(
            f"`speed` must be from {SLOWEST} to {FASTEST:g} in steps of {SPEED_STEP}, got {speed}; use 1.1"
        )
    return resample(_floats(waveform), _rate(speed))


def change_gain(waveform: np.ndarray, gain_db: float) -> np.ndarray:
    """(samples,) -> the same, so much louder, but at most until its peak reaches full scale."""
    waveform = _floats(waveform)
    peak = float(max(waveform.max(initial=0.0), -waveform.min(initial=0.0)))
    gain = 10 ** (gain_db / 20)
    return waveform * np.float32(min(gain, 1 / peak) if peak else gain)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """(samples,) speech, and as many samples of noise at any level -> speech with noise, (samples,).

    snr_db: power of the speech over that of the noise, each over the whole clip. Silent noise changes nothing.
    """
    waveform, noise = _floats(waveform), _floats(noise)
    if len(waveform) != len(noise):
        raise InputError(f"`noise` must be as long as the waveform, {len(waveform)} samples, got {len(noise)}; cut it")
    power = _power(noise)
    if not power:
        return waveform
    return waveform + noise * np.float32(math.sqrt(_power(waveform) / power) * 10 ** (-snr_db / 20))


def coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """(samples,) of noise whose power falls as 1 / f ** slope above 50 Hz: 0 is white, 1 pink, 2 brown."""
    size = _transform_size(samples)
    spectrum = rng.standard_normal(size + 2, np.float32).view(np.complex64)  # (size / 2 + 1,)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
    spectrum *= np.maximum(frequencies / np.float32(FLAT_BELOW), np.float32(1)) ** np.float32(-slope / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, size)[:samples].astype(np.float32, copy=False)


def babble(voices: Recordings, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,) of several voices at once, equally loud, from clips that are drawn with replacement."""
    total = np.zeros(samples, np.float32)
    for _ in range(rng.integers(VOICES[0], VOICES[1] + 1)):
        voice = _floats(_piece(_one_of(voices, rng), samples, rng))
        total += voice * np.float32(1 / math.sqrt(_power(voice) or 1.0))
    return total


def room_response(rng: np.random.Generator) -> np.ndarray:
    """The impulse response of a room, (samples,): the direct path, and noise that decays exponentially."""
    seconds, first = rng.uniform(*REVERBERATION_SECONDS), rng.uniform(*FIRST_REFLECTION_SECONDS)
    ratio_db = rng.uniform(*DIRECT_TO_REVERBERANT_DB)
    times = np.arange(int(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    response = rng.standard_normal(len(times), np.float32) * np.exp(times * np.float32(-3 * math.log(10) / seconds))
    response[: int(first * SAMPLE_RATE)] = 0
    response *= np.float32(10 ** (-ratio_db / 20) / math.sqrt(response @ response))
    response[0] = 1
    return response


def in_room(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """(samples,) speech -> the same as a room with this impulse response lets it sound, (samples,), as loud as before.

    The response's largest sample counts as the direct path: what was said at a time is heard at that time. A silent
    response changes nothing.
    """
    waveform, response = _floats(waveform), _floats(response)
    peak = int(np.abs(response).argmax())
    start = max(0, peak - BEFORE_PEAK)
    response, peak = response[start : peak + AFTER_PEAK], peak - start
    size = _transform_size(len(waveform) + len(response) - 1)
    spectrum = np.fft.rfft(waveform, size)
    spectrum *= np.fft.rfft(response, size)
    heard = np.fft.irfft(spectrum, size)[peak : peak + len(waveform)].astype(np.float32, copy=False)
    power = _power(heard)
    return heard * np.float32(math.sqrt(_power(waveform) / power)) if power else waveform


def _some_noise(samples: int, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    if len(how.noises):
        return _piece(_one_of(how.noises, rng), samples, rng)
    if len(how.voices) and rng.random() < BABBLE_SHARE:
        return babble(how.voices, samples, rng)
    return coloured_noise(samples, rng.uniform(0, STEEPEST), rng)


def _one_of(recordings: Recordings, rng: np.random.Generator) -> np.ndarray:
    return recordings[int(rng.integers(len(recordings)))]


def _piece(recording: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """So many samples of a recording, from a random place on; a shorter recording begins again at its end."""
    spare = len(recording) - samples
    if spare >= 0:
        start = int(rng.integers(spare + 1))
        return recording[start : start + samples]
    return np.resize(np.roll(recording, int(rng.integers(len(recording)))), samples)


def _is_speed(speed: float) -> bool:
    return SLOWEST <= speed <= FASTEST and abs(speed / SPEED_STEP - round(speed / SPEED_STEP)) < 1e-6


def _rate(speed: float) -> int:
    """What reads a waveform as if it had this rate plays it at that speed."""
    return round(speed * SAMPLE_RATE)


def _floats(waveform: np.ndarray) -> np.ndarray:
    if waveform.dtype == np.int16:
        return np.multiply(waveform, np.float32(1 / 32768), dtype=np.float32)
    return waveform.astype(np.float32, copy=False)


def _power(waveform: np.ndarray) -> float:
    return float(waveform @ waveform) / len(waveform)


def _transform_size(samples: int) -> int:
    """A length of at least so many samples of which Fourier transforms are fast: 4, 5 or 6 times a power of 2."""
    power = max(1, (samples - 1).bit_length() - 3)
    return next(size for size in (4 << power, 5 << power, 6 << power, 8 << power) if size >= samples)
