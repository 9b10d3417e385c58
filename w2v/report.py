"""report.html of a run: one self-contained page with curves, results and predictions, no script and no network."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2v.metrics import ErrorRates

WIDTH, HEIGHT, MARGIN = 720, 220, 52  # of a chart, in pixels
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37")


@dataclass
class Curve:
    name: str
    points: list[tuple[float, float]]  # (step, value)


def chart(title: str, curves: list[Curve]) -> str:
    """An SVG line chart over training steps; "" where there is nothing to draw."""
    curves = [Curve(c.name, [p for p in c.points if all(map(math.isfinite, p))]) for c in curves]
    curves = [c for c in curves if c.points]
    if not curves:
        return ""
    xs = [x for c in curves for x, _ in c.points]
    ys = [y for c in curves for _, y in c.points]
    x0, x1 = min(xs), max(max(xs), min(xs) + 1)
    y0, y1 = min(0.0, min(ys)), max(ys) * 1.05 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            MARGIN + (x - x0) / (x1 - x0) * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN / 2 - (y - y0) / (y1 - y0) * (HEIGHT - MARGIN),
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for k in range(5):
        value = y0 + (y1 - y0) * k / 4
        _, y = place(x0, value)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        step = x0 + (x1 - x0) * k / 4
        parts.append(f'<text x="{place(step, 0)[0]:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{step:.0f}</text>')
    for curve, colour in zip(curves, COLOURS, strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in curve.points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(curve.points) <= 30:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
                for x, y in (place(*p) for p in curve.points)
            ]
    legend = " ".join(
        f'<tspan fill="{colour}" dx="10">{html.escape(curve.name)}</tspan>'
        for curve, colour in zip(curves, COLOURS, strict=False)
    )
    parts.append(f'<text x="{WIDTH - MARGIN}" y="14" text-anchor="end">{legend}</text></svg>')
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def report_html(
    title: str,
    summary: dict[str, object],
    results: dict[str, ErrorRates],
    metrics: list[dict],
    predictions: Sequence[tuple[str, str, str]],
    decisions: list[str],
) -> str:
    """metrics: the lines of metrics.jsonl. predictions: (clip, reference, hypothesis), worst first."""

    def curve(name: str, key: str) -> Curve:
        return Curve(name, [(m["step"], m[key]) for m in metrics if m.get(key) is not None])

    charts = [
        chart("Training loss", [curve("loss", "loss")]),
        chart("Error rates on dev", [curve("WER", "dev_wer"), curve("CER", "dev_cer")]),
        chart("Share of frames whose likeliest token is the blank", [curve("blank ratio", "blank_ratio")]),
        chart("Learning rate", [curve("learning rate", "lr")]),
    ]
    rates = [
        [split, r.clips, *("-" if v is None else f"{100 * v:.2f} %" for v in (r.wer, r.cer))]
        for split, r in results.items()
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{html.escape(title)}</title>",
            "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
            "table{border-collapse:collapse;margin:.5rem 0}td,th{border-bottom:1px solid #d1d9e0;padding:.25rem .75rem;"
            "text-align:left;vertical-align:top}svg{width:100%;max-width:720px;font-size:11px}.grid{stroke:#eaeef2}"
            "h2{font-size:1.05rem;margin:1.6rem 0 .3rem}ul{padding-left:1.2rem}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            _table(["split", "clips", "WER", "CER"], rates),
            *charts,
            "<h2>Test predictions, worst first</h2>" if predictions else "",
            _table(["clip", "reference", "prediction"], predictions) if predictions else "",
            "<h2>Decisions about the data</h2><ul>",
            *(f"<li>{html.escape(line)}</li>" for line in decisions),
            "</ul><h2>Settings</h2>",
            _table(["setting", "value"], summary.items()),
            "</body></html>\n",
        ]
    )


def _table(head: list[str], rows) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>{cells}</table>"
