"""CTC beam search with a language model: all clips and all beams in one call of each operation, on any device.

    search = BeamSearch(tokenizer, fusion)                       # fusion: w2v.decoding.fusion, or None
    best = search(emissions)                                     # one list of Hypothesis a clip, best first

A beam is a text that is not finished. Its score is the log-sum over all paths of labels that give the text, and what
the fusion (language model, hot words) says of it. What stands for no text in the vocabulary counts as CTC's blank. A
space after a space, or before the first letter, changes nothing. Beams of all clips are rows of flat tensors, and
`clip` says whose a row is: a clip that is sure of itself has few rows. A step is a frame in which some letter is
likely; the frames between have nothing but blanks, whose probabilities are summed beforehand. The pruning is that of
pyctcdecode 0.5.

Shapes: B clips, T frames, V vocabulary, S steps, N beams of all clips, M their extensions by one label, F columns of a
fusion's states.
"""

from dataclasses import dataclass, fields
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
    """What judges texts while they grow. States (N, F) int64 say all that its answers depend on."""

    @property
    def most(self) -> float:
        """What one label can add to a score at most, for good and until the next one together."""

    def start(self, beams: int, device: torch.device) -> Tensor:
        """States (N, F) of empty texts."""

    def extend(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (M, F) and the label that follows (M,) -> what is added for good (M,), what holds until the next
        label only (M,), states (M, F)."""

    def end(self, states: Tensor) -> Tensor:
        """What the end of the text adds for good, (N,)."""


@dataclass
class _Beams:
    """One row a beam."""

    clip: Tensor  # (N,) int64
    prefix: Tensor  # (N,) int64: a hash of clip and labels
    parent: Tensor  # (N,) int64: that of the text without its last label
    last: Tensor  # (N,) int64: the last label; the space's for an empty text
    blank: Tensor  # (N,) float64: log-probability of the paths that end in a blank
    label: Tensor  # (N,) float64: of those that end in the last label
    fused: Tensor  # (N,) float64: what the fusion said for good
    partial: Tensor  # (N,) float64: what it says until the next label
    states: Tensor  # (N, F)
    node: Tensor  # (N,) int64: in the history; -1 for an empty text

    def __getitem__(self, rows: Tensor) -> "_Beams":
        return _Beams(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, other: "_Beams") -> "_Beams":
        return _Beams(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


class _Steps(NamedTuple):
    """The frames in which some label other than the blank is likely, and the likely labels in them."""

    counts: list[int]  # (B,) steps of each clip
    blank: Tensor  # (B, S) log-probability of a blank in a step; NEVER where it is unlikely
    gap: Tensor  # (B, S + 1) the sum of that over the frames between a step and the step before; 0 where there are none
    has_gap: Tensor  # (B, S + 1) bool
    first: Tensor  # (B, S) where a step's labels begin in the lists below
    many: Tensor  # (B, S) how many there are
    labels: Tensor  # (L,)
    log_probs: Tensor  # (L,) float64
    place: Tensor  # (B, S, V) int32: a label's place in the lists; -1 where it is unlikely


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
        log_probs = _without_silent(emissions.log_probs, self.tokenizer)
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

    @property
    def _space(self) -> int:
        """The label between words; -1 where the vocabulary has none."""
        space = self.tokenizer.vocab.get(self.tokenizer.space)
        return -1 if space is None else space

    def _search(self, steps: "_Steps") -> tuple[_Beams, tuple[Tensor, Tensor]]:
        """The beams of all clips after their last steps, and the history: of each node its parent and its label."""
        beams, over = self._start(len(steps.counts), steps.blank.device), []
        counts = torch.tensor(steps.counts, device=beams.clip.device)
        parents, labels, nodes = [], [], 0
        for step in range(max(steps.counts)):
            if step in steps.counts:
                is_over = counts[beams.clip] == step
                over.append(beams[is_over])
                beams = beams[~is_over]
            beams, fresh = self._advance(beams, steps, step)
            parents.append(beams.node[fresh:])
            labels.append(beams.last[fresh:])
            made = torch.arange(nodes, nodes + len(parents[-1]), device=beams.node.device)
            beams.node = torch.cat([beams.node[:fresh], made])
            nodes += len(made)
        for each in over:
            beams = beams.joined(each)
        history = [torch.cat(each) if each else beams.node[:0] for each in (parents, labels)]
        return beams, (history[0], history[1])

    def _start(self, clips: int, device: torch.device) -> _Beams:
        clip = torch.arange(clips, device=device)
        zero, none = torch.zeros(clips, dtype=torch.float64, device=device), torch.full_like(clip, -1)
        states = self.fusion.start(clips, device) if self.fusion else torch.empty(clips, 0, dtype=torch.long)
        return _Beams(
            clip=clip,
            prefix=_mixed(torch.full_like(clip, ROOT), clip),
            parent=torch.zeros_like(clip),
            last=torch.full_like(clip, self._space),
            blank=zero,
            label=torch.full_like(zero, NEVER),
            fused=zero,
            partial=zero,
            states=states.to(device),
            node=none,
        )

    def _advance(self, beams: _Beams, steps: "_Steps", step: int) -> tuple[_Beams, int]:
        """The beams one step further, and from where on they are new texts; these have the nodes of their parents."""
        clip, last, space = beams.clip, beams.last, self._space
        gap = steps.gap[clip, step]
        has_gap = steps.has_gap[clip, step]
        total = torch.logaddexp(beams.blank, beams.label)
        blank = torch.where(has_gap, total + gap, beams.blank)
        label = torch.where(has_gap, NEVER, beams.label)
        total = total + gap

        # Texts that stay: a blank, or the last label once more.
        place = steps.place[clip, step, last].long()
        again = torch.where(place >= 0, steps.log_probs[place], NEVER)  # log-probability of the last label
        stay_blank = total + steps.blank[clip, step]
        stay_label = torch.where(last == space, total, label) + again
        # A text that is another one's and one label more gets what that one gives.
        order = beams.prefix.argsort()
        prefixes = beams.prefix[order]
        source = order[torch.searchsorted(prefixes, beams.parent).clamp(max=len(order) - 1)]
        gains = (beams.prefix[source] == beams.parent) & (place >= 0)
        given = torch.where(last == last[source], blank[source], total[source]) + again
        stay_label = torch.where(gains, torch.logaddexp(stay_label, given), stay_label)
        stay = torch.logaddexp(stay_blank, stay_label) + beams.fused + beams.partial
        floor = torch.full((len(steps.counts),), NEVER, dtype=torch.float64, device=clip.device)
        floor.scatter_reduce_(0, clip, stay, "amax")

        # New texts: each beam and one likely label, unless that text is there already.
        many, first = steps.many[clip, step], steps.first[clip, step]
        begins = many.cumsum(0) - many
        row = torch.repeat_interleave(torch.arange(len(clip), device=clip.device), many)
        at = torch.arange(len(row), device=clip.device) + (first - begins)[row]  # in the lists of labels
        new = steps.labels[at]
        score = torch.where(new == last[row], blank[row], total[row]) + steps.log_probs[at]
        is_new = (new != space) | (last[row] != space)
        is_new[(begins[source] + place - first)[gains]] = False
        fused = beams.fused[row]
        most = self.fusion.most if self.fusion else 0.0
        hopeful = torch.nonzero(is_new & (score + fused + most >= floor[clip[row]] + self.prune))[:, 0]
        row, new, score, fused = row[hopeful], new[hopeful], score[hopeful], fused[hopeful]
        partial, states = torch.zeros_like(fused), beams.states[row]
        if self.fusion:
            gained, partial, states = self.fusion.extend(states, new)
            fused = fused + gained
        totals = torch.cat([stay, score + fused + partial])
        kept = _best(totals, torch.cat([clip, clip[row]]), len(steps.counts), self.beam, self.prune)
        old, fresh = kept[kept < len(stay)], kept[kept >= len(stay)] - len(stay)
        row, new = row[fresh], new[fresh]
        stays, grows = beams[old], beams[row]
        stays.blank, stays.label = stay_blank[old], stay_label[old]
        grows.parent, grows.prefix, grows.last = grows.prefix, _mixed(grows.prefix, new), new
        grows.blank, grows.label = torch.full_like(score[fresh], NEVER), score[fresh]
        grows.fused, grows.partial, grows.states = fused[fresh], partial[fresh], states[fresh]
        return stays.joined(grows), len(old)

    def _finish(self, beams: _Beams, history: tuple[Tensor, Tensor], steps: "_Steps") -> list[list[tuple]]:
        """The labels and the score of the best texts of each clip."""
        clips, space = len(steps.counts), self._space
        counts = torch.tensor(steps.counts, device=beams.clip.device)
        score = torch.logaddexp(beams.blank, beams.label) + steps.gap[beams.clip, counts[beams.clip]]
        fused = beams.fused + (self.fusion.end(beams.states) if self.fusion else 0.0)
        # A text with a space behind it is the same text.
        text = torch.where((beams.last == space) & (beams.node >= 0), beams.parent, beams.prefix)
        texts, which = text.unique(return_inverse=True)
        # Both have the same fused score, and one clip; any row of a text will do.
        chosen = torch.empty_like(texts).scatter_(0, which, torch.arange(len(text), device=text.device))
        peak = torch.full(texts.shape, NEVER, dtype=torch.float64, device=text.device)
        peak.scatter_reduce_(0, which, score, "amax")
        summed = torch.zeros_like(peak).scatter_add_(0, which, (score - peak[which]).exp()).log() + peak
        totals, clip = summed + fused[chosen], beams.clip[chosen]
        kept = _best(totals, clip, clips, self.best, NEVER)
        kept = kept[totals[kept].argsort(descending=True)]
        parents, labels = (each.tolist() for each in history)
        found: list[list[tuple]] = [[] for _ in range(clips)]
        rows = zip(clip[kept].tolist(), totals[kept].tolist(), beams.node[chosen[kept]].tolist(), strict=True)
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


def _best(scores: Tensor, clip: Tensor, clips: int, most: int, prune: float) -> Tensor:
    """Which rows are near the best of their clip, and among the `most` best of it. scores, clip: (N,)"""
    best = torch.full((clips,), NEVER, dtype=scores.dtype, device=scores.device)
    best.scatter_reduce_(0, clip, scores, "amax")
    kept = torch.nonzero(scores >= best[clip] + prune)[:, 0]
    counts = torch.bincount(clip[kept], minlength=clips)
    if int(counts.max()) <= most:
        return kept
    order = kept[scores[kept].argsort(descending=True)]
    order = order[clip[order].argsort(stable=True)]
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[clip[order]]
    return order[rank < most]


def _without_silent(log_probs: Tensor, tokenizer) -> Tensor:
    """Log-probabilities (B, T, V) in which all tokens that stand for no text count as the blank."""
    silent = [i for i in range(log_probs.shape[-1]) if i == tokenizer.blank_id or not tokenizer.decode([i])]
    if tokenizer.vocab.get(tokenizer.space) in silent:  # decode gives nothing for a space alone
        silent.remove(tokenizer.vocab[tokenizer.space])
    summed = log_probs.double().clone()
    blank = summed[..., silent].logsumexp(-1)
    summed[..., silent] = NEVER
    summed[..., tokenizer.blank_id] = blank
    return summed


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
    gap = torch.zeros(clips, most + 1, dtype=torch.float64, device=device)
    between = is_real & ~is_step
    gap.scatter_add_(1, before, torch.where(between, blanks, 0.0))
    has_gap = torch.zeros(clips, most + 1, dtype=torch.long, device=device).scatter_add_(1, before, between.long()) > 0
    clip, frame = torch.nonzero(is_step, as_tuple=True)
    step = before[clip, frame] - 1
    many = likely[clip, frame].sum(-1)

    def by_step(values: Tensor, fill) -> Tensor:  # (B, S)
        return torch.full((clips, most), fill, dtype=values.dtype, device=device).index_put_((clip, step), values)

    of_clip, of_frame, labels = torch.nonzero(likely, as_tuple=True)
    place = torch.full((clips, most, size), -1, dtype=torch.int32, device=device)
    place[of_clip, before[of_clip, of_frame] - 1, labels] = torch.arange(len(labels), dtype=torch.int32, device=device)
    return _Steps(
        counts,
        by_step(blanks[clip, frame], NEVER),
        gap,
        has_gap,
        by_step(many.cumsum(0) - many, 0),
        by_step(many, 0),
        labels,
        torch.cat([log_probs[of_clip, of_frame, labels], log_probs.new_zeros(1)]),  # one at least, for place -1
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
