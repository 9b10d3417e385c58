"""Which clips a run trains on, selects by and tests on, and what these splits share."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from w2v.data.manifest import Clip
from w2v.errors import InputError

OFFICIAL = ("train", "dev", "test")
TEST_SHARE = DEV_SHARE = 0.1  # where a table has no official splits
CARVED_SHARE = 0.05  # where only dev is missing
SPEAKERS_TO_SPLIT_BY = 3


@dataclass
class Splits:
    """The clips of each split; `notes` tells the user how the splits were made."""

    train: list[Clip]
    dev: list[Clip]
    test: list[Clip]
    notes: list[str] = field(default_factory=list)

    def items(self) -> list[tuple[str, list[Clip]]]:
        return [("train", self.train), ("dev", self.dev), ("test", self.test)]

    def map(self, change: Callable[[str, list[Clip]], list[Clip]]) -> "Splits":
        """The same with each split replaced by change(name, clips)."""
        train, dev, test = (change(name, clips) for name, clips in self.items())
        return Splits(train, dev, test, self.notes)


def make_splits(
    tables: dict[str, list[Clip]],
    train_splits: list[str],
    dev_split: str,
    test_split: str,
    sentence_key: Callable[[str], str],
) -> Splits:
    """Choose the splits by table name; "none" for dev or test leaves it out.

    - `validated` for training means validated minus every clip, speaker and sentence of dev and test.
    - Tables without any official split are divided by speaker, 80/10/10, the same way each time.
    - A dev split that is missing or empty is carved from train by speaker, 5%, at least one clip.
    - With fewer than three speakers, dividing is by sentence.
    sentence_key: what makes two sentences the same (the run's normaliser). Raises InputError for unknown tables.
    """
    notes: list[str] = []
    if not any(tables.get(name) for name in OFFICIAL) and tables.get("validated"):
        tables = {**tables, **_divide(tables["validated"], sentence_key, notes)}

    test = _held_out(tables, test_split, "test_split", notes)
    dev = _held_out(tables, dev_split, "dev_split", notes)
    train = []
    for name in train_splits:
        if name not in tables:
            if not any(tables.values()):  # another name would not help
                raise InputError(f"the data must list clips, its tables hold no rows ({', '.join(tables)}); mend them")
            raise InputError(f"`train_splits` must name tables of the data, got {name}; it holds {', '.join(tables)}")
        clips = tables[name]
        if name == "validated":
            clips = _disjoint(clips, dev + test, sentence_key, notes)
        train += clips
    unique = list({(clip.source.fingerprint, clip.name): clip for clip in train}.values())
    if len(unique) < len(train):
        notes.append(f"{len(train) - len(unique)} clips stood in train more than once and are used once")
    train = unique
    if not dev and dev_split != "none" and train:
        train, dev, how = _hold_out(train, max(1, round(CARVED_SHARE * len(train))), sentence_key)
        notes.append(f"dev is empty: {len(dev)} clips carved from train {how}")
    return Splits(train, dev, test, notes)


def _held_out(tables: dict[str, list[Clip]], name: str, argument: str, notes: list[str]) -> list[Clip]:
    if name == "none":
        return []
    if name in tables:
        return list(tables[name])
    if name not in OFFICIAL:
        raise InputError(
            f"`{argument}` must name a table of the data or none, got {name}; it holds {', '.join(tables)}"
        )
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
    clips: list[Clip], held_out: list[Clip], sentence_key: Callable[[str], str], notes: list[str]
) -> list[Clip]:
    is_held_out = _membership(held_out)
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


def _membership(clips: list[Clip]) -> Callable[[Clip], bool]:
    """-> a function that says whether a clip is one of these.

    It compares clips of one folder or archive by path: speakers' folders may repeat file names (s0/000.mp3,
    s1/000.mp3). It compares clips of different ones by file name: the same release may be given twice.
    """

    def place(clip: Clip) -> Path:
        return clip.source.path / clip.source.prefix

    files = {place(clip) / clip.name for clip in clips}
    places: dict[str, set[Path]] = {}
    for clip in clips:
        places.setdefault(clip.basename, set()).add(place(clip))

    def is_member(clip: Clip) -> bool:
        found = places.get(clip.basename)
        return found is not None and (found != {place(clip)} or place(clip) / clip.name in files)

    return is_member


def leak_report(splits: Splits, sentence_key: Callable[[str], str]) -> dict[str, dict[str, int]]:
    """What each pair of splits shares: {"train/test": {"clips": 0, "speakers": 3, "sentences": 1}, ...}.

    Clips are compared by path within one folder or archive, by file name across different ones. Raises InputError
    where clips are shared.
    """
    report = {}
    pairs = [("train", "dev"), ("train", "test"), ("dev", "test")]
    by_name = dict(splits.items())
    for one, other in pairs:
        a, b = by_name[one], by_name[other]
        in_other = _membership(b)  # of the smaller split
        shared = sorted({clip.name for clip in a if in_other(clip)})
        if shared:
            raise InputError(
                f"{one} and {other} must not share clips, they share {len(shared)} ({', '.join(shared[:3])}); "
                "take them out of one of the tables"
            )
        report[f"{one}/{other}"] = {
            "clips": 0,
            "speakers": len(({clip.speaker for clip in a} & {clip.speaker for clip in b}) - {""}),
            "sentences": len({sentence_key(c.sentence) for c in a} & {sentence_key(c.sentence) for c in b}),
        }
    return report
