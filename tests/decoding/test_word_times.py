"""When words are said, by where a model looks.

Run: pytest tests/decoding/test_word_times.py
"""

import difflib
import itertools
import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import SHARED
from decoding.random_whisper import TURKISH, random_whisper, waveforms
from transformers import WhisperForConditionalGeneration as Theirs

import w2v
from w2v.answers import Word
from w2v.decoding.word_times import _with_punctuation, warp, word_times
from w2v.weights.whisper_generation import alignment_heads, heads_for_times


def cheapest(costs: np.ndarray) -> float:
    """By plain recursion over all cells."""
    height, width = costs.shape
    total = np.full((height + 1, width + 1), np.inf)
    total[0, 0] = 0.0
    for i, j in itertools.product(range(1, height + 1), range(1, width + 1)):
        total[i, j] = costs[i - 1, j - 1] + min(total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
    return total[-1, -1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (4, 4), (5, 30), (30, 5), (12, 40)])
@pytest.mark.parametrize("whole", [False, True])  # whole numbers have many equal paths
def test_the_path_is_a_cheapest_one(shape, whole):
    draw = np.random.default_rng(sum(shape))
    for _ in range(10):
        costs = draw.normal(size=shape)
        costs = np.round(costs) if whole else costs
        rows, columns = warp(costs)
        assert (rows[0], columns[0]) == (0, 0) and (rows[-1], columns[-1]) == (shape[0] - 1, shape[1] - 1)
        steps = set(zip(np.diff(rows), np.diff(columns), strict=True))
        assert steps <= {(0, 1), (1, 0), (1, 1)}
        assert costs[rows, columns].sum() == pytest.approx(cheapest(costs))


def test_of_equal_paths_time_goes_on_first():
    rows, columns = warp(np.zeros((3, 5)))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4),
    ]  # fmt: skip


def words_by_hand(folder, inputs, text: list[int], positions: int) -> list[tuple[float, float, float]]:
    """openai/whisper's find_alignment on transformers' attention weights -> start, end and confidence of each token."""
    theirs = Theirs.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompt = TURKISH.prompt()
    tokens = torch.tensor([[*prompt, *text, TURKISH.eos_id]])
    with torch.no_grad():
        out = theirs(input_features=inputs, decoder_input_ids=tokens, output_attentions=True)
    weights = np.stack([
        out.cross_attentions[layer][0, head, :, :positions].double().numpy()
        for layer, head in theirs.generation_config.alignment_heads
    ])  # fmt: skip
    weights /= weights.sum(-1, keepdims=True)
    weights = (weights - weights.mean(1, keepdims=True)) / weights.std(1, keepdims=True)
    mirrored = np.pad(weights, ((0, 0), (0, 0), (3, 3)), mode="reflect")
    weights = np.median(np.lib.stride_tricks.sliding_window_view(mirrored, 7, axis=2), axis=-1)
    rows, places = warp(-weights.mean(0)[len(prompt) - 1 : -1])
    jumps = [0.02 * places[list(rows).index(row)] for row in range(len(text) + 1)]
    odds = out.logits[0, len(prompt) - 1 : -2, : TURKISH.eos_id].softmax(-1)
    return [(jumps[i], jumps[i + 1], odds[i, token].item()) for i, token in enumerate(text)]


@pytest.mark.parametrize("heads", [((0, 1),), ((0, 0), (1, 1), (1, 0))])
def test_times_are_openais(tmp_path, heads):
    model = random_whisper(alignment_heads=heads)
    model.save_pretrained(tmp_path)
    batch = model.config.collate(waveforms(2))
    heard, stamp = model.hear(batch).detach(), TURKISH.timestamp_begin
    text = TURKISH.encode_text(" ab cde f")
    for row, samples in enumerate(batch.samples):
        found = word_times(model, heard[row], [stamp, *text, stamp + 40], TURKISH, samples)
        positions = model.config.frames(samples)
        by_token = words_by_hand(tmp_path, batch.inputs[row : row + 1], text, positions)
        assert [word.text for word in found] == ["ab", "cde", "f"]
        for word, (first, end) in zip(found, [(0, 3), (3, 7), (7, 9)], strict=True):
            assert (word.start, word.end) == pytest.approx((by_token[first][0], by_token[end - 1][1]))
            assert word.confidence == pytest.approx(np.mean([odds for *_, odds in by_token[first:end]]), rel=1e-4)
        assert found[-1].end <= samples / 16_000 + 0.02


def test_heads_that_are_worse_than_all_of_the_upper_half_give_no_times():
    base = [[3, 1], [4, 2], [4, 3], [4, 7], [5, 1], [5, 2], [5, 4], [5, 6]]
    upper = [[layer, head] for layer in (3, 4, 5) for head in range(8)]
    assert alignment_heads({"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "vocab_size": 51865}) == base
    assert heads_for_times(tuple(map(tuple, base)), 6, 8) == heads_for_times((), 6, 8) == upper
    assert heads_for_times(((3, 1), (4, 2)), 6, 8) == base[:2]
    model = random_whisper(alignment_heads=())
    heard, tokens = model.hear(model.config.collate(waveforms(1))).detach(), torch.tensor([[65, 66]])
    assert len(model.looks(tokens, heard)[0]) == 2  # those of the upper one of two layers


def test_a_text_that_fills_all_positions_has_times():
    model = random_whisper(max_target_positions=16)
    heard = model.hear(model.config.collate(waveforms(1))).detach()
    found = word_times(model, heard[0], [65] * 12, TURKISH, 9000)
    assert [word.text for word in found] == [TURKISH.decode([65] * 12)]
    assert word_times(model, heard[0], [TURKISH.timestamp_begin], TURKISH, 9000) == []


@pytest.mark.parametrize("samples", [0, 100, 900, 1400])  # 1 to 5 positions: fewer than are smoothed
def test_words_of_a_short_clip_lie_in_it_whatever_the_numbers_are(samples):
    model = random_whisper()
    heard = model.hear(model.config.collate(waveforms(1))).detach()
    for x in (heard[0], torch.full_like(heard[0], torch.nan)):
        found = word_times(model, x, TURKISH.encode_text("ab cde f"), TURKISH, samples)
        assert [word.text for word in found] == ["ab", "cde", "f"]
        times = [time for word in found for time in (word.start, word.end)]
        assert times == sorted(times) and times[0] >= 0.0 and times[-1] <= samples / 16_000 + 0.02
        assert all(0.0 <= word.confidence <= 1.0 for word in found)


def test_marks_belong_to_the_words_beside_them():
    def words(*texts):
        return [Word(text, float(i), i + 1.0, 0.5) for i, text in enumerate(texts)]

    found = _with_punctuation(words(' "', "Merhaba", ",", " dünya", "!", '"', " (", "iyi", ")"))
    assert [word.text for word in found] == ['"Merhaba,', 'dünya!"', "(iyi)"]
    assert [word.start for word in found] == [1.0, 3.0, 7.0]
    assert _with_punctuation(words(" ", "")) == []


@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_words_of_readings_are_said_when_pocketsphinx_hears_them(whisper_folder, name):
    folder = SHARED / "fixtures" / "pocketsphinx" / "test" / "data" / "librivox"
    if not folder.is_dir():
        pytest.skip("needs shared/fixtures")
    asr = w2v.load(whisper_folder(name), target_lang="en" if name == "base" else None)
    files = sorted(folder.glob("sense*.wav"))
    assert len(files) == 5
    differences = []
    for file, heard in zip(files, asr.transcribe(files, words=True), strict=True):
        seconds = soundfile.info(file).duration
        times = [time for word in heard.words for time in (word.start, word.end)]
        assert times == sorted(times) and times[0] >= 0.0 and times[-1] <= seconds + 0.02
        theirs = [word for word in json.loads(file.with_suffix(".json").read_text())["w"] if word["t"][0] != "<"]
        spelled = [word["t"].partition("(")[0] for word in theirs]
        texts = [word.text.strip(",.;").lower() for word in heard.words]
        for ours, other, size in difflib.SequenceMatcher(None, texts, spelled, False).get_matching_blocks():
            for i in range(size):
                word, their = heard.words[ours + i], theirs[other + i]
                differences += [word.start - their["b"], word.end - their["b"] - their["d"]]
    assert len(differences) > 2 * 50
    assert np.median(np.abs(differences)) < 0.1 and np.quantile(np.abs(differences), 0.95) < 0.4


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_words_of_a_real_recording_come_in_order(whisper_folder, name):
    file = SHARED / "fixtures" / "whisper" / "jfk.flac"
    if not file.is_file():
        pytest.skip("needs shared/fixtures")
    heard = w2v.load(whisper_folder(name)).transcribe(file, words=True)[0]
    texts = [word.text.strip(",.").lower() for word in heard.words]
    assert " ".join(texts) == (
        "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    )
    times = [(word.start, word.end) for word in heard.words]
    assert all(0 <= start <= end <= 11.01 for start, end in times)
    assert all(a[1] <= b[0] + 1e-6 for a, b in itertools.pairwise(times))
    assert all(0 < word.confidence <= 1 for word in heard.words)
