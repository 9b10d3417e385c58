"""Rows of learning: what counts as held out, where each limit lies, and that w2v-mini never hears Turkish.

Run: pytest tests/benchmarks/test_learning.py
"""

import json
from pathlib import Path

import pytest

from benchmarks import learning, mini
from recipes import console
from recipes.settings import parse_arguments
from w2v.errors import InputError

GOOD = {"seconds": 200.0, "gb": 1.5, "train_cer": 0.01, "cpu_minutes": 50.0, "held_out": {"cer": 0.5, "wer": 0.9}}


def rows(monkeypatch, tmp_path, row: str, **changes) -> int:
    """The exit code of a row whose runs from w2v-mini gave GOOD, and those from scratch a CER of .85, with changes."""

    def trained(out: Path, *flags: str) -> dict:
        scratch = learning.SCRATCH in flags
        result = GOOD | ({"held_out": {"cer": changes.get("scratch", 0.85), "wer": 1.0}} if scratch else {})
        given = {name: value for name, value in changes.items() if name not in ("scratch", "cer", "train_cer")}
        if "cer" in changes and not scratch:
            given["held_out"] = {"cer": changes["cer"], "wer": 1.0}
        if "train_cer" in changes and scratch:
            given["train_cer"] = changes["train_cer"]
        return result | given

    monkeypatch.setattr(learning, "trained", trained)
    try:
        learning.main([f"--{row}", "--out", str(tmp_path), "--data", str(tmp_path)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"cer": 0.61}, 1),
        ({"scratch": 0.69}, 1),  # .19 above
        ({"seconds": 241.0}, 1),
        ({"gb": 3.1}, 1),
        ({"train_cer": 0.06}, 1),
    ],
)
def test_limits_of_the_sample(monkeypatch, tmp_path, changes, code):
    assert rows(monkeypatch, tmp_path, "sample", **changes) == code


@pytest.mark.parametrize(("changes", "code"), [({"cer": 0.35}, 0), ({"cer": 0.36}, 1), ({"cpu_minutes": 61.0}, 1)])
def test_limits_of_one_reader(monkeypatch, tmp_path, changes, code):
    changes = {"cer": 0.3} | changes
    assert rows(monkeypatch, tmp_path, "kathleen", **changes) == code


def test_each_part_of_augmentation_is_set_apart(monkeypatch, tmp_path):
    given = []

    def trained(out: Path, *flags: str) -> dict:
        args = parse_arguments([*flags, "--out", str(out)], "", "")
        given.append((args.lang, args.augment, args.seed, args.data, args.model))
        return GOOD | {"held_out": {"cer": 0.5 if args.augment == "none" else 0.4, "wer": 1.0}}

    monkeypatch.setattr(learning, "trained", trained)
    flags = ["--augment", "--out", str(tmp_path), "--data", str(tmp_path), "--seeds", "0", "1"]
    row = learning.main(flags)["rows"]["augment"]
    wanted = [
        (lang, parts, seed, [tmp_path / lang], "w2v-mini")
        for parts in learning.PARTS for lang in learning.LEFT_OUT for seed in (0, 1)
    ]  # fmt: skip
    assert given == wanted
    assert row["none"] == {"hu 0": 0.5, "hu 1": 0.5, "tt 0": 0.5, "tt 1": 0.5, "mean": 0.5}
    assert row["speed,noise"]["mean"] == 0.4


def test_dev_and_test_are_held_out_together_by_their_letters(tmp_path):
    (tmp_path / "predictions-dev.tsv").write_text("clip\treference\tprediction\na\tbir iki\tbir\n", encoding="utf-8")
    (tmp_path / "predictions-test.tsv").write_text("clip\treference\tprediction\nb\tüç\tüç\n", encoding="utf-8")
    rates = learning.held_out(tmp_path)
    assert (rates.clips, rates.cer, rates.wer) == (2, pytest.approx(4 / 9), pytest.approx(1 / 3))


def test_a_run_that_is_over_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "run_in", None)
    (tmp_path / learning.RECORD).write_text(json.dumps(GOOD), encoding="utf-8")
    assert learning.trained(tmp_path) == GOOD


def test_the_boxed_model_is_trained_without_the_samples_language(tmp_path, monkeypatch):
    """And its flags are those of the command."""
    given = []

    def convert(words: list[str]) -> None:
        assert words[-2:] == ["--dtype", "fp16"]

    monkeypatch.setattr(mini.cv_finetune, "main", lambda words: given.extend(words) or {})
    monkeypatch.setattr(mini.convert, "main", convert)
    console.run(lambda: mini.main(["--cv6", "C", "--kathleen", "K/metadata.tsv", "--out", str(tmp_path)]))
    args = parse_arguments(given, "x", "y")
    assert (args.lang, args.model, args.heads) == ("en", "random:w2v-mini", "per-language")
    assert not any(str(path).startswith("tr=") for path in args.data)
    assert [str(path) for path in args.extra_data] == ["en=K/metadata.tsv"]


def test_a_row_without_its_data_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--kathleen needs --data"):
        learning.main(["--kathleen", "--out", str(tmp_path)])


def test_all_clips_of_the_curve_are_the_samples_run(monkeypatch, tmp_path):
    """And what a run reads is the sample, whatever the user has set."""
    made = []

    def run_in(tree: Path, module: str, *flags: str, **variables: str) -> dict:
        out = Path(flags[flags.index("--out") + 1])
        out.mkdir(parents=True)
        for split in ("dev", "test"):
            (out / f"predictions-{split}.tsv").write_text("clip\treference\tprediction\na\tbir\tbi\n", encoding="utf-8")
        made.append((out.name, "--max-train-clips" in flags, variables))
        return GOOD

    monkeypatch.setattr(learning, "run_in", run_in)
    console.run(lambda: learning.main(["--curve", "--out", str(tmp_path), "--seeds", "42"]))
    assert len(made) == 8 and [name for name, few, _ in made if not few] == ["tr-w2v-mini-80-42", "tr-tiny-80-42"]
    assert all(v == {"W2V_CACHE": str(tmp_path / "cache"), "COMMON_VOICE_ROOT": ""} for *_, v in made)
