"""What a beam search goes through: the frames in which some label is likely, or whole stretches of them as one step.

    frames = likely_frames(log_probs, lengths, silent, token_min)
    stretches = stretches_of(frames, start)
    inside = stretches.steps(frames, size)                       # a stretch's frames, as if it were a clip
    steps = frames_and_stretches(frames, stretches, size, said)  # said: what a search found in the stretches

Where only one label is likely, and no blank, all texts of a clip end in that label. What can be said from there to the
next such frame does not depend on the text before, so all stretches of all clips are searched at once, without a
language model. What they may say are pieces of text. A search then takes a piece as it takes a label.

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
SOLE = 5  # frames with one label in a stretch
CHOICES = 8.0  # log2 of the paths through a stretch, at most


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
    is_whole: list[bool]  # (S,): all clips take a stretch
    pieces: Pieces


def likely_frames(log_probs: Tensor, lengths: Tensor, silent: list[int], token_min: float) -> Frames:
    """log_probs (B, T, V), lengths (B,). silent: the labels that stand for no text; together they are the blank.

    Likely is a label from token_min on; a frame's best one always is. A frame that says nothing, because it holds nan
    or nothing is possible in it, is a blank.
    """
    clips, frames, size = log_probs.shape
    device = log_probs.device
    is_real = torch.arange(frames, device=device) < lengths.to(device)[:, None]  # (B, T)
    best = log_probs.max(-1).values
    speaks = best.isfinite() & is_real
    blank = log_probs[..., silent].double().logsumexp(-1).masked_fill_(~speaks, 0.0)  # (B, T)
    least = torch.maximum(best, blank).clamp(max=token_min)
    likely = log_probs >= torch.where(speaks, least, torch.nan).to(log_probs.dtype)[..., None]
    likely[..., silent] = False
    blanks = torch.where(blank >= least.nan_to_num(), blank, NEVER)
    many = likely.sum(-1)  # (B, T)
    is_step = many > 0
    before = is_step.long().cumsum(1)  # likely frames up to a frame, itself included
    counts = before[:, -1]
    most = int(counts.max())
    between = is_real & ~is_step
    gap = torch.zeros(clips, most + 1, dtype=torch.float64, device=device)
    gap.scatter_add_(1, before, torch.where(between, blanks, 0.0))
    gaps = torch.zeros(clips, most + 1, dtype=torch.long, device=device).scatter_add_(1, before, between.long())
    at = is_step.view(-1).nonzero()[:, 0]
    clip, place, many = at // frames, _of(before, at) - 1, _of(many, at)
    cell = clip * (most + 1) + place
    listed = likely.view(-1).nonzero()[:, 0]
    everyone = torch.arange(clips, device=device)
    return Frames(
        clip,
        place,
        counts,
        _of(blanks, at),
        _of(gap, cell),
        _of(gaps, cell) > 0,
        gap[everyone, counts],
        many.cumsum(0) - many,
        many,
        listed % size,
        _of(log_probs, listed),
    )


class Stretches(NamedTuple):
    """From a clip's begin, or behind a frame with one label, to such a frame, itself included, or the clip's end."""

    of: Tensor  # (N,): the stretch of a frame; -1 where it is in none
    place: Tensor  # (N,): how many of the stretch's frames come before it
    is_last: Tensor  # (N,) bool
    before: Tensor  # (stretches,): the last label of the frame before
    counts: Tensor  # (stretches,) frames

    def steps(self, frames: Frames, size: int) -> Steps:
        """The frames of each stretch, as if it were a clip."""
        inside = (self.of >= 0).nonzero()[:, 0]
        end = frames.end.new_zeros(len(self.counts))
        return _laid_out(
            frames, inside, _of(self.of, inside), _of(self.place, inside), self.counts, end, size, Said.nothing(frames)
        )


class Said(NamedTuple):
    """What stretches may say, stretch by stretch."""

    many: Tensor  # (stretches,)
    labels: Tensor  # (P - V, R), as in Pieces
    last: Tensor  # (P - V,)
    log_probs: Tensor  # (P - V,) float64

    @staticmethod
    def nothing(frames: Frames) -> "Said":
        labels = frames.labels[:0]
        return Said(labels, labels[:, None], labels, frames.log_probs[:0])


def stretches_of(frames: Frames, start: int) -> Stretches:
    """Cuts clips behind every SOLE-th of their frames with one label. What lies between cuts is a stretch where it is
    not too long to be searched for all it may say. start: the last label before a clip.
    """
    is_sole = (frames.many == 1) & (frames.blank == NEVER)
    number = _before(is_sole)
    number = number[1:] - number[frames.counts.cumsum(0) - frames.counts].index_select(0, frames.clip)  # in its clip
    is_cut = is_sole & (number % SOLE == 0)
    begins = frames.place == 0
    begins[1:] |= is_cut[:-1]
    first = begins.nonzero()[:, 0]
    group = begins.cumsum(0) - 1
    choices = (frames.many + (frames.blank > NEVER)).double().log2()
    is_stretch = torch.zeros_like(choices[first]).index_add_(0, group, choices) <= CHOICES
    before = torch.where(frames.place[first] == 0, start, frames.labels[frames.first[first - 1]])
    of = _of(torch.where(is_stretch, is_stretch.cumsum(0) - 1, -1), group)
    return Stretches(
        of,
        torch.arange(len(of), device=of.device) - _of(first, group),
        begins.roll(-1) & (of >= 0),
        before[is_stretch],
        group.bincount(minlength=len(first))[is_stretch],
    )


def _of(values: Tensor, places: Tensor) -> Tensor:
    """values.flatten()[places], in half the time."""
    return values.view(-1).index_select(0, places)


def _before(is_so: Tensor) -> Tensor:
    """How many are so before each, and in all: (N,) bool -> (N + 1,)"""
    return torch.cat([torch.zeros(1, dtype=torch.long, device=is_so.device), is_so.cumsum(0)])


def frames_and_stretches(frames: Frames, stretches: Stretches, size: int, said: Said) -> Steps:
    """The frames that are in no stretch, and each stretch as one step."""
    is_step, is_stretch = (stretches.of < 0) | stretches.is_last, stretches.is_last
    chosen = is_step.nonzero()[:, 0]
    number = _before(is_step)
    ends = number[frames.counts.cumsum(0)]
    counts = ends.diff(prepend=ends.new_zeros(1))
    clip = frames.clip[chosen]
    place = number[chosen] - (ends - counts)[clip]
    first, many = frames.first.clone(), frames.many.clone()
    first[is_stretch] = len(frames.labels) + said.many.cumsum(0) - said.many
    many[is_stretch] = said.many
    frames = frames._replace(
        blank=frames.blank.masked_fill(is_stretch, NEVER),
        gap=frames.gap.masked_fill(is_stretch, 0.0),
        first=first,
        many=many,
    )
    return _laid_out(frames, chosen, clip, place, counts, frames.end, size, said)


def _laid_out(
    frames: Frames, chosen: Tensor, owner: Tensor, place: Tensor, counts: Tensor, end: Tensor, size: int, said: Said
) -> Steps:
    """Tables of the chosen frames by owner, a clip or a stretch, and place in it."""
    shape, device = (int(counts.max()), len(counts)), counts.device
    pieces, cell = pieces_of(size, said.labels, said.last), place * len(counts) + owner

    def by_step(values: Tensor, fill: float) -> Tensor:  # (S, B)
        table = torch.full((shape[0] * shape[1],), fill, dtype=values.dtype, device=device)
        return table.scatter_(0, cell, _of(values, chosen)).view(shape)

    places = torch.full((*shape, size), -1, dtype=torch.int32, device=device)
    first, many = _of(frames.first, chosen), _of(frames.many, chosen)
    listed = torch.repeat_interleave(many)
    at = torch.arange(len(listed), device=device) + _of(first + many - many.cumsum(0), listed)
    is_label = (at < len(frames.labels)).nonzero()[:, 0]
    at, listed = _of(at, is_label), _of(listed, is_label)
    places.view(-1).scatter_(0, _of(cell, listed) * size + _of(frames.labels, at), at.int())
    is_frame = torch.zeros(shape[0], dtype=torch.bool, device=device)
    is_frame[_of(place, listed)] = True
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
        (~is_frame).tolist(),
        pieces,
    )
