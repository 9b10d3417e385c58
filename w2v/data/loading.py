"""Stored clips -> Batches, in the order that a sampler gives, read ahead of the GPU."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from w2v.answers import Batch

if TYPE_CHECKING:
    from _typeshed import SupportsGetItem


class ClipDataset(torch.utils.data.Dataset):
    """Batches of stored clips by lists of clip numbers, for a DataLoader with batch_size=None.

    collate: a family's, config.collate. audio[clip] gives a clip's samples; every clip has a name.
    """

    def __init__(
        self,
        collate: Callable[..., Batch],
        audio: "SupportsGetItem[Any, np.ndarray]",
        clips: list,
        labels: list[list[int]],
    ):
        self.collate, self.audio, self.clips, self.labels = collate, audio, clips, labels

    def __getitem__(self, numbers: list[int]) -> Batch:
        return self.collate(
            [self.audio[self.clips[i]] for i in numbers],
            [self.labels[i] for i in numbers],
            [self.clips[i].name for i in numbers],
        )

    def __len__(self) -> int:
        return len(self.clips)


def load_ahead(dataset: ClipDataset, batches: Iterable[list[int]], device: torch.device) -> Iterator[Batch]:
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
