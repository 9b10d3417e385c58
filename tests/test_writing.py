"""Recordings as windows that a model writes: in turn by its timestamps, side by side, as they are spoken.

Run: pytest tests/test_writing.py
"""

import copy
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from decoding.stub_writer import StubWriter

from w2v.answers import DecodeOptions, GenerateOptions, Word
from w2v.audio import SAMPLE_RATE, UnusableAudioError
from w2v.hearing import hear
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.writing import Phrase, split_at_timestamps

TOKENIZER = WhisperTokenizer.from_texts(["a"])
TURKISH = TOKENIZER.for_language("tr")
STAMP, END, SIZE = TOKENIZER.timestamp_begin, TOKENIZER.eos_id, len(TOKENIZER)
WINDOW = 4  # seconds


def at(seconds: float) -> int:
    return STAMP + round(seconds / 0.02)


def text(letters: str) -> list[int]:
    return TOKENIZER.encode_text(letters)


def writer(answers, seen: list | None = None, window: int = WINDOW) -> StubWriter:
    """answers(the first sample of a window) -> the tokens that are written for it. seen: gets the prompts."""

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        if TOKENIZER.sot_id not in tokens:  # in earlier text
            return torch.zeros(SIZE)
        start = len(tokens) - 1 - tokens[::-1].index(TOKENIZER.sot_id)
        has_stamps = TOKENIZER.no_timestamps_id not in tokens[start:]
        written = len(tokens) - start - len(TURKISH.prompt(has_stamps))
        if written == 0 and seen is not None:
            seen.append(tokens[:start])
        wanted = [*answers(model.windows[window], has_stamps), END]
        logits = torch.full((SIZE,), -10.0)
        logits[wanted[max(0, min(written, len(wanted) - 1))]] = 30.0
        return logits

    model = StubWriter(rule, SIZE, positions=120, window=window * SAMPLE_RATE)
    return model


def ramp(seconds: float) -> np.ndarray:
    """A recording whose samples say where they are: second / 100."""
    return (np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE / 100 + 0.001).astype(np.float32)


def second(sample: float) -> float:
    return round((sample - 0.001) * 100, 2)


def blocks(recording: np.ndarray, size: float = 1.0) -> Iterator[np.ndarray]:
    step = round(size * SAMPLE_RATE)
    yield from (recording[i : i + step] for i in range(0, len(recording), step))


def heard(model, recordings, options=None, eager=False, tokenizer=TURKISH):
    return list(hear(model, tokenizer, recordings, options=options, eager=eager))


def test_phrases_end_at_pairs_of_timestamps():
    a, b, c = text("abc")
    pairs = [at(0), a, at(1), at(1.2), b, at(3), at(3), c]
    assert split_at_timestamps(pairs, TOKENIZER, 4.0) == (
        [Phrase(pairs[:3], 0.0, 1.0), Phrase(pairs[3:6], pytest.approx(1.2), 3.0)], 3.0
    )  # fmt: skip
    ended = [at(0), a, at(1), at(1), b, at(2.5)]
    phrases, until = split_at_timestamps(ended, TOKENIZER, 4.0)
    assert [(p.start, p.end) for p in phrases] == [(0.0, 1.0), (1.0, 2.5)] and until == 4.0
    assert split_at_timestamps([at(0), a, at(2)], TOKENIZER, 4.0) == ([Phrase([at(0), a, at(2)], 0.0, 2.0)], 4.0)
    assert split_at_timestamps([a, b], TOKENIZER, 1.5) == ([Phrase([a, b], 0.0, 1.5)], 1.5)
    assert split_at_timestamps([], TOKENIZER, 4.0) == ([], 4.0)


def test_a_phrase_ends_with_the_speech_at_the_latest():
    a, b = text("ab")
    phrases, until = split_at_timestamps([at(0), a, at(1), at(1), b, at(9), at(12), a, at(20)], TOKENIZER, 4.0)
    assert [(p.start, p.end) for p in phrases] == [(0.0, 1.0), (1.0, 4.0), (4.0, 4.0)] and until == 4.0


def test_timestamps_that_nobody_asked_for_mean_nothing():
    """A model draws some at a high temperature. They stood for phrases that end before they begin."""
    model = writer(lambda first, _: [*text("a"), at(9), at(1), *text("b"), at(2), at(0.5), at(3), *text(" c")])
    (segment,) = [segment for each in heard(model, [[ramp(3)]]) for segment in each.segments]
    assert (segment.text, segment.start, segment.end) == ("ab c", 0.0, 3.0)


def test_the_next_window_begins_where_the_last_phrase_ended():
    def answers(first: float, has_stamps: bool) -> list[int]:
        assert has_stamps
        if second(first) < 5:
            return [at(0), *text("a"), at(1), at(1), *text("b"), at(2.5), at(2.5), *text("cut")]
        return [at(0), *text("z"), at(1)]

    model = writer(answers)
    news = heard(model, [blocks(ramp(10))])
    assert [second(first) for first in model.windows] == [0.0, 2.5, 5.0, 9.0]
    segments = [(s.text, round(s.start, 2), round(s.end, 2)) for each in news for s in each.segments]
    assert segments == [("a", 0, 1), ("b", 1, 2.5), ("a", 2.5, 3.5), ("b", 3.5, 5), ("z", 5, 6), ("z", 9, 10)]
    assert [each.is_over for each in news] == [False, False, False, True]
    assert news[-1].seconds == pytest.approx(10)


@pytest.mark.parametrize(
    "written", [[at(0), at(0)], [at(0), *text("x"), at(0), at(0)], [at(0), *text("x"), at(0.02), at(0.02), *text("y")]]
)
def test_a_model_that_ends_phrases_where_they_begin_does_not_hold_the_recording_up(written):
    """A window begins a second after the last one at least, and no more is lost of what is said behind a short word."""
    model = writer(lambda first, has_stamps: written)
    news = heard(model, [blocks(ramp(9))])
    windows = [second(first) for first in model.windows]
    assert all(1 <= after - before <= WINDOW for before, after in pairwise(windows)) and len(windows) <= 9
    assert news[-1].is_over and news[-1].seconds == pytest.approx(9)


def test_what_is_said_behind_a_short_word_is_heard():
    def answers(first: float, has_stamps: bool) -> list[int]:
        if second(first) == 0:
            return [at(0), *text("hm"), at(0.5), at(0.5), *text("a long phrase that the window cuts")]
        return [at(0), *text("long"), at(3)]

    model = writer(answers)
    heard(model, [blocks(ramp(6))])
    assert [second(first) for first in model.windows] == [0.0, 1.0, 5.0]


def test_windows_read_what_was_written_before_them_unless_it_was_drawn():
    seen: list = []
    heard(writer(lambda first, _: [at(0), *text("ab"), at(1)], seen), [blocks(ramp(9))])
    assert seen == [[], [TOKENIZER.prev_id, at(0), *text("ab"), at(1)],
                    [TOKENIZER.prev_id, *[at(0), *text("ab"), at(1)] * 2]]  # fmt: skip
    seen.clear()
    options = DecodeOptions(generate=GenerateOptions(temperatures=(0.9,)))
    heard(writer(lambda first, _: [at(0), *text("ab"), at(1)], seen), [blocks(ramp(9))], options)
    assert seen == [[], [], []]
    seen.clear()
    options = DecodeOptions(generate=GenerateOptions(earlier_text=False))
    heard(writer(lambda first, _: [at(0), *text("ab"), at(1)], seen), [blocks(ramp(9))], options)
    assert seen == [[], [], []]


def test_short_and_long_recordings_keep_their_order_and_errors_end_only_their_own():
    def broken() -> Iterator[np.ndarray]:
        yield ramp(1)
        raise UnusableAudioError("broken")

    def broken_later() -> Iterator[np.ndarray]:
        yield ramp(6)
        raise UnusableAudioError("cut off")

    silent = np.zeros(SAMPLE_RATE, np.float32)
    model = writer(lambda first, has_stamps: [at(0), *text("l"), at(1)] if has_stamps else text("s"))
    recordings = [[ramp(2)], [silent], blocks(ramp(9)), broken(), [], broken_later(), [ramp(3), ramp(0.5)]]
    news = heard(model, recordings)
    assert [each.number for each in news] == sorted(each.number for each in news)
    texts = ["".join(s.text for each in news for s in each.segments if each.number == i) for i in range(7)]
    assert texts == ["s", "", "lll", "s", "", "ll", "s"]
    overs = {each.number: each.error for each in news if each.is_over}
    assert sorted(overs) == list(range(7))
    assert [str(overs[i]) for i in (3, 5)] == ["broken", "cut off"] and overs[0] is None
    assert next(each.seconds for each in news if each.number == 6) == pytest.approx(3.5)


def test_a_long_recording_is_read_as_it_is_needed():
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield ramp(1)

    news = hear(writer(lambda first, _: [at(0), *text("a"), at(1)]), TURKISH, [endless()])
    for _ in range(3):
        next(news)
    assert read <= 3 * WINDOW + 2


@pytest.mark.parametrize("options", [GenerateOptions(), GenerateOptions(chunked=True)])
def test_samples_of_16_bits_are_heard_as_loud_as_they_are(options):
    """The clips of an evaluation are whole numbers, however long they are."""
    kinds: list[np.dtype] = []
    model = writer(lambda first, has_stamps: [at(0), *text("a"), at(1)] if has_stamps else text("a"))
    keep = model.hear
    model.hear = lambda waveforms: kinds.extend(each.dtype for each in waveforms) or keep(waveforms)
    faint = np.full(6 * SAMPLE_RATE, 3, np.int16)  # -80 dB
    loud = np.full(6 * SAMPLE_RATE, 3000, np.int16)
    news = heard(model, [[faint], [loud], [loud[:SAMPLE_RATE]]], DecodeOptions(generate=options))
    assert {each.number for each in news if each.segments} == {1, 2}, "the first is silence"
    assert set(kinds) == {np.dtype(np.int16)}


def test_no_window_is_longer_than_the_model_hears():
    loud = np.random.default_rng(0).normal(0, 0.1, 11 * SAMPLE_RATE).astype(np.float32)
    sizes: list[int] = []
    model = writer(lambda first, has_stamps: text("w"))
    keep = model.hear
    model.hear = lambda waveforms: sizes.extend(map(len, waveforms)) or keep(waveforms)
    news = heard(model, [[loud]], DecodeOptions(generate=GenerateOptions(chunked=True)))
    assert max(sizes) <= WINDOW * SAMPLE_RATE and sum(sizes) == len(loud)
    segments = [s for each in news for s in each.segments]
    assert [segment.start for segment in segments] == [0.0, 4.0, 8.0] and segments[-1].end == 11.0


def test_windows_side_by_side_are_cut_at_quiet_places():
    loud = np.random.default_rng(0).normal(0, 0.1, 70 * SAMPLE_RATE).astype(np.float32)
    loud[20 * SAMPLE_RATE : 21 * SAMPLE_RATE] = 0.0
    model = writer(lambda first, has_stamps: text("w"), window=30)
    news = heard(model, [[loud]], DecodeOptions(generate=GenerateOptions(chunked=True)))
    segments = [s for each in news for s in each.segments]
    assert segments[0].start == 0.0 and 20 <= segments[0].end <= 21 and segments[-1].end == 70
    assert all(a.end == b.start for a, b in pairwise(segments))


def test_somebody_who_speaks_is_answered_at_each_pause():
    said = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    quiet = np.zeros(2 * SAMPLE_RATE, np.float32)
    news = hear(writer(lambda first, _: text("hi")), TURKISH, [blocks(np.concatenate([said, quiet] * 2))], eager=True)
    first = next(each for each in news if each.segments)
    assert first.seconds < 3 and [s.text for s in first.segments] == ["hi"]


def test_a_recording_has_one_language():
    told: list[int] = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.full((SIZE,), -10.0)
        if tokens == [TOKENIZER.sot_id]:
            logits[TOKENIZER.language_ids["tr" if model.windows[window] < 0.02 else "ka"]] = 30.0
        else:
            told.append(tokens[1])
            logits[at(1) if tokens[-1] == at(0) else at(0) if len(tokens) == 3 else END] = 30.0
        return logits

    model = StubWriter(rule, SIZE, positions=120, window=WINDOW * SAMPLE_RATE)
    heard(
        model,
        [blocks(ramp(9)), [ramp(2)]],
        DecodeOptions(generate=GenerateOptions(earlier_text=False)),
        tokenizer=TOKENIZER,
    )
    assert set(told) == {TOKENIZER.language_ids["tr"]}


def test_a_language_that_is_heard_keeps_the_task():
    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.full((SIZE,), -10.0)
        logits[TOKENIZER.language_ids["tr"] if tokens == [TOKENIZER.sot_id] else END] = 30.0
        asked.append(tokens)
        return logits

    asked: list[list[int]] = []
    translating = copy.copy(TOKENIZER)
    translating.task = "translate"
    heard(StubWriter(rule, SIZE, positions=120, window=WINDOW * SAMPLE_RATE), [[ramp(2)]], tokenizer=translating)
    assert max(asked, key=len)[2] == TOKENIZER.translate_id


def test_a_recording_whose_windows_stand_side_by_side_has_one_language_too():
    told: list[int] = []

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.full((SIZE,), -10.0)
        if tokens == [TOKENIZER.sot_id]:  # each window sounds like another language
            logits[TOKENIZER.language_ids[("tr", "ka", "en", "de", "fr", "it")[window]]] = 30.0
        elif len(tokens) == 4:
            told.append(tokens[1])
            logits[text("a")[0]] = 30.0
        else:
            logits[END] = 30.0
        return logits

    model = StubWriter(rule, SIZE, positions=120, window=WINDOW * SAMPLE_RATE)
    options = DecodeOptions(generate=GenerateOptions(chunked=True))
    heard(model, [[ramp(10)], [ramp(2)]], options, tokenizer=TOKENIZER)
    assert len(model.windows) == 4 and len(set(told[:3])) == 1 and told[3] != told[0]


def test_nothing_is_written_where_the_model_hears_no_speech():
    """It is unsure of its text, and says that there is no speech: openai/whisper leaves such windows out."""
    silence = 0.9

    def rule(window: int, tokens: list[int]) -> torch.Tensor:
        logits = torch.zeros(SIZE)
        if tokens[-1] == TOKENIZER.sot_id:
            logits[TOKENIZER.no_speech_id] = np.log(silence / (1 - silence) * (SIZE - 1))
        logits[at(0)] = 0.1 if TOKENIZER.no_timestamps_id not in tokens else 0.0
        logits[text("x")[0] if tokens[-1] != text("x")[0] else END] = 0.1
        return logits

    model = StubWriter(rule, SIZE, positions=120, window=WINDOW * SAMPLE_RATE)
    recordings = [[ramp(2)], [ramp(9)]]
    news = heard(model, recordings)
    assert not any(each.segments for each in news) and len(model.windows) == 1 + 3
    silence = 0.3
    assert all(any(each.segments for each in heard(model, [given])) for given in recordings)


def test_silent_windows_are_not_heard_and_time_goes_on():
    recording = ramp(13)
    recording[4 * SAMPLE_RATE : 8 * SAMPLE_RATE] = 0.0
    for number in (1, 32767):
        model = writer(lambda first, has_stamps: [at(0), *text("a"), at(1)])
        kind = np.float32 if number == 1 else np.int16
        news = heard(model, [blocks((recording * number).astype(kind))])
        assert [second(first / number) for first in model.windows] == [0.0, 8.0, 12.0]
        starts = [segment.start for each in news for segment in each.segments]
        assert starts == [0.0, 8.0, 12.0] and [each.seconds for each in news] == [4.0, 8.0, 12.0, 13.0]


def test_words_lie_in_the_phrases_that_they_are_said_in(monkeypatch):
    """Their times come from where tokens look, the phrases' from timestamps: the middle of a word decides."""
    asked: list[tuple[list[int], int]] = []
    said = [Word("a", 0.1, 0.4, 1.0), Word("b", 0.6, 1.1, 0.5), Word("c", 1.2, 2.0, 0.9)]

    def times(model, window, tokens, tokenizer, samples):
        asked.append((tokens, samples))
        return said

    monkeypatch.setattr("w2v.writing.word_times", times)
    written = [at(0), *text("a b"), at(1), at(1), *text("c"), at(2), at(2), *text("cut")]
    model = writer(lambda first, has_stamps: written if second(first) < 6 else [])
    options = DecodeOptions(words=True, generate=GenerateOptions(earlier_text=False))
    news = heard(model, [blocks(ramp(9))], options)
    assert asked[0] == (written[:-4], WINDOW * SAMPLE_RATE), "what was cut off has no times"
    one, two, three, *_ = [segment for each in news for segment in each.segments]
    assert (one.text, [word.text for word in one.words]) == ("a b", ["a", "b"])
    assert (two.text, two.words) == ("c", [said[2]])
    assert (one.start, one.end, two.start, two.end) == (0.1, 1.1, 1.2, 2.0), "those of the words"
    assert three.words == [Word("a", 2.1, 2.4, 1.0), Word("b", 2.6, 3.1, 0.5)], "counted from the recording's start"


def test_phrases_without_text_have_no_words(monkeypatch):
    said = [Word("a", 0.1, 0.4, 1.0), Word("b", 2.6, 3.1, 0.5)]
    monkeypatch.setattr("w2v.writing.word_times", lambda *_: said)
    written = [at(0), *text(" "), at(1), at(1), *text("a"), at(2), at(2), *text("b"), at(3.5)]
    options = DecodeOptions(words=True, generate=GenerateOptions(timestamps=True))
    (news, _) = heard(writer(lambda first, _: written), [[ramp(4)]], options)
    assert [(s.text, [word.text for word in s.words]) for s in news.segments] == [("a", ["a"]), ("b", ["b"])]


def test_a_model_in_training_goes_on_training():
    modes: list[bool] = []

    class Trained(StubWriter):
        def eval(self):
            return self.train(False)

        def train(self, mode: bool = True):
            self.training = mode
            modes.append(mode)
            return self

    model = Trained(lambda window, tokens: torch.eye(SIZE)[END], SIZE, window=WINDOW * SAMPLE_RATE)
    model.training = True
    heard(model, [[ramp(1)], blocks(ramp(9))])
    assert modes == [False, True]


def test_several_pools_of_windows_keep_the_order():
    lengths = np.random.default_rng(0).uniform(0.2, 3.9, 150)
    model = writer(lambda first, has_stamps: text("abcdefgh"[round(second(first) * 2) :]))
    recordings = [[ramp(8.5)[round(skipped * SAMPLE_RATE) :][: round(length * SAMPLE_RATE)]]
                  for skipped, length in zip(np.arange(150) % 8 / 2, lengths, strict=True)]  # fmt: skip
    recordings[70:70] = [blocks(ramp(9))]
    news = heard(model, recordings)
    texts = ["".join(s.text for each in news if each.number == i for s in each.segments) for i in range(151)]
    assert [each.number for each in news if each.is_over] == list(range(151))
    assert texts[:70] + texts[71:] == ["abcdefgh"[i % 8 :] for i in range(150)]
    seconds = [each.seconds for each in news if each.is_over]
    assert seconds[:70] + seconds[71:] == pytest.approx(list(lengths), abs=1e-3)
