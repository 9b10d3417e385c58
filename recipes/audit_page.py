"""The page of `cv_prepare --html`: look at the data and listen to it before training. One file, no script, no network.

write_text("page.html", audit_page(prepared, config, seed=42))
"""

import base64
import difflib
import html
import io
import math
import random
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import soundfile

from recipes.prepared import Prepared, show_character
from w2v.audio import SAMPLE_RATE
from w2v.data.manifest import Clip

RANDOM_CLIPS = 10
EXTREME_CLIPS = 5  # at either end
PLAYED_SECONDS = 20.0  # the page stays small whatever the clips are
MOST_COMPARED = 1000  # characters of a sentence; the time grows with their square
MOST_CHARACTERS = 300  # on the page; some scripts have thousands
BARS = 20  # of a histogram, about
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 170, 36, 34, 8  # of a histogram, in units of its viewBox

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--paper:#fff;--card:#f6f8fa;--bar:#0969da;
--gone:#ffc9c4;--note:#fff8c5}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--line:#3d444d;--paper:#0d1117;--card:#151b23;
--bar:#4493f8;--gone:#8b2c28;--note:#342a0a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem;color:var(--ink);
background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:1rem 0 .3rem}
p{margin:.3rem 0}.soft{color:var(--soft);font-size:.875rem}
nav a{margin-right:1rem;white-space:nowrap}a{color:var(--bar)}
:focus-visible{outline:3px solid var(--bar);outline-offset:2px}
.note{background:var(--note);border-radius:6px;padding:.5rem .8rem;margin:.4rem 0}
.clip{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem}
.clip p{font-size:1.05rem}.clip .soft{font-size:.875rem}audio{width:100%;display:block;margin:.5rem 0;min-height:40px}
del{background:var(--gone);border-radius:3px;padding:0 .25em;text-decoration:none;font-weight:600}
.charts,.clips{display:grid;margin:.6rem 0;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:.8rem}
figure{margin:0}figcaption{font-weight:600}svg{width:100%;height:auto;display:block}
svg text{font-size:13px;fill:var(--soft)}svg rect{fill:var(--bar)}svg line{stroke:var(--line)}
.wide{overflow-x:auto}table{border-collapse:collapse;overflow-wrap:normal}td:last-child{overflow-wrap:anywhere}
th,td{border-bottom:1px solid var(--line);padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.chars{display:flex;flex-wrap:wrap;gap:.35rem;list-style:none;padding:0;margin:.5rem 0}
.chars li{border:1px solid var(--line);border-radius:6px;padding:.05rem .5rem}
.chars b{font-size:1.1rem}.chars span{color:var(--soft);font-size:.875rem}
summary{cursor:pointer}
"""


def audit_page(prepared: Prepared, config, seed: int) -> str:
    """The page's HTML. config: the family's, for its frames. seed: of the draw of the clips that one listens to."""
    clips = [(name, clip) for name, split in prepared.splits.items() for clip in split]
    pace = {clip: prepared.audio.seconds(clip) / len(prepared.texts[clip].replace(" ", "")) for _, clip in clips}
    by_pace = sorted(clips, key=lambda pair: pace[pair[1]])
    few = min(EXTREME_CLIPS, len(clips) // 2)
    drawn = random.Random(seed).sample(clips, min(RANDOM_CLIPS, len(clips)))

    def cards(chosen: Iterable[tuple[str, Clip]]) -> str:
        inside = "".join(_card(prepared, split, clip, pace[clip]) for split, clip in chosen)
        return f'<div class="clips">{inside}</div>'

    sections = {
        "Proposals": _notes(prepared.facts["proposals"]),
        "Listen": f'<p class="soft">{len(drawn)} clips drawn at random (seed {seed}). Does each say what its text '
        f"says? First as it is written, then as it is learned; <del>what is marked</del> is removed.</p>{cards(drawn)}",
        "Numbers": _splits(prepared) + '<div class="charts">' + _charts(prepared, config, pace) + "</div>",
        "Suspects": '<p class="soft">The texts of these clips are the least likely to match their audio.</p>'
        f"<h3>Least audio for their text</h3>{cards(by_pace[:few])}"
        f"<h3>Most audio for their text</h3>{cards(by_pace[::-1][:few])}",
        "Characters": _characters(prepared),
        "Skipped clips": _skipped(prepared),
        "All that was decided": "<details><summary>As it was printed</summary><ul>"
        + "".join(f"<li>{html.escape(line)}</li>" for line in prepared.decisions)
        + "</ul></details>",
    }
    title = f"{', '.join(prepared.langs)}: {prepared.data_name}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{html.escape(title)}</h1>",
            '<nav aria-label="Sections">' + "".join(f'<a href="#{_id(name)}">{name}</a> ' for name in sections),
            "</nav>",
            *(f'<section id="{_id(name)}"><h2>{name}</h2>{body}</section>' for name, body in sections.items()),
            "</main></body></html>\n",
        ]
    )


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _notes(lines: Sequence[str]) -> str:
    if not lines:
        return '<p class="soft">None: the numbers are as they should be.</p>'
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def _card(prepared: Prepared, split: str, clip: Clip, pace: float) -> str:
    """A clip: its player, its sentence as written and its text, what was removed of it marked."""
    seconds = prepared.audio.seconds(clip)
    lang, name = html.escape(clip.lang or prepared.lang, quote=True), html.escape(clip.name, quote=True)
    text = with_removed(prepared.of(clip).normaliser.spell(clip.sentence), prepared.texts[clip])
    cut = f", its first {PLAYED_SECONDS:g} s" if seconds > PLAYED_SECONDS else ""
    return (
        f'<article class="clip"><audio controls preload="metadata" aria-label="{name}" '
        f'src="{data_url(prepared.audio[clip][: int(PLAYED_SECONDS * SAMPLE_RATE)])}"></audio>'
        f'<p lang="{lang}" dir="auto">{html.escape(clip.sentence)}</p><p lang="{lang}" dir="auto">{text}</p>'
        f'<p class="soft">{name}, {split}: {seconds:.2f} s{cut}, {1 / pace:.1f} characters per second</p></article>'
    )


def data_url(samples: np.ndarray) -> str:
    """int16 samples (n,) at 16 kHz as mp3, which every browser plays; as wav where libsndfile has no mp3 encoder."""
    kinds = soundfile.available_formats()
    audio, kind, subtype = io.BytesIO(), *(("MP3", "MPEG_LAYER_III") if "MP3" in kinds else ("WAV", "PCM_16"))
    soundfile.write(audio, samples, SAMPLE_RATE, format=kind, subtype=subtype)
    mime = "audio/mpeg" if kind == "MP3" else "audio/wav"
    return f"data:{mime};base64,{base64.b64encode(audio.getvalue()).decode()}"


def with_removed(spelled: str, text: str) -> str:
    """HTML of `text` with what `spelled` has besides as deletions, in its place."""
    if len(spelled) > MOST_COMPARED:
        return html.escape(text)
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, spelled, text, autojunk=False).get_opcodes():
        gone = "" if kind == "equal" else "".join(map(_visible, spelled[i:j].replace(" ", "")))
        parts += [f"<del>{gone}</del>"] if gone else []
        parts += [html.escape(text[k:m])]
    return "".join(parts)


def _splits(prepared: Prepared) -> str:
    rows = []
    for name, clips in prepared.splits.items():
        speakers = Counter(clip.speaker for clip in clips if clip.speaker)
        share = f"{100 * max(speakers.values()) / len(clips):.0f} %" if speakers else "-"
        hours = prepared.seconds(clips) / 3600
        rows.append([name, f"{len(clips):,}", f"{hours:.2f}", f"{len(speakers):,}" if speakers else "-", share])
    return _table("Splits", ["split", "clips", "hours", "speakers", "largest speaker's share"], rows, numbers=True)


def _charts(prepared: Prepared, config, pace: dict[Clip, float]) -> str:
    seconds = {clip: prepared.audio.seconds(clip) for clip in pace}
    tokens = {clip: len(prepared.encode(clip)) for clip in seconds}
    rates = [1 / pace[clip] for clip in seconds]
    ratios = [config.frames(prepared.audio.samples(clip)) / max(1, tokens[clip]) for clip in seconds]
    return "".join(
        [
            histogram("Length of clips", "seconds", list(seconds.values())),
            histogram("Characters per second", "characters per second", rates),
            histogram("Frames per token (CTC needs more than 1)", "frames per token", ratios),
        ]
    )


def histogram(title: str, unit: str, values: list[float]) -> str:
    """A figure of how many clips have which value. The highest two hundredths share the last bar."""
    ordered = sorted(values)
    top = ordered[math.ceil(0.98 * (len(ordered) - 1))]
    width = round_step(top / BARS)
    last = max(1, math.ceil(top / width))
    counts = Counter(min(int(value / width), last) for value in values)
    bars = last + (counts[last] > 0)
    most, beyond = max(counts.values()), counts[last]
    x_unit, y_unit = (WIDTH - LEFT - 10) / bars, (HEIGHT - TOP - BOTTOM) / most
    middle = f"median {statistics.median(values):.3g}, from {ordered[0]:.3g} to {ordered[-1]:.3g} {unit}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}: {middle}">']
    for count in ticks(most, 4):
        y = HEIGHT - BOTTOM - count * y_unit
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{count:g}</text>')
    for i, count in sorted(counts.items()):
        low, high = f"{i * width:g}", f"{(i + 1) * width:g}" if i < last else "more"
        parts.append(
            f'<rect x="{LEFT + i * x_unit + 1:.1f}" y="{HEIGHT - BOTTOM - count * y_unit:.1f}" '
            f'width="{x_unit - 2:.1f}" height="{count * y_unit:.1f}"><title>{low} to {high}: {count}</title></rect>'
        )
    for value in ticks(last * width, 6):
        x = LEFT + value / width * x_unit
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 3}" text-anchor="end">{unit}</text></svg>')
    note = f"; the last bar holds all above {last * width:g} ({beyond})" if beyond else ""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    return f'<figure>{caption}{"".join(parts)}<p class="soft">{middle}{note}</p></figure>'


def round_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is at least `least`, which is above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def ticks(top: float, most: int) -> list[float]:
    """Round numbers from 0 to `top`, about as many as `most`."""
    step = round_step(top / most)
    return [round(i * step, 10) for i in range(int(top / step + 1e-9) + 1)]


def _characters(prepared: Prepared) -> str:
    facts = prepared.facts
    known = Counter(facts["characters"])
    unknown = {char: n for char, n in known.items() if prepared.lacks(char)}
    kept = Counter({char: n for char, n in known.items() if char not in unknown})
    return (
        f"<h3>In the vocabulary, by number in train</h3>{_chips(kept)}"
        f"<h3>Removed from the sentences</h3>{_chips(Counter(facts['removed']))}"
        f"<h3>In train, without a token ([UNK])</h3>{_chips(Counter(unknown))}"
        f"<h3>In dev or test, without a token: always wrong</h3>{_chips(Counter(facts['outside_vocabulary']))}"
    )


def _visible(char: str) -> str:
    """HTML of a character; a mark sits on the circle that Unicode has for that."""
    return html.escape(f"\u25cc{char}" if unicodedata.category(char[0])[0] == "M" else show_character(char))


def _chips(counts: Counter[str]) -> str:
    if not counts:
        return '<p class="soft">None.</p>'
    shown = counts.most_common(MOST_CHARACTERS)
    items = "".join(f"<li><b>{_visible(char)}</b> <span>{n:,}</span></li>" for char, n in shown)
    more = f'<p class="soft">and {len(counts) - len(shown):,} rarer ones</p>' if len(counts) > len(shown) else ""
    return f'<ul class="chars">{items}</ul>{more}'


def _skipped(prepared: Prepared) -> str:
    if not prepared.skipped:
        return '<p class="soft">None.</p>'
    by_kind: dict[str, list[str]] = {}
    for skip in prepared.skipped:
        by_kind.setdefault(skip.reason.split(":")[0], []).append(f"{skip.name} ({skip.reason})")
    rows = [
        [kind, f"{len(names):,}", "; ".join(names[:3]) + (" ..." if len(names) > 3 else "")]
        for kind, names in sorted(by_kind.items(), key=lambda item: -len(item[1]))
    ]
    return _table("Skipped clips", ["reason", "clips", "such as"], rows)


def _table(label: str, head: list[str], rows: list[list[str]], numbers: bool = False) -> str:
    """numbers: whether all columns after the first hold such."""
    right = ' class="n"' if numbers else ""

    def cells(tag: str, row: list[str]) -> str:
        return "".join(f"<{tag}{right if i else ''}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{label}">{table}</div>'
