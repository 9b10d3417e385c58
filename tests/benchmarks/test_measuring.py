"""Warming up, steps back to back, and what a machine can do.

Run: pytest tests/benchmarks/test_measuring.py
"""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks import measuring
from benchmarks.common import covered, memory_rate
from benchmarks.speech import Speech

CPU = torch.device("cpu")


def test_a_gpu_warms_up_on_one_batch_of_each_kind_of_graph():
    speech, noise = Speech(), np.random.default_rng(0)
    for durations in ([1.0, 0.9], [1.1, 1.0], [2.0], [1.0, 1.0], [1.2, 0.8], [5.4, 5.0], [0.5]):
        speech.add_batch(durations, noise)
    first = [speech.batches[i] for i in (0, 2, 3, 5, 6)]  # padded, alone, unpadded, of 64 labels, alone of 6 labels
    assert measuring.warm_up_batches(speech.batches, speech, torch.device("cuda")) == first
    assert measuring.warm_up_batches(speech.batches, speech, CPU) == speech.batches[:1]


def test_a_warm_up_takes_its_own_batches_without_dropping_layers(monkeypatch):
    """So that no measured step finds a graph missing; the order of reading is that of all steps to come."""
    speech, noise, taken = Speech(), np.random.default_rng(0), []
    for durations in ([1.0, 0.9], [1.1, 1.0], [2.0]):
        speech.add_batch(durations, noise)
    column = mock.Mock(batches=speech.batches, records=[])
    monkeypatch.setattr(measuring, "take_step", lambda *args, **how: taken.append((args[1:3], how)))
    work = mock.Mock(speech=speech)
    assert measuring.warm_up([column], work, torch.device("cuda")) == {}
    assert taken == [((0, [0, 1]), {"drops": False}), ((1, [4]), {"drops": False})]
    order, _ = column.load.call_args.args
    assert order == [[0, 1], [4], *speech.batches, *speech.batches, *[[0, 1]] * measuring.AFTERWARDS]


def test_a_peer_that_fails_leaves_and_ours_does_not(monkeypatch):
    speech = Speech()
    speech.add_batch([1.0], np.random.default_rng(0))
    ours, theirs = mock.Mock(batches=speech.batches), mock.Mock(batches=speech.batches)
    work = mock.Mock(speech=speech)
    work.subject.model = ours.model
    columns, fails = [ours, theirs], {theirs}

    def take(column, *_, **__):
        if column in fails:
            raise RuntimeError("no kernel\nand more")

    monkeypatch.setattr(measuring, "take_step", take)
    theirs.name = "transformers"
    assert measuring.warm_up(columns, work, CPU) == {"transformers": "no kernel"}
    assert columns == [ours]
    fails.add(ours)
    with pytest.raises(RuntimeError, match="no kernel"):
        measuring.warm_up(columns, work, CPU)


def test_steps_back_to_back_are_all_taken_and_divided_by_their_number(monkeypatch):
    taken, clock = [], itertools.count(5.0, 2.0)
    column = mock.Mock(step=lambda inputs, number, clock: taken.append(number), loader=iter([{}] * 4))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(measuring, "StageClock", lambda device: None)  # it reads the same clock
    assert measuring.ms_back_to_back(column, 4, CPU) == 500.0  # 2 s over 4 steps
    assert taken == [0, 1, 2, 3]


def test_the_memory_rate_counts_what_is_read_and_what_is_written(monkeypatch):
    monkeypatch.setattr("benchmarks.common.COPIED", {"cpu": 4000})
    clock = itertools.count(0.0, 1.0)  # each look at it takes a second
    monkeypatch.setattr("benchmarks.common.time.perf_counter", lambda: next(clock))
    assert memory_rate(CPU) == 8000.0


def test_overlapping_intervals_count_once():
    assert covered([(3, 4), (0, 2), (1, 2.5), (1.2, 1.4), (4, 5)]) == 4.5
    assert covered([]) == 0
