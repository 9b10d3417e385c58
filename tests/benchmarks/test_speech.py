"""Clips of noise, their batches and their labels.

Run: pytest tests/benchmarks/test_speech.py
"""

import random

import numpy as np
import pytest

from benchmarks.speech import Speech, draw_speech, group_by_length
from benchmarks.subjects import label_for, tokenizer_for
from w2v.models.families import shapes


def test_batches_are_grouped_by_length():
    rng = random.Random(1)
    durations = [rng.uniform(1, 10) for _ in range(8 * 200)]
    batches = group_by_length(durations, 8, None, rng)
    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
    for first in range(0, 200, 50):  # mega-batches, each from long to short
        in_order = [durations[i] for batch in batches[first : first + 50] for i in batch]
        assert in_order == sorted(in_order, reverse=True)

    batches = group_by_length(durations, 8, 40.0, rng)
    sizes = [sum(durations[i] for i in batch) for batch in batches]
    assert min(sizes) > 30
    assert max(sizes) <= 40
    padded = sum(len(batch) * durations[batch[0]] for batch in batches)
    assert sum(sizes) > 0.95 * padded
    assert all(len(batch) == 1 for batch in group_by_length(durations, 1, 0.5, rng)), "at least one clip"


def test_ranks_step_through_batches_alike():
    ranks = [draw_speech("common-voice", None, None, 30.0, 3, rank, 2) for rank in (0, 1)]
    for mine, others in zip(*(speech.batches for speech in ranks), strict=True):
        seconds = [sum(speech.samples(batch)) / 16_000 for speech, batch in zip(ranks, (mine, others), strict=True)]
        assert all(24 < s <= 30 for s in seconds)
        longest = [max(speech.samples(batch)) for speech, batch in zip(ranks, (mine, others), strict=True)]
        assert max(longest) < 1.2 * min(longest)
    assert not (ranks[0].audio[ranks[0].clips[0]][:1000] == ranks[1].audio[ranks[1].clips[0]][:1000]).all()
    uniform = draw_speech("uniform", 2.0, 3, None, 2)
    assert [clip.samples for clip in uniform.clips] == [32_000] * 6
    scaled = draw_speech("common-voice", 2.0, 4, None, 50)
    assert scaled.seconds / len(scaled.clips) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(("name", "prompt"), [("whisper-large-v3", 3), ("whisper-tiny.en", 1)])
def test_whisper_writes_ids_of_its_whole_vocabulary(name, prompt):
    """Labels begin with language, task and notimestamps, where there are any, and end with the end."""
    config = shapes()[name][1]
    tokenizer = tokenizer_for(name)
    config.check_vocabulary(tokenizer, "DIR")
    labels = label_for(tokenizer)(10.0, np.random.default_rng(0))
    assert labels[:prompt] == tokenizer.prompt()[1:] and labels[-1] == tokenizer.eos_id
    assert len(labels) == prompt + 30 + 1 and max(labels[prompt:-1]) < tokenizer.eos_id
    assert config.why_not(160_000, labels) is None
    text = tokenizer.decode(labels)
    assert len(text) > 30 and text.isprintable()


def test_the_same_clips_by_count():
    speech, noise = Speech(), np.random.default_rng(0)
    for durations in ([1.0] * 5, [0.5] * 9, [2.0] * 2):
        speech.add_batch(durations, noise)
    batches = speech.by_count()
    assert [len(batch) for batch in batches] == [6, 5, 5]
    assert sorted(i for batch in batches for i in batch) == list(range(16))
    assert batches == speech.by_count() != speech.by_count(seed=1)
    assert all(len(set(speech.samples(batch))) > 1 for batch in batches), "lengths are mixed"
