"""Texts for the benchmarks of language models, and the estimate of a large one."""

import itertools
import json
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.against import ROOT
from recipes.train_lm import lines_of
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.ngram_file import save_ngram
from w2v.errors import InputError
from w2v.text.normalise import Normaliser

SHARED = ROOT.parent / "shared"
DRAWN = 1_000_000  # sentences


def turkish() -> list[str]:
    """The normalised sentences of data/text/tr."""
    normalise = Normaliser("tr")
    return [text for line in lines_of(str(needed(SHARED / "data/text/tr/setimes.txt"))) if (text := normalise(line))]


def corpus_of(lines: Iterable[str]) -> Corpus:
    corpus = Corpus()
    for line in lines:
        corpus.add(line.split())
    return corpus


def needed(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"this row needs {path.relative_to(SHARED.parent)}, it is not here")
    return path


def estimate_large(path: str) -> None:
    """Draw the sentences, estimate, write; print seconds, peak memory and counts. Drawing is not counted."""
    text = Corpus()
    for words in drawn_sentences():
        text.add(words)
    start = time.perf_counter()
    lm = estimate_ngram(text, 5).ngram
    estimated = time.perf_counter() - start
    save_ngram(path, lm)
    figures = {
        "sentences": len(text),
        "words": text.tokens,
        "n-grams": sum(lm.counts),
        "seconds": round(time.perf_counter() - start, 1),
        "estimating s": round(estimated, 1),
        "GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(figures), flush=True)


def drawn_sentences() -> Iterator[list[str]]:
    """A million sentences, each word drawn after the one before as often as it follows it in data/text/tr."""
    followers: dict[str, list[str]] = {}
    for line in turkish():
        for a, b in itertools.pairwise(["<s>", *line.split(), "</s>"]):
            followers.setdefault(a, []).append(b)
    rng = np.random.default_rng(0)
    draws: Iterator[float] = iter(())
    for _ in range(DRAWN):
        words, word = [], "<s>"
        while True:
            draw = next(draws, None)
            if draw is None:
                draws = iter(rng.random(1_000_000).tolist())
                draw = next(draws)
            choices = followers[word]
            word = choices[int(draw * len(choices))]
            if word == "</s>":
                break
            words.append(word)
        yield words
