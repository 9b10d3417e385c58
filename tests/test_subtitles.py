"""Subtitles that people can read: lengths, times, lines, and the two files.

Run: pytest tests/test_subtitles.py
"""

import itertools
import random

from w2v.answers import Word
from w2v.subtitles import (
    CHARACTERS_PER_SECOND,
    GAP_SECONDS,
    LEAST_SECONDS,
    LINE,
    LINGER_SECONDS,
    MOST_SECONDS,
    Cue,
    cues,
    srt,
    vtt,
)


def spoken(texts, seconds=0.4, pause=0.05, start=0.0) -> list[Word]:
    words = []
    for text in texts:
        words.append(Word(text, start, start + seconds, 0.9))
        start += seconds + pause
    return words


def made_up_talk(seed: int) -> list[Word]:
    rng, words, at = random.Random(seed), [], 0.0
    for _ in range(300):
        seconds = rng.uniform(0.05, 0.9)
        text = "".join(rng.choices("abcdefghiç", k=rng.randint(1, 14))) + rng.choice(["", "", "", ".", ","])
        words.append(Word(text, at, at + seconds, 0.5))
        at += seconds + rng.choice([0.0, 0.02, 0.1, 0.4, 3.0])
    return words


def test_subtitles_keep_a_broadcasters_limits():
    for seed in range(5):
        words = made_up_talk(seed)
        found = cues(words)
        assert " ".join(line for cue in found for line in cue.lines) == " ".join(word.text for word in words)
        for cue in found:
            assert 1 <= len(cue.lines) <= 2
            assert max(map(len, cue.lines)) <= LINE
            assert cue.end - cue.start <= MOST_SECONDS + 1e-9
        for cue, following in itertools.pairwise(found):
            assert cue.end <= following.start - GAP_SECONDS + 1e-9 or cue.end == cue.start
        starts = {word.start for word in words}
        assert all(cue.start in starts for cue in found)


def test_a_short_subtitle_stays_long_enough_to_be_read_where_there_is_room():
    (cue,) = cues([Word("evet", 1.0, 1.2, 0.9)])
    assert cue == Cue(1.0, 1.2 + LINGER_SECONDS, ["evet"])  # 12 frames after the word
    (cue,) = cues([Word("evet", 1.0, 1.5, 0.9)])
    assert cue.end == 1.0 + LEAST_SECONDS
    text = "a" * 34
    (cue,) = cues([Word(text, 0.0, 1.8, 0.9)])
    assert cue.end == 34 / CHARACTERS_PER_SECOND


def test_a_subtitle_ends_at_a_pause_or_a_full_stop_rather_than_in_speech():
    first, second = ["bir", "iki", "üç", "dört", "beş"], ["altı", "yedi", "sekiz", "dokuz", "on"]
    words = spoken(first * 2) + spoken(second * 2, start=10 * 0.45 + 0.5)
    assert [cue.lines[0].split()[0] for cue in cues(words)] == ["bir", "altı"]
    words = spoken([*first, "son.", *second * 2])
    assert [" ".join(cue.lines).split()[-1] for cue in cues(words)] == ["son.", "on"]


def test_a_long_silence_ends_a_subtitle():
    assert len(cues(spoken(["bir", "iki"], pause=2.1))) == 2
    assert len(cues(spoken(["bir", "iki"], pause=1.0))) == 1


def test_two_lines_of_about_equal_width():
    (cue,) = cues(spoken(["kelime"] * 8, seconds=0.2))
    assert cue.lines == [" ".join(["kelime"] * 4)] * 2


def test_a_sentence_without_spaces_is_divided_between_characters():
    sentence = "今天天气很好我们一起去公园散步吧然后再去吃饭好不好大家都同意了"
    found = cues([Word(sentence, 0.0, 6.2, 0.9)])
    assert "".join(line for cue in found for line in cue.lines) == sentence
    assert max(len(line) for cue in found for line in cue.lines) <= 16
    marks = "ก\u0e34" * 60  # a mark stays with its letter
    lines = [line for cue in cues([Word(marks, 0.0, 12.0, 0.9)]) for line in cue.lines]
    assert all(line.startswith("ก") for line in lines)
    assert max(line.count("ก") for line in lines) <= LINE


def test_files():
    shown = [Cue(0.0, 1.5, ["a < b & c"]), Cue(3599.9996, 3661.25, ["iki", "üç"])]
    assert srt(shown) == (
        "1\n00:00:00,000 --> 00:00:01,500\na < b & c\n\n2\n01:00:00,000 --> 01:01:01,250\niki\nüç\n\n"
    )
    assert vtt(shown) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b &amp; c\n\n01:00:00.000 --> 01:01:01.250\niki\nüç\n\n"
    )
    assert (srt([]), vtt([])) == ("", "WEBVTT\n\n")


def test_nothing_said_is_no_subtitle():
    assert cues([]) == []


def test_a_text_of_thousands_of_letters_without_spaces_is_divided_in_no_time():
    """A language without spaces gives a phrase as one word. With a cost per letter and line this took minutes."""
    found = cues([Word("字" * 3000, 0.0, 600.0, 1.0)])
    assert "".join("".join(cue.lines) for cue in found) == "字" * 3000
    assert all(len(line) <= 16 for cue in found for line in cue.lines)
