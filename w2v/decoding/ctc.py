"""Best-path CTC decoding: the likeliest token of each frame, repeats collapsed, blanks dropped.

Shapes: B batch, T frames, V vocabulary.
"""

from itertools import groupby

from torch import Tensor

from w2v.answers import DecodeOptions, Emissions, Hypothesis, Word
from w2v.layout import Padded
from w2v.text.tokenizer import CharTokenizer


def greedy_decode(logits: Tensor, logit_lengths: Tensor, tokenizer: CharTokenizer) -> list[str]:
    """logits (B, T, V), logit_lengths (B,) -> one text per row. What is behind a row's length does not count."""
    emissions = Emissions(logits.log_softmax(-1), logit_lengths, seconds_per_frame=0.0)
    return [hypothesis.text for hypothesis in greedy(emissions, tokenizer, DecodeOptions())]


def decode(emissions: Emissions, tokenizer: CharTokenizer, options: DecodeOptions) -> list[Hypothesis]:
    """The likeliest text of each row, by the search of the options or on the best path."""
    if options.search is None:
        return greedy(emissions, tokenizer, options)
    return [texts[0] for texts in options.search(emissions, options.words)]


def greedy(emissions: Emissions, tokenizer: CharTokenizer, options: DecodeOptions) -> list[Hypothesis]:
    """The best path of each row: its text, its tokens without repeats and blanks, and its log-probability."""
    scores, best = emissions.log_probs.max(dim=-1)  # (B, T)
    scores = Padded.of(emissions.lengths, scores.shape[1]).rows(scores)
    totals, lengths = scores.sum(dim=1).tolist(), emissions.lengths.tolist()
    hypotheses = []
    for row, (path, total, n) in enumerate(zip(best.tolist(), totals, lengths, strict=True)):
        path = path[:n]
        tokens = [token for token, _ in groupby(path) if token != tokenizer.blank_id]
        words = []
        if options.words:
            words = _words(path, scores[row, :n].exp().tolist(), emissions.seconds_per_frame, tokenizer)
        hypotheses.append(Hypothesis(tokenizer.decode(path), tokens, total, words))
    return hypotheses


def _words(path: list[int], probabilities: list[float], seconds: float, tokenizer: CharTokenizer) -> list[Word]:
    """Words with the time from their first token's first frame to their last token's last frame.

    A word's confidence is the mean probability of its tokens' frames; blanks between them do not count. Without a token
    for the space the whole text is one word.
    """
    space = tokenizer.space_id
    spoken: list[list[tuple[int, list[int]]]] = [[]]  # the tokens of each word, with their frames
    for token, group in groupby(enumerate(path), key=lambda frame: frame[1]):
        if token == space:
            spoken.append([])
        elif tokenizer.decode([token]):
            spoken[-1].append((token, [frame for frame, _ in group]))
    words = []
    for tokens in filter(None, spoken):
        frames = [frame for _, of_token in tokens for frame in of_token]
        text = tokenizer.decode([token for token, _ in tokens], group_tokens=False)
        confidence = sum(probabilities[frame] for frame in frames) / len(frames)
        words.append(Word(text, frames[0] * seconds, (frames[-1] + 1) * seconds, confidence))
    return words
