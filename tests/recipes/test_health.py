"""A run's health in words: each symptom on a made-up log that has it, and silence on healthy ones.

Run: pytest tests/recipes/test_health.py
"""

import json
from types import SimpleNamespace

import pytest
from tqdm import tqdm

import w2v
from recipes import results, telling
from recipes.health import read_history, symptoms

SETTINGS = SimpleNamespace(total_steps=1000, warmup_steps=100, lr=3e-4)


def log(losses, blanks=0.6, norms=1.0, frames=3.0) -> list[dict]:
    """A training record each 50 steps."""
    blanks, norms = (value if isinstance(value, list) else [value] * len(losses) for value in (blanks, norms))
    return [
        {"step": 50 * i, "loss": loss, "grad_norm": norm, "blank_ratio": blank, "frames_per_label": frames}
        for i, (loss, norm, blank) in enumerate(zip(losses, norms, blanks, strict=True), 1)
    ]


def dev(*cers) -> list[dict]:
    """A dev record each 200 steps."""
    return [{"step": 200 * i, "dev_wer": 1.0, "dev_cer": cer} for i, cer in enumerate(cers, 1)]


# A usual run: it starts high, waits at 3, learns, and slows down.
HEALTHY = [8.0, 3.5, 3.2, 3.1, 3.0, 2.9, 2.5, 2.0, 1.6, 1.3, 1.1, 0.95, 0.85, 0.78, 0.72, 0.68, 0.65, 0.63, 0.62, 0.61]
BLANKS = [0.5, 1.0, 1.0, 1.0, 1.0, 0.98, 0.9, 0.8, 0.7] + [0.6] * 11
HEALTHY_DEV = dev(1.0, 0.9, 0.5, 0.35, 0.33)


def test_a_healthy_run_is_silent_from_its_first_line_to_its_last():
    history = sorted(log(HEALTHY, BLANKS) + HEALTHY_DEV, key=lambda record: record["step"])
    for seen in range(len(history) + 1):
        assert symptoms(history[:seen], SETTINGS, is_over=False) == {}, seen
    assert symptoms(history, SETTINGS, is_over=True) == {}


def test_a_run_without_blank_ratio_and_without_dev_is_healthy_too():
    bare = [{name: record[name] for name in ("step", "loss", "grad_norm")} for record in log(HEALTHY)]
    assert symptoms(bare, SETTINGS, is_over=True) == {}


def test_only_blanks():
    flat = log([8.0, 3.2] + [3.0] * 18, blanks=[0.5] + [0.998] * 19)
    assert symptoms(flat[:10], SETTINGS, is_over=False) == {}  # step 500, half of the steps
    found = symptoms(flat[:11], SETTINGS, is_over=False)
    assert list(found) == ["blanks"]
    assert "99.8 % of the frames at step 550" in found["blanks"]
    assert "--lr (now 0.0003)" in found["blanks"]
    # dev, which is as bad as an empty text, is explained by it
    assert list(symptoms(flat + dev(1.0, 1.0, 1.0, 1.0, 1.0), SETTINGS, is_over=True)) == ["blanks"]
    short = SimpleNamespace(total_steps=4, warmup_steps=1, lr=1e-3)
    assert symptoms(flat[:4], short, is_over=True).keys() == {"blanks"}  # a run that is over is not waited for


def test_few_frames_per_label():
    assert symptoms(log(HEALTHY, frames=1.5), SETTINGS, is_over=False) == {}
    found = symptoms(log(HEALTHY, frames=1.3), SETTINGS, is_over=False)
    assert list(found) == ["frames"]
    assert "1.30 frames per label" in found["frames"]
    assert "--model" in found["frames"]


def test_rising_loss():
    rising = [*HEALTHY[:12], 1.0, 1.1, 1.3, 1.5]
    assert symptoms(log(rising[:14]), SETTINGS, is_over=False) == {}  # a little is noise
    found = symptoms(log(rising), SETTINGS, is_over=False)
    assert list(found) == ["rising"]
    # means of three lines: (.95 + 1 + 1.1) / 3 = 1.017, (1.1 + .95 + 1) / 3 = 1.017; (1.1 + 1.3 + 1.5) / 3 = 1.3
    assert "1.02 around step 600, 1.30 around step 750" in found["rising"]
    assert "--lr (now 0.0003)" in found["rising"]
    near_zero = [*HEALTHY[:12], 0.05, 0.04, 0.03, 0.02, 0.02, 0.06, 0.07, 0.06]
    assert "rising" not in symptoms(log(near_zero), SETTINGS, is_over=False)


def test_warmup_too_short():
    spike = [8.0, 3.5, 3.2, 5.5, 3.6, 3.3, *HEALTHY[6:]]
    assert symptoms(log(spike[:3]), SETTINGS, is_over=False) == {}
    found = symptoms(log(spike), SETTINGS, is_over=False)
    assert list(found) == ["warm-up"]
    assert "from 3.20 to 5.50 at step 200" in found["warm-up"]
    assert "--warmup-steps (now 100)" in found["warm-up"]
    burst = symptoms(log(HEALTHY, norms=[12.0, 2.0, 1.5, 1.0, 60.0] + [1.0] * 15), SETTINGS, is_over=False)
    assert list(burst) == ["warm-up"]
    assert "gradient norm jumps from 1.8 to 60 at step 250" in burst["warm-up"]  # the median of 12, 2, 1.5 and 1: 1.75
    # Three warm-ups on, a jump has other causes.
    assert symptoms(log(HEALTHY, norms=[1.0] * 6 + [60.0] + [1.0] * 13), SETTINGS, is_over=False) == {}
    none = SimpleNamespace(total_steps=1000, warmup_steps=0, lr=3e-4)
    assert symptoms(log([3.0, 9.0, *HEALTHY[2:]]), none, is_over=False).keys() == {"warm-up"}


def test_loss_that_still_falls_at_the_end():
    cut = HEALTHY[:10]
    assert symptoms(log(cut), SETTINGS, is_over=False) == {}
    found = symptoms(log(cut), SETTINGS, is_over=True)
    assert list(found) == ["falling"]
    assert "from 1.60 to 1.30, by 19 %" in found["falling"]
    assert "--epochs" in found["falling"]
    # More epochs help neither a model that has learned its clips nor one whose dev gets worse.
    assert symptoms(log([loss / 5 for loss in cut]), SETTINGS, is_over=True) == {}
    assert symptoms(log(cut) + dev(0.5, 0.6), SETTINGS, is_over=True) == {}


def test_dev_stuck():
    stuck = dev(0.9, 0.5, 0.52, 0.53, 0.55)
    assert symptoms(log(HEALTHY) + stuck[:4], SETTINGS, is_over=False) == {}  # two worse evaluations say little
    found = symptoms(log(HEALTHY) + stuck, SETTINGS, is_over=False)
    assert list(found) == ["dev"]
    assert "best at step 400, 50.0 %, and is 55.0 % at step 1000" in found["dev"]
    assert "from 2.00 to 0.61" in found["dev"]
    assert "--patience" in found["dev"]
    # Long before it writes, a model's dev CER stays at that of an empty text.
    early = log(HEALTHY) + dev(1.0, 1.0, 1.0, 1.0, 1.0)
    assert symptoms(early, SETTINGS, is_over=False) == {}
    assert "never fell below 100 %" in symptoms(early, SETTINGS, is_over=True)["dev"]


def test_references_that_the_vocabulary_cannot_spell():
    found = symptoms(log(HEALTHY), SETTINGS, is_over=True, unspellable=3, held_out=40)
    assert list(found) == ["spelling"]
    assert "3 of 40 references" in found["spelling"]
    assert "--min-char-count" in found["spelling"]


@pytest.mark.parametrize("is_over", [False, True])
def test_a_log_of_nothing(is_over, tmp_path):
    assert read_history(tmp_path / "metrics.jsonl") == []
    assert symptoms([], SETTINGS, is_over) == {}
    assert symptoms(dev(0.5), SETTINGS, is_over) == {}


def test_each_is_one_line():
    ill = log([8.0, 3.0, 6.0, *[3.0] * 8, *[9.0] * 6], blanks=1.0, frames=1.1)
    found = symptoms(ill, SETTINGS, is_over=True, unspellable=1, held_out=1)
    assert found.keys() == {"blanks", "frames", "warm-up", "rising", "spelling"}
    for line in found.values():
        assert "\n" not in line
        assert "--" in line  # what to change
        assert any(char.isdigit() for char in line)  # the number behind it


def test_a_run_says_each_once_and_all_at_its_end(tmp_path, capsys):
    records = log([8.0, 3.0, 6.0, *[3.0] * 17], frames=1.1) + dev(0.5, 0.4)
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    said: set[str] = set()
    with tqdm(disable=True) as bar:
        for _ in range(3):
            telling.tell_symptoms(tmp_path, SETTINGS, said, bar)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["few frames", "warm-up too short"]
    one, other = object(), object()
    tokenizer, texts = w2v.CharTokenizer.from_texts(["ev"]), {one: "ev", other: "av"}
    prepared = SimpleNamespace(
        unknown=lambda clip: tokenizer.unknown(texts[clip]),
        texts=texts,
        splits=SimpleNamespace(dev=[one], test=[other]),
    )
    found = results.find_symptoms(tmp_path, SETTINGS, prepared)
    assert found[:2] == lines
    assert found[2].startswith("spelling: 1 of 2 references")
