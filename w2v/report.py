"""report.html of a run: one self-contained page that one reads, hears and prints, no script and no network.

    write_text("report.html", report_html(run))

It asks nothing of a family: what a log does not hold is not drawn. A page of 1,000 predictions stays under 3 MB.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from w2v.metrics import Edits, character_edits, word_edits
from w2v.report_curves import NEEDED, Curve, curve_of, figure, has_matplotlib
from w2v.report_parts import (
    HARD_SPACE,
    LEGEND,
    Markup,
    Script,
    aligned,
    confusions,
    data_url,
    histogram,
    listed,
    page,
    paragraphs,
    percent,
    player,
    script_of,
    table,
    within,
)
from w2v.significance import groups_of, interval
from w2v.text.locales import is_spaced

WORST_CLIPS = 20  # with a player
MOST_PREDICTIONS = 1000
AUDIO_BYTES, PREDICTION_BYTES, WORDS_BYTES = 1_000_000, 1_200_000, 200_000  # of the page
SEED = 42  # of the draws of intervals


class Prediction(NamedTuple):
    """A clip's text and what the model wrote, both normalised; what is known of its audio."""

    clip: str
    reference: str
    hypothesis: str
    speaker: str = ""  # "" where unknown
    seconds: float | None = None
    lang: str = ""  # where the run has several


class SplitResult(NamedTuple):
    """Rates of a split as fractions; None where they were not measured."""

    split: str
    clips: int | None
    wer: float | None
    cer: float | None
    note: str = ""  # such as: a random part
    lang: str = ""  # of one of several languages


@dataclass(frozen=True)
class Run:
    """What a page shows of a run."""

    title: str
    lang: str
    story: list[str]  # what was trained on what, and what came of it, in sentences
    advice: list[str]  # what is wrong and what to do about it, in sentences
    results: list[SplitResult]
    metrics: list[dict]  # the lines of metrics.jsonl
    predictions: dict[str, list[Prediction]]  # by split; the first that holds any is looked at clip by clip
    decisions: list[str]
    settings: dict[str, object]
    listen: Callable[[str], np.ndarray | None] | None = None  # a clip's samples (n,) at 16 kHz; None: no players
    remarks: list[str] = field(default_factory=list)  # on the page itself, such as: why there are no players


@dataclass(frozen=True)
class Errors:
    """The edits of the predictions of a split, a row each."""

    predictions: list[Prediction]
    words: Edits
    characters: Edits

    @property
    def cers(self) -> np.ndarray:
        """(N,) of each clip; where the reference is empty, 1 if anything was written."""
        return self.characters.errors / np.maximum(1, self.characters.lengths)

    @property
    def worst_first(self) -> list[int]:
        return np.lexsort((-self.characters.errors, -self.cers)).tolist()


def errors_of(predictions: list[Prediction]) -> Errors:
    sides = [p.reference for p in predictions], [p.hypothesis for p in predictions]
    return Errors(predictions, word_edits(*sides), character_edits(*sides))


def report_html(run: Run) -> str:
    split, predictions = next(((name, found) for name, found in run.predictions.items() if found), ("", []))
    script = script_of(run.lang, [p.reference for p in predictions], is_spaced(run.lang))
    found = errors_of(predictions)
    curves = curves_html(run.metrics)
    missing = [] if has_matplotlib() or not curves else [NEEDED]
    sections = {
        "Result": paragraphs(run.story) + paragraphs(run.advice, "note") + results_html(run),
        "Curves": curves + paragraphs(missing, "note"),
        "Worst clips": worst_html(run, found, script) if predictions else "",
        "Errors": errors_html(split, found, script) if predictions else "",
        "+All predictions": predictions_html(split, found, script) if predictions else "",
        "+Decisions about the data": listed(within(WORDS_BYTES, run.decisions)) if run.decisions else "",
        "+Settings": table("Settings", ["setting", "value"], _short(run.settings), long=[1]) if run.settings else "",
    }
    return page(run.title, sections)


def _short(settings: dict[str, object]) -> list[tuple[str, str]]:
    return [(name, "-" if value in (None, "") else str(value)[:2000]) for name, value in settings.items()]


def results_html(run: Run) -> str:
    """The lead table. The rate that counts for the language comes first, with its 95 % interval where it has one."""
    rates = ("wer", "cer") if is_spaced(run.lang) else ("cer", "wer")
    spans = {
        (name, lang): intervals([p for p in found if p.lang == lang])
        for name, found in run.predictions.items()
        for lang in {p.lang for p in found}
    }
    rows = []
    for result in run.results:
        cells = [
            percent(getattr(result, rate)) + spans.get((result.split, result.lang), {}).get(rate, "") for rate in rates
        ]
        clips = "-" if result.clips is None else f"{result.clips:,}"
        rows.append([f"{result.split}, {result.lang}" if result.lang else result.split, clips, *cells, result.note])
    if not rows:
        return ""
    if not any(row[-1] for row in rows):
        rows = [row[:-1] for row in rows]
    head = ["split", "clips", *(rate.upper() for rate in rates), "note"][: len(rows[0])]
    speakers = any(p.speaker for found in run.predictions.values() for p in found)
    brackets = f"In brackets the 95 % interval, by a bootstrap over {'speakers' if speakers else 'clips'}."
    said = paragraphs([brackets], "soft") if any(spans.values()) else ""
    return table("Error rates", head, rows, [1, 2, 3], long=[4]) + said


def intervals(predictions: list[Prediction]) -> dict[str, str]:
    """The 95 % interval of each rate, for the table; none where there are not two speakers."""
    predictions = [p for p in predictions if p.reference.strip()]
    found, groups = errors_of(predictions), groups_of([p.speaker for p in predictions])
    spans = {}
    for rate, edits in (("wer", found.words), ("cer", found.characters)):
        span = interval(edits.errors, edits.lengths, groups, SEED) if predictions else None
        if span is not None:
            low, high = (f"{100 * edge:.1f}" for edge in span)
            spans[rate] = f" ({HARD_SPACE.join([low, 'to', high])})"
    return spans


def curves_html(metrics: Sequence[dict]) -> str:
    def one(name: str, key: str, factor: float = 1.0) -> Curve:
        return curve_of(name, metrics, key, factor)

    rates = [one("WER", "dev_wer", 100), one("CER", "dev_cer", 100)]
    figures = [
        figure("Training loss", "", [one("loss", "loss")], 0),
        figure("Error rates on dev", "%", rates, 1),
        figure("Learning rate", "", [one("learning rate", "lr")], 2),
        figure("Seconds of speech trained on per second", "", [one("throughput", "audio_s_per_s")], 3),
        figure("Frames whose likeliest token is the blank", "%", [one("blank ratio", "blank_ratio", 100)], 4),
    ]
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def worst_html(run: Run, found: Errors, script: Script) -> str:
    """Cards of the clips with the highest CER, each with a player while the page has room for it."""
    worst = [i for i in found.worst_first[:WORST_CLIPS] if found.characters.errors[i]]
    if not worst:
        return paragraphs(["No clip has an error."])
    cards, room = [], AUDIO_BYTES
    for i in worst:
        clip = found.predictions[i]
        samples = run.listen(clip.clip) if run.listen is not None and room > 0 else None
        url = data_url(samples) if samples is not None and len(samples) else ""
        room -= len(url)
        sound = player(clip.clip, url) if url and room >= 0 else ""
        cards.append(clip_card(clip, sound, _rates(found, i, script), script))
    return LEGEND + paragraphs(run.remarks, "soft") + f'<div class="clips">{"".join(cards)}</div>'


def clip_card(clip: Prediction, sound: str, about: str, script: Script) -> str:
    name = html.escape(clip.clip)
    length = "" if clip.seconds is None else f", {clip.seconds:.1f} s"
    texts = aligned(clip.reference, clip.hypothesis, script)
    return f'<article class="clip"><h3>{name}</h3>{sound}{texts}<p class="soft">{about}{length}</p></article>'


def _rates(found: Errors, i: int, script: Script) -> str:
    edits, kind = (found.words, "words") if script.is_spaced else (found.characters, "characters")
    return f"CER {100 * found.cers[i]:.0f}{HARD_SPACE}%; errors: {edits.errors[i]} in {edits.lengths[i]} {kind}"


def errors_html(split: str, found: Errors, script: Script) -> str:
    """Histograms and the most frequent edits."""
    cers = [100 * float(value) for value in found.cers]
    seconds = [p.seconds for p in found.predictions if p.seconds is not None]
    lengths = (
        histogram("Length of clips", "seconds", seconds)
        if seconds
        else histogram("Length of references", "characters", found.characters.lengths.tolist())
    )
    charts = histogram("CER of clips", "%", cers, top=100.0) + lengths
    return (
        f'<p class="soft">Of the {len(cers):,} clips of {split}.</p><div class="charts">{charts}</div>'
        + (confusions("words", found.words, script) if script.is_spaced else "")
        + confusions("characters", found.characters, script)
    )


def predictions_html(split: str, found: Errors, script: Script) -> str:
    rows = []
    for i in found.worst_first[:MOST_PREDICTIONS]:
        clip = found.predictions[i]
        rows.append([clip.clip, f"{100 * found.cers[i]:.0f}{HARD_SPACE}%", Markup(aligned(*clip[1:3], script))])
    kept = len(within(PREDICTION_BYTES, ("".join(row) for row in rows)))
    few = f"The {kept:,} worst of {len(found.predictions):,}; predictions-{split}.tsv has all."
    said = f"All {kept:,}, worst first." if kept == len(found.predictions) else few
    return f'<p class="soft">{said}</p>' + table("Predictions", ["clip", "CER", "texts"], rows[:kept], [1], long=[0, 2])
