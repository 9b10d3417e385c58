"""A page that compares runs with the first of them, on the clips that all of them were measured on.

write_text("comparison.html", comparison_html([run_a, run_b]))
"""

import html
from collections import Counter
from collections.abc import Sequence

import numpy as np

from w2v.errors import InputError, named
from w2v.metrics import Edits
from w2v.report import SEED, Errors, Prediction, Run, errors_of
from w2v.report_curves import NEEDED, Curve, curve_of, figure, has_matplotlib
from w2v.report_parts import HARD_SPACE, LEGEND, Script, aligned, page, paragraphs, percent, script_of, table
from w2v.significance import COVERED, RESAMPLES, Comparison, compare, groups_of
from w2v.text.locales import is_spaced

MOST_SHOWN = 10  # clips that became better, and as many that became worse
SURE = 0.05  # a p-value below it is called a difference
CURVES = (
    ("Training loss", "", "loss", 1.0),
    ("CER on dev", "%", "dev_cer", 100.0),
    ("WER on dev", "%", "dev_wer", 100.0),
    ("Learning rate", "", "lr", 1.0),
    ("Seconds of speech trained on per second", "", "audio_s_per_s", 1.0),
)


def comparison_html(runs: Sequence[Run]) -> str:
    """InputError where the runs have no clip in common that has the same reference."""
    names = [chr(ord("A") + i) if i < 26 else f"run {i + 1}" for i in range(len(runs))]
    split, common, left_out = common_clips(runs)
    found = [errors_of(predictions) for predictions in common]
    groups = groups_of([p.speaker for p in common[0]])
    spaced = is_spaced(runs[0].lang)
    script = script_of(runs[0].lang, [p.reference for p in common[0]], spaced)
    rates = ("WER", "CER") if spaced else ("CER", "WER")
    against = {rate: [_compare(rate, found[0], other, groups) for other in found[1:]] for rate in rates}
    by = "speakers" if any(p.speaker for p in common[0]) else "clips, whose speakers are not known"
    how = (
        f"Paired bootstrap over {groups.max() + 1:,} {by}: {RESAMPLES:,} draws, {100 * COVERED:.0f} % intervals, "
        "two-sided p-values (Bisani and Ney 2004). Each run is compared with the first."
    )
    story = [
        f"{len(common[0]):,} clips of {split} are in all {len(runs)} runs with the same reference"
        + (f"; {left_out:,} others are left out." if left_out else ".")
    ]
    story += [verdict(names[i + 1], names[0], rates[0], against[rates[0]][i]) for i in range(len(runs) - 1)]
    curves = "".join(
        figure(title, unit, [_named(name, run, key, factor) for name, run in zip(names, runs, strict=True)], i)
        for i, (title, unit, key, factor) in enumerate(CURVES)
    )
    sections = {
        "Result": paragraphs(story)
        + table("Rates", ["run", "clips", *rates], _rates(names, runs, found, rates), [1, 2, 3], long=[0])
        + "".join(_differences(rate, names, against[rate]) for rate in rates)
        + paragraphs([how], "soft"),
        "Curves": f'<div class="charts">{curves}</div>' + paragraphs([] if has_matplotlib() else [NEEDED], "note")
        if curves
        else "",
        **{
            f"Changed clips of {names[i]}": _changed(found[0], found[i], (names[0], names[i]), script)
            for i in range(1, len(runs))
        },
        "What differs": _settings(names, runs),
    }
    return page(" against ".join(run.title for run in runs[:3]) + (" ..." if len(runs) > 3 else ""), sections)


def common_clips(runs: Sequence[Run]) -> tuple[str, list[list[Prediction]], int]:
    """-> the split, the predictions of each run for its common clips, in the same order, and how many have no match."""
    for split in dict.fromkeys(name for run in runs for name in run.predictions):
        tables = [_by_text(run.predictions.get(split, [])) for run in runs]
        shared = [key for key in tables[0] if all(key in other for other in tables[1:])]
        if shared:
            every = {key for held in tables for key in held}
            # A speaker that one of the runs knows is known.
            speakers = {key: next((t[key].speaker for t in tables if t[key].speaker), "") for key in shared}
            found = [[held[key]._replace(speaker=speakers[key]) for key in shared] for held in tables]
            return split, found, len(every) - len(shared)
    titles = ", ".join(named(run.title) for run in runs)
    raise InputError(
        f"compared runs must be measured on the same clips with the same references, {titles} have none in common; "
        "choose runs of the same data and text rules"
    )


def _by_text(predictions: Sequence[Prediction]) -> dict[tuple[str, str], Prediction]:
    """Those that have a reference, by name and reference; names that are there twice are left out."""
    twice = Counter(p.clip for p in predictions)
    return {(p.clip, p.reference): p for p in predictions if p.reference.strip() and twice[p.clip] == 1}


def _named(name: str, run: Run, key: str, factor: float) -> Curve:
    return curve_of(name, run.metrics, key, factor)


def _edits(rate: str, found: Errors) -> Edits:
    return found.words if rate == "WER" else found.characters


def _compare(rate: str, one: Errors, other: Errors, groups: np.ndarray) -> Comparison:
    before, after = _edits(rate, one), _edits(rate, other)
    return compare(before.errors, after.errors, before.lengths, groups, SEED)


def verdict(name: str, first: str, rate: str, found: Comparison) -> str:
    points = f"{100 * found.difference:+.1f} points of {rate}"
    if found.p_value is None:
        return f"{name} differs from {first} by {points}; how sure that is takes clips of two speakers."
    points += f", p = {found.p_value:.3f}"
    if found.p_value < SURE:
        return f"{name} is {'better' if found.difference < 0 else 'worse'} than {first}: {points}."
    return f"No difference between {name} and {first} is shown: {points}; chance gives as much."


def _rates(names: Sequence[str], runs: Sequence[Run], found: Sequence[Errors], rates: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, run, errors in zip(names, runs, found, strict=True):
        measured = (percent(_edits(rate, errors).rate()) for rate in rates)
        rows.append([f"{name}: {run.title}", f"{len(errors.predictions):,}", *measured])
    return rows


def _differences(rate: str, names: Sequence[str], found: Sequence[Comparison]) -> str:
    rows = []
    for name, one in zip(names[1:], found, strict=True):
        points = f"{100 * one.difference:+.1f}"
        if one.low is None or one.high is None or one.p_value is None or one.better is None:
            rows.append([name, points, "-", "-", "-"])
            continue
        span = HARD_SPACE.join([f"{100 * one.low:+.1f}", "to", f"{100 * one.high:+.1f}"])
        rows.append([name, points, span, f"{one.p_value:.3f}", f"{100 * one.better:.0f} %"])
    head = [f"{rate} against {names[0]}", "points", "interval", "p", "better in"]
    return table(f"Differences in {rate}", head, rows, [1, 2, 3, 4])


def _changed(before: Errors, after: Errors, names: Sequence[str], script: Script) -> str:
    """The clips with the largest change in their number of character errors, both texts of each."""
    change = after.characters.errors - before.characters.errors  # (N,)
    order = np.argsort(change, kind="stable").tolist()
    better = [i for i in order if change[i] < 0]
    worse = [i for i in reversed(order) if change[i] > 0]
    same = len(order) - len(better) - len(worse)
    parts = [paragraphs([f"{len(better):,} clips became better, {len(worse):,} worse, {same:,} have as many errors."])]
    for title, chosen in (("Better", better), ("Worse", worse)):
        cards = "".join(_pair(before.predictions[i], after.predictions[i], names, script) for i in chosen[:MOST_SHOWN])
        parts += [f'<h3>{title}, most changed first</h3><div class="clips">{cards}</div>'] if cards else []
    return "".join([*parts[:1], LEGEND if len(parts) > 1 else "", *parts[1:]])


def _pair(before: Prediction, after: Prediction, names: Sequence[str], script: Script) -> str:
    texts = [aligned(clip.reference, clip.hypothesis, script) for clip in (before, after)]
    labelled = "".join(f'<p class="soft">{label}</p>{text}' for label, text in zip(names, texts, strict=True))
    return f'<article class="clip"><h4>{html.escape(before.clip)}</h4>{labelled}</article>'


def _settings(names: Sequence[str], runs: Sequence[Run]) -> str:
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [[key, *(str(run.settings.get(key, "-"))[:300] for run in runs)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return (
        table("Settings that differ", ["setting", *names], rows, long=range(1, len(names) + 1))
        if rows
        else paragraphs(["The settings are equal."])
    )
