"""The rows of benchmarks.text: what they count, and the cheap ones end to end.

Run: pytest tests/benchmarks/test_text_rows.py          (the rows themselves: add -m slow)
"""

import pytest

from benchmarks import text
from w2v.answers import Word
from w2v.errors import InputError


def test_violations_are_counted():
    def times(*spans):
        return [Word("a", start, end, 1.0) for start, end in spans]

    assert text.violations(times((0, 1), (1, 2)), 2.0) == 0
    assert text.violations(times((0, 1.5), (1, 2)), 2.0) == 1
    assert text.violations(times((-0.1, 1), (1, 1), (1, 2.1)), 2.0) == 3


def test_a_word_counts_inside_its_own_clip_only():
    words = [Word("a", 0.0, 0.5, 1.0), Word("b", 1.5, 2.5, 1.0)]
    assert text.share_inside(["a", "b"], words, [(0, 16_000), (32_000, 48_000)]) == 0.5


def test_a_row_must_be_asked_for():
    with pytest.raises(InputError, match="at least one row"):
        text.main([])


@pytest.mark.slow
def test_the_cheap_rows_hold():
    rows = text.main(["--greedy", "--join"])["rows"]
    assert all(figures["holds"] for figures in rows.values())
