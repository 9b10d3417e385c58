"""What goes wrong in single steps: those that are skipped, and spikes of loss and gradient norm, with their clips."""

import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from recipes.settings import Settings
from w2v.errors import InputError, listed
from w2v.training import distributed
from w2v.training.distributed import by_first
from w2v.training.state import Progress
from w2v.training.step import StepResult, was_skipped, without_loss

# Steps in a row, after which a run stops; fewer where it has few. fp16 needs some to find its loss scale: it begins
# with 65,536, which each skipped step halves.
MOST_SKIPPED, FEWEST_SKIPPED, SHARE_SKIPPED = 20, 3, 0.1
SPIKES = "spikes.tsv"
USUAL_OF = 100  # the median of so many steps before is what is usual, once there are FEWEST of them
FEWEST = 20
LOSS_SPIKE, LOSS_SPIKE_AT_LEAST = 3.0, 1.0  # times the usual loss, and so much more
NORM_SPIKE = 10.0  # times the usual norm
CLIPS_NAMED = 5


def count_skipped(result: StepResult, progress: Progress, settings: Settings) -> str | None:
    """Count a step that changed nothing, and say what was not finite; None where all is well.

    An overflow of fp16's scaled gradients is normal, and not worth a line. InputError after too many in a row.
    """
    if not was_skipped(result):
        progress.skipped_in_a_row = 0
        return None
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    clips = [name for names in distributed.gather(without_loss(result)) for name in names]
    what = f"the loss is not finite for {listed(clips)}"
    if not clips:
        what = f"a gradient is not finite, with the clips {listed(result.names)}"
    most = MOST_SKIPPED
    if settings.precision != "fp16":
        most = min(most, max(FEWEST_SKIPPED, int(SHARE_SKIPPED * settings.total_steps)))
    if progress.skipped_in_a_row >= most:
        raise InputError(
            f"{most} steps in a row could not be taken, in step {result.number + 1} {what}; look at these clips, and "
            "begin again with a lower `lr` or with `precision` fp32 (states in checkpoints are from before)"
        )
    return f"step {result.number + 1} is skipped: {what}" if clips or settings.precision != "fp16" else None


class Spike(NamedTuple):
    step: int
    what: str
    value: float
    usual: float
    clips: list[tuple[str, float]]  # whose losses were highest, with them

    def __str__(self) -> str:
        clips = ", ".join(f"{name} {loss:.3g}" for name, loss in self.clips)
        return f"step {self.step}: {self.what} {self.value:.3g}, {self.usual:.3g} is usual; highest losses: {clips}"


class Usual:
    """What loss and gradient norm have been lately, on this rank: a step that is far above that is a spike."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=USUAL_OF)
        self._norms: deque[float] = deque(maxlen=USUAL_OF)

    def look(self, result: StepResult) -> list[Spike]:
        """The spikes of a step, which then counts to what is usual. A skipped step does neither."""
        losses = result.losses.tolist()
        loss, norm = sum(losses) / sum(result.weights), float(result.grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return []
        by_clip = [(name, x / w) for name, x, w in zip(result.names, losses, result.weights, strict=True)]
        highest = sorted(by_clip, key=lambda clip: -clip[1])[:CLIPS_NAMED]
        found = []
        if len(self._losses) >= FEWEST:
            usual, usual_norm = median(self._losses), median(self._norms)
            if loss > LOSS_SPIKE * usual + LOSS_SPIKE_AT_LEAST:
                found.append(Spike(result.number + 1, "loss", loss, usual, highest))
            if norm > NORM_SPIKE * usual_norm:
                found.append(Spike(result.number + 1, "gradient norm", norm, usual_norm, highest))
        self._losses.append(loss)
        self._norms.append(norm)
        return found


def note_spikes(results: Iterable[StepResult], usual: Usual, out: Path) -> str | None:
    """Write the spikes of all ranks to spikes.tsv. -> a line on the first of them."""
    shares = distributed.gather([spike for result in results for spike in usual.look(result)])
    spikes = sorted(spike for share in shares for spike in share)
    if not spikes:
        return None
    _append(out / SPIKES, spikes)
    more = f"; {len(spikes) - 1} more in {out / SPIKES}" if len(spikes) > 1 else ""
    return f"{spikes[0]}{more}"


@by_first
def _append(path: Path, spikes: list[Spike]) -> None:
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        if file.tell() == 0:
            file.write("step\twhat\tvalue\tusual\tclips\n")
        for spike in spikes:
            clips = ", ".join(f"{name} {loss:.3f}" for name, loss in spike.clips)
            file.write(f"{spike.step}\t{spike.what}\t{spike.value:.4g}\t{spike.usual:.4g}\t{clips}\n")
