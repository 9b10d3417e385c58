"""Clips end to end in one stream, in place of rows padded to the longest: no work is done on silence.

Each clip starts at a multiple of the hop in one waveform, so that its frames are whole frames of the stream; the one or
two frames that straddle two clips lie after a clip's last real frame and are left out. That is exact for models whose
every norm is over channels, within the rounding of the sums.

Shapes: B clips, S samples of the stream, F real frames of all clips, T frames of the longest, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from w2v.errors import InputError


@dataclass
class Packing:
    """Where the frames of each clip lie. Numbers that shape tensors are on the host: reading them stalls no GPU."""

    lengths: list[int]  # frames of each clip
    longest: int  # T
    frames: Tensor  # (F,) int64, the stream's frames among those the convolutions make
    slots: Tensor  # (F,) int64, their places in (B, T) laid out flat
    offsets: Tensor  # (B + 1,) int32, where each clip's frames begin in the stream, and where the last one's end

    @classmethod
    def of(cls, starts: Sequence[int], lengths: Sequence[int]) -> "Packing":
        """starts: the frame at which each clip begins; lengths: its frames, at least one."""
        lengths = list(lengths)
        per_clip = torch.tensor(lengths)
        clip = torch.repeat_interleave(per_clip)  # (F,)
        offsets = torch.tensor([0, *accumulate(lengths)])
        position = torch.arange(len(clip)) - offsets[clip]
        longest = max(lengths)
        frames, slots = torch.tensor(starts)[clip] + position, clip * longest + position
        return cls(lengths, longest, frames, slots, offsets.to(torch.int32))

    @property
    def frame_lengths(self) -> Tensor:
        """(B,) int64, on the device."""
        return self.offsets.diff().long()

    def to(self, device: torch.device | str) -> "Packing":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Packing":
        return self._map(Tensor.pin_memory)

    def _map(self, function) -> "Packing":
        return Packing(self.lengths, self.longest, *map(function, (self.frames, self.slots, self.offsets)))

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (1, F, ...), the real frames."""
        return padded.flatten(0, 1).index_select(0, self.slots)[None]

    def unpack(self, stream: Tensor) -> Tensor:
        """(1, F, ...) -> (B, T, ...), zeros after each clip's end."""
        clips = len(self.offsets) - 1
        padded = stream.new_zeros(clips * self.longest, *stream.shape[2:])
        return padded.index_copy(0, self.slots, stream[0]).unflatten(0, (clips, self.longest))


def pack_samples(lengths: Sequence[int], hop: int, receptive_field: int) -> tuple[list[int], Packing]:
    """Samples of each clip -> the sample at which each starts in the stream, and the Packing of its frames.

    Raises InputError for a clip shorter than the receptive field.
    """
    if min(lengths) < receptive_field:
        raise InputError(
            f"a clip needs at least {receptive_field} samples for one frame, got {min(lengths)}; drop clips that short"
        )
    starts = [0, *accumulate(-(-samples // hop) for samples in lengths)][:-1]  # in frames
    frames = [(samples - receptive_field) // hop + 1 for samples in lengths]
    return [start * hop for start in starts], Packing.of(starts, frames)
