"""Splits of several languages: what is tested in one is trained on in none.

Run: pytest tests/data/test_joining.py
"""

from dataclasses import replace
from pathlib import Path

from w2v.data.languages import apart_by_sound, join, shared_across
from w2v.data.manifest import Clip, Source
from w2v.data.splits import Splits

SOURCES = {lang: Source(Path(f"/data/{lang}"), lang) for lang in ("tr", "az")}


def clip(lang: str, number: int, name: str = "", speaker: str = "", sentence: str = "") -> Clip:
    name = name or f"common_voice_{lang}_{number}.mp3"
    return Clip(name, sentence or f"{lang} {number}", speaker or f"{lang}{number}", SOURCES[lang])


def text(of: Clip) -> str:
    return of.sentence.lower()


def names(clips: list[Clip]) -> list[tuple[str, str]]:
    return [(each.lang, each.name) for each in clips]


def test_union_of_the_splits_and_each_clip_knows_its_language():
    parts = {lang: Splits([clip(lang, 1)], [clip(lang, 2)], [clip(lang, 3)]) for lang in ("tr", "az")}
    joined = join(parts, text)
    for number, (_, clips) in enumerate(joined.items(), 1):
        assert names(clips) == [("tr", f"common_voice_tr_{number}.mp3"), ("az", f"common_voice_az_{number}.mp3")]
    assert joined.notes == []
    assert shared_across(joined, text) == {"clips": 0, "speakers": 0, "sentences": 0}


def test_clips_speakers_and_sentences_of_another_languages_dev_and_test_are_not_trained_on():
    mine = clip("tr", 1)
    train = [
        mine,
        clip("tr", 2, speaker="both"),
        clip("tr", 3, sentence="Bir"),
        clip("tr", 4, name="common_voice_az_9.mp3"),
        clip("tr", 5, name="common_voice_az_10.wav"),  # of a table that is no split
        clip("tr", 6, speaker="dev's"),
    ]
    other = Splits([clip("az", 1)], [clip("az", 2, speaker="dev's")],
                   [clip("az", 9), clip("az", 3, speaker="both"), clip("az", 4, sentence="bir")])  # fmt: skip
    other.withheld = [clip("az", 10)]
    for parts in ({"tr": Splits(train, [], []), "az": other}, {"az": other, "tr": Splits(train, [], [])}):
        joined = join(parts, text)
        assert names(c for c in joined.train if c.lang == "tr") == [("tr", mine.name)]
        assert len(joined.test) == 3
        assert len(joined.dev) == 1
    (note,) = joined.notes
    assert note.startswith("tr: 5 clips are left out of train: ")
    for part in ("2 have their speakers", "2 are in another language's dev or test tables", "1 have their sentences"):
        assert part in note
    by_hand = Splits([replace(c, lang="tr") for c in train], [], [replace(c, lang="az") for c in other.test])
    assert shared_across(by_hand, text) == {"clips": 1, "speakers": 1, "sentences": 1}


def test_a_clip_of_two_languages_is_the_first_ones_and_test_goes_before_dev():
    shared = [clip("tr", n, name=f"common_voice_xx_{n}.mp3") for n in (1, 2)]
    joined = join({"tr": Splits([shared[0]], [shared[1]], []), "az": Splits([shared[0]], [], [shared[1]])}, text)
    assert names(joined.train) == [("tr", "common_voice_xx_1.mp3")]
    assert joined.dev == []
    assert names(joined.test) == [("az", "common_voice_xx_2.mp3")]


def test_a_common_name_is_no_recording():
    parts = {"tr": Splits([clip("tr", 1, name="001.wav")], [], []), "az": Splits([], [], [clip("az", 1, "001.wav")])}
    assert len(join(parts, text).train) == 1


def test_the_same_samples_under_another_name_are_not_trained_on():
    samples = {"a": 1, "b": 2, "c": 1, "d": 3, "e": 3, "f": 2}
    of = {name: Clip(name, name, "", SOURCES["tr"], lang="tr" if name in "abd" else "az") for name in samples}
    splits = Splits([of["a"], of["b"]], [of["d"]], [of["c"], of["e"]])
    kept, skipped = apart_by_sound(splits, lambda c: samples[c.name])
    assert (kept.train, kept.dev, kept.test) == ([of["b"]], [], [of["c"], of["e"]])
    assert [(skip.name, skip.split) for skip in skipped] == [("a", "train"), ("d", "dev")]
    assert "az, c" in skipped[0].reason
    within = Splits([of["b"]], [], [replace(of["f"], lang="tr")])  # which a language's own rules decide
    assert apart_by_sound(within, lambda c: samples[c.name])[0].train == [of["b"]]
