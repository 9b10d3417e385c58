"""A run's health in words: what its log says of it, with the number behind it and what to change.

`symptoms` is a pure function of the records in metrics.jsonl. cv_finetune says each symptom once while it trains, and
all of them at its end, in run.json too.
"""

import json
from pathlib import Path
from statistics import fmean, median
from typing import Protocol

BLANK_PLATEAU = 0.99  # a CTC model that has begun to write emits fewer blanks than this
FEWEST_FRAMES_PER_LABEL = 1.5  # CTC needs more than 1, and a frame between doubled letters
SMOOTHED = 3  # log lines whose mean is looked at: one alone may hold a hard batch
RISE = 1.2  # times the lowest loss, and RISE_AT_LEAST more: the loss rises
RISE_AT_LEAST = 0.2
SPIKE = 1.5  # times the lowest loss before, and RISE_AT_LEAST more: a jump around the warm-up
BURST = 20.0  # times the median gradient norm before
WARMUPS_LOOKED_AT = 3  # a warm-up that is too short shows soon after it
FEWEST_LINES = 10  # of the log, to look at its last tenths
STEEP = 0.1  # of the loss, lost within the last tenth of the run
LEARNED_LOSS = 0.3  # per label; below it a model has learned nearly all that the clips hold
WRITES = 0.95  # dev CER: an empty text has 1
STUCK_EVALUATIONS = 3  # without a better dev CER, and STUCK_SHARE of all of them
STUCK_SHARE = 1 / 3


class RunSettings(Protocol):
    """What is asked of recipes.settings.Settings."""

    @property
    def total_steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def lr(self) -> float: ...


def symptoms(
    history: list[dict], settings: RunSettings, is_over: bool, unspellable: int = 0, held_out: int = 0
) -> dict[str, str]:
    """What is wrong with a run, {symptom: one line}; empty where nothing is.

    history: the records of metrics.jsonl so far, those of training and those of dev. unspellable: how many of the
    `held_out` references of dev and test have characters outside the vocabulary.
    """
    train = [record for record in history if "loss" in record]
    dev = [record for record in history if record.get("dev_cer") is not None]
    found = {
        "blanks": _blanks(train, settings, is_over),
        "frames": _frames(train),
        "warm-up": _warmup(train, settings),
        "rising": _rising(train, settings),
        "dev": _dev(train, dev, is_over),
        "falling": _falling(train, dev) if is_over else None,
        "spelling": _spelling(unspellable, held_out),
    }
    if found["blanks"]:  # the model writes nothing yet: that explains dev
        found["dev"] = None
    return {name: line for name, line in found.items() if line}


def _blanks(train: list[dict], settings: RunSettings, is_over: bool) -> str | None:
    if not train or train[-1].get("blank_ratio", 0.0) <= BLANK_PLATEAU:
        return None
    step = train[-1]["step"]
    if not is_over and step <= max(3 * settings.warmup_steps, settings.total_steps // 2):
        return None
    return (
        f"only blanks: {100 * train[-1]['blank_ratio']:.1f} % of the frames at step {step}: the model writes nothing; "
        f"try another --lr (now {settings.lr:g}) or more --epochs, and look whether transcripts match the audio"
    )


def _frames(train: list[dict]) -> str | None:
    ratios = [record["frames_per_label"] for record in train if "frames_per_label" in record]
    if not ratios or fmean(ratios) >= FEWEST_FRAMES_PER_LABEL:
        return None
    return (
        f"few frames: {fmean(ratios):.2f} frames per label, CTC needs more than 1 and does badly below "
        f"{FEWEST_FRAMES_PER_LABEL}; choose a --model with shorter frames, or look whether transcripts match the audio"
    )


def _warmup(train: list[dict], settings: RunSettings) -> str | None:
    """A jump of the loss or of the gradient norm during the warm-up or soon after it."""
    last_step = WARMUPS_LOOKED_AT * settings.warmup_steps or settings.total_steps // 10
    early = [record for record in train if record["step"] <= last_step]
    for i, record in enumerate(early[1:], 1):
        before = early[:i]
        lowest = min(earlier["loss"] for earlier in before)
        norm = median(earlier["grad_norm"] for earlier in before)
        if record["loss"] > max(SPIKE * lowest, lowest + RISE_AT_LEAST):
            what = f"the loss jumps from {lowest:.2f} to {record['loss']:.2f}"
        elif i >= SMOOTHED and record["grad_norm"] > BURST * norm > 0:
            what = f"the gradient norm jumps from {norm:.2g} to {record['grad_norm']:.2g}"
        else:
            continue
        return (
            f"warm-up too short: {what} at step {record['step']}; use a longer --warmup-steps (now "
            f"{settings.warmup_steps}) or a lower --lr (now {settings.lr:g})"
        )
    return None


def _rising(train: list[dict], settings: RunSettings) -> str | None:
    """The loss, now, against its lowest, both over a few log lines, and after what the warm-up explains."""
    late = [record for record in train if record["step"] > settings.warmup_steps]
    if len(late) < 2 * SMOOTHED:
        return None
    means = [fmean(r["loss"] for r in late[i : i + SMOOTHED]) for i in range(len(late) - SMOOTHED + 1)]
    best = min(range(len(means)), key=means.__getitem__)
    if means[-1] <= max(RISE * means[best], means[best] + RISE_AT_LEAST):
        return None
    return (
        f"rising loss: {means[best]:.2f} around step {late[best + SMOOTHED // 2]['step']}, {means[-1]:.2f} around step "
        f"{late[-1 - SMOOTHED // 2]['step']}; use a lower --lr (now {settings.lr:g}) or --max-grad-norm"
    )


def _falling(train: list[dict], dev: list[dict]) -> str | None:
    """The loss of the run's last tenth against that of the tenth before. A dev that gets worse forbids more epochs."""
    if len(train) < FEWEST_LINES or (dev and min(dev, key=lambda record: record["dev_cer"]) is not dev[-1]):
        return None
    tenth = len(train) // 10
    before, last = (fmean(r["loss"] for r in part) for part in (train[-2 * tenth : -tenth], train[-tenth:]))
    if last < LEARNED_LOSS or last > (1 - STEEP) * before:
        return None
    return (
        f"not done: the loss still fell from {before:.2f} to {last:.2f}, by {100 * (1 - last / before):.0f} %, in the "
        "last tenth of the run; give it more --epochs"
    )


def _dev(train: list[dict], dev: list[dict], is_over: bool) -> str | None:
    """dev gets no better while training goes on, or never left the rate of an empty text."""
    if not dev or not train:
        return None
    number = min(range(len(dev)), key=lambda i: dev[i]["dev_cer"])
    best, last = dev[number], dev[-1]
    if best["dev_cer"] >= WRITES:
        if not is_over:
            return None
        return (
            f"dev not learned: its CER never fell below {100 * best['dev_cer']:.0f} %, an empty text has 100 %; give "
            "it more --epochs or more --data, and look whether transcripts match the audio"
        )
    since = len(dev) - 1 - number
    if since < max(STUCK_EVALUATIONS, STUCK_SHARE * len(dev)):
        return None
    then = [record["loss"] for record in train if record["step"] <= best["step"]] or [train[0]["loss"]]
    return (
        f"dev stuck: its CER was best at step {best['step']}, {100 * best['dev_cer']:.1f} %, and is "
        f"{100 * last['dev_cer']:.1f} % at step {last['step']}, while the training loss went from {then[-1]:.2f} to "
        f"{train[-1]['loss']:.2f}; more --data or --mask-time-prob helps against learning by heart, --patience stops"
    )


def _spelling(unspellable: int, held_out: int) -> str | None:
    if not unspellable:
        return None
    return (
        f"spelling: {unspellable} of {held_out} references of dev and test have characters outside the vocabulary, "
        "always wrong; add --train-splits or --extra-data that hold them, lower --min-char-count, or name them in "
        "--remove-chars"
    )


def read_history(metrics: Path) -> list[dict]:
    """The records of metrics.jsonl; none where nothing has been logged."""
    if not metrics.is_file():
        return []
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
