"""What becomes of training clips while they are read: --augment, --noise-folder, --room-folder."""

import argparse
from pathlib import Path
from typing import Any

from recipes.console import say
from recipes.data_settings import DataSettings
from recipes.prepared import Prepared
from recipes.presets import Preset
from w2v.augmentation import Augmentation
from w2v.data.loading import StoredClips, stored_folder
from w2v.data.manifest import fingerprint_of
from w2v.errors import InputError, listed, named, show
from w2v.training import distributed

NONE = "none"
# Speeds are those of Ko et al. 2015, the other values mild ones of those in use. docs/RESULTS.md has what they bring.
PARTS: dict[str, dict[str, Any]] = {
    "speed": {"speeds": (0.9, 1.0, 1.1)},
    "gain": {"gain_db": 6.0},
    "noise": {"noise": 0.5, "snr_db": (5.0, 30.0)},
    "rooms": {"rooms": 0.3},
}
MOST_NAMED = 10  # files that cannot be used


def add_augmentation_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation (of training clips, another one in each epoch)")
    group.add_argument(
        "--augment",
        type=augmentations,
        metavar="PARTS",
        help=f"none, or of {', '.join(PARTS)}, with commas between them (default: the preset's)",
    )
    group.add_argument("--noise-folder", type=Path, metavar="DIR", help="audio files of noise, else it is generated")
    group.add_argument(
        "--room-folder", type=Path, metavar="DIR", help="impulse responses of rooms, else they are generated"
    )


def augmentations(text: str) -> str:
    """The parts in one order, or none."""
    names = [name.strip() for name in text.split(",")]
    if names == [NONE]:
        return NONE
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"must be {NONE} or of {', '.join(PARTS)}, got {show(unknown[0])}")
    return ",".join(name for name in PARTS if name in names)


def choose_augmentation(
    args: argparse.Namespace, preset: Preset, prepared: Prepared, data: DataSettings
) -> tuple[Augmentation | None, str]:
    """What the flags say, or else the preset; and the same in words, for run.json. Folders are decoded into the store.

    InputError for a folder without its part, or without a file that can be used.
    """
    chosen = args.augment or preset.augment
    parts = [] if chosen == NONE else chosen.split(",")
    fields: dict[str, Any] = {}
    for part in parts:
        fields |= PARTS[part]
    made = {"noise": "generated, or a babble of other clips", "rooms": "generated"}
    given = (("noise", "noises", "--noise-folder", args.noise_folder),
             ("rooms", "responses", "--room-folder", args.room_folder))  # fmt: skip
    for part, field, flag, folder in given:
        if folder is not None and part not in parts:
            raise InputError(f"{flag} needs {part} in --augment, which is {chosen}; add it, or leave {flag} out")
        if folder is not None:
            fields[field], made[part] = read_recordings(flag, folder, data)
    if not parts:
        return None, NONE
    if "noise" in parts:
        fields["voices"] = StoredClips(prepared.audio, prepared.splits.train)
    how = Augmentation(**fields)
    words = {
        "speed": f"speed {listed(map(str, how.speeds))}",
        "gain": f"gain of up to {how.gain_db:g} dB",
        "noise": f"noise in {how.noise:.0%} of the clips, {how.snr_db[0]:g} to {how.snr_db[1]:g} dB, {made['noise']}",
        "rooms": f"rooms for {how.rooms:.0%} of them, {made['rooms']}",
    }
    described = "; ".join(words[part] for part in parts)
    prepared.decide(f"augmentation: {described}")
    return how, described


def read_recordings(flag: str, folder: Path, data: DataSettings) -> tuple[StoredClips, str]:
    """The audio files of a folder, and how many of which contents they are: a run that goes on needs the same."""
    audio, clips, skipped = distributed.after_first(lambda: stored_folder(folder, data.cache, data.workers, say))
    for skip in skipped[:MOST_NAMED]:
        say(f"{flag}: {named(skip.name)} is skipped, {skip.reason}")
    if more := skipped[MOST_NAMED:]:
        say(f"{flag}: {len(more)} more files are skipped")
    contents = (f"{clip.name}\t{audio.samples(clip)}\n".encode() for clip in clips)
    return StoredClips(audio, clips), f"from {len(clips)} recordings ({fingerprint_of(*contents)})"
