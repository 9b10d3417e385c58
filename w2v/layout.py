"""Where the frames of a batch's clips lie: padded rows, or clips end to end in one stream.

A model computes on frames (R, N, ...) without knowing which clip they belong to. Only attention, convolutions over
time, masks and the head must know where a clip begins and ends. They ask the layout:

    rows = layout.rows(x)              # (B, T, ...), one row per clip, zeros after its end
    x = layout.stream(rows)            # back to (R, N, ...)

In a packed stream no padding is computed. Packing is exact for models whose every norm is over channels, within the
rounding of the sums.

Shapes: B clips, T frames of the longest clip, F real frames of all clips.
Padded: (R, N) = (B, T). Packed: (R, N) = (1, F).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


def map_tensors(item: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A dataclass with function(x) in place of each of its tensors, those of dataclasses in its fields too."""
    changes: dict[str, Any] = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = function(value)
        elif is_dataclass(value):
            changes[field.name] = map_tensors(value, function)
    return replace(item, **changes)


@dataclass(frozen=True, eq=False)
class Padded:
    """One row per clip, as long as the longest."""

    lengths: Tensor  # (B,) int64, frames of each clip
    longest: int  # T
    real: Tensor  # (B, T) bool, which frames are a clip's own

    @classmethod
    def of(cls, lengths: Tensor, longest: int) -> "Padded":
        return cls(lengths, longest, torch.arange(longest, device=lengths.device) < lengths[:, None])

    def select(self, frames: Tensor) -> Tensor:
        """Frames as convolutions make them of the batch's waveforms -> (B, T, ...): the same."""
        return frames

    def rows(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> the same with zeros after each clip's end: what a convolution sees of the clip alone."""
        real = self.real.reshape(*self.real.shape, *[1] * (x.dim() - 2))
        return x.masked_fill(~real, 0)

    def stream(self, rows: Tensor) -> Tensor:
        """(B, T, ...) -> the same."""
        return rows


@dataclass(frozen=True, eq=False)
class Packed:
    """All clips' frames end to end in one row. Numbers that shape tensors are on the host: no GPU has to wait."""

    sizes: list[int]  # frames of each clip
    longest: int  # T
    frames: Tensor  # (F,) int64, the stream's frames among those the convolutions make
    slots: Tensor  # (F,) int64, their places in (B, T) laid out flat
    offsets: Tensor  # (B + 1,) int32, where each clip's frames begin in the stream, and where the last one's end

    @classmethod
    def of(cls, starts: Sequence[int], sizes: Sequence[int]) -> "Packed":
        """starts: the frame at which each clip begins; sizes: its frames, at least one."""
        sizes = list(sizes)
        clip = torch.repeat_interleave(torch.tensor(sizes))  # (F,)
        offsets = torch.tensor([0, *accumulate(sizes)])
        position = torch.arange(len(clip)) - offsets[clip]
        longest = max(sizes)
        frames, slots = torch.tensor(starts)[clip] + position, clip * longest + position
        return cls(sizes, longest, frames, slots, offsets.to(torch.int32))

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, frames of each clip, on the device."""
        return self.offsets.diff().long()

    def select(self, frames: Tensor) -> Tensor:
        """(1, all frames that the convolutions make, ...) -> (1, F, ...): those that straddle two clips go."""
        return frames.index_select(1, self.frames)

    def rows(self, x: Tensor) -> Tensor:
        """(1, F, ...) -> (B, T, ...), zeros after each clip's end."""
        clips = len(self.offsets) - 1
        rows = x.new_zeros(clips * self.longest, *x.shape[2:])
        return rows.index_copy(0, self.slots, x.squeeze(0)).unflatten(0, (clips, self.longest))

    def stream(self, rows: Tensor) -> Tensor:
        """(B, T, ...) -> (1, F, ...), the real frames."""
        return rows.flatten(0, 1).index_select(0, self.slots)[None]


Layout = Padded | Packed
