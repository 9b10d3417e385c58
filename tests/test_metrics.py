"""Error counts, intervals and p-values against numbers worked out by hand; others' text rules against theirs.

Run: pytest tests/test_metrics.py
"""

import itertools

import numpy as np
import pytest

from w2v.metrics import ErrorRates, character_edits, error_rates, word_edits
from w2v.significance import compare, groups_of, interval
from w2v.text.yardsticks import YARDSTICKS, hf_blog, none, whisper_basic

REFERENCES = ["a b c d", "bir iki", "ev"]
HYPOTHESES = ["a x c", "bir iki üç dört", ""]


def test_error_rates_are_of_the_corpus():
    # words: b > x and d deleted; two inserted; one deleted: 5 errors over 7 words
    rates = error_rates(REFERENCES, HYPOTHESES)
    assert rates.wer == pytest.approx(5 / 7)
    # characters: b > x, " d" deleted (3); " üç dört" inserted (8); "ev" deleted (2); of 7 + 7 + 2
    assert rates.cer == pytest.approx(13 / 16)
    assert error_rates([], []) == ErrorRates(None, None, 0)


def test_edits_by_clip_and_by_kind():
    words, chars = word_edits(REFERENCES, HYPOTHESES), character_edits(REFERENCES, HYPOTHESES)
    assert words.substitutions.tolist() == [1, 0, 0]
    assert words.deletions.tolist() == [1, 0, 1]
    assert words.insertions.tolist() == [0, 2, 0]
    assert words.lengths.tolist() == [4, 2, 1]
    assert words.errors.tolist() == [2, 2, 1]
    assert dict(words.substituted) == {("b", "x"): 1}
    assert dict(words.deleted) == {"d": 1, "ev": 1}
    assert dict(words.inserted) == {"üç": 1, "dört": 1}
    assert chars.errors.tolist() == [3, 8, 2]
    assert chars.deleted == {" ": 1, "d": 1, "e": 1, "v": 1}
    assert words.rate(np.array([True, False, True])) == pytest.approx(3 / 5)
    assert words.rate(np.array([False] * 3)) is None


def test_edits_and_error_rates_are_the_same_to_the_last_bit():
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(["da", "bu", "ev", "ç"], draw.integers(1, 9))) for _ in range(400)]
    rates = error_rates(texts[:200], texts[200:])
    assert word_edits(texts[:200], texts[200:]).rate() == rates.wer
    assert character_edits(texts[:200], texts[200:]).rate() == rates.cer


def test_no_clips_and_empty_references():
    assert word_edits([], []).rate() is None
    inserted = word_edits([""], ["bir iki"])
    assert (inserted.insertions.tolist(), inserted.lengths.tolist(), inserted.rate()) == ([2], [0], None)


def test_groups_are_speakers_and_clips_without_one():
    assert groups_of(["b", "", "a", "b", ""]).tolist() == [0, 1, 2, 0, 3]
    assert groups_of([]).tolist() == []


def exact_quantiles(rates_by_group: list[tuple[int, int]]) -> tuple[float, float]:
    """The interval that infinitely many draws give: every draw of the groups is equally likely."""
    drawn = []
    for chosen in itertools.product(rates_by_group, repeat=len(rates_by_group)):
        errors, lengths = zip(*chosen, strict=True)
        drawn.append(sum(errors) / sum(lengths))
    return tuple(np.quantile(drawn, [0.025, 0.975]))


def test_interval_of_four_speakers_is_that_of_all_draws():
    errors, lengths = np.array([1, 1, 3, 0, 8]), np.array([10, 5, 10, 20, 10])
    groups = groups_of(["a", "a", "b", "c", "d"])
    wanted = exact_quantiles([(2, 15), (3, 10), (0, 20), (8, 10)])
    assert interval(errors, lengths, groups, seed=1, resamples=100_000) == pytest.approx(wanted, abs=0.01)


def test_interval_follows_from_its_seed():
    errors, lengths, groups = np.arange(30) ** 2, np.full(30, 900), np.arange(30)
    assert interval(errors, lengths, groups, seed=1) == interval(errors, lengths, groups, seed=1)
    assert interval(errors, lengths, groups, seed=1) != interval(errors, lengths, groups, seed=2)


def test_interval_draws_whole_speakers():
    """A hundred clips of two speakers, one always right and one always wrong: half of the draws hold both."""
    lengths, speakers = np.ones(100, int), ["a"] * 50 + ["b"] * 50
    wrong = np.array([0] * 50 + [1] * 50)
    assert interval(wrong, lengths, groups_of(speakers), seed=0) == (0.0, 1.0)
    low, high = interval(wrong, lengths, groups_of([""] * 100), seed=0)
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65  # .5 and 1.96 times .05
    assert interval(wrong, lengths, groups_of(["a"] * 100), seed=0) is None


def test_many_groups_are_drawn_in_blocks(monkeypatch):
    errors, lengths, groups = np.arange(30) % 4, np.full(30, 4), np.arange(30)
    whole = interval(errors, lengths, groups, seed=3)
    monkeypatch.setattr("w2v.significance.DRAWN_AT_ONCE", 70)
    assert interval(errors, lengths, groups, seed=3) == whole


def test_paired_comparison():
    lengths, groups = np.full(20, 10), np.arange(20)
    a = np.arange(20) % 7
    same = compare(a, a, lengths, groups, seed=0)
    assert (same.difference, same.low, same.high, same.p_value, same.better) == (0.0, 0.0, 0.0, 1.0, 0.0)
    # One error less on every clip: the speakers differ much, their differences not at all.
    better = compare(a + 1, a, lengths, groups, seed=0)
    assert (better.difference, better.low, better.high, better.better) == pytest.approx((-0.1, -0.1, -0.1, 1.0))
    assert better.p_value == pytest.approx(2 / 1001)  # no draw of 1,000 on the other side
    # Half a clip's errors more or less by chance: no evidence.
    noise = compare(a, a + np.tile([1, -1], 10), lengths, groups, seed=0)
    assert noise.p_value > 0.5
    assert noise.low < 0 < noise.high
    alone = compare(a, a + 1, lengths, np.zeros(20, int), seed=0)
    assert (alone.difference, alone.p_value, alone.low) == (pytest.approx(0.1), None, None)


def test_p_value_counts_draws_on_the_other_side():
    """Two speakers with differences 3 and -1: a quarter of the draws is 6, half is 2, a quarter -2."""
    found = compare(np.array([0, 1]), np.array([3, 0]), np.array([10, 10]), np.arange(2), seed=0, resamples=20_000)
    assert found.p_value == pytest.approx(0.5, abs=0.02)
    assert found.better == pytest.approx(0.25, abs=0.01)
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, -0.1, 0.3))


def test_hf_blog_is_the_recipe_s_expression():
    assert hf_blog('Evet, "Ankara" - %50; ne?!') == "evet ankara  50 ne"
    assert hf_blog("“Bu” ‘o’: iyi.\ufffd") == "bu o’ iyi"  # ’ is not among them
    assert hf_blog("İyi") == "i\u0307yi"  # what Python's lower() makes of İ
    assert none("Evet, ne?") == "Evet, ne?"
    assert list(YARDSTICKS) == ["hf-blog", "whisper-basic", "none"]


@pytest.mark.parametrize(
    "sentence",
    [
        "Evet, “Ankara”dan [gülüşler] <gürültü> geldi (alkış); İstanbul'da %50!",
        "नमस्ते दुनिया।", "ﬁne　ＡＢＣ½ ｆ", "a (b (c) d) e", "<a] [b> c", "…", "  two   spaces\tand\nlines ",
        "Iğdır ß Σίσυφος",
    ],
)  # fmt: skip
def test_whisper_basic_is_transformers(sentence):
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    assert whisper_basic(sentence) == BasicTextNormalizer()(sentence)


def test_whisper_basic_by_hand():
    assert whisper_basic("Evet, İyi [gülüş]!").split() == ["evet", "i", "yi"]
