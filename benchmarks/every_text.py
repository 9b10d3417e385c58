"""An exhaustive search: every text that frames can spell, with its score. What a beam search is compared with."""

import math

import numpy as np

from w2v.decoding.ngram import LN10, NGram, build
from w2v.text.tokenizer import CharTokenizer

ALPHA, BETA, UNKNOWN = 0.7, 1.1, -3.0  # any weights


def random_bigram(rng: np.random.Generator, tokenizer: CharTokenizer) -> NGram:
    """Up to four words of the vocabulary's letters, and half of the pairs that there can be."""
    letters = [token for token in tokenizer.tokens if len(token) == 1 and token != "|"]
    spelled = dict.fromkeys("".join(rng.choice(letters, rng.integers(1, 4))) for _ in range(4))
    words = ["<unk>", "<s>", "</s>", *spelled]
    pairs = [(a, b) for a in range(1, len(words)) for b in range(2, len(words)) if a != 2 and rng.random() < 0.5]
    grams = [np.arange(len(words))[:, None], np.array(pairs, np.int64).reshape(-1, 2)]
    probs = [rng.uniform(-3, -0.1, len(each)).astype(np.float32) for each in grams]
    backoffs = [rng.uniform(-1, 0, len(grams[0])).astype(np.float32), np.zeros(len(pairs), np.float32)]
    return build(words, grams, probs, backoffs)


def word_scores(lm: NGram, texts: list[str]) -> dict[str, float]:
    """What a word n-gram says of each text."""
    known = set(lm.words[3:])
    split = [text.split() for text in texts]
    scores = lm.score(split)
    return {
        text: ALPHA * LN10 * (log10 + UNKNOWN * sum(word not in known for word in words)) + BETA * len(words)
        for text, words, log10 in zip(texts, split, scores, strict=True)
    }


def all_texts(log_probs: np.ndarray, tokenizer: CharTokenizer) -> dict[str, float]:
    """The log-sum over the paths of each text: the forward algorithm over all sequences of labels."""
    blank = tokenizer.blank_id
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probs:
        longer: dict[tuple[int, ...], list[float]] = {}
        for labels, (on_blank, on_label) in beams.items():
            total = np.logaddexp(on_blank, on_label)
            mine = longer.setdefault(labels, [-math.inf, -math.inf])
            mine[0] = np.logaddexp(mine[0], total + frame[blank])
            for label in range(len(frame)):
                if label == blank:
                    continue
                if labels and label == labels[-1]:
                    mine[1] = np.logaddexp(mine[1], on_label + frame[label])
                    before = on_blank
                else:
                    before = total
                more = longer.setdefault((*labels, label), [-math.inf, -math.inf])
                more[1] = np.logaddexp(more[1], before + frame[label])
        beams = {labels: (a, b) for labels, (a, b) in longer.items()}
    texts: dict[str, float] = {}
    for labels, (on_blank, on_label) in beams.items():
        text = " ".join("".join(" " if tokenizer.tokens[i] == "|" else tokenizer.tokens[i] for i in labels).split())
        texts[text] = float(np.logaddexp(texts.get(text, -math.inf), np.logaddexp(on_blank, on_label)))
    return texts
