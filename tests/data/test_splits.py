"""Splits and leaks.

Run: pytest tests/data/test_splits.py
"""

from pathlib import Path

import pytest

from w2v.data.manifest import Clip, Source, segment_name
from w2v.data.splits import Splits, leak_report, make_splits
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


def test_leaks_are_counted():
    tables = {"train": [clip(0, "a", "X"), clip(1, "b")], "dev": [clip(2, "a")], "test": [clip(3, "c", "x")]}
    report = leak_report(split(tables), str.lower)
    assert report["train/dev"] == {"clips": 0, "speakers": 1, "sentences": 0}
    assert report["train/test"] == {"clips": 0, "speakers": 0, "sentences": 1}
    by_hand = Splits(tables["train"], tables["dev"], [*tables["test"], clip(0, "a")])
    assert leak_report(by_hand, str.lower)["train/test"]["clips"] == 1


OLD, NEW = (
    Source(Path("cv-corpus-6.1/tr/clips"), "f6"),
    Source(Path("17.tar.gz"), "f17", "cv/tr/clips", is_archive=True),
)


def numbered(number: int, source: Source, suffix: str = "mp3") -> Clip:
    return Clip(f"common_voice_tr_{number}.{suffix}", f"sentence {number}, {source.fingerprint}", f"s{number}", source)


def test_a_test_clip_of_any_release_is_never_trained_on():
    """Releases divide their clips anew: 2 and 3 are test and dev of one and train of the other; 4 is dev and test."""
    tables = {
        "train": [numbered(0, OLD), numbered(1, OLD), *(numbered(n, NEW) for n in (1, 2, 3, 5))],
        "dev": [numbered(3, OLD), numbered(4, NEW)],
        "test": [numbered(2, OLD), numbered(4, OLD), numbered(2, NEW)],
    }
    one = split(tables)
    assert [names(part) for _, part in one.items()] == [
        {f"common_voice_tr_{n}.mp3" for n in part} for part in ((0, 1, 5), (3,), (2, 4))
    ]
    assert [len(part) for _, part in one.items()] == [3, 1, 2], "a clip of two releases is used once"
    assert one.notes == [
        "1 clips stood in test more than once and are used once",
        "1 clips of dev are in test too and are left out of dev: common_voice_tr_4.mp3",
        "1 clips stood in train more than once and are used once",
        "2 clips for training are in a dev or test table too, by file name, and are not trained on: "
        "common_voice_tr_2.mp3, common_voice_tr_3.mp3",
    ]
    assert all(counts["clips"] == 0 for counts in leak_report(one, str.lower).values())
    # Official tables that are no split of this run are held out too, unless the run is to train on them.
    assert names(split(tables, dev="none", test="none").train) == {f"common_voice_tr_{n}.mp3" for n in (0, 1, 5)}
    both = split(tables, ("train", "dev"), dev="none")
    assert names(both.train) == {f"common_voice_tr_{n}.mp3" for n in (0, 1, 3, 5)}
    tables["validated"] = [numbered(n, NEW) for n in range(7)]
    assert names(split(tables, ["validated"]).train) == {f"common_voice_tr_{n}.mp3" for n in (0, 1, 5, 6)}


def test_extra_tables_bring_no_test_clip_back():
    tables = {"train": [numbered(0, OLD)], "dev": [numbered(1, OLD)], "test": [numbered(2, OLD)]}
    here = Source(Path("mine"), "m")
    mine = [numbered(n, here, "wav") for n in range(4)] + [Clip("a/7.wav", "x", "", here)]
    one = make_splits(tables, ["train"], "dev", "test", str.lower, [("mine.tsv", mine), ("again.tsv", mine[3:])])
    assert [clip.basename for clip in one.train] == ["common_voice_tr_0.mp3", "common_voice_tr_3.wav", "7.wav"]
    assert one.notes == [
        "1 clips stood in train more than once and are used once",
        "2 of 5 clips of mine.tsv join train",
        "2 clips stood in train more than once and are used once",
        "0 of 2 clips of again.tsv join train",
        "2 clips for training are in a dev or test table too, by file name, and are not trained on: "
        "common_voice_tr_1.wav, common_voice_tr_2.wav",
    ]
    elsewhere = [Clip("deep/7.wav", "other words", "", OLD)]
    one = split({"train": [*mine, clip(9, "z")], "test": elsewhere}, dev="none")
    assert "a/7.wav" not in names(one.train), "one file name in two folders, whatever folders are in them"
    carved = make_splits({"train": [*mine[:4], clip(9, "z")]}, ["train"], "dev", "none", str.lower, [("m", mine)])
    assert len(carved.dev) == 1
    assert not names(carved.dev) & names(carved.train), "a clip that was carved for dev comes back through no table"


def test_a_release_that_is_given_packed_and_unpacked_is_used_once():
    folder, archive = Source(Path("tr"), "one"), Source(Path("tr.tar.gz"), "two", "tr", is_archive=True)
    for name in ("common_voice_tr_{}.mp3", "s{}/take.wav", "{}.wav"):
        clips = [Clip(name.format(n), f"Sentence {n}", f"s{n}", of) for of in (folder, archive) for n in range(40)]
        one = split({"validated": clips})
        assert [len(part) for _, part in one.items()] == [32, 4, 4]
        assert one.notes == [
            "40 clips stood in validated more than once and are used once",
            "no official splits: 40 validated clips divided 32/4/4 by speaker",
        ]
        one = split({"train": clips}, dev="none")
        assert len(one.train) == 40
    unrelated = [Clip(f"{n}.wav", f"{of.fingerprint} {n}", "", of) for of in (folder, archive) for n in range(9)]
    assert len(split({"train": unrelated}, dev="none").train) == 18, "any folder may have a 001.wav"


@pytest.mark.parametrize(
    ("train", "dev", "test", "words"),
    [
        (["train", "test"], "dev", "test", "`train_splits` and `test_split` must name different .* both name test"),
        (["train", "dev"], "dev", "test", "`train_splits` and `dev_split` must name different .* both name dev"),
        (["train"], "test", "test", "`dev_split` and `test_split` must name different tables, both name test"),
    ],
)
def test_one_table_cannot_be_two_splits(train, dev, test, words):
    tables = {"train": [clip(0, "a")], "dev": [clip(1, "b")], "test": [clip(2, "c")]}
    with pytest.raises(InputError, match=words):
        split(tables, train, dev, test)


def test_file_names_repeated_in_speakers_folders_are_no_leak():
    def take(speaker, source=SOURCE, number=0):
        return Clip(f"{speaker}/{number:03}.mp3", f"{speaker} {number}", speaker, source)

    speakers = [f"s{i}" for i in range(10)]
    one = split({"validated": [take(s, number=n) for s in speakers for n in range(10)]})
    assert [len(part) for _, part in one.items()] == [80, 10, 10]
    assert leak_report(one, str.lower)["train/test"]["clips"] == 0
    tables = {"train": [take("s0")], "dev": [take("s1")], "test": [take("s2")]}
    assert leak_report(split(tables), str.lower)["train/test"]["clips"] == 0
    tables["validated"] = [take(s) for s in speakers]
    assert len(split(tables, ["validated"]).train) == 8, "only dev's and test's own clips and speakers are left out"
    # Two tables of one folder compare like one; the same file under another spelling is the same clip.
    beside, copy = Source(SOURCE.path, "another table"), Source(Path("copy"), "f")
    assert split({**tables, "test": [take("s2", beside)]}).train
    for same in (take("s0", beside), Clip("./s0//000.mp3", "x", "y", SOURCE), take("s0", copy)):
        one = split({**tables, "train": [take("s0"), take("s3")], "test": [same]})
        assert ([clip.speaker for clip in one.train], len(one.dev), len(one.test)) == (["s3"], 1, 1)
    assert len(split({**tables, "test": [take("s9", copy)]}).train) == 1, "the folders of two speakers"


def test_training_clips_that_are_all_test_clips_are_refused():
    tables = {"train": [clip(0, "a"), clip(1, "b")], "test": [clip(0, "a"), clip(1, "b"), clip(2, "c")]}
    with pytest.raises(InputError, match=r"all 2 are in one \(0\.mp3, 1\.mp3\); give other tables"):
        split(tables)


def segment(start: float, seconds: float | None, file: str = "lecture.wav", source: Source = SOURCE) -> Clip:
    return Clip(segment_name(file, start, seconds), f"from {start}", "", source, seconds, file, start)


def test_sound_of_test_is_not_trained_on_as_another_stretch_of_its_file():
    whole = Clip("lecture.wav", "all of it", "", SOURCE)
    train = [segment(0, 2), segment(2, 2), segment(3.9, 3), segment(7, None), segment(0, 2, "other.wav"), whole]
    one = split({"train": train, "test": [segment(4, 2)]}, dev="none")
    assert [clip.name for clip in one.train] == [train[i].name for i in (0, 1, 3, 4)]
    assert one.notes == [
        "2 clips for training are in a dev or test table too, by file name or, 2 of them, as a stretch of the same "
        f"recording, and are not trained on: {train[2].name}, lecture.wav"
    ]
    assert leak_report(one, str.lower)["train/test"]["clips"] == 0
    one = split({"train": train, "test": [whole]}, dev="none")
    assert [clip.file for clip in one.train] == ["other.wav"], "a whole file in test, and segments of it in train"
    copy = Source(Path("copy"), "g")
    one = split({"train": train, "test": [segment(8, 1, source=copy)]}, dev="none")
    assert [clip.name for clip in one.train] == [train[i].name for i in (0, 1, 2, 4)], "a copy in another folder"
    by_hand = Splits([train[2]], [], [segment(4, 2)])
    assert leak_report(by_hand, str.lower)["train/test"]["clips"] == 1
    apart = [segment(2.0 * n, 2, "a/x.wav") for n in range(5)]
    others = [segment(2.0 * n, 2, "b/x.wav") for n in range(5)]
    assert len(split({"train": apart, "test": others}, dev="none").train) == 5, "two files of one name"
