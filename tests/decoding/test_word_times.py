"""When words are said, by where a model looks.

Run: pytest tests/decoding/test_word_times.py
"""

import itertools

import numpy as np
import pytest
from conftest import SHARED

import w2v
from w2v.answers import Word
from w2v.decoding.word_times import _with_punctuation, warp


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


def test_marks_belong_to_the_words_beside_them():
    def words(*texts):
        return [Word(text, float(i), i + 1.0, 0.5) for i, text in enumerate(texts)]

    found = _with_punctuation(words(' "', "Merhaba", ",", " dünya", "!", '"', " (", "iyi", ")"))
    assert [word.text for word in found] == ['"Merhaba,', 'dünya!"', "(iyi)"]
    assert [word.start for word in found] == [1.0, 3.0, 7.0]
    assert _with_punctuation(words(" ", "")) == []


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
