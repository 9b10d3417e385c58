"""Where the frames of a batch's clips lie: padded rows, or clips end to end in one stream.

A model computes on frames (R, N, ...) and does not care whose they are. Only attention, convolutions over time, masks
and the head must know where a clip begins and ends. They ask the layout:

    rows = layout.rows(x)              # (B, T, ...), one row per clip, zeros after its end
    x = layout.stream(rows)            # back to (R, N, ...)

A packed stream does no work on silence. Packing is exact for models whose every norm is over channels, within the
rounding of the sums.

Shapes: B clips, T frames of the longest clip, F real frames of all clips.
Padded: (R, N) = (B, T). Packed: (R, N) = (1, F).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
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
        """(B, T, ...) -> the same with zeros after each clip's end: there a lone clip meets a convolution's padding."""
        real = self.real.reshape(*self.real.shape, *[1] * (x.dim() - 2))
        return x.masked_fill(~real, 0)

    def stream(self, rows: Tensor) -> Tensor:
        """(B, T, ...) -> the same."""
        return rows

    def to(self, device: torch.device | str) -> "Padded":
        """The same on another device; a copy from pinned memory does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Padded":
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Padded":
        return Padded(function(self.lengths), self.longest, function(self.real))


@dataclass(frozen=True)
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
        return rows.index_copy(0, self.slots, x[0]).unflatten(0, (clips, self.longest))

    def stream(self, rows: Tensor) -> Tensor:
        """(B, T, ...) -> (1, F, ...), the real frames."""
        return rows.flatten(0, 1).index_select(0, self.slots)[None]

    def to(self, device: torch.device | str) -> "Packed":
        """The same on another device; a copy from pinned memory does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Packed":
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Packed":
        return Packed(self.sizes, self.longest, *map(function, (self.frames, self.slots, self.offsets)))


Layout = Padded | Packed
