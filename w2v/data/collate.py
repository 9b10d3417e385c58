"""Clips and labels -> a Batch of padded tensors.

Shapes: B clips, S samples, U labels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2v.audio import normalise


@dataclass
class Batch:
    """Normalised clips, zero-padded to the longest, with their labels and names."""

    waveforms: Tensor  # (B, S) float32
    waveform_lengths: Tensor  # (B,) int64, real samples
    labels: Tensor  # (B, U) int64, padded with 0
    label_lengths: Tensor  # (B,) int64
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device; a copy from pinned memory does not wait."""
        tensors = (self.waveforms, self.waveform_lengths, self.labels, self.label_lengths)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors), self.names)

    def pin_memory(self) -> "Batch":
        tensors = (self.waveforms, self.waveform_lengths, self.labels, self.label_lengths)
        return Batch(*(tensor.pin_memory() for tensor in tensors), self.names)


def collate(
    waveforms: list[np.ndarray], labels: list[list[int]] | None = None, names: list[str] | None = None
) -> Batch:
    """int16 or float32 waveforms (samples,) of any gain, each normalised over its own samples.

    Without labels every clip has none of them, as in transcription.
    """
    labels = labels or [[] for _ in waveforms]
    padded = np.zeros((len(waveforms), max(map(len, waveforms))), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        if waveform.dtype == np.int16:  # to [-1, 1] first: normalise's epsilon is meant for that range
            waveform = np.multiply(waveform, np.float32(1 / 32768), dtype=np.float32)
        row[: len(waveform)] = normalise(waveform)
    return Batch(
        torch.from_numpy(padded),
        torch.tensor([len(w) for w in waveforms]),
        pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in labels], batch_first=True),
        torch.tensor([len(ids) for ids in labels]),
        names or [""] * len(waveforms),
    )


class ClipDataset(torch.utils.data.Dataset):
    """Batches of stored clips by lists of clip numbers, for a DataLoader with batch_size=None."""

    def __init__(self, audio, clips: list, labels: list[list[int]]):
        self.audio, self.clips, self.labels = audio, clips, labels

    def __getitem__(self, numbers: list[int]) -> Batch:
        return collate(
            [self.audio[self.clips[i]] for i in numbers],
            [self.labels[i] for i in numbers],
            [self.clips[i].name for i in numbers],
        )

    def __len__(self) -> int:
        return len(self.clips)
