"""Stored clips -> Batches, in the order that a sampler gives, read ahead of the GPU."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from w2v.answers import Batch
from w2v.augmentation import Augmentation, augment, change_speed, usable_speeds
from w2v.data.manifest import Clip, Skipped, Source, fingerprint_of
from w2v.data.store import Audio, build_store
from w2v.errors import InputError, show
from w2v.files import reading
from w2v.layout import map_tensors
from w2v.recordings import READ

if TYPE_CHECKING:
    from _typeshed import SupportsGetItem


class StoredClips:
    """The samples of clips by number: voices, noises or responses of rooms. Its pickle holds no audio."""

    def __init__(self, audio: "SupportsGetItem[Any, np.ndarray]", clips: list):
        self.audio, self.clips = audio, clips

    def __getitem__(self, number: int) -> np.ndarray:
        return self.audio[self.clips[number]]

    def __len__(self) -> int:
        return len(self.clips)


def stored_folder(
    folder: Path, cache: Path, workers: int, log: Callable[[str], object]
) -> tuple[Audio, list[Clip], list[Skipped]]:
    """All audio files below a folder, decoded into the store in `cache`; its usable clips, and the others.

    InputError where there is no folder, or no usable file in it. log: as build_store's.
    """
    with reading("the folder", folder):
        folder.stat()
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in READ)
    source = Source(folder.resolve(), fingerprint_of(b"recordings", str(folder.resolve()).encode("utf-8", "replace")))
    clips = [Clip(name, "", "", source) for name in names if name.isprintable()]  # as the store's index needs them
    skipped = [Skipped(show(name), "", "a name that cannot be printed") for name in names if not name.isprintable()]
    audio = build_store(clips, cache, workers, log)
    skipped += [Skipped(clip.name, "", reason) for clip, reason in audio.skipped.items()]
    usable = [clip for clip in clips if clip not in audio.skipped]
    if not usable:
        why = f"{skipped[0].name} is {skipped[0].reason}" if skipped else "it holds none"
        raise InputError(f"{folder} must hold audio files that can be read, {why}; choose another folder")
    return audio, usable, skipped


def _learnable(samples: int, label_ids: list[int]) -> None:
    """For collate alone, without a config."""


class ClipDataset(torch.utils.data.Dataset):
    """Batches of stored clips by lists of clip numbers, for a DataLoader with batch_size=None.

    collate: a family's, config.collate. audio[clip] gives a clip's samples; every clip has a name.
    allowed: which tokens the text of each clip is made of, (V,) bool each; see Batch.
    augmentation, why_not (a family's, config.why_not): what becomes of the clips in an epoch, see in_epoch. How follows
    from the seed, the epoch and the clip's number: neither from the process that reads it nor from the batch it is in.
    """

    def __init__(
        self,
        collate: Callable[..., Batch],
        audio: "SupportsGetItem[Any, np.ndarray]",
        clips: list,
        labels: list[list[int]],
        augmentation: Augmentation | None = None,
        why_not: Callable[[int, list[int]], str | None] = _learnable,
        seed: int = 0,
        allowed: Sequence[Tensor] | None = None,
    ):
        self.collate, self.audio, self.clips, self.labels = collate, audio, clips, labels
        self.augmentation, self.why_not, self.seed, self.allowed = augmentation, why_not, seed, allowed
        self.epoch: int | None = None

    def in_epoch(self, number: int) -> "ClipDataset":
        """The clips as they are heard in this epoch. Without it they are heard as they are."""
        dataset = copy.copy(self)
        dataset.epoch = number
        return dataset

    def __getitem__(self, numbers: list[int]) -> Batch:
        return self._collated(numbers, [self._heard(i) for i in numbers])

    def longest(self, numbers: list[int]) -> Batch:
        """The batch of these clips with each as long as any epoch can make it."""
        if self.augmentation is None:
            return self[numbers]
        return self._collated(numbers, [change_speed(self._samples(i), min(self._speeds(i))) for i in numbers])

    def _heard(self, i: int) -> np.ndarray:
        if self.augmentation is None or self.epoch is None:
            return self._samples(i)
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return augment(self._samples(i), self.augmentation, rng, self._speeds(i))

    def _samples(self, i: int) -> np.ndarray:
        return self.audio[self.clips[i]]

    def _speeds(self, i: int) -> list[float]:
        assert self.augmentation is not None  # who asks has looked
        return usable_speeds(self.augmentation.speeds, len(self._samples(i)), self.labels[i], self.why_not)

    def _collated(self, numbers: list[int], waveforms: list[np.ndarray]) -> Batch:
        batch = self.collate(waveforms, [self.labels[i] for i in numbers], [self.clips[i].name for i in numbers])
        if self.allowed is None:
            return batch
        return replace(batch, allowed=torch.stack([self.allowed[i] for i in numbers]))

    def __len__(self) -> int:
        return len(self.clips)


def load_ahead(dataset: ClipDataset, batches: Iterable[list[int]], device: torch.device) -> Iterator[Batch]:
    """The batches of these clip numbers in turn, read ahead; for a GPU they lie there, copied beside its work."""
    read = read_ahead(dataset, batches, device)
    return copied_beside(read, device) if device.type == "cuda" else read


def read_ahead(dataset: torch.utils.data.Dataset, batches: Iterable[list[int]], device: torch.device) -> Iterator[Any]:
    """What the dataset holds at these lists of numbers in turn; for a GPU two processes read and pin it ahead."""
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


def copied_beside(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Pinned batches -> the same on the GPU, copied by a stream of its own while the step before is computed.

    The host queues a step before the GPU has done the one before it: on the stream that computes, a copy would wait.
    """
    copying = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = batch.to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)

        def used_by(tensor: Tensor, stream: torch.cuda.Stream = computing) -> Tensor:
            tensor.record_stream(stream)  # its memory goes to no other copy before that stream is done with it
            return tensor

        yield map_tensors(moved, used_by)
