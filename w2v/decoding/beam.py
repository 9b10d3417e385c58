"""CTC beam search with a language model: all clips and all beams in one call of each operation, on any device.

    search = BeamSearch(tokenizer, fusion)                       # fusion: w2v.decoding.fusion, or None
    best = search(emissions)                                     # one list of Hypothesis a clip, best first

A beam is a text that is not finished. Its score is the log-sum over all paths of labels that give the text, and what
the fusion (language model, hot words) says of it. What stands for no text in the vocabulary counts as CTC's blank. A
space after a space, or before the first letter, changes nothing. Beams of all clips are rows of flat tensors, and
`clip` says whose a row is: a clip that is sure of itself has few rows. A step is a frame in which some letter is
likely; the frames between have nothing but blanks, whose probabilities are summed beforehand. The pruning is that of
pyctcdecode 0.5; where one text per clip is asked for, texts with the same future are one to the beam's width.

Shapes: B clips, T frames, V vocabulary, S steps, N beams of all clips, M their extensions by one label, F columns of a
fusion's states.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from w2v.answers import Emissions, Hypothesis, Word
from w2v.decoding.viterbi import best_path

TOKEN_MIN = -5.0  # log-probability from which a label extends a beam; a frame's best label always does
PRUNE = -10.0  # below the best beam of a clip
BEAM = 100
NEVER = float("-inf")
ROOT = 0x9E3779B97F4A7C1  # any number; prefixes are hashed with 64 bits


class Fusion(Protocol):
    """What judges texts while they grow. States (F, N) int64 say all that its answers depend on."""

    @property
    def most(self) -> float:
        """What one label can add to a score at most, for good and until the next one together."""

    def start(self, beams: int, device: torch.device) -> Tensor:
        """States (F, N) of empty texts."""

    def extend(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (F, M) and the label that follows (M,) -> what is added for good (M,), what holds until the next
        label only (M,), states (F, M)."""

    def end(self, states: Tensor) -> Tensor:
        """What the end of the text adds for good, (N,)."""


class _Beams(NamedTuple):
    """A column a beam. The rows of `whole`: CLIP, PREFIX, ... and the fusion's states; of `real`: BLANK, LABEL, ..."""

    whole: Tensor  # (5 + F, N) int64
    real: Tensor  # (4, N) float64

    def picked(self, columns: Tensor) -> "_Beams":
        return _Beams(self.whole.index_select(1, columns), self.real.index_select(1, columns))

    def joined(self, *others: "_Beams") -> "_Beams":
        return _Beams(*(torch.cat(each, dim=1) for each in zip(self, *others, strict=True)))


CLIP = 0
PREFIX = 1  # a hash of the clip and the text's labels
PARENT = 2  # that of the text without its last label
LAST = 3  # the last label; for an empty text the space's, or the blank's where there is no space
NODE = 4  # in the history; -1 for an empty text
STATES = 5  # from here on
BLANK = 0  # log-probability of the paths that end in a blank
LABEL = 1  # of those that end in the last label
FUSED = 2  # what the fusion said for good
PARTIAL = 3  # what it says until the next label


class _Steps(NamedTuple):
    """The frames in which some label other than the blank is likely, and the likely labels in them."""

    counts: list[int]  # (B,) steps of each clip
    blank: Tensor  # (S, B) log-probability of a blank in a step; NEVER where it is unlikely
    gap: Tensor  # (S + 1, B) the sum of that over the frames between a step and the step before
    has_gap: Tensor  # (S + 1, B) bool: there are such frames
    first: Tensor  # (S, B) where a step's labels begin in the lists below
    many: Tensor  # (S, B) how many there are
    labels: Tensor  # (L,)
    log_probs: Tensor  # (L,) float64
    place: Tensor  # (S, B, V): a label's place in the lists; -1 where it is unlikely


@dataclass(frozen=True, eq=False)
class BeamSearch:
    tokenizer: Any  # the family's
    fusion: Fusion | None = None
    beam: int = BEAM  # texts of a clip that are held
    best: int = 1  # texts of a clip that are given
    token_min: float = TOKEN_MIN
    prune: float = PRUNE

    @torch.no_grad()
    def __call__(self, emissions: Emissions, words: bool = False) -> list[list[Hypothesis]]:
        """The likeliest texts of each clip, best first, one at least. words: also their words' times."""
        if not len(emissions.lengths):
            return []
        log_probs = self._without_silent(emissions.log_probs)
        steps = _steps(log_probs, emissions.lengths, self.tokenizer.blank_id, self.token_min)
        beams, history = self._search(steps)
        answers = []
        for clip, texts in enumerate(self._finish(beams, history, steps)):
            hypotheses = []
            for tokens, score in texts:
                text = self.tokenizer.decode(tokens, group_tokens=False)
                spoken = []
                if words:
                    frames = log_probs[clip, : int(emissions.lengths[clip])]
                    spoken = spoken_words(frames, tokens, self.tokenizer, emissions.seconds_per_frame)
                hypotheses.append(Hypothesis(text, tokens, score, spoken))
            answers.append(hypotheses)
        return answers

    @cached_property
    def _silent(self) -> list[int]:
        """The tokens that stand for no text. decode gives nothing for a space alone, which is text."""
        space, blank = self._space, self.tokenizer.blank_id
        return [i for i in range(len(self.tokenizer)) if i == blank or (i != space and not self.tokenizer.decode([i]))]

    def _without_silent(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) in which all tokens that stand for no text count as the blank.

        A frame that says nothing, because it holds nan or nothing is possible in it, is a blank.
        """
        summed = log_probs.double().clone()
        is_void = ~log_probs.amax(-1).isfinite()
        summed[is_void] = NEVER
        blank = summed[..., self._silent].logsumexp(-1).masked_fill_(is_void, 0.0)
        summed[..., self._silent] = NEVER
        summed[..., self.tokenizer.blank_id] = blank
        return summed

    @property
    def _space(self) -> int:
        """The label between words; -1 where the vocabulary has none."""
        space = self.tokenizer.vocab.get(self.tokenizer.space)
        return -1 if space is None else space

    def _search(self, steps: "_Steps") -> tuple[_Beams, tuple[Tensor, Tensor]]:
        """The beams of all clips after their last steps, and the history: of each node its parent and its label."""
        beams, over = self._start(len(steps.counts), steps.blank.device), []
        counts, ends = torch.tensor(steps.counts, device=steps.blank.device), set(steps.counts)
        parents, labels, nodes = [], [], 0
        for step in range(max(steps.counts)):
            if step in ends:
                is_over = counts.index_select(0, beams.whole[CLIP]) == step
                over.append(beams.picked(is_over.nonzero()[:, 0]))
                beams = beams.picked((~is_over).nonzero()[:, 0])
            beams, fresh = self._advance(beams, steps, step)
            new = beams.whole[:, fresh:]
            parents.append(new[NODE].clone())
            labels.append(new[LAST].clone())
            torch.arange(nodes, nodes + new.shape[1], out=new[NODE])
            nodes += new.shape[1]
        history = [torch.cat(each) if each else counts[:0] for each in (parents, labels)]
        return beams.joined(*over), (history[0], history[1])

    def _start(self, clips: int, device: torch.device) -> _Beams:
        whole = torch.empty(STATES, clips, dtype=torch.long, device=device)
        whole[CLIP] = torch.arange(clips)
        whole[PREFIX] = _mixed(torch.full_like(whole[CLIP], ROOT), whole[CLIP])
        whole[PARENT], whole[NODE] = 0, -1
        whole[LAST] = self._space if self._space >= 0 else self.tokenizer.blank_id
        states = self.fusion.start(clips, device) if self.fusion else whole[:0]
        real = torch.zeros(4, clips, dtype=torch.float64, device=device)
        real[LABEL] = NEVER
        return _Beams(torch.cat([whole, states]), real)

    def _advance(self, beams: _Beams, steps: "_Steps", step: int) -> tuple[_Beams, int]:
        """The beams one step further, and from where on they are new texts; these have the nodes of their parents."""
        pick, space = torch.index_select, self._space  # index_select costs half of an index in brackets
        clip, prefix, parent, last = beams.whole[:NODE]
        gap = pick(steps.gap[step], 0, clip)
        has_gap = pick(steps.has_gap[step], 0, clip)
        total = torch.logaddexp(beams.real[BLANK], beams.real[LABEL]).add_(gap)
        blank = torch.where(has_gap, total, beams.real[BLANK])
        label = torch.where(has_gap, NEVER, beams.real[LABEL])

        # Texts that stay: a blank, or the last label once more.
        place = pick(steps.place[step].view(-1), 0, clip * steps.place.shape[2] + last)
        again = pick(steps.log_probs, 0, place.clamp(min=0)).masked_fill_(place < 0, NEVER)
        stay_label = torch.where(last == space, total, label) + again
        # A text that is another one's and one label more gets what that one gives.
        prefixes, order = prefix.sort()
        found = torch.searchsorted(prefixes, parent).clamp_(max=len(order) - 1)
        gains = (pick(prefixes, 0, found) == parent) & (place >= 0)
        gaining = gains.nonzero()[:, 0]
        source = pick(order, 0, pick(found, 0, gaining))
        repeats = pick(last, 0, gaining) == pick(last, 0, source)
        given = torch.where(repeats, pick(blank, 0, source), pick(total, 0, source)) + pick(again, 0, gaining)
        stay_label[gaining] = torch.logaddexp(pick(stay_label, 0, gaining), given)
        stay_blank = total + pick(steps.blank[step], 0, clip)
        stay = torch.logaddexp(stay_blank, stay_label).add_(beams.real[FUSED]).add_(beams.real[PARTIAL])

        # New texts: each beam and one likely label, unless that text is there already.
        many, first = pick(steps.many[step], 0, clip), pick(steps.first[step], 0, clip)
        shift = first - (many.cumsum(0) - many)
        row = torch.repeat_interleave(many)
        at = torch.arange(len(row), device=row.device) + pick(shift, 0, row)  # in the lists of labels
        new, before = pick(steps.labels, 0, at), pick(last, 0, row)
        is_same = new == before
        score = torch.where(is_same, pick(blank, 0, row), pick(total, 0, row)) + pick(steps.log_probs, 0, at)
        fused = pick(beams.real[FUSED], 0, row)
        score[pick(place, 0, gaining) - pick(shift, 0, source)] = NEVER
        if space >= 0:
            score.masked_fill_(is_same & (new == space), NEVER)
        floor = torch.full((len(steps.counts),), self.prune, dtype=torch.float64, device=row.device)
        floor.scatter_reduce_(0, clip, stay + self.prune, "amax", include_self=False)
        most = self.fusion.most if self.fusion else 0.0
        hopeful = ((score + fused).add_(most) >= pick(floor, 0, pick(clip, 0, row))).nonzero()[:, 0]
        row, new, score, fused = (pick(each, 0, hopeful) for each in (row, new, score, fused))
        partial, states = torch.zeros_like(fused), beams.whole[STATES:].index_select(1, row)
        if self.fusion:
            gained, partial, states = self.fusion.extend(states, new)
            fused = fused + gained
        totals = torch.cat([stay, score + fused + partial])
        clips, futures = torch.cat([clip, pick(clip, 0, row)]), None
        if self.fusion and self.best == 1:
            futures = torch.cat([_futures(clip, last, beams.whole[STATES:]), _futures(pick(clip, 0, row), new, states)])
        kept = _best(totals, clips, len(steps.counts), self.beam, self.prune, futures)
        old, fresh = kept[kept < len(stay)], kept[kept >= len(stay)] - len(stay)

        stays = beams.picked(old)
        torch.index_select(stay_blank, 0, old, out=stays.real[BLANK])
        torch.index_select(stay_label, 0, old, out=stays.real[LABEL])
        grows = beams.whole.index_select(1, pick(row, 0, fresh))
        grows[PARENT], grows[LAST] = grows[PREFIX], pick(new, 0, fresh)
        grows[PREFIX] = _mixed(grows[PREFIX], grows[LAST])
        grows[STATES:] = states.index_select(1, fresh)
        real = torch.stack([torch.full_like(score, NEVER), score, fused, partial]).index_select(1, fresh)
        return stays.joined(_Beams(grows, real)), len(old)

    def _finish(self, beams: _Beams, history: tuple[Tensor, Tensor], steps: "_Steps") -> list[list[tuple]]:
        """The labels and the score of the best texts of each clip."""
        clips, space = len(steps.counts), self._space
        whole, real = beams
        counts = torch.tensor(steps.counts, device=whole.device)[whole[CLIP]]
        score = torch.logaddexp(real[BLANK], real[LABEL]) + steps.gap[counts, whole[CLIP]]
        fused = real[FUSED] + (self.fusion.end(whole[STATES:]) if self.fusion else 0.0)
        # A text with a space behind it is the same text.
        text = torch.where((whole[LAST] == space) & (whole[NODE] >= 0), whole[PARENT], whole[PREFIX])
        texts, which = text.unique(return_inverse=True)
        # Both have the same fused score, and one clip; any row of a text will do.
        chosen = torch.empty_like(texts).scatter_(0, which, torch.arange(len(text), device=text.device))
        peak = torch.full(texts.shape, NEVER, dtype=torch.float64, device=text.device)
        peak.scatter_reduce_(0, which, score, "amax")
        summed = torch.zeros_like(peak).scatter_add_(0, which, (score - peak[which]).exp()).log() + peak
        totals, clip = summed + fused[chosen], whole[CLIP][chosen]
        kept = _best(totals, clip, clips, self.best, NEVER)
        kept = kept[totals[kept].argsort(descending=True)]
        parents, labels = (each.tolist() for each in history)
        found: list[list[tuple]] = [[] for _ in range(clips)]
        rows = zip(clip[kept].tolist(), totals[kept].tolist(), whole[NODE][chosen[kept]].tolist(), strict=True)
        for number, total, node in rows:
            tokens = []
            while node >= 0:
                tokens.append(labels[node])
                node = parents[node]
            found[number].append((tokens[1:][::-1] if tokens[:1] == [space] else tokens[::-1], total))
        return found


def _mixed(hashes: Tensor, labels: Tensor) -> Tensor:
    """Hashes of texts and the label behind each -> hashes of the longer texts; the steps are those of splitmix64."""
    mixed = (hashes ^ (labels + 1)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ (mixed >> 29)) * -0x6B2FB644ECCEEE15
    return mixed ^ (mixed >> 32)


def _futures(clip: Tensor, last: Tensor, states: Tensor) -> Tensor:
    """Hashes (N,) of all that a text's future depends on, except for the share of its paths that end in a blank."""
    hashes = torch.full_like(clip, ROOT)
    for state in (clip, last, *states):
        hashes = _mixed(hashes, state)
    return hashes


def _best(scores: Tensor, clip: Tensor, clips: int, most: int, prune: float, futures: Tensor | None = None) -> Tensor:
    """Which are near the best of their clip, and among the `most` best of it. scores, clip: (N,)

    futures: of texts with one future only the best is kept where a clip has too many; no other can become the best.
    """
    best = torch.full((clips,), NEVER, dtype=scores.dtype, device=scores.device)
    best.scatter_reduce_(0, clip, scores, "amax", include_self=False)
    kept = (scores >= best.index_select(0, clip).add_(prune)).nonzero()[:, 0]
    if len(kept) <= most or int(torch.bincount(clip.index_select(0, kept)).max()) <= most:
        return kept
    kept = kept.index_select(0, scores.index_select(0, kept).argsort(descending=True))
    if futures is not None:
        futures, order = futures.index_select(0, kept).sort(stable=True)
        is_first = torch.ones_like(order, dtype=torch.bool)
        is_first[1:] = futures[1:] != futures[:-1]
        kept = kept[torch.empty_like(is_first).scatter_(0, order, is_first)]
    owners, order = clip.index_select(0, kept).sort(stable=True)
    counts = torch.bincount(owners, minlength=clips)
    rank = torch.arange(len(order), device=order.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return kept.index_select(0, order[rank < most])


def _steps(log_probs: Tensor, lengths: Tensor, blank: int, token_min: float) -> _Steps:
    clips, frames, size = log_probs.shape
    device = log_probs.device
    is_real = torch.arange(frames, device=device) < lengths.to(device)[:, None]  # (B, T)
    likely = log_probs >= token_min
    likely.scatter_(2, log_probs.argmax(-1, keepdim=True), True)
    likely &= is_real[..., None]
    blanks = torch.where(likely[..., blank], log_probs[..., blank], NEVER)  # (B, T)
    likely[..., blank] = False
    is_step = likely.any(-1)  # (B, T)
    before = is_step.long().cumsum(1)  # steps up to a frame, itself included
    counts = is_step.sum(1).tolist()
    most = max(counts)
    between = is_real & ~is_step
    gap = torch.zeros(clips, most + 1, dtype=torch.float64, device=device)
    gap.scatter_add_(1, before, torch.where(between, blanks, 0.0))
    gaps = torch.zeros(clips, most + 1, dtype=torch.long, device=device).scatter_add_(1, before, between.long())
    clip, frame = torch.nonzero(is_step, as_tuple=True)
    step = before[clip, frame] - 1
    many = likely[clip, frame].sum(-1)

    def by_step(values: Tensor, fill) -> Tensor:  # (S, B)
        return torch.full((most, clips), fill, dtype=values.dtype, device=device).index_put_((step, clip), values)

    of_clip, of_frame, labels = torch.nonzero(likely, as_tuple=True)
    place = torch.full((most, clips, size), -1, device=device)
    place[before[of_clip, of_frame] - 1, of_clip, labels] = torch.arange(len(labels), device=device)
    return _Steps(
        counts,
        by_step(blanks[clip, frame], NEVER),
        gap.T.contiguous(),
        (gaps > 0).T.contiguous(),
        by_step(many.cumsum(0) - many, 0),
        by_step(many, 0),
        labels,
        log_probs[of_clip, of_frame, labels],
        place,
    )


def spoken_words(log_probs: Tensor, tokens: list[int], tokenizer, seconds: float) -> list[Word]:
    """The words of a text on its likeliest path through the frames (T, V): from the first frame of a word's first label
    to the last of its last one. A word's confidence is the mean probability of its labels' frames, as in `ctc.greedy`.
    """
    if not tokens:
        return []
    space = tokenizer.vocab.get(tokenizer.space)
    scores = log_probs.float().clamp(min=-1000.0).cpu().numpy()
    states = best_path(scores, np.array(tokens), tokenizer.blank_id)
    words = []
    for is_space, group in groupby(enumerate(tokens), key=lambda token: token[1] == space):
        if is_space:
            continue
        numbers, labels = zip(*group, strict=True)
        inside = np.flatnonzero((states % 2 == 1) & np.isin(states // 2, numbers))
        confidence = float(np.exp(scores[inside, np.array(tokens)[states[inside] // 2]]).mean())
        text = tokenizer.decode(list(labels), group_tokens=False)
        words.append(Word(text, float(inside[0] * seconds), float((inside[-1] + 1) * seconds), confidence))
    return words
