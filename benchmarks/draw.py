"""A picture of where a step's time goes: one bar per implementation, one colour per stage, from a saved result.

python -m benchmarks.draw step_time-cpu-xlsr-53 docs/step-cpu-xlsr-53.svg
"""

import json
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.common import RESULTS
from recipes.console import Parser, run
from w2v.errors import InputError
from w2v.files import write_text

COLOURS = {
    "data": "#9aa0a6", "forward": "#4c78a8", "backward": "#f58518", "optimiser": "#54a24b", "hearing": "#4c78a8",
}  # fmt: skip
LEFT, WIDTH, BAR, GAP = 190, 560, 30, 14  # pixels


def main() -> dict:
    parser = Parser(prog="python -m benchmarks.draw", description=__doc__.split("\n")[0])
    parser.add_argument("result", help="name of a file in benchmarks/results, without .json")
    parser.add_argument("picture", type=Path, help="the .svg to write")
    args = parser.parse_args()
    file = RESULTS / f"{args.result}.json"
    if not file.is_file():
        raise InputError(
            f"the result must be in benchmarks/results, {file.name} is not; "
            "benchmarks.step_time --save NAME --peer PEER writes step_time-NAME-PEER.json"
        )
    summary = json.loads(file.read_text(encoding="utf-8"))
    write_text(args.picture, draw(summary))
    return {"picture": str(args.picture)}


def draw(summary: dict) -> str:
    """SVG of a step_time summary."""
    first = next(iter(summary["results"].values()))
    stages = {stage: colour for stage, colour in COLOURS.items() if stage in first["stages_ms"]}
    rows = sorted(summary["results"].items(), key=lambda item: sum(item[1]["stages_ms"][s] for s in stages))
    longest = sum(rows[-1][1]["stages_ms"][stage] for stage in stages)
    parts, y = [], 44
    for i, (stage, colour) in enumerate(stages.items()):
        parts.append(f'<rect x="{LEFT + 110 * i}" y="12" width="12" height="12" fill="{colour}"/>')
        parts.append(text(LEFT + 110 * i + 18, 22, stage))
    for name, result in rows:
        x = float(LEFT)
        parts.append(text(LEFT - 8, y + 20, f"{name}, {result['precision']}", "end"))
        for stage, colour in stages.items():
            width = WIDTH * result["stages_ms"][stage] / longest
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
            x += width
        parts.append(text(x + 8, y + 20, f"{result['ms_per_step'] / 1000:.3g} s"))
        y += BAR + GAP
    kind = "mean" if "ms_median" in first else "median"  # older results hold medians
    where = summary["machine"].get("gpu") or summary["machine"]["cpu"]
    parts.append(text(LEFT, y + 14, f"{summary['model']}, {kind} {summary.get('what', 'step')}, {where}"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 90} {y + 28}" font-size="14" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


if __name__ == "__main__":
    run(main)
