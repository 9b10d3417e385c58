"""Kneser-Ney estimation: the worked example, lmplz's own models, and what holds for any model."""

import gzip
from collections import Counter
from math import log10
from pathlib import Path

import numpy as np
import pytest
import torch

from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.ngram import BOS
from w2v.errors import InputError

FIXTURES = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "lmplz"
UNDISCOUNTED = "a a b a a a a a b a a a a a a a a a a b"  # with "a": <s> is followed by words that come twice


def corpus_of(lines):
    corpus = Corpus()
    for line in lines:
        corpus.add(line.split())
    return corpus


def table(lm):
    """{n-gram: (log10 p, log10 back-off)}"""
    size, grams = len(lm.words), [()]
    for key in lm.keys.tolist():
        grams.append((*grams[key // size], lm.words[key % size]))
    rows = zip(grams, lm.log10_probs.tolist(), lm.log10_backoffs.tolist(), strict=True)
    return {gram: (prob, backoff) for gram, prob, backoff in rows if gram}


def arpa_table(path):
    found = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) > 1:
                found[tuple(cells[1].split(" "))] = (float(cells[0]), float(cells[2]) if len(cells) > 2 else 0.0)
    return found


def by_the_rules(lines, order, prune):
    """{n-gram: (log10 p, log10 back-off)}: lmplz's rules one after the other, with dictionaries."""
    raw = [Counter() for _ in range(order)]
    for line in lines:
        words = ["<s>", *line.split(), "</s>"]
        for end in range(2, len(words) + 1):
            for n in range(1, min(order, end) + 1):
                raw[n - 1][tuple(words[end - n : end])] += 1
    p, found = {(): 1 / (len(raw[0]) + 1)}, {("<s>",): (0.0, 0.0)}
    for n in range(order):
        left = Counter(gram[1:] for gram in raw[n + 1]) if n + 1 < order else raw[n]
        counts = {gram: count if gram[0] == "<s>" else left[gram] for gram, count in raw[n].items()}
        counts |= {("<unk>",): 0} if n == 0 else {}
        t = Counter(counts.values())
        discounts = [0.0, 0.5, 1.0, 1.5]
        if t[1] and t[2] and t[3]:
            y = t[1] / (t[1] + 2 * t[2])
            values = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
            if all(0 <= value <= k for k, value in enumerate(values, 1)):
                discounts[1:] = values
        kept = {gram for gram in counts if n == 0 or raw[n][gram] > prune[min(n, len(prune) - 1)]}
        total, gamma = Counter(), Counter()
        for gram, count in counts.items():
            total[gram[:-1]] += count
            gamma[gram[:-1]] += discounts[min(count, 3)] if gram in kept else count
        for gram, count in counts.items():
            share = (count - discounts[min(count, 3)]) if gram in kept else 0
            p[gram] = (share + gamma[gram[:-1]] * p[gram[1:]]) / total[gram[:-1]]
        for context in {gram[:-1] for gram in kept} - {()}:
            found[context] = (found[context][0], log10(max(gamma[context] / total[context], 1e-30)))
        found |= {gram: (log10(p[gram]), 0.0) for gram in kept}
    return found


def sums(lm, most=10_000):
    """The sum of p over all words, in each context, or in so many."""
    states = torch.unique(torch.cat([lm.after.long(), torch.zeros(1, dtype=torch.long)]))
    words = torch.tensor([i for i in range(len(lm.words)) if i != BOS])
    return [float((10 ** lm.advance(state.expand(len(words)), words)[0].double()).sum()) for state in states[:most]]


def test_the_worked_example():
    estimate = estimate_ngram(corpus_of(["a b", "a b c", "a c", "b a"]), 2)
    assert estimate.discounts[0].values == (0.5, 1.0, 1.5)
    assert estimate.discounts[0].lacking == "no n-gram has a count of 1"
    assert estimate.discounts[1].values == pytest.approx((0.6, 1.1, 3.0)) and not estimate.discounts[1].lacking
    found = table(estimate.ngram)
    expected = {
        ("a",): (-0.675489, -0.240332),
        ("b",): (-0.675489, -0.221849),
        ("c",): (-0.675489, -0.259637),
        ("</s>",): (-0.574031, 0.0),
        ("<unk>",): (-1.0, 0.0),
        ("<s>",): (0.0, -0.045757),
        ("a", "b"): (-0.460436, 0.0),
        ("<s>", "a"): (-0.721246, 0.0),
        ("c", "</s>"): (-0.224268, 0.0),
    }
    for gram, numbers in expected.items():
        assert found[gram] == pytest.approx(numbers, abs=1e-6), gram
    assert estimate.ngram.counts == (6, 9)
    assert sums(estimate.ngram) == pytest.approx([1.0] * len(sums(estimate.ngram)), abs=1e-6)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs the fixtures")
@pytest.mark.parametrize(
    ("name", "order", "prune"),
    [("tr1500.order3.arpa.gz", 3, (0,)), ("tr1500.order4.prune-0-1-1.arpa.gz", 4, (0, 1, 1))],
)
def test_the_models_of_lmplz(name, order, prune):
    lines = (FIXTURES / "tr1500.txt").read_text(encoding="utf-8").splitlines()
    found, expected = (
        table(estimate_ngram(corpus_of(lines), order, prune).ngram),
        arpa_table(FIXTURES / name),
    )
    assert found.keys() == expected.keys()
    grams = list(expected)
    difference = np.array([found[gram] for gram in grams]) - np.array([expected[gram] for gram in grams])
    assert np.abs(difference).max() <= 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_the_rules_one_after_the_other(seed):
    generator = np.random.default_rng(seed)
    words, lines, order = generator.integers(1, 60), generator.integers(1, 120), int(generator.integers(1, 7))
    texts = [" ".join(f"w{i % words}" for i in generator.zipf(1.5, generator.integers(0, 12))) for _ in range(lines)]
    texts.append("w0")
    prune = (0, *np.cumsum(generator.integers(0, 2, order - 1)).tolist()) if seed % 2 else (0,)
    found, expected = table(estimate_ngram(corpus_of(texts), order, prune).ngram), by_the_rules(texts, order, prune)
    assert found.keys() == expected.keys()
    for gram, numbers in expected.items():
        assert found[gram] == pytest.approx(numbers, abs=1e-6), gram


@pytest.mark.parametrize(
    "lines",
    [
        ["a"],
        ["a b c"] * 100,
        [" ".join(f"w{i % 977}" for i in range(10_000))],
        ["a a a a a"],
        ["", "a", ""],
        [UNDISCOUNTED, "a"],
    ],
    ids=["one word", "one sentence a hundred times", "a long one", "one word five times", "empty ones", "no discount"],
)
def test_texts_that_are_hardly_any(lines):
    lm = estimate_ngram(corpus_of(lines), 5).ngram
    assert np.isfinite(lm.log10_probs.numpy()).all() and np.isfinite(lm.log10_backoffs.numpy()).all()
    found = sums(lm, most=50)
    assert found == pytest.approx([1.0] * len(found), abs=1e-6)


def test_pruning_goes_by_how_often_an_n_gram_is_in_the_text():
    texts = ["a b", "a b", "a c", "b c"]
    estimate = estimate_ngram(corpus_of(texts), 2, (0, 1))
    assert {gram for gram in table(estimate.ngram) if len(gram) == 2} == {
        ("<s>", "a"),
        ("a", "b"),
        ("b", "</s>"),
        ("c", "</s>"),
    }
    assert estimate.pruned == [0, 3] and estimate.ngram.counts == (6, 4)


def test_every_context_sums_to_one():
    generator = np.random.default_rng(0)
    lines = [" ".join(f"w{i}" for i in generator.zipf(1.5, size=generator.integers(0, 9)) % 40) for _ in range(300)]
    for order, prune in ((1, (0,)), (3, (0,)), (5, (0, 1, 2)), (4, (0, 0, 3))):
        found = sums(estimate_ngram(corpus_of(lines), order, prune).ngram)
        assert found == pytest.approx([1.0] * len(found), abs=1e-6)


def test_a_weight_is_a_number_of_times():
    weighted = Corpus()
    weighted.add(["a", "b"], 3)
    weighted.add(["b", "c"])
    repeated = corpus_of(["a b", "a b", "a b", "b c"])
    one, other = (table(estimate_ngram(corpus, 3).ngram) for corpus in (weighted, repeated))
    assert one == other


def test_orders_beyond_the_longest_sentence_are_left_out():
    estimate = estimate_ngram(corpus_of(["a", "a b"]), 5)
    assert estimate.ngram.counts == (5, 4, 3, 1)
    assert all(discounts.lacking for discounts in estimate.discounts)
    assert estimate_ngram(corpus_of(["a", "a b"]), 5, (0, 9)).ngram.counts == (5,)


@pytest.mark.parametrize(
    ("lines", "order", "prune", "message"),
    [
        ([], 3, (0,), "a text must hold words"),
        (["", ""], 3, (0,), "a text must hold words"),
        (["a"], 0, (0,), "`order` must be from 1 to 10, got 0"),
        (["a"], 11, (0,), "`order` must be from 1 to 10, got 11"),
        (["a"], 3, (1,), "`prune` must begin with 0"),
        (["a"], 3, (0, 2, 1), "must not fall"),
        (["a"], 2, (0, 0, 0), "at most `order`"),
        (["a <s> b"], 2, (0,), "a text must not hold <s> as a word"),
    ],
)
def test_what_cannot_be_estimated_is_refused(lines, order, prune, message):
    with pytest.raises(InputError, match=message):
        estimate_ngram(corpus_of(lines), order, prune)
