"""Clips and labels -> a Batch of tensors, packed end to end or padded.

Shapes: B clips, S samples, U labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2v.audio import normalise
from w2v.errors import InputError
from w2v.packing import Packing, pack_samples


@dataclass
class Batch:
    """Normalised clips with their labels and names."""

    waveforms: Tensor  # float32; padded: (B, S), zeros after each clip's end; packed: (1, S), see w2v.packing
    waveform_lengths: Tensor  # (B,) int64, real samples
    labels: Tensor  # (B, U) int64, padded with 0
    label_lengths: Tensor  # (B,) int64
    names: list[str]
    packing: Packing | None = None  # None: padded

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device; a copy from pinned memory does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True), self.packing and self.packing.to(device))

    def pin_memory(self) -> "Batch":
        return self._map(Tensor.pin_memory, self.packing and self.packing.pin_memory())

    def _map(self, function, packing: Packing | None) -> "Batch":
        tensors = (self.waveforms, self.waveform_lengths, self.labels, self.label_lengths)
        return Batch(*map(function, tensors), self.names, packing)


def collate(
    waveforms: list[np.ndarray],
    labels: list[list[int]] | None = None,
    names: list[str] | None = None,
    pack_for=None,
) -> Batch:
    """int16 or float32 waveforms (samples,) of any gain, each normalised over its own samples.

    Without labels every clip has none of them, as in transcription. pack_for: the Wav2Vec2Config of a model whose
    clips may lie end to end, None to pad. Raises InputError for a model that cannot take that, or a clip too short.
    """
    labels = labels or [[] for _ in waveforms]
    lengths = [len(waveform) for waveform in waveforms]
    if pack_for is None:
        packing, samples = None, np.empty((len(waveforms), max(lengths)), np.float32)
        places = list(samples)
    else:
        if not pack_for.can_pack:
            raise InputError('packing needs feat_extract_norm "layer", got "group": its first norm runs over time; pad')
        starts, packing = pack_samples(lengths, pack_for.hop, pack_for.receptive_field)
        samples = np.empty((1, starts[-1] + lengths[-1]), np.float32)
        places = np.split(samples[0], starts[1:])
    for place, waveform in zip(places, waveforms, strict=True):
        normalise(waveform, out=place[: len(waveform)])
        place[len(waveform) :] = 0.0
    return Batch(
        torch.from_numpy(samples),
        torch.tensor(lengths),
        pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in labels], batch_first=True),
        torch.tensor([len(ids) for ids in labels]),
        names or [""] * len(waveforms),
        packing,
    )


class ClipDataset(torch.utils.data.Dataset):
    """Batches of stored clips by lists of clip numbers, for a DataLoader with batch_size=None."""

    def __init__(self, audio, clips: list, labels: list[list[int]], pack_for=None):
        self.audio, self.clips, self.labels, self.pack_for = audio, clips, labels, pack_for

    def __getitem__(self, numbers: list[int]) -> Batch:
        return collate(
            [self.audio[self.clips[i]] for i in numbers],
            [self.labels[i] for i in numbers],
            [self.clips[i].name for i in numbers],
            self.pack_for,
        )

    def __len__(self) -> int:
        return len(self.clips)


def load_ahead(dataset: ClipDataset, batches: list[list[int]], device: torch.device) -> Iterator[Batch]:
    """The batches of these clip numbers in turn; for a GPU they are read and pinned ahead by two processes."""
    on_gpu = device.type == "cuda"
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=2 if on_gpu else 0,
        pin_memory=on_gpu,
        generator=torch.Generator(),  # its own: reading must not draw from training's
    )
    return iter(loader)
