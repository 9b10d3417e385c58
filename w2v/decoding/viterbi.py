"""The best path of CTC labels through the frames of a recording of any length.

It is what torchaudio.functional.forced_align gives, and differs in two ways. That holds choices for frames x labels,
2 GB for an hour; this holds them for one window. Where two ways into a label are equally good, that takes neither, and
its path is not a best one (torchaudio 2.11); this takes one of them. Silence and 16-bit scores have such ties.

Shapes: T frames, V scores, L labels. A state is how many labels have begun, i = 0 to L, and whether the frame stands on
the last of them or on the blank behind it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

WINDOW = 2000  # frames whose choices are held at once; a multiple of BLOCK
BLOCK = 50  # frames between two looks at which states are within reach


class _States(NamedTuple):
    """The scores of the best paths to states first, first + 1, ... after a frame."""

    first: int
    label: np.ndarray  # (n,) float64
    blank: np.ndarray  # (n,)


def best_path(scores: np.ndarray, labels: np.ndarray, blank: int) -> np.ndarray:
    """scores (T, V), finite; labels (L,) -> states (T,): 2i + 1 on label i, 2i on a blank before it.

    T must be at least frames_needed(labels). Time grows with T x L: an hour of 50,000 labels takes 15 s. Memory grows
    with L x T / WINDOW, 16 bytes each, and with WINDOW squared.
    """
    if len(labels) == 0:
        return np.zeros(len(scores), np.int64)
    tokens = np.concatenate([[blank], labels])  # token i is the last that has begun in state i
    skip = np.where(tokens[1:] == tokens[:-1], -np.inf, 0.0)  # equal neighbours need a blank between them
    skip = np.concatenate([[-np.inf], skip])
    kept = _forward(scores, tokens, skip, blank)
    return _backward(scores, tokens, skip, blank, kept)


def _forward(scores: np.ndarray, tokens: np.ndarray, skip: np.ndarray, blank: int) -> list[_States]:
    """The states before each window."""
    frames, most = len(scores), len(tokens) - 1
    on_label, on_blank = np.full(most + 1, -np.inf), np.full(most + 1, -np.inf)
    on_blank[0] = 0.0  # before the first frame
    kept = []
    for start in range(0, frames, BLOCK):
        # A frame begins one label at most, from the first label on and up to the last.
        low, high = max(0, most - (frames - start)), min(most, start + BLOCK)
        states = _States(low, on_label[low : high + 1], on_blank[low : high + 1])
        if start % WINDOW == 0:
            kept.append(_States(low, states.label.copy(), states.blank.copy()))
        if start < (frames - 1) // WINDOW * WINDOW:  # nobody asks for the states behind the last window
            for _ in _steps(scores[start : start + BLOCK], tokens, skip, blank, states):
                pass
    return kept


def _steps(
    scores: np.ndarray, tokens: np.ndarray, skip: np.ndarray, blank: int, states: _States
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Take the states through frames, in place. Before each: the scores of coming to labels first + 1, first + 2, ...
    from the label before and from the blank before."""
    first, label, on_blank = states
    tokens, skip = tokens[first : first + len(label)], skip[first + 1 : first + len(label)]
    from_label, gain = np.empty(len(label) - 1), np.empty(len(label))
    for frame in scores.astype(np.float64):
        np.add(label[:-1], skip, out=from_label)
        yield from_label, on_blank[:-1]
        np.maximum(from_label, on_blank[:-1], out=from_label)
        np.maximum(on_blank, label, out=on_blank)
        np.add(on_blank, frame[blank], out=on_blank)
        np.maximum(label[1:], from_label, out=label[1:])
        np.take(frame, tokens, out=gain, mode="clip")
        np.add(label, gain, out=label)


def _backward(scores: np.ndarray, tokens: np.ndarray, skip: np.ndarray, blank: int, kept: list[_States]) -> np.ndarray:
    """The best path to the last state: window by window from the end, from the states before each."""
    path = np.empty(len(scores), np.int64)
    end, is_label = len(tokens) - 1, False
    for window in reversed(range(len(kept))):
        frames = scores[window * WINDOW : (window + 1) * WINDOW]
        before = kept[window]
        first = max(before.first, end - len(frames))  # a frame begins one label at most
        states = _States(first, np.full(end - first + 1, -np.inf), np.full(end - first + 1, -np.inf))
        for mine, its in ((states.label, before.label), (states.blank, before.blank)):
            known = its[first - before.first : end + 1 - before.first]
            mine[: len(known)] = known
        stays = np.empty((3, len(frames), len(states.label)), bool)
        for t, (from_label, from_blank) in enumerate(_steps(frames, tokens, skip, blank, states)):
            stays[0, t] = states.blank >= states.label  # on a blank
            stays[1, t, 1:] = states.label[1:] >= np.maximum(from_label, from_blank)  # on a label
            stays[2, t, 1:] = from_blank >= from_label  # where not: it comes from the blank before
        stays[1, :, 0] = True  # states before `first` are out of reach
        if window == len(kept) - 1:
            is_label = bool(states.label[-1] > states.blank[-1])
        for t in reversed(range(len(frames))):
            path[window * WINDOW + t] = 2 * end - is_label
            at = end - first
            if not is_label:
                is_label = not stays[0, t, at]
            elif not stays[1, t, at]:
                is_label, end = not stays[2, t, at], end - 1
    return path
