"""What a beam search goes through, a step at a time: the frames in which some label is likely.

    frames = likely_frames(log_probs, lengths, silent, token_min)
    steps = w2v.decoding.stretches.frames_and_stretches(...)     # many frames can be one step

A text's hash is a polynomial of its labels, so that the hash of a text and a piece follows from those of the two.

Shapes: B clips, T frames, V vocabulary, N frames of all clips with a likely label, L likely labels in them, S steps,
P pieces, R labels of the longest piece.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = float("-inf")
FACTOR = -0x61C8864680B583EB  # any odd number
INVERSE = (pow(FACTOR, -1, 1 << 64) ^ 1 << 63) - (1 << 63)  # of the factor, modulo 2 ** 64


def powers(count: int, device: torch.device) -> Tensor:
    """The factor's powers from 0 on, modulo 2 ** 64."""
    factors = torch.full((count,), FACTOR, device=device)
    factors[0] = 1
    return factors.cumprod(0)


class Pieces(NamedTuple):
    """Texts by which a beam grows: the vocabulary's labels, then what the stretches may say."""

    labels: Tensor  # (P, R) int64; a short piece has -1 in front
    last: Tensor  # (P,): the last label of a text that ends in the piece, which may be empty
    factor: Tensor  # (P,): a text's hash x this + the piece's hash is that of both
    hashes: Tensor  # (P,)


def pieces_of(size: int, labels: Tensor, last: Tensor) -> Pieces:
    """The vocabulary's labels and longer pieces: labels (P - V, R), last (P - V,)."""
    single = torch.full((size, labels.shape[1]), -1, device=labels.device)
    single[:, -1] = torch.arange(size)
    labels, last = torch.cat([single, labels]), torch.cat([single[:, -1], last])
    factors = powers(labels.shape[1] + 1, labels.device)
    hashes = ((labels + 1) * factors[:-1].flip(0)).sum(1)
    return Pieces(labels, last, factors[(labels >= 0).sum(1)], hashes)


class Frames(NamedTuple):
    """The frames in which some label other than the blank is likely, clip by clip."""

    clip: Tensor  # (N,)
    place: Tensor  # (N,): how many of the clip come before it
    counts: Tensor  # (B,)
    blank: Tensor  # (N,) float64: log-probability of a blank; NEVER where it is unlikely
    gap: Tensor  # (N,) float64: the sum of that over the frames of blanks since the one before
    has_gap: Tensor  # (N,) bool: there are such frames
    end: Tensor  # (B,) float64: the sum behind the last one
    first: Tensor  # (N,): where its labels begin in the lists below
    many: Tensor  # (N,): how many there are
    labels: Tensor  # (L,)
    log_probs: Tensor  # (L,) float64


class Steps(NamedTuple):
    counts: list[int]  # (B,) steps of each clip
    blank: Tensor  # (S, B) as in Frames
    gap: Tensor  # (S, B)
    has_gap: Tensor  # (S, B)
    first: Tensor  # (S, B) where a step's pieces begin in the lists below
    many: Tensor  # (S, B) how many there are
    entries: Tensor  # (L,): pieces
    log_probs: Tensor  # (L,) float64
    repeats: Tensor  # (L,): behind this label there must be a blank; -1: behind none
    place: Tensor  # (S, B, V): a label's place in the lists; -1 where it is unlikely
    end: Tensor  # (B,) as in Frames
    has_stretch: list[bool]  # (S,): a clip takes a stretch
    is_whole: list[bool]  # (S,): all do
    pieces: Pieces


def likely_frames(log_probs: Tensor, lengths: Tensor, silent: list[int], token_min: float) -> Frames:
    """log_probs (B, T, V), lengths (B,). silent: the labels that stand for no text; together they are the blank.

    Likely is a label from token_min on; a frame's best one always is. A frame that says nothing, because it holds nan
    or nothing is possible in it, is a blank.
    """
    clips, frames, size = log_probs.shape
    device = log_probs.device
    is_real = torch.arange(frames, device=device) < lengths.to(device)[:, None]  # (B, T)
    best = log_probs.amax(-1)
    speaks = best.isfinite() & is_real
    blank = log_probs[..., silent].double().logsumexp(-1).masked_fill_(~speaks, 0.0)  # (B, T)
    least = torch.maximum(best, blank).clamp(max=token_min)
    likely = log_probs >= torch.where(speaks, least, torch.nan).to(log_probs.dtype)[..., None]
    likely[..., silent] = False
    blanks = torch.where(blank >= least.nan_to_num(), blank, NEVER)
    listed = likely.view(-1).nonzero()[:, 0]
    many = (listed // size).bincount(minlength=clips * frames).view(clips, frames)
    is_step = many > 0
    before = is_step.long().cumsum(1)  # likely frames up to a frame, itself included
    counts = before[:, -1]
    most = int(counts.max())
    between = is_real & ~is_step
    gap = torch.zeros(clips, most + 1, dtype=torch.float64, device=device)
    gap.scatter_add_(1, before, torch.where(between, blanks, 0.0))
    gaps = torch.zeros(clips, most + 1, dtype=torch.long, device=device).scatter_add_(1, before, between.long())
    at = is_step.view(-1).nonzero()[:, 0]
    clip, place, many = at // frames, picked(before, at) - 1, picked(many, at)
    cell = clip * (most + 1) + place
    everyone = torch.arange(clips, device=device)
    return Frames(
        clip,
        place,
        counts,
        picked(blanks, at),
        picked(gap, cell),
        picked(gaps, cell) > 0,
        gap[everyone, counts],
        many.cumsum(0) - many,
        many,
        listed % size,
        picked(log_probs, listed),
    )


class Said(NamedTuple):
    """What stretches of frames may say, stretch by stretch; see w2v.decoding.stretches."""

    begin: Tensor  # (stretches,): the first frame
    end: Tensor  # (stretches,): the last one
    many: Tensor  # (stretches,) texts
    labels: Tensor  # (P - V, R), as in Pieces
    last: Tensor  # (P - V,)
    log_probs: Tensor  # (P - V,) float64

    @staticmethod
    def nothing(frames: Frames) -> "Said":
        none = frames.labels[:0]
        return Said(none, none, none, none[:, None], none, frames.log_probs[:0])


def laid_out(
    frames: Frames, chosen: Tensor, owner: Tensor, place: Tensor, counts: Tensor, end: Tensor, size: int, said: Said
) -> Steps:
    """Tables of the chosen frames by owner, a clip or a stretch, and place in it."""
    shape, device = (int(counts.max()), len(counts)), counts.device
    pieces, cell = pieces_of(size, said.labels, said.last), place * len(counts) + owner

    def by_step(values: Tensor, fill: float) -> Tensor:  # (S, B)
        table = torch.full((shape[0] * shape[1],), fill, dtype=values.dtype, device=device)
        return table.scatter_(0, cell, picked(values, chosen)).view(shape)

    places = torch.full((*shape, size), -1, dtype=torch.int32, device=device)
    first, many = picked(frames.first, chosen), picked(frames.many, chosen)
    listed = torch.repeat_interleave(many)
    at = torch.arange(len(listed), device=device) + picked(first + many - many.cumsum(0), listed)
    is_label = at < len(frames.labels)
    has_stretch = torch.zeros(shape[0], dtype=torch.bool, device=device)
    has_stretch[picked(place, listed[~is_label])] = True
    at, listed = at[is_label], listed[is_label]
    places.view(-1).scatter_(0, picked(cell, listed) * size + picked(frames.labels, at), at.int())
    is_frame = torch.zeros(shape[0], dtype=torch.bool, device=device)
    is_frame[picked(place, listed)] = True
    return Steps(
        counts.tolist(),
        by_step(frames.blank, NEVER),
        by_step(frames.gap, 0.0),
        by_step(frames.has_gap, False),
        by_step(frames.first, 0),
        by_step(frames.many, 0),
        torch.cat([frames.labels, torch.arange(size, len(pieces.last), device=device)]),
        torch.cat([frames.log_probs, said.log_probs]),
        torch.cat([frames.labels, torch.full_like(said.last, -1)]),
        places,
        end,
        has_stretch.tolist(),
        (~is_frame).tolist(),
        pieces,
    )


def picked(values: Tensor, places: Tensor) -> Tensor:
    """values.flatten()[places], in half the time."""
    return values.view(-1).index_select(0, places)
