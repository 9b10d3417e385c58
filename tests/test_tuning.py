"""docs/TUNING.md is true: its presets are those of recipes/presets.py, its flags exist, and it knows every symptom.

Run: pytest tests/test_tuning.py
"""

import re

from conftest import ROOT
from test_readme import FLAGS_OF_OTHERS, flags_of_commands

from recipes import presets, sweep

PAGE = (ROOT / "docs" / "TUNING.md").read_text(encoding="utf-8")


def test_every_flag_exists():
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - FLAGS_OF_OTHERS
    assert flags and flags <= flags_of_commands()


def test_the_presets_are_named_with_their_epochs():
    for rows in presets.BY_HOURS.values():
        for _, preset in rows:
            assert re.search(f"`{preset.name}`: {preset.epochs} epochs", PAGE), preset
    assert f"`whisper-script`: {presets.WHISPER_SCRIPT.epochs} epochs" in PAGE


def test_the_rates_are_the_presets():
    table = next(line for line in PAGE.splitlines() if line.startswith("| `--lr` "))
    assert re.findall(r"[\d.]+e-\d", table) == ["3e-4", "5e-5", "1e-3", "3e-5", "4e-6"]
    rates = (
        presets.SMALL.lr,
        presets.W2V_BERT_SMALL.lr,
        presets.ADAPTER.lr,
        *map(presets.WHISPER_RATES.get, (384, 1280)),
    )
    assert rates == (3e-4, 5e-5, 1e-3, 3e-5, 4e-6)
    assert (presets.SMALL.batch_seconds, presets.SMALL.accumulation, presets.WHISPER_SMALL.batch_seconds) == (
        80,
        2,
        240,
    )


def test_every_symptom_has_its_row():
    health = (ROOT / "recipes" / "health.py").read_text(encoding="utf-8")
    names = re.findall(r'f?"([a-z][a-z -]+): [^"]*\{', health)
    assert len(names) == 8
    for name in names:
        assert f"\n| {name} | " in PAGE, name


def test_the_sweep_that_is_shown_is_one():
    """The flags are read as the command reads them."""
    for command in re.findall(r"python -m recipes\.sweep (.*?)(?<!\\)\n", PAGE, re.DOTALL):
        words = command.replace("\\\n", " ").split()
        assert len(sweep.trials_of(*sweep.own_arguments(words))) in (2, 3)
