"""CTC beam search with a language model: all clips and all beams in one call of each operation, on any device.

    search = BeamSearch(tokenizer, fusion)                       # fusion: w2v.decoding.fusion, or None
    best = search(emissions)                                     # one list of Hypothesis a clip, best first

A beam is a text that is not finished. Its score is the log-sum over all paths of labels that give the text, and what
the fusion (language model, hot words) says of it. What stands for no text in the vocabulary counts as CTC's blank. A
space after a space, or before the first letter, changes nothing. Beams of all clips are rows of flat tensors, and
`clip` says whose a row is: a clip that is sure of itself has few rows. A step is a frame in which some letter is
likely; the frames between have nothing but blanks, whose probabilities are summed beforehand. Where a model is sure of
nearly every frame, a stretch of them is one step (w2v.decoding.stretches). The pruning is that of pyctcdecode 0.5, step
by step; where one text per clip is asked for, texts with the same future are one to the beam's width.

Shapes: B clips, T frames, V vocabulary, S steps, N beams of all clips, M their extensions by one label, F columns of a
fusion's states.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from w2v.answers import Emissions, Hypothesis, Word
from w2v.decoding.steps import INVERSE, NEVER, Frames, Said, Steps, likely_frames
from w2v.decoding.stretches import frames_and_stretches, joined, stretches_of
from w2v.decoding.viterbi import best_path
from w2v.text.tokenizer import CharTokenizer

TOKEN_MIN = -5.0  # log-probability from which a label extends a beam; a frame's best label always does
PRUNE = -10.0  # below the best beam of a clip
BEAM = 100
ALL = 1 << 60  # a beam that holds every text that is possible, without pruning


class Fusion(Protocol):
    """What judges texts while they grow. States (F, N) int64 say all that its answers depend on."""

    @property
    def most(self) -> float:
        """What one label can add to a score at most, for good and until the next one together."""

    def start(self, beams: int, device: torch.device) -> Tensor:
        """States (F, N) of empty texts."""

    def pieces(self, labels: Tensor) -> Any:
        """What `extend` asks of the pieces by which texts grow. labels: (P, R), a short one has -1 in front."""

    def extend(self, states: Tensor, pieces: Any, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (F, M) and the number of the piece that follows (M,) -> what is added for good (M,), what holds until
        the next piece only (M,), states (F, M)."""

    def end(self, states: Tensor) -> Tensor:
        """What the end of the text adds for good, (N,)."""


class _Beams(NamedTuple):
    """A column a beam. The rows of `whole`: CLIP, PREFIX, ... and the fusion's states; of `real`: BLANK, LABEL, ..."""

    whole: Tensor  # (4 + F, N) int64
    real: Tensor  # (4, N) float64

    def picked(self, columns: Tensor) -> "_Beams":
        return _Beams(_columns(self.whole, columns), _columns(self.real, columns))

    def joined(self, *others: "_Beams") -> "_Beams":
        return _Beams(*(torch.cat(each, dim=1) for each in zip(self, *others, strict=True)))


CLIP = 0
PREFIX = 1  # a hash of the clip and the text's labels
NODE = 2  # in the history; 0 for an empty text
LAST = 3  # the last label; for an empty text the space's, or the blank's where there is no space
STATES = 4  # from here on
BLANK = 0  # log-probability of the paths that end in a blank
LABEL = 1  # of those that end in the last label
FUSED = 2  # what the fusion said for good
PARTIAL = 3  # what it says until the next label


@dataclass(frozen=True, eq=False)
class BeamSearch:
    tokenizer: CharTokenizer
    fusion: Fusion | None = None
    beam: int = BEAM  # texts of a clip that are held
    best: int = 1  # texts of a clip that are given
    token_min: float = TOKEN_MIN
    prune: float = PRUNE

    @torch.inference_mode()
    def __call__(self, emissions: Emissions, words: bool = False) -> list[list[Hypothesis]]:
        """The likeliest texts of each clip, best first, one at least. words: also their words' times."""
        if not len(emissions.lengths):
            return []
        frames = likely_frames(emissions.log_probs, emissions.lengths, self._silent, self.token_min)
        steps = self._steps(frames)
        beams, history = self._search(steps, self._first)
        answers = []
        for clip, texts in enumerate(self._finish(beams, history, steps)):
            hypotheses = []
            for tokens, score in texts:
                text = self.tokenizer.decode(tokens, group_tokens=False)
                spoken = []
                if words:
                    log_probs = self._without_silent(emissions.log_probs[clip, : int(emissions.lengths[clip])])
                    spoken = spoken_words(log_probs, tokens, self.tokenizer, emissions.seconds_per_frame)
                hypotheses.append(Hypothesis(text, tokens, score, spoken))
            answers.append(hypotheses)
        return answers

    @cached_property
    def _silent(self) -> list[int]:
        """The tokens that stand for no text. decode gives nothing for a space alone, which is text."""
        space, blank = self._space, self.tokenizer.blank_id
        return [i for i in range(len(self.tokenizer)) if i == blank or (i != space and not self.tokenizer.decode([i]))]

    def _without_silent(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities (T, V) in which all tokens that stand for no text count as the blank, as in a search."""
        summed, is_void = log_probs.double(), ~log_probs.amax(-1).isfinite()
        blank = summed[:, self._silent].logsumexp(-1).masked_fill_(is_void, 0.0)
        summed = summed.masked_fill(is_void[:, None], NEVER)
        summed[:, self._silent] = NEVER
        summed[:, self.tokenizer.blank_id] = blank
        return summed

    @property
    def _space(self) -> int:
        """The label between words; -1 where the vocabulary has none."""
        space = self.tokenizer.space_id
        return -1 if space is None else space

    def _steps(self, frames: Frames) -> Steps:
        """The likely frames, or stretches of them with all that they may say."""
        stretches, size, said = stretches_of(frames), len(self.tokenizer), Said.nothing(frames)
        if len(stretches.begin):
            search = replace(self, fusion=None, beam=ALL)
            beams, history = search._search(stretches.steps(frames, size), stretches.before(frames, self._first))
            beams = beams.picked(beams.whole[CLIP].argsort(stable=True))
            many = beams.whole[CLIP].bincount(minlength=len(stretches.begin))
            texts, log_probs = _read(beams.whole[NODE], history), torch.logaddexp(beams.real[BLANK], beams.real[LABEL])
            said = joined(frames, stretches.said(frames, self._space, many, texts, beams.whole[LAST], log_probs))
        return frames_and_stretches(frames, stretches.of, said, size)

    @property
    def _first(self) -> int:
        """The last label of an empty text: a space, for a space behind it changes nothing."""
        return self._space if self._space >= 0 else self.tokenizer.blank_id

    def _search(self, steps: Steps, last: Tensor | int) -> tuple[_Beams, tuple[Tensor, Tensor]]:
        """The beams of all clips after their last steps, and the history: of each node its parent and its piece.

        last: the labels before the clips.
        """
        beams, over = self._start(len(steps.counts), steps.blank.device, last), []
        told = self.fusion.pieces(steps.pieces.labels) if self.fusion else None
        counts, ends = torch.tensor(steps.counts, device=steps.blank.device), set(steps.counts)
        parents, pieces, nodes = [torch.zeros_like(counts[:1])], [torch.full_like(counts[:1], -1)], 1
        for step in range(max(steps.counts)):
            if step in ends:
                is_over = counts.index_select(0, beams.whole[CLIP]) == step
                over.append(beams.picked(is_over.nonzero()[:, 0]))
                beams = beams.picked((~is_over).nonzero()[:, 0])
            if step and steps.has_stretch[step - 1] and not steps.is_whole[step]:
                beams = _merged(beams)  # a text can come from two pieces
            old, new, piece = self._advance(beams, steps, step, told)
            parents.append(new.whole[NODE].clone())
            pieces.append(piece)
            torch.arange(nodes, nodes + len(piece), out=new.whole[NODE])
            nodes += len(piece)
            beams = new if old is None else old.joined(new)
        return beams.joined(*over), (torch.cat(parents), torch.cat(pieces))

    def _start(self, clips: int, device: torch.device, last: Tensor | int) -> _Beams:
        whole = torch.empty(STATES, clips, dtype=torch.long, device=device)
        whole[CLIP] = torch.arange(clips)
        whole[PREFIX], whole[NODE], whole[LAST] = _mixed(whole[CLIP]), 0, last
        states = self.fusion.start(clips, device) if self.fusion else whole[:0]
        real = torch.zeros(4, clips, dtype=torch.float64, device=device)
        real[BLANK] = NEVER
        return _Beams(torch.cat([whole, states]), real)

    def _advance(self, beams: _Beams, steps: Steps, step: int, told: Any) -> tuple[_Beams | None, _Beams, Tensor]:
        """The texts that stay, the new ones with their parents' nodes, and the pieces by which these grew."""
        pick, clip = torch.index_select, beams.whole[CLIP]  # index_select costs half of an index in brackets
        many, first = pick(steps.many[step], 0, clip), pick(steps.first[step], 0, clip)
        shift = first - (many.cumsum(0) - many)
        row = torch.repeat_interleave(many)
        at = torch.arange(len(row), device=row.device) + pick(shift, 0, row)  # in the lists of pieces
        if steps.is_whole[step]:
            stays, stay = beams, beams.real[LABEL, :0]
            score = pick(beams.real[LABEL], 0, row) + pick(steps.log_probs, 0, at)
        else:
            stays, stay, score = self._frame(beams, steps, step, row, at, shift)
            if self.fusion:  # which need not judge what cannot stay
                floor = torch.zeros(len(steps.counts), dtype=torch.float64, device=row.device)
                floor.scatter_reduce_(0, clip, stay, "amax", include_self=False)
                least = pick(floor, 0, clip).add_(self.prune - self.fusion.most).sub_(beams.real[FUSED])
                hopeful = (score >= pick(least, 0, row)).nonzero()[:, 0]
                row, at, score = pick(row, 0, hopeful), pick(at, 0, hopeful), pick(score, 0, hopeful)
        piece, fused = pick(steps.entries, 0, at), pick(beams.real[FUSED], 0, row)
        partial, states = torch.zeros_like(fused), _columns(beams.whole[STATES:], row)
        if self.fusion:
            gained, partial, states = self.fusion.extend(states, told, piece)
            fused = fused + gained
        totals, clips, last = score + fused + partial, pick(clip, 0, row), pick(steps.pieces.last, 0, piece)
        futures = torch.cat([last[None], states]) if self.fusion and self.best == 1 else None
        if not steps.is_whole[step]:
            totals, clips = torch.cat([stay, totals]), torch.cat([clip, clips])
            futures = None if futures is None else torch.cat([beams.whole[LAST:], futures], dim=1)
        if self.beam < ALL:
            kept = _best(totals, clips, len(steps.counts), self.beam, self.prune, futures)
        else:
            kept = (totals > NEVER).nonzero()[:, 0]
        fresh = kept if steps.is_whole[step] else kept[kept >= len(stay)] - len(stay)
        grows = _columns(beams.whole, pick(row, 0, fresh))
        piece, grows[LAST], grows[STATES:] = pick(piece, 0, fresh), pick(last, 0, fresh), _columns(states, fresh)
        grows[PREFIX] = grows[PREFIX] * pick(steps.pieces.factor, 0, piece) + pick(steps.pieces.hashes, 0, piece)
        real = _columns(torch.stack([torch.full_like(score, NEVER), score, fused, partial]), fresh)
        old = None if steps.is_whole[step] else stays.picked(kept[kept < len(stay)])
        return old, _Beams(grows, real), piece

    def _frame(
        self, beams: _Beams, steps: Steps, step: int, row: Tensor, at: Tensor, shift: Tensor
    ) -> tuple[_Beams, Tensor, Tensor]:
        """The texts that stay, all of them, and their scores; the scores (M,) of each text and one more label."""
        pick = torch.index_select
        clip, prefix, _, last = beams.whole[:STATES]
        gap = pick(steps.gap[step], 0, clip)
        has_gap = pick(steps.has_gap[step], 0, clip)
        total = torch.logaddexp(beams.real[BLANK], beams.real[LABEL]).add_(gap)
        is_space = last == self._space
        label = torch.where(is_space, total, beams.real[LABEL].masked_fill(has_gap, NEVER))  # for the last label again
        blank = torch.where(has_gap, total, beams.real[BLANK]).masked_fill_(is_space, NEVER)  # for it as a new one

        # Texts that stay: a blank, or the last label once more.
        place = pick(steps.place[step].view(-1), 0, clip * steps.place.shape[2] + last)
        again = pick(steps.log_probs, 0, place.clamp(min=0)).masked_fill_(place < 0, NEVER)
        stay_label = label + again
        # A text that is another one's and one label more gets what that one gives.
        again_likely = (place >= 0).nonzero()[:, 0]
        parent = _parents(pick(prefix, 0, again_likely), pick(last, 0, again_likely))
        prefixes, order = prefix.sort()
        found = torch.searchsorted(prefixes, parent).clamp_(max=len(order) - 1)
        there = (pick(prefixes, 0, found) == parent).nonzero()[:, 0]
        gaining, source = pick(again_likely, 0, there), pick(order, 0, pick(found, 0, there))
        repeats = pick(last, 0, gaining) == pick(last, 0, source)
        given = torch.where(repeats, pick(blank, 0, source), pick(total, 0, source)) + pick(again, 0, gaining)
        stay_label[gaining] = torch.logaddexp(pick(stay_label, 0, gaining), given)
        stay_blank = total + pick(steps.blank[step], 0, clip)
        stay = torch.logaddexp(stay_blank, stay_label).add_(beams.real[FUSED]).add_(beams.real[PARTIAL])

        # New texts, unless they are there already.
        is_same = pick(steps.repeats, 0, at) == pick(last, 0, row)
        score = torch.where(is_same, pick(blank, 0, row), pick(total, 0, row)) + pick(steps.log_probs, 0, at)
        score[pick(place, 0, gaining) - pick(shift, 0, source)] = NEVER
        return _Beams(beams.whole, torch.stack([stay_blank, stay_label, *beams.real[FUSED:]])), stay, score

    def _finish(self, beams: _Beams, history: tuple[Tensor, Tensor], steps: Steps) -> list[list[tuple]]:
        """The labels and the score of the best texts of each clip."""
        clips, space = len(steps.counts), self._space
        whole, real = beams
        score = torch.logaddexp(real[BLANK], real[LABEL]) + steps.end[whole[CLIP]]
        fused = real[FUSED] + (self.fusion.end(whole[STATES:]) if self.fusion else 0.0)
        # A text with a space behind it is the same text.
        shorter = _parents(whole[PREFIX], whole[LAST])
        text = torch.where((whole[LAST] == space) & (whole[NODE] > 0), shorter, whole[PREFIX])
        texts, which = text.unique(return_inverse=True)
        # Both have the same fused score, and one clip; any row of a text will do.
        chosen = torch.empty_like(texts).scatter_(0, which, torch.arange(len(text), device=text.device))
        totals, clip = _summed(score, which, len(texts)) + fused[chosen], whole[CLIP][chosen]
        kept = _best(totals, clip, clips, self.best, NEVER)
        kept = kept[totals[kept].argsort(descending=True)]
        read = _read(whole[NODE][chosen[kept]], history)
        labels = torch.where(read[..., None] < 0, -1, steps.pieces.labels[read]).flatten(1)
        found: list[list[tuple]] = [[] for _ in range(clips)]
        all_tokens, lengths = iter(labels[labels >= 0].tolist()), (labels >= 0).sum(1).tolist()
        for number, total, length in zip(clip[kept].tolist(), totals[kept].tolist(), lengths, strict=True):
            tokens = list(islice(all_tokens, length))
            found[number].append((tokens[:-1] if tokens[-1:] == [space] else tokens, total))
        return found


def _merged(beams: _Beams) -> _Beams:
    """Each text once."""
    texts, which = beams.whole[PREFIX].unique(return_inverse=True)
    chosen = torch.empty_like(texts).scatter_(0, which, torch.arange(len(which), device=texts.device))
    merged = beams.picked(chosen)
    for ending in (BLANK, LABEL):
        merged.real[ending] = _summed(beams.real[ending], which, len(texts))
    return merged


def _summed(scores: Tensor, which: Tensor, count: int) -> Tensor:
    """The log-sum-exp of the scores (N,) of each: (count,). which: (N,), whose a score is."""
    peak = torch.full((count,), NEVER, dtype=scores.dtype, device=scores.device)
    peak.scatter_reduce_(0, which, scores, "amax").clamp_(min=-1e300)  # NEVER less NEVER is not a number
    return torch.zeros_like(peak).scatter_add_(0, which, (scores - peak[which]).exp()).log().add_(peak)


def _read(nodes: Tensor, history: tuple[Tensor, Tensor]) -> Tensor:
    """The pieces of texts (N, depth), -1 in front of short ones."""
    parents, pieces = history
    columns = [pieces.index_select(0, nodes)]
    while (nodes := parents.index_select(0, nodes)).any():
        columns.append(pieces.index_select(0, nodes))
    return torch.stack(columns[::-1], dim=1)


def _columns(rows: Tensor, columns: Tensor) -> Tensor:
    """rows[:, columns]; gather does it in a third of the time."""
    return rows.gather(1, columns.expand(len(rows), -1))


def _parents(prefixes: Tensor, last: Tensor) -> Tensor:
    """Hashes of texts and their last labels -> hashes of the texts without those."""
    return (prefixes - last).sub_(1).mul_(INVERSE)


def _mixed(numbers: Tensor) -> Tensor:
    """Numbers (N,) -> numbers of which no sum and no product is another's; the steps are those of splitmix64."""
    mixed = numbers * -0x61C8864680B583EB + 0x9E3779B97F4A7C1
    mixed = (mixed ^ (mixed >> 30)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ (mixed >> 27)) * -0x6B2FB644ECCEEE15
    return mixed ^ (mixed >> 31)


def _best(scores: Tensor, clip: Tensor, clips: int, most: int, prune: float, futures: Tensor | None = None) -> Tensor:
    """Which are near the best of their clip, and among the `most` best of it. scores, clip: (N,)

    futures: (1 + F, N), all that a text's future depends on, except for the share of its paths that end in a blank. Of
    texts with one future only the best is kept where a clip has too many; no other can become the best.
    """
    best = torch.full((clips,), NEVER, dtype=scores.dtype, device=scores.device)
    best.scatter_reduce_(0, clip, scores, "amax", include_self=False)
    kept = (scores >= best.index_select(0, clip).add_(prune)).nonzero()[:, 0]
    if len(kept) <= most or int(torch.bincount(clip.index_select(0, kept)).max()) <= most:
        return kept
    kept = kept.index_select(0, scores.index_select(0, kept).argsort(descending=True))
    if futures is not None:
        hashes = _mixed(clip.index_select(0, kept))
        for each in _columns(futures, kept):
            hashes = _mixed(hashes + each)
        hashes, order = hashes.sort(stable=True)
        is_first = torch.ones_like(order, dtype=torch.bool)
        is_first[1:] = hashes[1:] != hashes[:-1]
        kept = kept[torch.empty_like(is_first).scatter_(0, order, is_first)]
    owners, order = clip.index_select(0, kept).sort(stable=True)
    counts = torch.bincount(owners, minlength=clips)
    rank = torch.arange(len(order), device=order.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return kept.index_select(0, order[rank < most])


def spoken_words(log_probs: Tensor, tokens: list[int], tokenizer: CharTokenizer, seconds: float) -> list[Word]:
    """The words of a text on its likeliest path through the frames (T, V): from the first frame of a word's first label
    to the last of its last one. A word's confidence is the mean probability of its labels' frames, as in `ctc.greedy`.
    """
    if not tokens:
        return []
    space = tokenizer.space_id
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
