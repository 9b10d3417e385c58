"""How fast training clips are augmented: seconds of speech for a second of one core.

    python -m benchmarks.augmentation [--data FOLDER --lang tr tt ...]

By default the 100 embedded Turkish clips. Each part is done to every clip, with one thread and from the store's int16;
with --augment it is done to some. `all` is what an epoch with all four parts does to a clip, every part drawn as often
as there; `all, always` is every part to every clip, at the slowest speed. Exit code 1 where one of these is less than
300 times real time. CPU time is counted: what other processes take does not matter, what they cost in cache does.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import machine, print_result
from recipes.augmenting import PARTS
from recipes.console import Parser, positive, say
from recipes.data_settings import SAMPLES
from w2v.audio import SAMPLE_RATE
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
)
from w2v.data.corpus import read_corpus
from w2v.data.loading import StoredClips
from w2v.data.store import build_store
from w2v.errors import InputError

LEAST = 300  # times real time, a core
SNR_DB = 10.0


def main() -> int:
    parser = Parser(prog="python -m benchmarks.augmentation", description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", type=Path, default=[SAMPLES / "tr"], help="Common Voice folders")
    parser.add_argument("--lang", nargs="+", default=["tr"], help="their locales, all of which are used")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)  # as in a loader's process
    with tempfile.TemporaryDirectory() as cache:
        waveforms = read_waveforms(args.data, args.lang, Path(cache))
        seconds = sum(len(waveforms[i]) for i in range(len(waveforms))) / SAMPLE_RATE
        real_time = {}
        for name, change in changes(waveforms).items():
            real_time[name] = round(seconds / time_of(change, waveforms, args.repeats))
            say(f"{name}: {real_time[name]} s of speech for a second of a core")
    slowest = min(real_time, key=real_time.__getitem__)
    is_met = real_time[slowest] >= LEAST
    say(f"slowest: {slowest}, {real_time[slowest]} times real time; at least {LEAST}: {'met' if is_met else 'MISSED'}")
    summary = {
        "clips": len(waveforms),
        "audio_seconds": round(seconds, 1),
        "real_time": real_time,
        "least": LEAST,
        "met": is_met,
        "machine": machine(torch.device("cpu")),
    }
    print_result("augmentation", summary, args.save)
    return 0 if is_met else 1


def read_waveforms(data: list[Path], langs: list[str], cache: Path) -> StoredClips:
    """The usable clips of all locales, each read once, so that a timing finds them in memory."""
    tables = [table for lang in langs for table in read_corpus(data, lang, cache).tables.values()]
    clips = list({(clip.source, clip.name): clip for table in tables for clip in table}.values())
    audio = build_store(clips, cache, 1)
    waveforms = StoredClips(audio, [clip for clip in clips if clip not in audio.skipped])
    for i in range(len(waveforms)):
        np.max(waveforms[i])
    return waveforms


def changes(voices: StoredClips) -> dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]]:
    every = Augmentation(**{name: value for part in PARTS.values() for name, value in part.items()}, voices=voices)
    always = replace(every, speeds=(min(every.speeds),), noise=1.0, rooms=1.0)
    return {
        "speed 0.9": lambda waveform, rng: change_speed(waveform, 0.9),
        "speed 1.1": lambda waveform, rng: change_speed(waveform, 1.1),
        "rooms": lambda waveform, rng: in_room(waveform, room_response(rng)),
        "noise, coloured": lambda waveform, rng: add_noise(
            waveform, coloured_noise(len(waveform), rng.uniform(0, 2), rng), SNR_DB
        ),
        "noise, babble": lambda waveform, rng: add_noise(waveform, babble(voices, len(waveform), rng), SNR_DB),
        "gain": lambda waveform, rng: change_gain(waveform, rng.uniform(-6, 6)),
        "all": lambda waveform, rng: augment(waveform, every, rng),
        "all, always": lambda waveform, rng: augment(waveform, always, rng),
    }


def time_of(change: Callable, waveforms: StoredClips, repeats: int) -> float:
    """Seconds of one core that all clips take, the median of the repeats; generators are made as in training."""
    taken = []
    for epoch in range(repeats + 1):  # the first makes filters
        start = time.process_time()
        for i in range(len(waveforms)):
            change(waveforms[i], np.random.default_rng([0, epoch, i]))
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        say(f"error: {error}")
        sys.exit(2)
