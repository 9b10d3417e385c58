"""Splits and leaks.

Run: pytest tests/data/test_splits.py
"""

from pathlib import Path

import pytest

from w2v.data.manifest import Clip, Source
from w2v.data.splits import leak_report, make_splits
from w2v.errors import InputError

SOURCE = Source(Path(), "f")


def clip(number: int, speaker: str, sentence: str | None = None) -> Clip:
    return Clip(f"{number}.mp3", sentence or f"sentence {number}", speaker, SOURCE)


def split(tables, train=("train",), dev="dev", test="test"):
    return make_splits(tables, list(train), dev, test, str.lower)


def names(clips):
    return {c.name for c in clips}


def test_validated_alone_is_divided_by_speaker_80_10_10_the_same_way_each_time():
    clips = [clip(i, f"s{i % 40}") for i in range(200)]
    one, two = split({"validated": clips}), split({"validated": clips[::-1]})
    for name, part in one.items():
        assert names(part) == names(dict(two.items())[name])
    assert [len(part) for _, part in one.items()] == [160, 20, 20]
    speakers = [{c.speaker for c in part} for _, part in one.items()]
    assert not (speakers[0] & speakers[1] or speakers[0] & speakers[2] or speakers[1] & speakers[2])


def test_one_big_speaker_stays_in_training():
    clips = [clip(i, "big") for i in range(90)] + [clip(100 + i, f"s{i}") for i in range(10)]
    one = split({"validated": clips})
    assert {c.speaker for c in one.train} >= {"big"}
    assert one.dev
    assert one.test


def test_few_speakers_are_divided_by_sentence():
    clips = [clip(i, f"s{i % 2}", f"take of {i // 3}") for i in range(60)]
    one = split({"validated": clips})
    sentences = [{c.sentence for c in part} for _, part in one.items()]
    assert all(sentences)
    assert not (sentences[0] & sentences[1] or sentences[0] & sentences[2] or sentences[1] & sentences[2])
    assert any("by sentence" in note for note in one.notes)


def test_notes_say_how_each_split_came_about_and_its_real_size():
    (note,) = split({"validated": [clip(i, f"s{i % 50}") for i in range(100)]}).notes
    assert note == "no official splits: 100 validated clips divided 80/10/10 by speaker"
    (note,) = split({"validated": [clip(i, "s") for i in range(30)]}).notes
    assert note.endswith("30 validated clips divided 24/3/3 by sentence (fewer than three speakers)")
    three = split({"validated": [clip(i, f"s{i % 3}") for i in range(30)]})
    assert [len(part) for _, part in three.items()] == [17, 3, 10]
    assert three.notes == [
        "no official splits: 30 validated clips divided 17/3/10 (train/dev/test), test by speaker, dev by sentence "
        "(fewer than three speakers left)"
    ]


def test_tables_without_rows_are_said_to_be_empty():
    with pytest.raises(InputError, match=r"its tables hold no rows \(validated\)"):
        split({"validated": []})
    assert split({"train": [], "dev": [], "test": []}).train == []


def test_three_clips_of_one_speaker_and_one_clip():
    one = split({"validated": [clip(i, "s") for i in range(3)]})
    assert [len(part) for _, part in one.items()] == [1, 1, 1]
    one = split({"validated": [clip(0, "s")]})
    assert [len(part) for _, part in one.items()] == [1, 0, 0]


@pytest.mark.parametrize("tables", [{"dev": []}, {}])
def test_empty_or_missing_dev_is_carved_from_train_by_speaker(tables):
    train = [clip(i, f"s{i % 50}") for i in range(100)]
    one = split({"train": train, "test": [clip(1000, "t")], **tables})
    assert len(one.dev) == 5 or len(one.dev) == 4
    assert not {c.speaker for c in one.dev} & {c.speaker for c in one.train}
    assert names(one.dev) | names(one.train) == names(train)
    assert any("carved from train" in note for note in one.notes)


def test_published_recipes_train_on_train_and_dev():
    tables = {"train": [clip(0, "a")], "dev": [clip(1, "b")], "test": [clip(2, "c")]}
    one = split(tables, ("train", "dev"), dev="none")
    assert names(one.train) == {"0.mp3", "1.mp3"}
    assert one.dev == []
    assert names(one.test) == {"2.mp3"}


def test_validated_for_training_is_disjoint_from_dev_and_test():
    tables = {
        "train": [],
        "dev": [clip(1, "d")],
        "test": [clip(2, "t", "Same")],
        "validated": [clip(1, "d"), clip(2, "t"), clip(3, "d"), clip(4, "x", "same"), clip(5, "y"), clip(6, "")],
    }
    one = split(tables, ["validated"])
    assert names(one.train) == {"5.mp3", "6.mp3"}


def test_missing_test_gives_an_empty_split_and_unknown_names_are_refused():
    tables = {"train": [clip(0, "a"), clip(1, "b"), clip(2, "c")]}
    assert split(tables).test == []
    for wrong in ({"train": ["nope"]}, {"test": "nope"}, {"dev": "nope"}):
        argument = "train_splits" if "train" in wrong else f"{next(iter(wrong))}_split"
        with pytest.raises(InputError, match=f"^`{argument}` must name .*, got nope; it holds train"):
            split(tables, **wrong)


def test_clips_listed_twice_are_used_once():
    one = split({"train": [clip(i, f"s{i}") for i in range(30)], "other": [clip(0, "s0")]}, ["train", "other"], "none")
    assert len(one.train) == 30
    assert any("more than once" in note for note in one.notes)


def test_leaks_are_counted_and_shared_clips_refused():
    tables = {"train": [clip(0, "a", "X"), clip(1, "b")], "dev": [clip(2, "a")], "test": [clip(3, "c", "x")]}
    report = leak_report(split(tables), str.lower)
    assert report["train/dev"] == {"clips": 0, "speakers": 1, "sentences": 0}
    assert report["train/test"] == {"clips": 0, "speakers": 0, "sentences": 1}
    elsewhere = Source(Path("elsewhere"), "g")
    tables["test"].append(Clip("folder/1.mp3", "other text", "z", elsewhere))
    with pytest.raises(InputError, match="must not share clips"):
        leak_report(split(tables), str.lower)


def test_file_names_repeated_in_speakers_folders_are_no_leak():
    def take(speaker, source=SOURCE, number=0):
        return Clip(f"{speaker}/{number:03}.mp3", f"{speaker} {number}", speaker, source)

    speakers = [f"s{i}" for i in range(10)]
    one = split({"validated": [take(s, number=n) for s in speakers for n in range(10)]})
    assert leak_report(one, str.lower)["train/test"]["clips"] == 0
    tables = {"train": [take("s0")], "dev": [take("s1")], "test": [take("s2")]}
    assert leak_report(split(tables), str.lower)["train/test"]["clips"] == 0
    tables["validated"] = [take(s) for s in speakers]
    assert len(split(tables, ["validated"]).train) == 8, "only dev's and test's own clips and speakers are left out"
    # Two tables of one folder compare like one; the same file under another spelling is the same clip.
    beside = Source(SOURCE.path, "another table")
    leak_report(split({**tables, "test": [take("s2", beside)]}), str.lower)
    for same in (take("s0", beside), Clip("./s0//000.mp3", "x", "y", SOURCE), take("s9", Source(Path("copy"), "f"))):
        with pytest.raises(InputError, match="must not share clips"):
            leak_report(split({**tables, "test": [same]}), str.lower)
