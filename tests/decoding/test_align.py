"""Forced alignment: the path against torchaudio's, words and their scores, what a vocabulary cannot spell.

Run: pytest tests/decoding/test_align.py
"""

import itertools
import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED
from torchaudio.functional import forced_align

import w2v
from w2v.audio import SAMPLE_RATE, UnusableAudioError
from w2v.ctc import frames_needed
from w2v.decoding import viterbi
from w2v.decoding.align import WILDCARD_COST, align
from w2v.text.words import WrittenWord, written_words

LIBRI = SHARED / "fixtures" / "pyctcdecode" / "libri_logits.json"
LIBRI_TEXT = (
    "i have a good deal of will you remember and what i have set my mind upon no doubt i shall some day achieve"
)


def states_of_torchaudio(scores: np.ndarray, labels: np.ndarray, blank: int) -> np.ndarray:
    path, _ = forced_align(torch.from_numpy(scores)[None], torch.from_numpy(labels)[None], blank=blank)
    path = path[0].numpy()
    begun = np.cumsum((path != blank) & (path != np.concatenate([[blank], path[:-1]])))
    return np.where(path == blank, 2 * begun, 2 * begun - 1)


@pytest.mark.parametrize("window", [50, 150, 2000])  # 2000: one window
def test_windows_give_the_path_of_one_alignment_of_the_whole(window, monkeypatch):
    monkeypatch.setattr(viterbi, "WINDOW", window)
    compared = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        frames, size = int(rng.integers(1, 400)), int(rng.integers(2, 8))
        labels = rng.integers(1, size, rng.integers(1, max(2, frames // 2)))
        if frames_needed(labels) > frames:
            continue
        scores = rng.normal(0, rng.choice([1, 5]), (frames, size))
        scores -= scores.max(axis=1, keepdims=True)
        ours = viterbi.best_path(scores, labels, blank=0)
        np.testing.assert_array_equal(ours, states_of_torchaudio(scores, labels, blank=0))
        compared += 1
    assert compared > 25


def total(scores: np.ndarray, labels: np.ndarray, path: np.ndarray, blank: int = 0) -> float:
    tokens = np.where(path % 2 == 1, labels[np.minimum(path // 2, len(labels) - 1)], blank)
    return scores[np.arange(len(path)), tokens].sum()


@pytest.mark.skipif(not LIBRI.is_file(), reason="needs shared/fixtures/pyctcdecode")
@pytest.mark.parametrize("repeats", [1, 4])
def test_windows_on_a_real_model_s_frames(repeats, monkeypatch):
    monkeypatch.setattr(viterbi, "WINDOW", 100)
    symbols = " abcdefghijklmnopqrstuvwxyz'"
    rounded = np.array(json.loads(LIBRI.read_text()) * repeats, dtype=np.float64)
    rounded -= rounded.max(axis=1, keepdims=True)
    labels = np.array([symbols.index(char) for char in " ".join([LIBRI_TEXT] * repeats)])
    scores = rounded - np.random.default_rng(0).random(rounded.shape) / 1e3  # without ties
    path = viterbi.best_path(scores, labels, blank=28)
    np.testing.assert_array_equal(path, states_of_torchaudio(scores, labels, blank=28))
    ours, theirs = viterbi.best_path(rounded, labels, blank=28), states_of_torchaudio(rounded, labels, blank=28)
    assert total(rounded, labels, ours, blank=28) == -10 * (repeats - 1)  # a space at each join
    assert total(rounded, labels, theirs, blank=28) <= -10 * (repeats - 1)  # torchaudio 2.11: -5 for one


def test_the_path_is_a_best_one_where_others_are_as_good():
    """torchaudio's is not: it stays where two other ways are equal, for less."""
    labels, worse = np.array([1, 2, 1]), 0
    paths = [p for p in itertools.product(range(4), repeat=6) if [k for k, _ in itertools.groupby(p) if k] == [1, 2, 1]]
    for seed in range(50):
        scores = np.random.default_rng(seed).integers(-2, 1, (6, 4)).astype(np.float64)
        best = max(sum(scores[t, token] for t, token in enumerate(path)) for path in paths)
        assert total(scores, labels, viterbi.best_path(scores, labels, blank=0)) == best
        worse += total(scores, labels, states_of_torchaudio(scores, labels, blank=0)) < best
    assert worse > 0


def made_up(frames: int, count: int, wrong: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of blanks with `count` labels between them, the labels of a text of which a share is wrong, where they
    are."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 33, count)
    heard = np.where(rng.random(count) < wrong, rng.integers(1, 33, count), labels)
    scores = rng.normal(0, 1, (frames, 33)).astype(np.float32)
    scores[:, 0] += 8
    at = np.sort(rng.choice(frames // 2, count, replace=False)) * 2 + 1
    scores[at, 0] -= 8
    scores[at, heard] += 8
    return scores - scores.max(axis=1, keepdims=True), labels, at


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_texts_of_which_a_share_is_wrong(wrong, monkeypatch):
    monkeypatch.setattr(viterbi, "WINDOW", 500)
    scores, labels, at = made_up(2000, 500, wrong)
    path = viterbi.best_path(scores, labels, blank=0)
    np.testing.assert_array_equal(path, states_of_torchaudio(scores, labels, blank=0))
    if not wrong:
        np.testing.assert_array_equal(path[at], 2 * np.arange(500) + 1)


def test_a_label_in_every_frame(monkeypatch):
    monkeypatch.setattr(viterbi, "WINDOW", 50)
    labels = np.arange(230) % 3 + 1
    scores = -np.random.default_rng(0).random((230, 4))
    np.testing.assert_array_equal(viterbi.best_path(scores, labels, blank=0), 2 * np.arange(230) + 1)


def test_memory_is_that_of_a_window(monkeypatch):
    monkeypatch.setattr(viterbi, "WINDOW", 500)
    scores, labels, at = made_up(6000, 1500, wrong=0.0)
    tracemalloc.start()
    path = viterbi.best_path(scores, labels, blank=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(path[at], 2 * np.arange(1500) + 1)
    assert peak < 2e6  # bytes; choices for all frames and labels would be 9e6 at a byte each


def words_of(text: str, lang: str) -> list[tuple[str, str]]:
    return [(word.text, word.spoken) for word in written_words(text, w2v.Normaliser(lang), lang)]


def test_words_keep_their_spelling():
    assert words_of("L'été, 2021", "fr") == [("L'été,", "l'été"), ("2021", "2021")]
    assert words_of("2021'de İstanbul!", "tr") == [("2021'de", "2021'de"), ("İstanbul!", "istanbul")]
    assert words_of("either/or well-known", "en") == [("either/or", "either or"), ("well-known", "wellknown")]


def test_what_is_not_spoken_stays_beside_a_word():
    assert words_of("— Hello — there !", "en") == [("— Hello —", "hello"), ("there !", "there")]
    assert words_of("« Oui »\n…\nnon", "fr") == [("« Oui » …", "oui"), ("non", "non")]


def test_words_of_languages_without_spaces_end_at_marks():
    assert words_of("今天天气很好，我们走吧。 好", "zh-CN") == [
        ("今天天气很好，", "今天天气很好"),
        ("我们走吧。", "我们走吧"),
        ("好", "好"),
    ]


def test_lines_are_counted():
    lines = [word.line for word in written_words("a b\n\nc\r\nd", w2v.Normaliser("en"))]
    assert lines == [0, 0, 2, 3]


@pytest.mark.parametrize("text", ["", "\n", " — … "])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(w2v.InputError, match="at least one word, none is left of"):
        written_words(text, w2v.Normaliser("en"))


TOKENIZER = w2v.CharTokenizer({"[PAD]": 0, "|": 1, "a": 2, "b": 3, "c": 4, "[UNK]": 5})


def frames_of(path: str, sure: float = 10.0) -> torch.Tensor:
    """Log-probabilities of a path in `_|abc`, (T, V)."""
    return torch.eye(6)[["_|abc".index(token) for token in path]].mul(sure).log_softmax(-1)


def aligned(path: str, text: str, sure: float = 10.0, tokenizer: w2v.CharTokenizer = TOKENIZER):
    words = [WrittenWord(word.upper(), word, 0) for word in text.split()]
    return align(frames_of(path, sure), words, tokenizer, seconds_per_frame=0.5)


def test_times_are_those_of_the_path():
    result = aligned("__aa_b||_c_ca_", "ab cca")
    assert [(word.text, word.start, word.end) for word in result.words] == [("AB", 1.0, 3.0), ("CCA", 4.5, 6.5)]
    assert [(char.text, char.start, char.end) for word in result.words for char in word.characters] == [
        ("a", 1.0, 2.0),
        ("b", 2.5, 3.0),
        ("c", 4.5, 5.0),
        ("c", 5.5, 6.0),
        ("a", 6.0, 6.5),
    ]
    assert result.score == 0
    assert all(word.score == 0 for word in result.words)


def test_a_score_is_the_mean_loss_over_frames_with_a_token():
    result = aligned("_ab_|_ac__a__", "ab bca")  # b is written, a is heard, and another a is heard besides
    first, second = result.words
    assert first.score == 0
    assert second.text == "BCA"
    # b in place of a loses 10 in one of its three frames with a token: a c a
    assert second.score == pytest.approx(-10 / 3, abs=1e-4)
    assert [char.score for char in second.characters] == pytest.approx([-10, 0, 0], abs=1e-4)
    assert result.score == pytest.approx(-10 / 6, abs=1e-4)


def test_what_is_heard_and_not_written_lowers_the_score():
    result = aligned("a__c_b", "ab")
    assert result.words[0].score == pytest.approx(-10 / 3, abs=1e-4)
    assert result.score == pytest.approx(-10 / 3, abs=1e-4)
    assert aligned("ab____c_c", "ab").score == pytest.approx(-20 / 4, abs=1e-4)


def test_a_matching_text_scores_0_however_unsure_the_model_is():
    for sure in (10.0, 1.0, 0.1):
        assert aligned("_a_b_|_c", "ab c", sure).score == 0
        assert aligned("_a_b_|_c", "ab a", sure).words[1].score == pytest.approx(-sure, abs=1e-4)


def test_a_word_that_cannot_be_spelt_takes_its_audio():
    result = aligned("_ab_|_b_a_bb__|__cc_", "ab 日本 c")
    assert [(word.text, word.start, word.end) for word in result.words] == [
        ("AB", 0.5, 1.5),
        ("日本", 3.0, 6.0),
        ("C", 8.5, 9.5),
    ]
    assert [word.score for word in result.words] == [0, None, 0]
    assert [(char.text, char.score) for char in result.words[1].characters] == [("日本", None)]
    assert result.score == 0


def test_characters_that_cannot_be_spelt_inside_a_word():
    word = aligned("_a_c_b_", "aðþb").words[0]
    assert [(char.text, char.start, char.end, char.score) for char in word.characters] == [
        ("a", 0.5, 1.0, 0.0),
        ("ðþ", 1.5, 2.0, None),
        ("b", 2.5, 3.0, 0.0),
    ]
    assert word.score == 0


PHONEMES = w2v.CharTokenizer({"<pad>": 0, "x": 1, "a": 2, "tʃ": 3, "c": 4, "<unk>": 5}, None, "<unk>", "<pad>", True)


def test_phonemes_that_cannot_be_spelt_side_by_side_need_no_blank():
    words = [WrittenWord(text, text, 0) for text in ("a", "ð", "þ", "ɬ", "a")]
    result = align(frames_of("abcba"), words, PHONEMES, 1.0)
    assert [(word.start, word.end) for word in result.words] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_a_wildcard_costs_less_than_any_wrong_letter():
    assert 0 < WILDCARD_COST < 1
    long_word = "_ab_|" + "_b_a_c_" * 10 + "|c_"
    assert aligned(long_word, "ab ð c").words[1].end == pytest.approx((5 + 69) * 0.5)


def test_a_vocabulary_of_capitals_spells_small_letters():
    tokenizer = w2v.CharTokenizer({"[PAD]": 0, "|": 1, "A": 2, "B": 3, "C": 4, "[UNK]": 5})
    assert [word.score for word in aligned("_ab|c", "ab c", tokenizer=tokenizer).words] == [0, 0]


def test_phonemes_are_the_words_of_their_text():
    asr = w2v.Recogniser(torch.nn.Identity(), PHONEMES)
    result = align(frames_of("_a_bb_"), asr.written_words("a tʃ"), PHONEMES, 1.0)
    assert [(word.text, word.start, word.end, word.score) for word in result.words] == [("a", 1, 2, 0), ("tʃ", 3, 5, 0)]


def test_a_text_that_needs_more_frames_is_refused():
    assert len(aligned("abab", "aba").words) == 1
    with pytest.raises(
        w2v.InputError, match=r"at most one character a frame of 0.5 s, .* needs 5 frames and the recording has 4;"
    ):
        aligned("abab", "aaa")


def test_scores_that_are_not_numbers_are_refused():
    frames = frames_of("abab")
    frames[2, 2] = torch.nan
    with pytest.raises(w2v.InputError, match="not finite"):
        align(frames, [WrittenWord("a", "a", 0)], TOKENIZER, 1.0)
    frames[2] = -torch.inf
    frames[2, 0] = 0.0
    assert align(frames, [WrittenWord("abab", "abab", 0)], TOKENIZER, 1.0).score < -100


@pytest.fixture(scope="module")
def asr() -> w2v.Recogniser:
    torch.manual_seed(0)
    config = w2v.Wav2Vec2Config.from_dict({**w2v.TINY.to_dict(), "num_hidden_layers": 1, "vocab_size": 6})
    return w2v.Recogniser(w2v.Wav2Vec2ForCTC(config).eval(), TOKENIZER, w2v.Normaliser("en"))


def test_frames_and_words_of_a_long_recording(asr):
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32)
    noise[20 * SAMPLE_RATE :] = 0
    short = noise[: 5 * SAMPLE_RATE]
    one, two = asr.all_emissions([[short], [noise]])
    assert (one.number, one.seconds, one.error) == (0, 5.0, None)
    assert (two.number, two.seconds, two.error) == (1, 60.0, None)
    torch.testing.assert_close(one.log_probs, asr.emissions(short), atol=1e-5, rtol=0)
    frames = two.log_probs
    assert len(frames) == pytest.approx(len(noise) / asr.model.config.hop, abs=1)
    assert frames[-400:, 0].eq(0).all()  # silence: blanks without doubt
    words = asr.align(noise, "a b, C.").words
    assert [word.text for word in words] == ["a", "b,", "C."]
    assert all(0 <= a.start < a.end <= b.start for a, b in itertools.pairwise(words))


def test_a_recording_without_sound_is_refused(asr):
    for samples in (np.empty(0, np.float32), np.zeros(SAMPLE_RATE, np.float32), np.ones(100, np.float32)):
        with pytest.raises(UnusableAudioError, match=r"^nothing to hear in \d\.\d\d s"):
            asr.emissions(samples)
    with pytest.raises(UnusableAudioError, match="not finite"):
        asr.align(np.full(SAMPLE_RATE, np.nan, np.float32), "a")


def test_a_model_without_posteriors_is_refused(asr, monkeypatch):
    monkeypatch.setattr(asr.model, "emissions", None)
    with pytest.raises(w2v.InputError, match="must give frame posteriors"):
        asr.emissions(np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32))


def test_a_folder_without_text_rules_needs_a_language():
    asr = w2v.Recogniser(SimpleNamespace(), TOKENIZER)
    with pytest.raises(w2v.InputError, match=r"^`lang` is needed"):
        asr.written_words("a")
    assert asr.written_words("A!", "en") == [WrittenWord("A!", "a", 0)]
