"""Recordings of any length: chunks, the join of their frames, phrases and their times.

Run: pytest tests/decoding/test_longform.py
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import w2v
from w2v.audio import SAMPLE_RATE
from w2v.decoding import longform
from w2v.decoding.longform import Joiner, cut_into_chunks
from w2v.hearing import core_frames

HOP = w2v.TINY.hop


class Deaf(nn.Module):
    """Attention that hears nothing: a layer then sees under a second to either side, through the positions."""

    def forward(self, hidden, *_, **__):
        return torch.zeros_like(hidden)


@pytest.fixture(scope="module")
def local_model() -> w2v.Wav2Vec2ForCTC:
    torch.manual_seed(0)
    config = dataclasses.replace(w2v.TINY, do_normalize=False, vocab_size=8, pad_token_id=0, num_hidden_layers=2)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    for layer in model.wav2vec2.encoder.layers:
        layer.attention = Deaf()
    return model


@pytest.fixture(scope="module")
def speech(clips) -> np.ndarray:
    """Two minutes of speech without pauses to speak of."""
    waveform = np.concatenate([w2v.read_audio(clip) for clip in clips[:40]])[: 120 * SAMPLE_RATE + 77]
    return waveform


def in_blocks(waveform: np.ndarray, size: int):
    return (waveform[i : i + size] for i in range(0, len(waveform), size))


@pytest.mark.parametrize("size", [16_000, 100_000, 10_000_000])
def test_cores_cover_the_recording_once_whatever_the_blocks(speech, size):
    chunks = list(cut_into_chunks(in_blocks(speech, size), HOP))
    assert chunks[0].core_start == 0
    assert chunks[-1].core_end == len(speech)
    for chunk, following in itertools.pairwise(chunks):
        assert chunk.core_end == following.core_start
        assert chunk.core_end % HOP == 0
    for chunk in chunks:
        stop = chunk.start + len(chunk.samples)
        np.testing.assert_array_equal(chunk.samples, speech[chunk.start : stop])
        assert len(chunk.samples) <= (longform.CORE_SECONDS + 2 * longform.CONTEXT_SECONDS) * SAMPLE_RATE
        before, after = chunk.core_start - chunk.start, stop - chunk.core_end
        assert before == min(chunk.core_start, longform.CONTEXT_SECONDS * SAMPLE_RATE)
        assert after == 0 if chunk is chunks[-1] else after == longform.CONTEXT_SECONDS * SAMPLE_RATE
    assert [c.core_end for c in chunks] == [c.core_end for c in cut_into_chunks([speech], HOP)]


def test_a_core_ends_in_the_quietest_place():
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32)
    noise[int(17.0 * SAMPLE_RATE) : int(17.4 * SAMPLE_RATE)] *= 0.01
    first = next(cut_into_chunks([noise], HOP))
    assert first.core_end / SAMPLE_RATE == pytest.approx(17.2, abs=0.12)


def test_the_joined_frames_of_a_local_model_are_those_of_the_whole_recording(local_model, speech):
    with torch.no_grad():
        whole = local_model(torch.from_numpy(speech)[None]).logits[0].log_softmax(-1)
    chunks = list(cut_into_chunks(in_blocks(speech, 50_000), HOP))
    joined = torch.cat(core_frames(local_model, chunks, "fp32"))
    assert len(chunks) > 4
    assert joined.shape == whole.shape
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=0)


TOKENIZER = w2v.CharTokenizer({"[PAD]": 0, "|": 1, "a": 2, "b": 3})


def frames_of(path: str) -> torch.Tensor:
    """One-hot log-probabilities of a path in `_|ab`."""
    return torch.eye(4)[["_|ab".index(token) for token in path]].mul(20).log_softmax(-1)


def phrases_of(path: str, sizes: int) -> list[tuple[str, int, tuple[int, int]]]:
    joiner, found = Joiner(TOKENIZER, HOP), []
    frames = frames_of(path)
    for i in range(0, len(frames), sizes):
        found += joiner.add(frames[i : i + sizes])
    found += joiner.end()
    return [(TOKENIZER.decode(p.log_probs.argmax(-1).tolist()), p.start, p.letters) for p in found]


PAUSE = "_" * 30  # 1.2 s


@pytest.mark.parametrize("sizes", [1, 7, 1000])
def test_phrases_end_in_pauses_between_words(sizes):
    path = "ab|a" + PAUSE + "|" + PAUSE + "b_a" + PAUSE + "a"  # the second pause is inside a word
    assert phrases_of(path, sizes) == [("ab a", 0, (0, 4)), ("baa", 34, (65, 99))]


def test_a_phrase_without_pauses_ends_at_its_longest_one():
    words = "ab|" * 450 + "___" + "ab|" * 450  # 54 s and 54 s
    texts = [text for text, _, _ in phrases_of(words, 1000)]
    assert texts == [" ".join(["ab"] * 450)] * 2


def test_a_phrase_before_minutes_without_a_letter_is_not_cut_in_its_words():
    minutes = "_" * 4000  # noise that is no speech: a stretch of 160 s
    for sizes in (7, 10_000):
        found = phrases_of("ab|ab" + minutes + "ba" + minutes, sizes)
        assert [(text, letters) for text, _, letters in found] == [("ab ab", (0, 5)), ("ba", (4005, 4007))]


def test_texts_do_not_depend_on_how_the_frames_come(clips):
    rng = np.random.default_rng(0)
    path = "".join(rng.choice(["a", "b", "|", "___", PAUSE], 2000, p=[0.3, 0.3, 0.2, 0.15, 0.05]))
    whole = TOKENIZER.decode(frames_of(path).argmax(-1).tolist())
    for sizes in (1, 50, 100_000):
        # A space, a blank and a space are two spaces; between two phrases there is one.
        assert " ".join(text for text, _, _ in phrases_of(path, sizes)).split() == whole.split()
