"""Best-path CTC decoding."""

from torch import Tensor

from w2v.text import CharTokenizer


def greedy_decode(logits: Tensor, logit_lengths: Tensor, tokenizer: CharTokenizer) -> list[str]:
    """logits (B, T, V), logit_lengths (B,) -> one text per row.

    The likeliest token of each real frame, repeats collapsed, blanks dropped. Frames of padding are cut off first:
    decoding them glues stray letters to the last word of shorter clips.
    """
    best = logits.argmax(dim=-1).cpu()  # (B, T)
    return [tokenizer.decode(row[:n].tolist()) for row, n in zip(best, logit_lengths.tolist(), strict=True)]
