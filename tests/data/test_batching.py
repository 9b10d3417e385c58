"""Batches: budgets, buckets, ranks, determinism, and the padding of a Batch.

Run: pytest tests/data/test_batching.py
"""

import random

import numpy as np
import pytest
import torch

import w2v
from w2v.audio import SAMPLE_RATE, normalise
from w2v.data.batching import BatchSampler, batch_cost
from w2v.errors import InputError

RNG = random.Random(0)
LENGTHS = [int(RNG.uniform(1.0, 10.0) * SAMPLE_RATE) for _ in range(1000)]


def flat(epoch):
    return [i for step in epoch for batch in step for i in batch]


@pytest.mark.parametrize("size", [{"batch_seconds": 60}, {"batch_clips": 7}])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_clip_once_per_epoch_over_all_ranks(size, world):
    ranks = [BatchSampler(LENGTHS, **size, accumulation=2, seed=1, rank=r, world=world) for r in range(world)]
    epochs = [sampler.epoch(4) for sampler in ranks]
    assert sorted(i for epoch in epochs for i in flat(epoch)) == list(range(1000))
    assert len({sum(len(step) for step in epoch) for epoch in epochs}) == 1, "equally many micro-batches on each rank"
    assert all(len(step) == 2 for epoch in epochs for step in epoch[:-1])


def test_seconds_budget_holds_and_padding_is_small():
    batches = [b for step in BatchSampler(LENGTHS, batch_seconds=60).epoch(0) for b in step]
    padded = sum(max(LENGTHS[i] for i in b) * len(b) for b in batches)
    for b in batches:
        assert batch_cost(max(LENGTHS[i] for i in b) / SAMPLE_RATE, len(b)) <= 60
    assert sum(LENGTHS) / padded > 0.97
    unsorted = BatchSampler(LENGTHS, batch_clips=8).epoch(0)
    assert len({len(step[0]) for step in unsorted[:-1]}) <= 2


def test_epochs_differ_and_are_the_same_on_every_machine():
    sampler = BatchSampler(LENGTHS, batch_seconds=60, seed=3)
    assert sampler.epoch(0) == BatchSampler(LENGTHS, batch_seconds=60, seed=3).epoch(0)
    assert sampler.epoch(0) != sampler.epoch(1)
    assert sampler.epoch(0) != BatchSampler(LENGTHS, batch_seconds=60, seed=4).epoch(0)


def test_worst_batch_costs_most():
    sampler = BatchSampler(LENGTHS, batch_seconds=60)
    cost = max(batch_cost(max(LENGTHS[i] for i in b) / SAMPLE_RATE, len(b)) for s in sampler.epoch(0) for b in s)
    worst = sampler.worst_batch()
    assert batch_cost(max(LENGTHS[i] for i in worst) / SAMPLE_RATE, len(worst)) >= cost - 1e-9


def test_refusals():
    with pytest.raises(InputError, match="longest clip"):
        BatchSampler([SAMPLE_RATE * 30], batch_seconds=20)
    with pytest.raises(InputError, match="at least 3 clips"):
        BatchSampler([100, 100], batch_clips=1, world=3)
    with pytest.raises(InputError, match="either"):
        BatchSampler([100])


def test_collate_normalises_each_clip_over_its_own_samples():
    rng = np.random.default_rng(0)
    waveforms = [(rng.normal(100, 2000, n)).astype(np.int16) for n in (5000, 3000)]
    batch = w2v.TINY.collate(waveforms, [[1, 2], [3]], ["a", "b"], pad=True)
    assert batch.inputs.shape == (2, 5000)
    np.testing.assert_allclose(batch.inputs[1, :3000], normalise(waveforms[1] / np.float32(32768)), atol=1e-5)
    assert (batch.inputs[1, 3000:] == 0).all()
    assert batch.labels.tolist() == [[1, 2], [3, 0]]
    assert batch.samples == [5000, 3000]
    assert torch.equal(batch.to("cpu").inputs, batch.inputs)
