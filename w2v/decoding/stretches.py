"""Stretches of frames that a beam search takes as one step, for a model that is sure of nearly all it hears.

    stretches = stretches_of(frames)
    inside = stretches.steps(frames, size)                       # where there is a choice, as if each were a clip
    said = joined(frames, stretches.said(frames, space, ...))    # what a search found in them, and what is sure
    steps = frames_and_stretches(frames, stretches.of, said, size)

Where only one label is likely, and no blank, all texts of a clip end in that label: what can be said from there on does
not depend on the text before. A stretch is the frames behind such a one up to the next one, and its tail: all further
ones that follow, in which there is no choice. All stretches of all clips are searched at once, without language model.
What they may say are pieces of text, and those of two stretches behind each other are one piece again. A search then
takes a piece as it takes a label.

Shapes: those of w2v.decoding.steps; N frames of all clips with a likely label.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from w2v.decoding.steps import NEVER, Frames, Said, Steps, laid_out, picked

CHOICES = 7.0  # log2 of the paths through a stretch, at most
TAIL = 16  # frames of a tail, at most; all pieces are rows of one table
PAIRINGS = 2  # each halves the steps and makes more texts
TEXTS = 8  # of two stretches as one, at most


class Stretches(NamedTuple):
    of: Tensor  # (N,): the stretch of a frame; -1 where it is in none
    is_tail: Tensor  # (N,) bool
    begin: Tensor  # (stretches,): the first frame
    end: Tensor  # (stretches,): the last one

    def steps(self, frames: Frames, size: int) -> Steps:
        """The frames of each stretch but for its tail, as if it were a clip."""
        inside = ((self.of >= 0) & ~self.is_tail).nonzero()[:, 0]
        owner, nothing = picked(self.of, inside), frames.end.new_zeros(len(self.begin))
        counts, place = owner.bincount(minlength=len(nothing)), inside - picked(self.begin, owner)
        return laid_out(frames, inside, owner, place, counts, nothing, size, Said.nothing(frames))

    def before(self, frames: Frames, start: int) -> Tensor:
        """The last labels (stretches,) of the texts before; start: before a clip."""
        return torch.where(frames.place[self.begin] == 0, start, frames.labels[frames.first[self.begin - 1]])

    def said(self, frames: Frames, space: int, many: Tensor, labels: Tensor, last: Tensor, log_probs: Tensor) -> Said:
        """What the stretches say, their tails too; the tensors are those of Said, found in the frames of `steps`."""
        row, (tails, sure) = torch.repeat_interleave(many), self._tails(frames, space)
        final = torch.where(picked(self.is_tail, self.end), picked(frames.labels, picked(frames.first, self.end)), -1)
        final = picked(final, row)
        return Said(
            self.begin,
            self.end,
            many,
            _one_behind_the_other(labels, tails.index_select(0, row)),
            torch.where(final < 0, last, final),
            log_probs + picked(sure, row),
        )

    def _tails(self, frames: Frames, space: int) -> tuple[Tensor, Tensor]:
        """The texts (stretches, R) of the tails, and their log-probabilities (stretches,)."""
        stretches, at = len(self.begin), ((self.of >= 0) & self.is_tail).nonzero()[:, 0]
        owner, entry = picked(self.of, at), picked(frames.first, at)
        label, before = picked(frames.labels, entry), picked(frames.labels, picked(frames.first, at - 1))
        log_probs = frames.end.new_zeros(stretches)
        log_probs.index_add_(0, owner, picked(frames.gap, at) + picked(frames.log_probs, entry))
        is_new = (label != before) | (picked(frames.has_gap, at) & (label != space))
        new = is_new.nonzero()[:, 0]
        owner, label = picked(owner, new), picked(label, new)
        counts = owner.bincount(minlength=stretches)
        labels = torch.full((stretches, int(counts.max())), -1, device=label.device)
        from_right = picked(counts.cumsum(0), owner) - torch.arange(len(owner), device=owner.device)
        labels.view(-1).scatter_(0, (owner + 1) * labels.shape[1] - from_right, label)
        return labels, log_probs


def stretches_of(frames: Frames) -> Stretches:
    """Those that are not too long to be searched for all they may say."""
    is_first, is_sole = frames.place == 0, (frames.many == 1) & (frames.blank == NEVER)
    is_behind = is_sole.roll(1) & ~is_first  # a frame with one label
    is_tail = _in_a_row(is_behind & is_sole) % (1 + TAIL) > 0
    begins = is_first | (is_behind & ~is_tail)
    begin, end, group = begins.nonzero()[:, 0], begins.roll(-1).nonzero()[:, 0], begins.cumsum(0) - 1
    choices = (frames.many + (frames.blank > NEVER)).double().log2()
    is_stretch = torch.zeros_like(choices[begin]).index_add_(0, group, choices) <= CHOICES
    of = picked(torch.where(is_stretch, is_stretch.cumsum(0) - 1, -1), group)
    return Stretches(of, is_tail, begin[is_stretch], end[is_stretch])


def joined(frames: Frames, said: Said) -> Said:
    """Stretches behind each other as longer ones."""
    for _ in range(PAIRINGS):
        said = _in_pairs(frames, said)
    return said


def _in_pairs(frames: Frames, said: Said) -> Said:
    """Each two stretches behind each other as one, which may say all that both may, unless that is too much."""
    follows = (said.begin == said.end.roll(1) + 1) & (picked(frames.place, said.begin) > 0)
    follows &= said.many * said.many.roll(1) <= TEXTS
    is_second = _in_a_row(follows) % 2 == 1
    group = (~is_second.roll(-1)).nonzero()[:, 0]

    # Each text of the first one, or the empty text, and each of the second.
    start, empty = said.many.cumsum(0) - said.many, len(said.last)
    after = picked(said.many, group)
    many = picked(torch.where(is_second, said.many.roll(1), 1), group) * after
    row = torch.repeat_interleave(many)
    text, after = torch.arange(len(row), device=row.device) - picked(many.cumsum(0) - many, row), picked(after, row)
    first = picked(picked(torch.where(is_second, start.roll(1), empty), group), row) + text // after
    second = picked(picked(start, group), row) + text % after
    labels, log_probs = pad(said.labels, (0, 0, 0, 1), value=-1), pad(said.log_probs, (0, 1))
    return Said(
        picked(torch.where(is_second, said.begin.roll(1), said.begin), group),
        picked(said.end, group),
        many,
        _one_behind_the_other(labels.index_select(0, first), labels.index_select(0, second)),
        picked(said.last, second),
        picked(log_probs, first) + picked(log_probs, second),
    )


def _in_a_row(is_so: Tensor) -> Tensor:
    """How many are so up to each, itself included, since the last one that is not; the first is not. (N,) -> (N,)"""
    number = torch.arange(len(is_so), device=is_so.device)
    return number - number.masked_fill(is_so, 0).cummax(0).values


def _one_behind_the_other(first: Tensor, second: Tensor) -> Tensor:
    """Labels (N, R) and (N, R') of two texts each, -1 in front of short ones -> those of both."""
    column = torch.arange(first.shape[1] + second.shape[1], device=first.device)
    missing = (second < 0).sum(1, keepdim=True)
    source = torch.where(column < first.shape[1] + missing, column - missing, column)
    both = torch.cat([first, second], dim=1).gather(1, source.clamp(min=0)).masked_fill_(source < 0, -1)
    empty = int((both.amax(0) < 0).sum())
    return both[:, min(empty, both.shape[1] - 1) :]  # one column at least


def frames_and_stretches(frames: Frames, of: Tensor, said: Said, size: int) -> Steps:
    """The frames that are in no stretch, and each stretch as one step."""
    is_stretch = torch.zeros_like(of, dtype=torch.bool).index_fill_(0, said.end, True)
    is_step = (of < 0) | is_stretch
    chosen = is_step.nonzero()[:, 0]
    number = pad(is_step.cumsum(0), (1, 0))  # steps before a frame
    ends = number[frames.counts.cumsum(0)]
    counts = ends.diff(prepend=ends.new_zeros(1))
    clip = frames.clip[chosen]
    place = number[chosen] - (ends - counts)[clip]
    first, many = frames.first.clone(), frames.many.clone()
    first[said.end] = len(frames.labels) + said.many.cumsum(0) - said.many
    many[said.end] = said.many
    frames = frames._replace(
        blank=frames.blank.masked_fill(is_stretch, NEVER),
        gap=frames.gap.masked_fill(is_stretch, 0.0),
        first=first,
        many=many,
    )
    return laid_out(frames, chosen, clip, place, counts, frames.end, size, said)
