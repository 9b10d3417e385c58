"""Which clips a run trains on, selects by and tests on, and what these splits share."""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath

from w2v.data.manifest import Clip, Source
from w2v.errors import InputError, listed

OFFICIAL = ("train", "dev", "test")
TEST_SHARE = DEV_SHARE = 0.1  # where a table has no official splits
CARVED_SHARE = 0.05  # where only dev is missing
SPEAKERS_TO_SPLIT_BY = 3
LEAST_OVERLAP = 0.01  # seconds that two segments share: less is rounding
# Common Voice numbers its clips: a name is one recording in every release, whatever it was converted to.
NUMBERED = re.compile(r"(common_voice_[\w-]+_\d+|spontaneous-speech-[\w-]+-\d+)\.\w+")


@dataclass
class Splits:
    """The clips of each split; `notes` tells the user how the splits were made."""

    train: list[Clip]
    dev: list[Clip]
    test: list[Clip]
    notes: list[str] = field(default_factory=list)
    repeated: frozenset[str] = frozenset()  # file names that one folder holds more than once
    withheld: list[Clip] = field(default_factory=list)  # of dev and test tables that are no split here

    def items(self) -> list[tuple[str, list[Clip]]]:
        return [("train", self.train), ("dev", self.dev), ("test", self.test)]

    def map(self, change: Callable[[str, list[Clip]], list[Clip]]) -> "Splits":
        """The same with each split replaced by change(name, clips)."""
        train, dev, test = (change(name, clips) for name, clips in self.items())
        return Splits(train, dev, test, self.notes, self.repeated, self.withheld)


def make_splits(
    tables: dict[str, list[Clip]],
    train_splits: list[str],
    dev_split: str,
    test_split: str,
    sentence_key: Callable[[str], str],
    extra: Sequence[tuple[str, list[Clip]]] = (),
    held_out: Sequence[Clip] = (),
) -> Splits:
    """Choose the splits by table name; "none" for dev or test leaves it out.

    - `validated` for training means validated minus every clip, speaker and sentence of dev and test.
    - Tables without any official split are divided by speaker, 80/10/10, the same way each time.
    - A dev split that is missing or empty is carved from train by speaker, 5%, at least one clip.
    - With fewer than three speakers, dividing is by sentence.
    - Releases divide their clips anew, so a test clip of one is a training clip of another. A clip of any dev or test
      table is never trained on, and one of test is not in dev; clips are told by file name, and segments of one file by
      whether they overlap. An official table that `train_splits` names is trained on.
    sentence_key: what makes two sentences the same (the run's normaliser). extra: (name, clips) that join train.
    held_out: further clips that are never trained on, of other data's dev and test. Raises InputError for unknown
    tables, and where one table is to be two splits.
    """
    notes: list[str] = []
    published = tables  # a division of our own holds nobody back who wants to train on all
    if not any(tables.get(name) for name in OFFICIAL) and tables.get("validated"):
        validated = _once("validated", tables["validated"], _repeated([tables["validated"]]), sentence_key, notes)
        tables = {**tables, **_divide(validated, sentence_key, notes)}
    _check_apart(tables, train_splits, dev_split, test_split)
    used = {*OFFICIAL, *train_splits, dev_split, test_split}
    repeated = _repeated(
        [tables.get(name, []) for name in sorted(used)] + [clips for _, clips in extra] + [list(held_out)]
    )

    test = _once("test", _held_out(tables, test_split, "test_split", notes), repeated, sentence_key, notes)
    dev = _once("dev", _held_out(tables, dev_split, "dev_split", notes), repeated, sentence_key, notes)
    in_test = _membership(test, repeated)
    if both := [clip for clip in dev if in_test(clip)]:
        dev = [clip for clip in dev if not in_test(clip)]
        notes.append(f"{len(both)} clips of dev are in test too and are left out of dev: {_names(both)}")
    # Official tables that are no split of this run: nobody trains on a test clip because only dev was asked for.
    unused = [clip for name in ("dev", "test") if name not in train_splits for clip in published.get(name, [])]
    unused += held_out
    is_held_out = _membership(dev + test + unused, repeated)

    train = []
    for name in train_splits:
        if name not in tables:
            if not any(tables.values()):  # another name would not help
                raise InputError(f"the data must list clips, its tables hold no rows ({listed(tables)}); mend them")
            raise InputError(f"`train_splits` must name tables of the data, got {name}; it holds {listed(tables)}")
        clips = tables[name]
        if name == "validated":
            clips = _disjoint(clips, dev + test, repeated, sentence_key, notes)
        train += clips
    dropped = [clip for clip in train if is_held_out(clip)]
    train = _once("train", [clip for clip in train if not is_held_out(clip)], repeated, sentence_key, notes)
    if not dev and dev_split != "none" and train:
        train, dev, how = _hold_out(train, max(1, round(CARVED_SHARE * len(train))), sentence_key)
        notes.append(f"dev is empty: {len(dev)} clips carved from train {how}")
        is_held_out = _membership(dev + test + unused, repeated)
    for name, clips in extra:
        dropped += [clip for clip in clips if is_held_out(clip)]
        known = len(train)
        train = _once("train", train + [clip for clip in clips if not is_held_out(clip)], repeated, sentence_key, notes)
        notes.append(f"{len(train) - known} of {len(clips)} clips of {name} join train")
    if dropped and not train:
        raise InputError(
            f"the training tables must hold clips that no dev or test table holds, all {len(dropped)} are in one "
            f"({_names(dropped)}); give other tables"
        )
    if dropped:
        held = {(_known_as(clip, repeated), _part(clip)) for clip in dev + test + unused}
        parts = sum((_known_as(clip, repeated), _part(clip)) not in held for clip in dropped)
        notes.append(
            f"{len(dropped)} clips for training are in a dev or test table too, by file name"
            + (f" or, {parts} of them, as a stretch of the same recording" if parts else "")
            + f", and are not trained on: {_names(dropped)}"
        )
    return Splits(train, dev, test, notes, repeated, unused)


def _check_apart(tables: dict[str, list[Clip]], train_splits: list[str], dev_split: str, test_split: str) -> None:
    for argument, name in (("dev_split", dev_split), ("test_split", test_split)):
        if name in train_splits and tables.get(name):
            raise InputError(
                f"`train_splits` and `{argument}` must name different tables, both name {name}; choose another for one "
                f"of them, or `{argument}` none"
            )
    if dev_split == test_split != "none" and tables.get(dev_split):
        raise InputError(f"`dev_split` and `test_split` must name different tables, both name {dev_split}")


def _held_out(tables: dict[str, list[Clip]], name: str, argument: str, notes: list[str]) -> list[Clip]:
    if name == "none":
        return []
    if name in tables:
        return list(tables[name])
    if name not in OFFICIAL:
        raise InputError(f"`{argument}` must name a table of the data or none, got {name}; it holds {listed(tables)}")
    notes.append(f"the data has no {name} table")
    return []


def _divide(clips: list[Clip], sentence_key: Callable[[str], str], notes: list[str]) -> dict[str, list[Clip]]:
    rest, test, how = _hold_out(clips, max(1, round(TEST_SHARE * len(clips))), sentence_key)
    train, dev, dev_how = _hold_out(rest, max(1, round(DEV_SHARE * len(clips))), sentence_key)
    counts = f"{len(train)}/{len(dev)}/{len(test)}"
    if dev_how != how:  # the test split took one of the few speakers
        how = f"(train/dev/test), test {how}, dev by sentence (fewer than three speakers left)"
    notes.append(f"no official splits: {len(clips)} validated clips divided {counts} {how}")
    return {"train": train, "dev": dev, "test": test}


def _hold_out(clips: list[Clip], wanted: int, sentence_key: Callable[[str], str]) -> tuple[list[Clip], list[Clip], str]:
    """-> the clips kept, about `wanted` clips held out in whole groups, how they were grouped.

    Nothing is held out of a single group, because nothing would be left for training.
    """
    if len({clip.speaker for clip in clips} - {""}) >= SPEAKERS_TO_SPLIT_BY:
        key, how = (lambda clip: clip.speaker), "by speaker"
    else:
        key, how = (lambda clip: sentence_key(clip.sentence)), "by sentence (fewer than three speakers)"
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(key(clip), []).append(clip)
    # The order of the hashes is unrelated to the data, and the same on every machine and every time.
    order = sorted(groups, key=lambda k: hashlib.sha256(k.encode()).hexdigest())
    chosen: set[str] = set()
    size = 0
    for k in order:
        if size < wanted and size + len(groups[k]) <= wanted and len(chosen) + 1 < len(groups):
            chosen.add(k)
            size += len(groups[k])
    if not chosen and len(groups) > 1:
        chosen = {min(order, key=lambda k: len(groups[k]))}
    return [c for c in clips if key(c) not in chosen], [c for c in clips if key(c) in chosen], how


def _disjoint(
    clips: list[Clip],
    held_out: list[Clip],
    repeated: frozenset[str],
    sentence_key: Callable[[str], str],
    notes: list[str],
) -> list[Clip]:
    is_held_out = _membership(held_out, repeated)
    speakers = {clip.speaker for clip in held_out} - {""}
    sentences = {sentence_key(clip.sentence) for clip in held_out}
    kept, dropped = [], {"clips": 0, "speakers": 0, "sentences": 0}
    for clip in clips:
        if is_held_out(clip):
            dropped["clips"] += 1
        elif clip.speaker in speakers:
            dropped["speakers"] += 1
        elif sentence_key(clip.sentence) in sentences:
            dropped["sentences"] += 1
        else:
            kept.append(clip)
    notes.append(
        f"validated for training: {len(kept)} of {len(clips)} clips, without dev's and test's own clips "
        f"({dropped['clips']}), other clips of their speakers ({dropped['speakers']}) and of their sentences "
        f"({dropped['sentences']})"
    )
    return kept


@cache
def _place(source: Source) -> str:
    return str(source.path / source.prefix)


def _recording(clip: Clip) -> str:
    """The name of the file that a clip is, or is a segment of."""
    return clip.name if clip.start is None else clip.file or clip.name


def basename_of(clip: Clip) -> str:
    return re.split(r"[\\/]", _recording(clip))[-1]


def _part(clip: Clip) -> str:
    """Which part of its file a clip is, as its name says; "" for a whole file."""
    return clip.name.removeprefix(_recording(clip))


def overlap(a: Clip, b: Clip) -> bool:
    """Whether two clips of one file have sound in common."""
    starts, ends = [], []
    for clip in (a, b):
        starts.append(clip.start or 0.0)
        is_whole = clip.start is None or clip.seconds is None
        ends.append(math.inf if is_whole else starts[-1] + (clip.seconds or 0.0))
    return min(ends) - max(starts) > LEAST_OVERLAP


def file_of(clip: Clip) -> str:
    # A release has a million clips, and Path would take several times as long.
    return os.path.normpath(os.path.join(_place(clip.source), _recording(clip)))  # noqa: PTH118


def _repeated(tables: Iterable[list[Clip]]) -> frozenset[str]:
    """The file names that one folder holds more than once, as speakers' folders do: s0/000.mp3, s1/000.mp3."""
    first: dict[tuple[str, str], str] = {}
    repeated = set()
    for clips in tables:
        for clip in clips:
            file, name = file_of(clip), basename_of(clip)
            if first.setdefault((_place(clip.source), name), file) != file:
                repeated.add(name)
    return frozenset(repeated)


def _known_as(clip: Clip, repeated: frozenset[str]) -> str:
    """What a recording is called in any folder: its file name, with its own folder where that alone is repeated."""
    name = basename_of(clip)
    if numbered := NUMBERED.fullmatch(name):
        return numbered[1]
    return str(PurePosixPath(_recording(clip).replace("\\", "/"))) if name in repeated else name


def _once(
    split: str, clips: list[Clip], repeated: frozenset[str], sentence_key: Callable[[str], str], notes: list[str]
) -> list[Clip]:
    """Each recording once, though its release was given twice or another release holds it too.

    Recordings of different folders are one where they have one name, and, unless Common Voice numbered them, one
    sentence: any folder may have a 001.wav.
    """
    files: set[tuple[str, str]] = set()
    places: dict[tuple[str, str, str], str] = {}
    kept = []
    for clip in clips:
        part, place = _part(clip), _place(clip.source)
        file = (file_of(clip), part)
        sentence = "" if NUMBERED.fullmatch(basename_of(clip)) else sentence_key(clip.sentence)
        if file not in files and places.setdefault((_known_as(clip, repeated), part, sentence), place) == place:
            files.add(file)
            kept.append(clip)
    if len(kept) < len(clips):
        notes.append(f"{len(clips) - len(kept)} clips stood in {split} more than once and are used once")
    return kept


def _membership(clips: list[Clip], repeated: frozenset[str]) -> Callable[[Clip], bool]:
    """-> a function that says whether a clip is one of these, or has sound in common with one.

    It compares files of one folder or archive by path, and those of different ones by what they are known as.
    """
    known: dict[str, list[Clip]] = {}
    for clip in clips:
        known.setdefault(_known_as(clip, repeated), []).append(clip)

    def is_member(clip: Clip) -> bool:
        place, file = _place(clip.source), ""
        for other in known.get(_known_as(clip, repeated), ()):
            if not overlap(clip, other):
                continue
            file = file or file_of(clip)
            if _place(other.source) != place or file_of(other) == file:
                return True
        return False

    return is_member


def _names(clips: list[Clip]) -> str:
    names = list(dict.fromkeys(clip.name for clip in clips))
    return listed(names[:3]) + (" ..." if len(names) > 3 else "")


def leak_report(splits: Splits, sentence_key: Callable[[str], str]) -> dict[str, dict[str, int]]:
    """What each pair of splits shares: {"train/test": {"clips": 0, "speakers": 3, "sentences": 1}, ...}.

    Clips are compared by path within one folder or archive, by file name across different ones.
    """
    report = {}
    pairs = [("train", "dev"), ("train", "test"), ("dev", "test")]
    by_name = dict(splits.items())
    for one, other in pairs:
        a, b = by_name[one], by_name[other]
        report[f"{one}/{other}"] = {
            "clips": sum(map(_membership(b, splits.repeated), a)),
            "speakers": len(({clip.speaker for clip in a} & {clip.speaker for clip in b}) - {""}),
            "sentences": len({sentence_key(c.sentence) for c in a} & {sentence_key(c.sentence) for c in b}),
        }
    return report
