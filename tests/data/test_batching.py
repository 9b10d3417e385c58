"""Batches: budgets, buckets, ranks, determinism, and the padding of a Batch.

Run: pytest tests/data/test_batching.py
"""

import random

import numpy as np
import pytest
import torch

import w2v
from w2v.audio import SAMPLE_RATE, normalise
from w2v.data.batching import BatchSampler
from w2v.errors import InputError

RNG = random.Random(0)
LENGTHS = [int(RNG.uniform(1.0, 10.0) * SAMPLE_RATE) for _ in range(1000)]
COSTS = [w2v.XLSR_53.cost(length) for length in LENGTHS]


def flat(epoch):
    return [i for step in epoch for batch in step for i in batch]


def cost(batch):
    return sum(COSTS[i] for i in batch)


@pytest.mark.parametrize("size", [{"batch_seconds": 60}, {"batch_clips": 7}])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_clip_once_per_epoch_over_all_ranks(size, world):
    ranks = [BatchSampler(COSTS, **size, accumulation=2, seed=1, rank=r, world=world) for r in range(world)]
    epochs = [sampler.epoch(4) for sampler in ranks]
    assert sorted(i for epoch in epochs for i in flat(epoch)) == list(range(1000))
    assert len({sum(len(step) for step in epoch) for epoch in epochs}) == 1, "equally many micro-batches on each rank"
    assert all(len(step) == 2 for epoch in epochs for step in epoch[:-1])


@pytest.mark.parametrize("clips", range(4, 12))
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("size", [{"batch_clips": 1}, {"batch_clips": 2}, {"batch_seconds": 1.1}])
def test_no_micro_batch_is_empty(clips, world, size):
    """Batches of one clip cannot be halved: 5 clips on 2 ranks once gave a rank nothing to compute."""
    ranks = [BatchSampler([1.0] * clips, **size, rank=r, world=world).epoch(0) for r in range(world)]
    assert sorted(i for epoch in ranks for i in flat(epoch)) == list(range(clips))
    assert len({len(epoch) for epoch in ranks}) == 1
    assert all(batch for epoch in ranks for step in epoch for batch in step)


@pytest.mark.parametrize("size", [{"batch_seconds": 60}, {"batch_clips": 7}])
@pytest.mark.parametrize("began", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_other_ranks_go_on_with_the_same_steps(size, began, world):
    """A run that began with some processes goes on with others: each step has the clips that it would have had."""
    whole = [BatchSampler(COSTS, **size, accumulation=2, rank=r, world=began).epoch(3) for r in range(began)]
    other = [
        BatchSampler(COSTS, **size, accumulation=2, rank=r, world=world, processes=began).epoch(3) for r in range(world)
    ]
    assert {len(epoch) for epoch in other} == {len(whole[0])}
    for i in range(len(whole[0])):
        one, two = (sorted(clip for epoch in ranks for batch in epoch[i] for clip in batch) for ranks in (whole, other))
        assert one == two
        assert len({len(epoch[i]) for epoch in other}) == 1, "equally many micro-batches on each rank"
        assert all(batch for epoch in other for batch in epoch[i])
    if world == began:
        assert other == whole


def test_a_step_that_is_too_small_for_the_ranks_is_refused():
    with pytest.raises(InputError, match="3 processes cannot share the steps of this run, the smallest has 2 clips"):
        BatchSampler([1.0] * 8, batch_clips=2, world=3, processes=1).epoch(0)


def test_a_clip_costs_its_seconds_and_a_quadratic_term():
    assert w2v.XLSR_53.cost(SAMPLE_RATE * 6) == pytest.approx(6 * 1.1)
    assert w2v.XLSR_53.cost(SAMPLE_RATE * 60) == pytest.approx(120)


def test_the_budget_counts_what_packed_clips_cost():
    batches = [b for step in BatchSampler(COSTS, batch_seconds=60).epoch(0) for b in step]
    assert all(cost(b) <= 60 for b in batches)
    assert sum(COSTS) / (60 * len(batches)) > 0.9, "budgets are used up"
    padded = sum(max(LENGTHS[i] for i in b) * len(b) for b in batches)
    assert sum(LENGTHS) / padded > 0.97, "clips of a batch are about equally long"
    by_number = BatchSampler(COSTS, batch_clips=8).epoch(0)
    assert {len(step[0]) for step in by_number} == {8}


def test_epochs_differ_and_are_the_same_on_every_machine():
    sampler = BatchSampler(COSTS, batch_seconds=60, seed=3)
    assert sampler.epoch(0) == BatchSampler(COSTS, batch_seconds=60, seed=3).epoch(0)
    assert sampler.epoch(0) != sampler.epoch(1)
    assert sampler.epoch(0) != BatchSampler(COSTS, batch_seconds=60, seed=4).epoch(0)


def test_padded_models_pay_for_their_longest_clip():
    """One clip of 20 s among clips of 2 s: packed they fit one budget, padded every row is 20 s long."""
    lengths = [20 * SAMPLE_RATE] + [2 * SAMPLE_RATE] * 25
    costs = [w2v.BASE.cost(length) for length in lengths]
    assert w2v.BASE.pads and not w2v.XLSR_53.pads
    packed = BatchSampler(costs, batch_seconds=85)
    padded = BatchSampler(costs, batch_seconds=85, pads=True)
    assert len(packed.worst_batch()) > 20
    for batch in [padded.worst_batch(), *(b for step in padded.epoch(0) for b in step)]:
        assert len(batch) * max(costs[i] for i in batch) <= 85
    assert sorted(i for step in padded.epoch(0) for b in step for i in b) == list(range(26))


def test_worst_batch_costs_most():
    sampler = BatchSampler(COSTS, batch_seconds=60)
    assert cost(sampler.worst_batch()) >= max(cost(b) for step in sampler.epoch(0) for b in step)
    by_number = BatchSampler(COSTS, batch_clips=3)
    assert sorted(by_number.worst_batch()) == sorted(sorted(range(1000), key=lambda i: -COSTS[i])[:3])


def test_refusals():
    with pytest.raises(InputError, match="longest clip"):
        BatchSampler([30.0], batch_seconds=20)
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


@pytest.mark.parametrize("size", [{"batch_seconds": 60}, {"batch_clips": 7}])
@pytest.mark.parametrize("world", [1, 3])
def test_clips_come_as_often_as_they_should(size, world):
    """A clip of 2.3 twice or three times, clips of one kind together as often as that, and none twice in a batch."""
    times = [1.0] * 700 + [2.3] * 200 + [5.0] * 100
    ranks = [BatchSampler(COSTS, **size, seed=1, rank=r, world=world, times=times) for r in range(world)]
    counts = []
    for number in range(2):
        drawn = [i for sampler in ranks for i in flat(sampler.epoch(number))]
        counts.append([drawn.count(i) for i in range(1000)])
        assert set(counts[-1][:700]) == {1}
        assert set(counts[-1][700:900]) == {2, 3}
        assert sum(counts[-1][700:900]) == pytest.approx(460, abs=1)
        assert set(counts[-1][900:]) == {5}
        batches = [batch for sampler in ranks for step in sampler.epoch(number) for batch in step]
        assert all(len(set(batch)) == len(batch) for batch in batches)
        assert len({len(sampler.epoch(number)) for sampler in ranks}) == 1
    assert counts[0] != counts[1], "another epoch draws others once more"
    again = BatchSampler(COSTS, **size, seed=1, world=world, times=times)
    assert again.epoch(1) == ranks[0].epoch(1)


def test_a_small_language_is_spread_over_an_epochs_batches():
    times = [1.0] * 990 + [20.0] * 10
    batches = [batch for step in BatchSampler([1.0] * 1000, batch_clips=10, times=times).epoch(0) for batch in step]
    with_small = sum(any(i >= 990 for i in batch) for batch in batches)
    assert with_small > 0.6 * len(batches)


@pytest.mark.parametrize("times", [None, [1.0] * 900 + [3.0] * 100])
def test_the_first_epoch_may_have_some_of_the_clips(times):
    begin = list(range(850, 950))
    sampler = BatchSampler(COSTS, batch_seconds=60, seed=1, times=times, begin=begin)
    assert sorted(flat(sampler.epoch(0))) == begin
    assert sampler.epoch(1) == BatchSampler(COSTS, batch_seconds=60, seed=1, times=times).epoch(1)
    longer = BatchSampler(COSTS, batch_seconds=60, seed=1, times=times, begin=begin, begin_epochs=2)
    assert sorted(flat(longer.epoch(1))) == begin != sorted(flat(longer.epoch(2)))
    ranks = [BatchSampler(COSTS, batch_seconds=60, seed=1, rank=r, world=3, begin=begin) for r in range(3)]
    assert sorted(i for rank in ranks for i in flat(rank.epoch(0))) == begin
    with pytest.raises(InputError, match=r"at least 3 clips, got 2 in the first epochs"):
        BatchSampler(COSTS, batch_seconds=60, world=3, begin=[1, 2])


def test_without_repetition_an_epoch_is_what_it_was():
    plain = BatchSampler(COSTS, batch_seconds=60, seed=1)
    assert sorted(flat(BatchSampler(COSTS, batch_seconds=60, seed=1, times=[1.0] * 1000).epoch(0))) == list(range(1000))
    assert plain.epoch(0)[0] == [[14, 72, 427, 63, 928, 924, 157, 612]]
