"""What the pages of w2v/report.py and w2v/report_compare.py are made of: their frame and style, tables, alignments,
histograms, players. Each function gives HTML, with all that comes from outside escaped.

A page is one file without a script that asks nobody for anything: its first line forbids it.
"""

import base64
import html
import io
import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import jiwer
import numpy as np
import soundfile

from w2v.audio import SAMPLE_RATE
from w2v.metrics import Edits

ALLOWED = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; base-uri 'none'; form-action 'none'"
PLAYED_SECONDS = 20.0  # of a clip
MOST_ALIGNED = 600  # characters of a text: 20 s of speech have half as many, and the time grows with their square
RUN_OF_CHARACTERS = 6  # that are equal, in one column: a line can break between columns
BARS = 20  # of a histogram
HARD_SPACE = "\N{NO-BREAK SPACE}"
MOST_CONFUSIONS = 12  # of a kind
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 170, 36, 34, 14  # of a histogram, in units of its viewBox

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--paper:#fff;--card:#f6f8fa;--link:#0969da;
--gone:#ffd7d5;--new:#cdf0d3;--other:#fff1b8;--note:#fff8c5;--c0:#0969da;--c1:#bc4c00;--c2:#1a7f37;--c3:#8250df;
--c4:#bf3989;--c5:#59636e}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--line:#3d444d;--paper:#0d1117;
--card:#151b23;--link:#4493f8;--gone:#67201d;--new:#12482a;--other:#524200;--note:#342a0a;--c0:#4493f8;--c1:#f0883e;
--c2:#3fb950;--c3:#ab7df8;--c4:#db61a2;--c5:#9198a1}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem;color:var(--ink);
background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:1rem 0 .3rem}p{margin:.4rem 0}.soft{color:var(--soft);font-size:.875rem}
nav a{margin-right:1rem;display:inline-block;padding:.15rem 0}a{color:var(--link)}
code{font-size:.9em;background:var(--card);padding:.1em .3em;border-radius:4px}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.note{background:var(--note);border-radius:6px;padding:.5rem .8rem}
.clip{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem;min-width:0}
.clip h3,.clip h4{margin:0;font-size:.875rem}audio{width:100%;display:block;margin:.5rem 0;min-height:40px}
.charts,.clips{display:grid;margin:.6rem 0;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
.small{display:grid;gap:0 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr))}
figure{margin:0;min-width:0}figcaption{font-weight:600}svg{width:100%;height:auto;display:block}
svg *{stroke-linejoin:round}.bars text{font-size:13px;fill:var(--soft)}.bars rect{fill:var(--c0)}
.bars line{stroke:var(--line)}
.key{list-style:none;padding:0;margin:.2rem 0;display:flex;flex-wrap:wrap;gap:0 1rem;font-size:.875rem}
.key svg{width:2rem;height:.8rem;display:inline-block;margin-inline-end:.3rem}
.a{margin:.4rem 0;line-height:1.35}.p{display:inline-grid;vertical-align:top;max-width:100%;margin:0 .3em .4em 0}
.j .p{margin-inline-end:0}.p>*{min-width:0;min-height:1.35em;border-radius:3px}.p>:first-child{color:var(--soft)}
del,ins{color:var(--ink)!important}del{background:var(--gone);text-decoration:line-through}
ins{background:var(--new);text-decoration:underline}
.s del,.s ins{background:var(--other);text-decoration:underline wavy 1px;text-underline-offset:3px}
.wide{overflow-x:auto}table{border-collapse:collapse;overflow-wrap:normal}
th,td{border-bottom:1px solid var(--line);padding:.3rem .8rem .3rem 0;text-align:start;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.long{overflow-wrap:anywhere;min-width:8rem}
summary{cursor:pointer;padding:.3rem 0}summary h2{display:inline;margin:0}details{margin:1.2rem 0}
@media print{body{max-width:none;font-size:11pt;padding:0}nav,audio{display:none}.wide{overflow:visible}
.charts,.clips{grid-template-columns:1fr 1fr}
.clip,figure,tr{break-inside:avoid}h2,h3,section>.soft{break-after:avoid}del,ins,rect,.note{print-color-adjust:exact}
details::details-content{content-visibility:visible;height:auto}}
"""


def page(title: str, sections: dict[str, str]) -> str:
    """The whole file. sections: name -> HTML; a name that begins with "+" is folded; empty ones are left out."""
    shown = {name: body for name, body in sections.items() if body}
    links = "".join(f'<a href="#{_id(name)}">{html.escape(name.lstrip("+"))}</a> ' for name in shown)
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta http-equiv="Content-Security-Policy" content="{ALLOWED}">',
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f'<h1>{html.escape(title)}</h1><nav aria-label="Sections">{links}</nav>',
            *(_section(name, body) for name, body in shown.items()),
            "</main></body></html>\n",
        ]
    )


def _section(name: str, body: str) -> str:
    heading = f"<h2>{html.escape(name.lstrip('+'))}</h2>"
    if name.startswith("+"):
        return f'<section id="{_id(name)}"><details><summary>{heading}</summary>{body}</details></section>'
    return f'<section id="{_id(name)}">{heading}{body}</section>'


def _id(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def paragraphs(lines: Iterable[str], kind: str = "") -> str:
    return "".join(f"<p{f' class={kind}' if kind else ''}>{html.escape(line)}</p>" for line in lines)


def listed(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


class Markup(str):
    """A cell that is HTML already."""


def table(
    label: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Collection[int] = (),
    long: Collection[int] = (),
) -> str:
    """A table that scrolls in its own box. numbers: which columns hold such. long: which may break their words."""

    def cell(tag: str, i: int, value: object) -> str:
        kind = ' class="n"' if i in numbers else ' class="long"' if i in long else ""
        return f"<{tag}{kind}>{value if isinstance(value, Markup) else html.escape(str(value))}</{tag}>"

    top = "".join(cell("th", i, name) for i, name in enumerate(head))
    body = "".join(f"<tr>{''.join(cell('td', i, value) for i, value in enumerate(row))}</tr>" for row in rows)
    inside = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(label, quote=True)}">{inside}</div>'


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}{HARD_SPACE}%"


# ------------------------------------------------------------------------------------------------ texts


class Script(NamedTuple):
    """How texts of a language are set."""

    lang: str  # as in HTML
    direction: str  # ltr or rtl
    is_spaced: bool

    @property
    def attributes(self) -> str:
        return f'lang="{html.escape(self.lang, quote=True)}" dir="{self.direction}"'


def script_of(lang: str, texts: Iterable[str], is_spaced: bool) -> Script:
    """The direction is that of most letters: a text may begin with a foreign name."""
    letters = Counter(unicodedata.bidirectional(char) for text in texts for char in text)
    rtl = letters["R"] + letters["AL"] > letters["L"]
    lang = lang if re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", lang) else "und"
    return Script(lang, "rtl" if rtl else "ltr", is_spaced)


LEGEND = (
    '<p class="soft">The upper line is the reference, the lower one what the model wrote. '
    "<del>Missing</del> is in the reference only, <ins>added</ins> in the model's text only, "
    '<span class="s"><ins>other</ins></span> in both, but different.</p>'
)


def aligned(reference: str, hypothesis: str, script: Script) -> str:
    """Both texts in columns, the fewest edits marked: words, or characters where the language has no spaces.

    Of texts over 600 characters the beginning.
    """
    cut = any(len(text) > MOST_ALIGNED for text in (reference, hypothesis))
    pairs = edit_pairs(reference[:MOST_ALIGNED], hypothesis[:MOST_ALIGNED], script.is_spaced)
    columns = [_column(kind, html.escape(asked), html.escape(written)) for kind, asked, written in pairs]
    joined = (" " if script.is_spaced else "").join(columns)
    more = '<span class="soft"> ... and more</span>' if cut else ""
    return f'<p class="a{"" if script.is_spaced else " j"}" {script.attributes}>{joined or "(empty)"}{more}</p>'


def _column(kind: str, asked: str, written: str) -> str:
    if kind == "equal":  # one reading is enough for who hears the page
        return f'<span class="p"><span>{asked}</span><span aria-hidden="true">{written}</span></span>'
    above = f"<del>{asked}</del>" if asked else "<span></span>"
    below = f"<ins>{written}</ins>" if written else "<span></span>"
    return f'<span class="p{" s" if kind == "substitute" else ""}">{above}{below}</span>'


def edit_pairs(reference: str, hypothesis: str, by_words: bool) -> list[tuple[str, str, str]]:
    """(equal, substitute, delete or insert; of the reference; of the hypothesis), in order."""
    process = jiwer.process_words if by_words else jiwer.process_characters
    output = process(reference, hypothesis)
    asked, written = output.references[0], output.hypotheses[0]
    pairs: list[tuple[str, str, str]] = []
    for chunk in output.alignments[0]:
        above = asked[chunk.ref_start_idx : chunk.ref_end_idx]
        below = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        size = 1 if by_words else RUN_OF_CHARACTERS
        for i in range(0, max(len(above), len(below)), size):
            pairs.append((chunk.type, "".join(above[i : i + size]), "".join(below[i : i + size])))
    return pairs


def visible(text: str) -> str:
    """A space as its sign, what cannot be seen as its code, a mark on the circle that Unicode has for that."""
    shown = "".join(char if char.isprintable() else f"U+{ord(char):04X}" for char in text).replace(" ", "␣")
    return f"\u25cc{shown}" if shown and unicodedata.category(shown[0])[0] == "M" else shown


def confusions(kind: str, edits: Edits, script: Script) -> str:
    """The most frequent edits of each sort, as small tables. kind: words or characters."""

    def cell(text: str) -> Markup:
        return Markup(f"<bdi {script.attributes}>{html.escape(visible(text[:MOST_ALIGNED]))}</bdi>")

    def most(counts: Counter) -> list:
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CONFUSIONS]

    pairs = [[cell(asked), cell(written), f"{n:,}"] for (asked, written), n in most(edits.substituted)]
    tables = [
        f"<div><h3>{kind.capitalize()} that became others</h3>"
        + (table(f"{kind} that became others", ["reference", "written", "times"], pairs, [2]) if pairs else NONE)
        + "</div>"
    ]
    for title, counts in ((f"Missing {kind}", edits.deleted), (f"Added {kind}", edits.inserted)):
        rows = [[cell(what), f"{n:,}"] for what, n in most(counts)]
        inside = table(title, [kind.removesuffix("s"), "times"], rows, [1]) if rows else NONE
        tables.append(f"<div><h3>{title}</h3>{inside}</div>")
    return f'<div class="small">{"".join(tables)}</div>'


NONE = '<p class="soft">None.</p>'

# ------------------------------------------------------------------------------------------------ sound and numbers


def data_url(samples: np.ndarray) -> str:
    """int16 or float samples (n,) at 16 kHz, the first 20 s, as mp3, which every browser plays, or else as ogg."""
    kind, mime = ("MP3", "mpeg") if "MP3" in soundfile.available_formats() else ("OGG", "ogg")
    audio = io.BytesIO()
    soundfile.write(audio, samples[: int(PLAYED_SECONDS * SAMPLE_RATE)], SAMPLE_RATE, format=kind)
    return f"data:audio/{mime};base64,{base64.b64encode(audio.getvalue()).decode()}"


def player(name: str, url: str) -> str:
    return f'<audio controls preload="metadata" aria-label="{html.escape(name, quote=True)}" src="{url}"></audio>'


def histogram(title: str, unit: str, values: Sequence[float], top: float | None = None) -> str:
    """A figure of how many clips have which value, of 0 and more; its bars are whole numbers wide. "" without values.

    top: the last bar holds all above it; without it there is no such bar.
    """
    if not values:
        return ""
    width = max(1, math.ceil((top or max(values)) / BARS))
    last = math.ceil(top / width) if top else max(1, math.floor(max(values) / width) + 1)
    counts = Counter(min(int(value / width), last) for value in values)
    bars = last + (counts[last] > 0)
    most, beyond = max(counts.values()), counts[last]
    x_unit, y_unit, floor = (WIDTH - LEFT - 10) / bars, (HEIGHT - TOP - BOTTOM) / most, HEIGHT - BOTTOM
    middle = f"median {statistics.median(values):.3g}, from {min(values):.3g} to {max(values):.3g} {unit}"
    label = html.escape(f"{title}: {middle}", quote=True)
    parts = [f'<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for count in sorted({0, most // 2, most}):
        y = floor - count * y_unit
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{count:g}</text>')
    for i, count in sorted(counts.items()):
        parts.append(
            f'<rect x="{LEFT + i * x_unit + 1:.1f}" y="{floor - count * y_unit:.1f}" width="{x_unit - 2:.1f}" '
            f'height="{count * y_unit:.1f}"/>'
        )
    for i in range(0, last + 1, max(1, math.ceil(last / 6))):
        x = LEFT + i * x_unit
        parts.append(f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{i * width:g}</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 3}" text-anchor="end">{html.escape(unit)}</text></svg>')
    note = f"; the last bar holds all of {last * width:g} and more ({beyond})" if beyond else ""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    return f'<figure>{caption}{"".join(parts)}<p class="soft">{html.escape(middle + note)}</p></figure>'


def within(budget: int, parts: Iterable[str]) -> list[str]:
    """The first parts, as many as fit into so many bytes."""
    kept: list[str] = []
    for part in parts:
        budget -= len(part.encode("utf-8", "replace"))
        if budget < 0:
            break
        kept.append(part)
    return kept
