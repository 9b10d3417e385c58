"""n-gram models as tensors: the scores that KenLM gives for the same model, the examples of its documentation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from w2v.decoding.arpa import read_arpa
from w2v.decoding.ngram import build

WORDS = ["<unk>", "<s>", "</s>", "a", "b"]


def toy(without: int = 0):
    """Three orders; `without` leaves out the bigram of that number."""
    bigrams = np.array([[1, 3], [3, 4], [4, 2], [4, 3]])
    kept = [i for i in range(4) if i != without] if without else list(range(4))
    return build(
        WORDS,
        [np.arange(5)[:, None], bigrams[kept], np.array([[1, 3, 4]])],
        [np.array([-1, 0, -0.7, -0.6, -0.8]), np.array([-0.25, -0.5, -0.4, -0.9])[kept], np.array([-0.05])],
        [np.array([0, -0.3, 0, -0.2, -0.4]), np.array([-0.15, -0.1, 0, 0])[kept], np.zeros(1)],
    )


@pytest.mark.parametrize(
    ("sentence", "bos", "expected"),
    [
        ("a b", True, [-0.25, -0.05, -0.1 - 0.4]),  # the last term: back-off of "a b", then p(</s> | b)
        ("b a", True, [-1.1, -0.9, -0.9]),
        ("c", True, [-1.3, -0.7]),
        ("a c b", False, [-0.6, -1.2, -0.8, -0.4]),  # an unknown word empties the context
        ("", True, [-0.3 - 0.7]),
    ],
)
def test_scores_are_kenlms(sentence, bos, expected):
    assert toy().word_scores([sentence.split()], bos)[0] == pytest.approx(expected, abs=1e-6)


def test_sentences_of_different_lengths_are_scored_together():
    lm = toy()
    sentences = [s.split() for s in ("a b", "", "b a b a c", "c")]
    together = lm.word_scores(sentences)
    assert together == [lm.word_scores([sentence])[0] for sentence in sentences]
    assert lm.score(sentences) == pytest.approx([sum(row) for row in together])
    assert lm.word_scores(sentences, eos=False) == [row[:-1] for row in together]
    assert lm.score([]) == []


def test_flashlights_scores_of_its_model():
    """What its DecoderTest expects of a pruned 3-gram of LibriSpeech."""
    path = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "flashlight_decoder" / "lm.arpa"
    if not path.is_file():
        pytest.skip("needs the fixtures")
    found = read_arpa(path)[0].word_scores(["the cat sat on the mat".split()])[0]
    assert found[:-1] == pytest.approx([-1.05971, -4.19448, -3.33383, -2.76726, -1.16237, -4.64589], abs=1e-5)
    assert sum(found) == pytest.approx(-19.5123, abs=1e-4)


def test_states_that_no_longer_matter_are_one_state():
    """Two histories with the same future have one state, so that a search can join them."""
    lm = toy()
    b = lm.advance(lm.start(1), lm.ids(["b"]))[1]
    a_then_b = lm.advance(lm.advance(lm.start(1, bos=False), lm.ids(["c"]))[1], lm.ids(["b"]))[1]
    assert torch.equal(b, a_then_b)


def test_a_model_without_a_context_or_with_an_n_gram_twice_is_refused():
    with pytest.raises(ValueError, match="lacks its context"):
        build(
            WORDS,
            [np.arange(5)[:, None], np.array([[3, 4]]), np.array([[1, 3, 4]])],
            [np.zeros(5), np.zeros(1), np.zeros(1)],
            [np.zeros(5), np.zeros(1), np.zeros(1)],
        )
    with pytest.raises(ValueError, match="comes twice"):
        build(WORDS, [np.arange(5)[:, None], np.array([[3, 4], [3, 4]])], [np.zeros(5), np.zeros(2)], [np.zeros(5)] * 2)


def test_the_longest_suffix_that_exists_is_found_where_one_between_is_missing():
    """Files of SRILM can lack "a b" although they hold "<s> a b"."""
    words = [*WORDS, "d"]
    lm = build(
        words,
        [np.arange(6)[:, None], np.array([[1, 3], [3, 4], [4, 3]]), np.array([[1, 3, 4], [3, 4, 3]])],
        [np.full(6, -1.0), np.full(3, -0.5), np.array([-0.1, -0.2])],
        [np.full(6, -0.01), np.full(3, -0.02), np.zeros(2)],
    )
    assert lm.word_scores([["a", "b", "a"]], eos=False)[0] == pytest.approx([-0.5, -0.1, -0.2])
    assert lm.word_scores([["a", "b", "d"]], eos=False)[0][2] == pytest.approx(-0.02 - 0.01 - 1.0)
