"""What an evaluation measures, as numbers for a file and as tables for people. `cv_evaluate` is its command.

A report is a plain dict, evaluation.json, and `lines_of` prints one: nothing is in the tables that is not in the file.
"""

import itertools
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from w2v.metrics import Edits, character_edits, word_edits
from w2v.significance import COVERED, RESAMPLES, compare, groups_of, interval

WIDTH = 100  # columns
LENGTH_EDGES = (2.0, 4.0, 6.0, 10.0, 20.0)  # seconds
EXTREME_SPEAKERS = 3  # at either end
MOST_CONFUSIONS = 12  # of a kind, in a printed line
MOST_CONFUSIONS_KEPT = 100  # of a kind, in the file
Rule = Callable[[str], str]


class Score(NamedTuple):
    """Error counts of the clips whose reference has text under a rule."""

    words: Edits
    characters: Edits
    clips: np.ndarray  # (N,) which of the clips these are
    empty: int  # clips whose reference has none, left out

    @property
    def rates(self) -> dict[str, float | None]:
        return {"wer": self.words.rate(), "cer": self.characters.rate()}


def score(sentences: list[str], hypotheses: list[str], for_references: Rule, for_hypotheses: Rule) -> Score:
    """sentences: as written."""
    references = [for_references(sentence).strip() for sentence in sentences]
    kept = [i for i, reference in enumerate(references) if reference]
    sides = [references[i] for i in kept], [for_hypotheses(hypotheses[i]) for i in kept]
    return Score(word_edits(*sides), character_edits(*sides), np.array(kept, np.int64), len(sentences) - len(kept))


def totals(edits: Edits) -> dict[str, int]:
    parts = ("substitutions", "deletions", "insertions")
    return {"reference": int(edits.lengths.sum())} | {part: int(getattr(edits, part).sum()) for part in parts}


def rates_under(scored: Score) -> dict[str, Any]:
    """A row of the table of rules."""
    kinds = {"words": totals(scored.words), "characters": totals(scored.characters)}
    return {**scored.rates, "clips": len(scored.clips), "empty_references": scored.empty, **kinds}


def intervals(scored: Score, speakers: list[str], seed: int) -> dict[str, tuple[float, float] | None]:
    groups = groups_of(speakers)
    return {
        "wer": interval(scored.words.errors, scored.words.lengths, groups, seed),
        "cer": interval(scored.characters.errors, scored.characters.lengths, groups, seed),
    }


def part(scored: Score, chosen: np.ndarray) -> dict[str, Any]:
    """The rates over some clips. chosen: (N,) bool."""
    return {
        "clips": int(chosen.sum()),
        "words": int(scored.words.lengths[chosen].sum()),
        "wer": scored.words.rate(chosen),
        "cer": scored.characters.rate(chosen),
    }


def by_length(scored: Score, seconds: np.ndarray) -> list[dict]:
    edges = (0.0, *LENGTH_EDGES, float("inf"))
    rows = []
    for low, high in itertools.pairwise(edges):
        name = f"{low:g} to {high:g} s" if high < float("inf") else f"{low:g} s and more"
        row = {"seconds": name if low else f"under {high:g} s", **part(scored, (seconds >= low) & (seconds < high))}
        rows += [row] if row["clips"] else []
    return rows


def by_speaker(scored: Score, speakers: list[str], headline: str, names: list[str]) -> list[dict]:
    """From the lowest error rate to the highest. A speaker is a number here; `clip` is one of the speaker's clips."""
    known = np.array([bool(name) for name in speakers])
    groups = groups_of(speakers)
    rows = []
    for group in dict.fromkeys(groups[known].tolist()):
        chosen = groups == group
        rows.append({**part(scored, chosen), "clip": names[int(chosen.argmax())]})
    rows.sort(key=lambda row: (row[headline], -row["clips"]))
    return [{"speaker": number, **row} for number, row in enumerate(rows, 1)]


def seen_in_training(scored: Score, seen: np.ndarray) -> dict[str, dict]:
    return {"yes": part(scored, seen), "no": part(scored, ~seen)}


def confusions(edits: Edits) -> dict[str, list]:
    """The most frequent edits, with their counts. substituted: [reference, written instead, count]."""

    def most(counts: Counter) -> list:
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CONFUSIONS_KEPT]

    return {
        "substituted": [[*pair, n] for pair, n in most(edits.substituted)],
        "deleted": [[what, n] for what, n in most(edits.deleted)],
        "inserted": [[what, n] for what, n in most(edits.inserted)],
    }


def comparison(one: Score, other: Score, speakers: list[str], seed: int) -> dict[str, Any]:
    """The other model against the one, clip by clip: rates, difference, 95 % interval and p-value of each rate."""
    groups = groups_of(speakers)
    return {
        **other.rates,
        "wer_against": asdict(compare(one.words.errors, other.words.errors, one.words.lengths, groups, seed)),
        "cer_against": asdict(
            compare(one.characters.errors, other.characters.errors, one.characters.lengths, groups, seed)
        ),
    }


# ---------------------------------------------------------------------------------------------- for people


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns as wide as their widest cell: the first at the left, numbers at the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]


def lines_of(report: dict) -> list[str]:
    """The tables, at most 100 columns wide where names and words allow it. The headline rate comes first."""
    rates = sorted(("wer", "cer"), key=lambda rate: rate != report["headline"])
    speakers = f"{report['speakers']} speakers" if report["speakers"] else "speakers unknown"
    lines = [
        f"{report['split']}: {report['clips']} clips, {report['seconds'] / 60:.1f} min, {speakers}; "
        f"references and text under {report['rules_are']}",
        *(f"  {rate.upper()} {percent(report[rate])}{_interval(report, rate)}" for rate in rates),
        "",
        "Beside the rules of others, all of which start from the sentences as written (substituted, deleted,",
        "inserted; left out: clips whose reference has no text):",
        *_rules(report["rules"], rates),
        "",
        "By length of the clip:",
        *_parts([(row["seconds"], row) for row in report["by_length"]], rates),
        "",
    ]
    lines += _seen(report["seen_in_training"], rates)
    lines += _speakers(report["by_speaker"], rates)
    for kind in ("words", "characters"):
        lines += _confusions(kind, report["confusions"][kind])
    if report.get("compare"):
        lines += _compared(report, rates)
    return lines


def _interval(report: dict, rate: str) -> str:
    found = report["intervals"][rate]
    if found is None:
        return ", without an interval: that takes clips of two speakers"
    low, high = (f"{100 * edge:.1f}" for edge in found)
    return f", 95 % interval {low} to {high} %, from {RESAMPLES:,} draws of speakers"


def _rules(rules: dict[str, dict], rates: list[str]) -> list[str]:
    titles = ["rules", *(rate.upper() for rate in rates), "words", *"SDI", "characters", *"SDI", "left out"]
    body = [
        [name, *(percent(row[rate]) for rate in rates), *row["words"].values(), *row["characters"].values()]
        for name, row in rules.items()
    ]
    left_out = [row["empty_references"] for row in rules.values()]
    return table([titles, *([*row, count] for row, count in zip(body, left_out, strict=True))])


def _parts(rows: list[tuple[str, dict]], rates: list[str]) -> list[str]:
    titles = ["", "clips", "words", *(rate.upper() for rate in rates)]
    return table(
        [titles, *([name, row["clips"], row["words"], *(percent(row[r]) for r in rates)] for name, row in rows)]
    )


def _seen(seen: dict | None, rates: list[str]) -> list[str]:
    if seen is None:
        return ["Seen in training: not known, the data has no training clips", ""]
    rows = [("sentence is in the training split", seen["yes"]), ("sentence is new", seen["no"])]
    return ["By whether training had the sentence:", *_parts(rows, rates), ""]


def _speakers(rows: list[dict], rates: list[str]) -> list[str]:
    if not rows:
        return []
    few = rows if len(rows) <= 2 * EXTREME_SPEAKERS else rows[:EXTREME_SPEAKERS] + rows[-EXTREME_SPEAKERS:]
    last = ["one of the clips"]
    body = [
        [f"speaker {row['speaker']}", row["clips"], row["words"], *(percent(row[rate]) for rate in rates), row["clip"]]
        for row in few
    ]
    return [
        f"By speaker, best to worst of {len(rows)}:",
        *table([["", "clips", "words", *(rate.upper() for rate in rates), *last], *body]),
        "",
    ]


def printable(text: str) -> str:
    """For a terminal: what cannot be seen as its code, a space as its sign."""
    return "".join(char if char.isprintable() else f"U+{ord(char):04X}" for char in text).replace(" ", "␣")


def _confusions(kind: str, found: dict[str, list]) -> list[str]:
    lines = []
    pairs = [[f"{printable(a)} > {printable(b)}", n] for a, b, n in found["substituted"]]
    singles = {name: [[printable(what), n] for what, n in found[name]] for name in ("deleted", "inserted")}
    for name, counts in {"substituted": pairs, **singles}.items():
        often = [f"{what} ({n})" for what, n in counts[:MOST_CONFUSIONS] if n > 1]
        listed = ", ".join(often) or ("each once" if counts else "none")
        lines += textwrap.wrap(f"  {name}: {listed}", WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return [f"Most frequent errors in {kind}:", *lines, ""]


def _with_lm(of: dict) -> str:
    """A model's name, and its language model's where it was decoded with one: a model can be compared with itself."""
    path = (of.get("lm") or {}).get("path")
    return of["model"] if path is None else f"{of['model']} with {'its own LM' if path == of['model'] else path}"


def _compared(report: dict, rates: list[str]) -> list[str]:
    other = report["compare"]
    lines = [
        "Compared on the same clips, under the same rules:",
        *table(
            [
                ["", *(rate.upper() for rate in rates)],
                [f"A: {_with_lm(report)}", *(percent(report[rate]) for rate in rates)],
                [f"B: {_with_lm(other)}", *(percent(other[rate]) for rate in rates)],
            ]
        ),
    ]
    for rate in rates:
        against = other[f"{rate}_against"]
        line = f"  {rate.upper()} of B - A: {100 * against['difference']:+.1f} points"
        if against["p_value"] is not None:
            line += (
                f", {100 * COVERED:.0f} % interval {100 * against['low']:+.1f} to {100 * against['high']:+.1f}, "
                f"p = {against['p_value']:.3f}; B is better in {100 * against['better']:.0f} % of the draws"
            )
        lines.append(line)
    return [*lines, "  paired bootstrap over speakers (Bisani and Ney 2004), two-sided p", ""]
