"""Curves over training steps for the pages of w2v/report.py: inline SVG that matplotlib draws, in the page's colours.

matplotlib is an extra. Without it there are no pictures, and what is said below each of them stands.
"""

import html
import importlib.util
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

MOST_POINTS = 400  # of a curve; of more, means of neighbours are drawn
FEW_POINTS = 30  # each of which gets a dot
LARGEST = 1e12  # numbers beyond it are damage, and their ticks could not be read
WIDE = 50.0  # largest value over the smallest: a curve that falls so far is shown by powers of ten
INCHES, PLACE = (
    (4.4, 2.2),
    (0.125, 0.2, 0.86, 0.76),
)  # of a picture; of its axes, as shares: left, bottom, width, height
# Colours that stand for those of the page, which has two sets of them. See _in_page_colours.
INK, GRID = "#010101", "#020202"
LINES = ("#030303", "#030304", "#030305", "#030306", "#030307", "#030308")
DASHES = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (3, 3), (9, 3))
NEEDED = 'The curves are drawn by matplotlib, which is not installed: pip install "w2v[report]"'


@dataclass(frozen=True)
class Curve:
    name: str
    points: list[tuple[float, float]]  # (step, value)


def has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def curve_of(name: str, metrics: Sequence[dict], key: str, factor: float = 1.0) -> Curve:
    """What a log says of one number: the records that hold it. What is not finite is left out."""
    steps, values = ([_number(record.get(each)) for record in metrics] for each in ("step", key))
    pairs = zip(steps, values, strict=True)
    return Curve(name, [(x, factor * y) for x, y in pairs if x is not None and y is not None])


def _number(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= LARGEST else None  # None for NaN too


def figure(title: str, unit: str, curves: Sequence[Curve], number: int) -> str:
    """A figure of curves that share their axes; "" where none has a point. number: of the figure, on its page."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    words = [_in_words(curve, unit) for curve in curves]
    picture = ""
    if has_matplotlib():
        label = html.escape(f"{title}. {' '.join(words)}", quote=True)
        picture = _draw(curves, number).replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
        picture += _key(curves) if len(curves) > 1 else ""
    said = "".join(f'<p class="soft">{html.escape(line)}</p>' for line in words)
    caption = html.escape(f"{title}, {unit}" if unit else title)
    return f"<figure><figcaption>{caption}</figcaption>{picture}{said}</figure>"


def _in_words(curve: Curve, unit: str) -> str:
    def at(point: tuple[float, float]) -> str:
        return f"{_plain(point[1])}{unit and ' '}{unit} at step {point[0]:,.0f}"

    low, high = (best(curve.points, key=lambda point: point[1]) for best in (min, max))
    first, last = curve.points[0], curve.points[-1]
    if len(curve.points) == 1:
        return f"{curve.name}: {at(first)}."
    return f"{curve.name}: {at(first)}, {at(last)}; lowest {at(low)}, highest {at(high)}."


def _plain(value: float, digits: int = 3) -> str:
    """A number for people: three digits, and powers of ten where it is very small or large."""
    text = f"{value:,.{digits}g}" if value and not 1e-3 <= abs(value) < 1e6 else f"{float(f'{value:.{digits}g}'):,.10g}"
    return re.sub(r"e([+-])0*", r"e\1", text).replace("e+", "e")


def _key(curves: Sequence[Curve]) -> str:
    items = []
    for i, curve in enumerate(curves):
        dash = " ".join(f"{2 * part:g}" for part in DASHES[i % len(DASHES)])
        line = f'<line x1="0" x2="32" y1="6" y2="6" stroke="var(--c{i % len(LINES)})" stroke-width="3"'
        items.append(
            f'<li><svg viewBox="0 0 32 12" aria-hidden="true">{line} stroke-dasharray="{dash}"/></svg>'
            f"{html.escape(curve.name)}</li>"
        )
    return f'<ul class="key">{"".join(items)}</ul>'


def _draw(curves: Sequence[Curve], number: int) -> str:
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    settings = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "w2v",  # the same run gives the same page
        "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.color": GRID,
        "ytick.color": GRID, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": GRID,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "lines.linewidth": 1.6,
    }  # fmt: skip
    with matplotlib.style.context(["default", settings]):  # whatever the user's own matplotlibrc says
        picture = Figure(figsize=INCHES)
        FigureCanvasSVG(picture)
        axes = picture.add_axes(PLACE)  # matplotlib's own layouts draw everything twice
        for i, curve in enumerate(curves):
            points = _thinned(curve.points)
            axes.plot(
                *zip(*points, strict=True),
                color=LINES[i % len(LINES)],
                dashes=DASHES[i % len(DASHES)] or (None, None),
                marker="o" if len(points) <= FEW_POINTS else "",
                markersize=3,
            )
        values = [y for curve in curves for _, y in curve.points]
        by_powers = min(values) > 0 and max(values) / min(values) > WIDE
        plain = FuncFormatter(lambda value, _: _plain(value, 6))
        if by_powers:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_locator(LogLocator(subs=(), numticks=6))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            if min(values) >= 0:
                axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(plain)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(plain)
        axes.set_xlim(left=min(0.0, *(x for curve in curves for x, _ in curve.points)))
        axes.set_xlabel("step", loc="right")
        written = io.StringIO()
        picture.savefig(
            written, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _in_page_colours(written.getvalue(), number)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def _in_page_colours(svg: str, number: int) -> str:
    """matplotlib's file as part of a page: no header, names that no other figure has, the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    view = re.search(r'viewBox="[\d. ]+"', head)
    svg = f"<svg {view[0] if view else ''}>{rest}"
    used = set(re.findall(r"#([\w.-]+)[\")]", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda found: f' id="f{number}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"((?:href=\"|url\()#)", rf"\g<1>f{number}-", svg)
    names = {INK: "currentColor", GRID: "var(--line)"} | {line: f"var(--c{i})" for i, line in enumerate(LINES)}
    for colour, name in names.items():
        svg = svg.replace(colour, name)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 sans-serif", svg)  # as older ones write it
    return " ".join(re.sub(r">\s+<", "><", svg).split())
