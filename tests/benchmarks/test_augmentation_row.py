"""The row of augmentation: its figure for each part, and its exit code.

Run: pytest tests/benchmarks/test_augmentation_row.py
"""

import json
import sys

import pytest

from benchmarks import augmentation
from recipes.augmenting import PARTS


@pytest.mark.parametrize(("least", "code"), [(1, 0), (10**9, 1)])
def test_the_row_says_whether_it_holds(least, code, monkeypatch, capsys):
    monkeypatch.setattr(augmentation, "LEAST", least)
    monkeypatch.setattr(sys, "argv", ["augmentation", "--repeats", "1"])
    assert augmentation.main() == code
    printed = capsys.readouterr()
    summary = json.loads(printed.out.splitlines()[-1])
    assert summary["clips"] == 100 and summary["met"] == (code == 0)
    assert all(any(name.startswith(part) for name in summary["real_time"]) for part in PARTS)
    assert ("MISSED" in printed.err) == (code == 1)
