"""When each word of a written text is said, by where its tokens looked in the speech.

Some heads of the decoder's cross-attention follow the speech. Their weights, token by position, are a picture in which
the text runs along a path from corner to corner; dynamic time warping finds it. As openai/whisper does it (timing.py).

Shapes: A heads, U tokens, T positions of 20 ms.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from w2v.answers import Word, WritingModel
from w2v.resampling import SAMPLE_RATE
from w2v.text.whisper_tokenizer import WhisperTokenizer

SMOOTHED = 7  # positions of the median filter
BEFORE = "\"'“¿([{-"  # punctuation that belongs to the word after it
BEHIND = "\"'.。,，!！?？:：”)]}、"  # and to the word before it


@torch.no_grad()
def word_times(
    model: WritingModel, heard: Tensor, tokens: list[int], tokenizer: WhisperTokenizer, samples: int
) -> list[Word]:
    """The words of a window (T, D) with times in seconds from its start; timestamps among the tokens are left out.

    samples: of speech in the window. A word's confidence is the mean probability of its tokens.
    """
    text = [token for token in tokens if token < tokenizer.eos_id]
    if not text:
        return []
    start = tokenizer.prompt(timestamps=True)
    read = [*start, tokenizer.no_timestamps_id, *text, tokenizer.eos_id][: model.config.max_target_positions]
    looks, hidden = model.looks(torch.tensor([read], device=heard.device), heard[None])  # (A, U, T), (1, U, D)
    positions = min(looks.shape[2], max(1, -(-samples // model.config.hop)))
    weights = looks[:, :, :positions].float().softmax(-1)
    deviation, mean = torch.std_mean(weights, dim=1, keepdim=True, correction=0)
    weights = _median((weights - mean) / deviation.clamp(min=1e-12))
    of_text = slice(len(start), len(start) + len(text) + 1)  # from the token that the first text follows
    picture = weights.mean(dim=0)[of_text].cpu().double().nan_to_num().numpy()  # broken weights give no numbers
    rows, places = warp(-picture)
    moments = places[np.diff(rows, prepend=-1) > 0] * (model.config.hop / SAMPLE_RATE)  # (text tokens + 1,)
    odds = model.logits(hidden[0, of_text][:-1])[:, : tokenizer.eos_id].softmax(-1).nan_to_num()
    chosen = odds.gather(1, torch.tensor(text, device=odds.device)[:, None])[:, 0].tolist()
    words, first = [], 0
    for spelled, of_word in tokenizer.split_to_words(text):
        last = first + len(of_word)
        confidence = sum(chosen[first:last]) / max(1, len(of_word))
        words.append(Word(spelled, float(moments[first]), float(moments[last]), confidence))
        first = last
    return _with_punctuation(words)


def _median(x: Tensor) -> Tensor:
    """(A, U, T) -> the median of the seven positions around each, mirrored at the ends."""
    side = SMOOTHED // 2
    if x.shape[2] <= side:
        return x
    return F.pad(x, (side, side), mode="reflect").unfold(-1, SMOOTHED, 1).median(dim=-1).values


def warp(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Costs (U, T) -> rows and columns of the cheapest path from the first corner to the last, by single steps.

    Where paths cost the same, time goes on first, then the token, then both. (openai/whisper's takes a dearer step
    where two others are equal.) Diagonals are computed at once.
    """
    height, width = costs.shape
    total = np.full((height + 1, width + 1), np.inf)
    total[0, 0] = 0.0
    came = np.full((height + 1, width + 1), 2, np.int8)  # from: 0 both before, 1 the token before, 2 the time before
    for diagonal in range(2, height + width + 1):
        i = np.arange(max(1, diagonal - width), min(height, diagonal - 1) + 1)
        j = diagonal - i
        both, token, time = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        step = np.where(time <= np.minimum(both, token), 2, np.where(token <= both, 1, 0))
        total[i, j] = costs[i - 1, j - 1] + np.choose(step, (both, token, time))
        came[i, j] = step
    came[0, :], came[:, 0] = 2, 1
    i, j, rows, columns = height, width, [], []
    while i > 0 or j > 0:
        rows.append(i - 1)
        columns.append(j - 1)
        step = came[i, j]
        i, j = i - (step != 2), j - (step != 1)
    return np.array(rows[::-1]), np.array(columns[::-1])


def _with_punctuation(words: list[Word]) -> list[Word]:
    """Words as split_to_words gives them, spaces included -> words with the marks before and behind them."""
    merged: list[Word] = []
    opening = ""  # marks that the next word takes
    for word in words:
        bare = word.text.strip()
        if not bare:
            continue
        if word.text.startswith(" ") and bare in BEFORE:
            opening += bare
        elif merged and not opening and bare in BEHIND:
            last = merged[-1]
            merged[-1] = Word(last.text + bare, last.start, last.end, last.confidence)
        else:
            merged.append(Word(opening + bare, word.start, word.end, word.confidence))
            opening = ""
    if opening and merged:
        last = merged[-1]
        merged[-1] = Word(f"{last.text} {opening}", last.start, last.end, last.confidence)
    return merged
