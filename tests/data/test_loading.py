"""Loading: what becomes of a clip follows from seed, epoch and clip, whoever reads it, and stays within its batch.

Run: pytest tests/data/test_loading.py
"""

import contextlib
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from conftest import SAMPLE

import w2v
from w2v.augmentation import Augmentation, samples_at
from w2v.data.corpus import read_corpus
from w2v.data.loading import ClipDataset, StoredClips, copied_beside, load_ahead
from w2v.data.store import build_store

SPEEDS = (0.9, 1.0, 1.1)
NUMBERS = [[0, 3, 5], [4], [1, 2]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ClipDataset:
    clips = read_corpus([SAMPLE], "tr", tmp_path_factory.mktemp("tables")).tables["validated"][:6]
    audio = build_store(clips, tmp_path_factory.mktemp("cache"), 1)
    how = Augmentation(speeds=SPEEDS, gain_db=6.0, noise=0.7, rooms=0.5, voices=StoredClips(audio, clips))
    return ClipDataset(w2v.TINY.collate, audio, clips, [[1, 2, 3]] * 6, how, w2v.TINY.why_not, seed=42)


def equal(one, other) -> bool:
    return torch.equal(one.inputs, other.inputs) and (one.samples, one.names) == (other.samples, other.names)


def in_processes(dataset: ClipDataset, numbers: list[list[int]], workers: int) -> list:
    return list(torch.utils.data.DataLoader(dataset, batch_size=None, sampler=numbers, num_workers=workers))


def test_the_number_of_processes_changes_no_bit(dataset):
    epoch = dataset.in_epoch(3)
    here = [epoch[numbers] for numbers in NUMBERS]
    for workers in (0, 1, 2):
        assert all(map(equal, here, in_processes(epoch, NUMBERS, workers))), workers
    assert not equal(here[0], dataset[NUMBERS[0]])  # it was augmented


def test_an_epoch_that_goes_on_hears_the_same(dataset):
    """From the pickle too, and with clips in other batches, as other ranks would have them."""
    epoch = dataset.in_epoch(1)
    rest = in_processes(pickle.loads(pickle.dumps(epoch)), NUMBERS[1:], 1)
    assert all(map(equal, rest, (epoch[numbers] for numbers in NUMBERS[1:])))
    alone = epoch[[3]]
    assert torch.equal(alone.inputs[0], epoch[[3, 0]].inputs[0, : alone.samples[0]])


def test_each_epoch_clip_and_seed_hears_another_version(dataset):
    def heard(seed: int, epoch: int) -> torch.Tensor:
        other = ClipDataset(
            dataset.collate, dataset.audio, dataset.clips, dataset.labels, dataset.augmentation, seed=seed
        )
        return other.in_epoch(epoch)[[0]].inputs

    first = heard(42, 0)
    assert torch.equal(first, heard(42, 0))
    for other in (heard(42, 1), heard(43, 0)):
        assert first.shape != other.shape or not torch.allclose(first, other, atol=1e-3)
    twice = ClipDataset(
        dataset.collate, dataset.audio, [dataset.clips[0]] * 8, [[1]] * 8, dataset.augmentation, seed=42
    )
    assert len({tuple(twice.in_epoch(0)[[i]].inputs[0, :100].tolist()) for i in range(8)}) == 8


def test_without_an_epoch_or_an_augmentation_clips_are_as_they_are(dataset):
    plain = ClipDataset(dataset.collate, dataset.audio, dataset.clips, dataset.labels)
    for numbers in NUMBERS:
        assert equal(dataset[numbers], plain[numbers])
        assert equal(plain.in_epoch(5)[numbers], plain[numbers])
        assert equal(plain.longest(numbers), plain[numbers])
    assert len(plain) == 6


def test_the_longest_batch_bounds_every_epoch(dataset):
    longest = dataset.longest(NUMBERS[0]).samples
    samples = [len(dataset.audio[dataset.clips[i]]) for i in NUMBERS[0]]
    assert longest == [samples_at(n, 0.9) for n in samples]
    seen = {tuple(dataset.in_epoch(number)[NUMBERS[0]].samples) for number in range(30)}
    assert {n for some in seen for n in some} == {samples_at(n, speed) for n in samples for speed in SPEEDS}


def test_a_model_never_gets_a_clip_that_it_could_not_learn_from(dataset):
    """Labels that just fit: no epoch is faster. A window that just fits: none is slower."""
    samples = len(dataset.audio[dataset.clips[0]])
    frames = w2v.TINY.frames(samples)
    labels = [1 + i % 2 for i in range(frames)]
    assert w2v.TINY.why_not(samples, labels) is None
    full = ClipDataset(
        dataset.collate, dataset.audio, dataset.clips[:1], [labels], dataset.augmentation, w2v.TINY.why_not
    )
    lengths = {full.in_epoch(number)[[0]].samples[0] for number in range(30)}
    assert lengths == {samples, samples_at(samples, 0.9)}

    def too_long(n: int, labels: list[int]) -> str | None:
        return "too long" if n > samples else None

    short = ClipDataset(dataset.collate, dataset.audio, dataset.clips[:1], [[1]], dataset.augmentation, too_long)
    lengths = {short.in_epoch(number)[[0]].samples[0] for number in range(30)}
    assert lengths == {samples, samples_at(samples, 1.1)}
    assert short.longest([0]).samples == [samples]


def test_clips_may_all_have_one_speed(dataset):
    how = dataclasses.replace(dataset.augmentation, speeds=(1.1,), noise=0.0, rooms=0.0)
    fast = ClipDataset(dataset.collate, dataset.audio, dataset.clips, dataset.labels, how)
    samples = len(dataset.audio[dataset.clips[0]])
    assert fast.in_epoch(0)[[0]].samples == [samples_at(samples, 1.1)]
    assert fast.longest([0]).samples == [samples_at(samples, 1.1)]


def test_a_pickle_of_stored_clips_holds_no_audio(dataset):
    sent = pickle.dumps(dataset)
    assert len(sent) < 10_000
    voices = pickle.loads(sent).augmentation.voices
    assert len(voices) == 6
    assert np.array_equal(voices[2], dataset.audio[dataset.clips[2]])


def test_a_gpu_gets_its_batches_from_a_stream_of_their_own(dataset, monkeypatch):
    """What is said to CUDA, in turn: copy there, let the work wait for it, keep the memory until the work is done."""
    said: list[str] = []

    class Stream(str):
        def wait_stream(self, other: str) -> None:
            said.append(f"{self} waits for {other}")

    @contextlib.contextmanager
    def on(stream: str):
        said.append(f"on {stream}")
        yield
        said.append(f"off {stream}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computing"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: said.append(f"kept for {stream}"))
    here = [dataset[numbers] for numbers in NUMBERS]
    assert all(map(equal, copied_beside(here, torch.device("cpu")), here))
    kept = said.count("kept for computing") // len(NUMBERS)
    assert kept >= 3  # inputs, labels and their lengths
    assert said == ["on copying", "off copying", "computing waits for copying", *["kept for computing"] * kept] * 3


def test_only_the_way_to_a_gpu_does_not_wait(dataset, monkeypatch):
    """On the way back the host would read memory that the copy has not reached: seen on a GPU."""
    batch = dataset[NUMBERS[0]]
    said: list[tuple[str, bool]] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: said.append((device, non_blocking)) or x)
    batch.to("cpu")
    assert set(said) == {("cpu", False)}
    said.clear()
    batch.to("cuda:0")
    assert set(said) == {("cuda:0", True)}


@pytest.mark.cuda
def test_a_copied_batch_is_the_one_that_was_read(dataset):
    device = torch.device("cuda", torch.cuda.current_device())
    for moved, numbers in zip(load_ahead(dataset, NUMBERS, device), NUMBERS, strict=True):
        torch.cuda._sleep(10_000_000)  # the next copy has time to overwrite this one's memory
        assert moved.inputs.device == device and equal(moved.to("cpu"), dataset[numbers])
