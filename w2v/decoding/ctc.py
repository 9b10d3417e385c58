"""Best-path CTC decoding: the likeliest token of each frame, repeats collapsed, blanks dropped.

Shapes: B batch, T frames, V vocabulary.
"""

import math
from itertools import groupby

from torch import Tensor

from w2v.answers import DecodeOptions, Emissions, Hypothesis, Word


def greedy_decode(logits: Tensor, logit_lengths: Tensor, tokenizer) -> list[str]:
    """logits (B, T, V), logit_lengths (B,) -> one text per row.

    Frames of padding are cut off first: decoding them glues stray letters to the last word of shorter clips.
    """
    best = logits.argmax(dim=-1).cpu()  # (B, T)
    return [tokenizer.decode(row[:n].tolist()) for row, n in zip(best, logit_lengths.tolist(), strict=True)]


def greedy(emissions: Emissions, tokenizer, options: DecodeOptions) -> list[Hypothesis]:
    """The best path of each row: its text, its tokens without repeats and blanks, and its log-probability."""
    scores, best = emissions.log_probs.max(dim=-1)  # (B, T)
    hypotheses = []
    for frame_scores, path, n in zip(scores.tolist(), best.tolist(), emissions.lengths.tolist(), strict=True):
        path, frame_scores = path[:n], frame_scores[:n]
        tokens = [token for token, _ in groupby(path) if token != tokenizer.blank_id]
        words = _words(path, frame_scores, emissions.seconds_per_frame, tokenizer) if options.words else []
        hypotheses.append(Hypothesis(tokenizer.decode(path), tokens, sum(frame_scores), words))
    return hypotheses


def _words(path: list[int], scores: list[float], seconds: float, tokenizer) -> list[Word]:
    """Words with the time from their first token's first frame to their last token's last frame.

    A word's confidence is the mean probability of its tokens' frames; blanks between them do not count.
    """
    words, start, end, text = [], 0, 0, ""
    inside: list[int] = []  # frames of the word's tokens
    space = tokenizer.vocab[tokenizer.space]
    runs = [(token, [frame for frame, _ in group]) for token, group in groupby(enumerate(path), key=lambda x: x[1])]
    for token, frames in [*runs, (space, [])]:
        if token == space and text:
            confidence = sum(math.exp(scores[frame]) for frame in inside) / len(inside)
            words.append(Word(text, start * seconds, end * seconds, confidence))
            inside, text = [], ""
        letters = "" if token == space else tokenizer.decode([token])
        if letters:
            start = start if text else frames[0]
            end, text = frames[-1] + 1, text + letters
            inside += frames
    return words
