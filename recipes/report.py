"""Write report.html of a run anew, or a page that compares runs.

    python -m recipes.report runs/tr-xlsr-53-1                        # its report.html
    python -m recipes.report runs/tr-xlsr-53-1 runs/tr-xlsr-53-2      # comparison.html
    python -m recipes.report --tensorboard runs/tr-xlsr-53-1          # and runs/tr-xlsr-53-1/tensorboard

Everything comes from the run folder: run.json, metrics.jsonl, predictions-*.tsv. Speakers and audio come from the data
that run.json names, where it is still there. A run that goes on has a page of what it has done so far (--out FILE).
"""

import argparse
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipes.console import Parser, run, say
from recipes.data_settings import SAMPLES, default_cache
from recipes.given import Repeated, languages_of
from recipes.locking import check_free
from recipes.prepared import Prepared
from recipes.report_words import advice_of, lines_of, model_name, part_of, results_of, story_of
from recipes.run_folder import data_of_run, read_metrics, read_run
from w2v.data.columns import Columns
from w2v.data.corpus import read_corpus
from w2v.data.hub import PREFIX
from w2v.data.manifest import Clip
from w2v.data.store import Audio, build_store
from w2v.errors import InputError
from w2v.files import read_bytes, write_text
from w2v.report import Prediction, Run, report_html
from w2v.report_compare import comparison_html
from w2v.report_curves import NEEDED, has_matplotlib
from w2v.text.locales import check_locale

COLUMNS = 3  # of predictions-*.tsv, and of a run with several languages the clip's
COMPARISON = "comparison.html"
EVENTS = "tensorboard"


class Heard(NamedTuple):
    """What is known of the clips of a run's predictions, by name; names that two clips have are not in it."""

    speakers: dict[str, str]
    seconds: dict[str, float]
    listen: Callable[[str], np.ndarray | None] | None  # -> samples (n,) at 16 kHz
    remark: str = ""  # why nothing can be heard


Hear = Callable[[set[str]], Heard]  # names of clips -> what is known of them


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    if args.tensorboard:
        for folder in args.runs:
            write_events(folder)
    if len(args.runs) == 1:
        folder = args.runs[0]
        if args.out is None:
            check_free(folder)
        record = read_run(folder)
        path = write_report(folder, record, partial(hear_again, folder, record, args), args.out)
    else:
        args.no_audio = True  # its page has no players
        runs = []
        for folder in args.runs:
            record = read_run(folder)
            runs.append(run_of(folder, record, partial(hear_again, folder, record, args)))
        path = args.out or Path(COMPARISON)
        write_text(path, comparison_html(runs))
    say(f"page: {path}")
    if not has_matplotlib():
        say(NEEDED)
    return {"out": str(path), "runs": [str(folder) for folder in args.runs]}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m recipes.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the others against the first")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the page (report.html in the run; of several runs {COMPARISON} here)"
    )
    parser.add_argument("--no-audio", action="store_true", help="no clips to hear on the page")
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write the log as event files; again later, for what came since"
    )
    parser.add_argument(
        "--data", action=Repeated, nargs="+", type=Path, metavar="PATH", help="where the runs' data is now"
    )
    parser.add_argument("--cache", type=Path, help="decoded audio (default $W2V_CACHE, ~/.cache/w2v)")
    args = parser.parse_args(argv)
    if args.out and args.out.is_dir():
        raise InputError(f"--out must name a file, {args.out} is a folder")
    if args.tensorboard and find_spec("tensorboard") is None:
        raise InputError('--tensorboard needs the package tensorboard; pip install "w2v[tensorboard]"')
    return args


def write_events(folder: Path) -> None:
    """The numbers of a run's log as TensorBoard's event files, anew."""
    from torch.utils.tensorboard import SummaryWriter  # it imports the package

    metrics = read_metrics(folder / "metrics.jsonl")
    shutil.rmtree(folder / EVENTS, ignore_errors=True)
    with SummaryWriter(str(folder / EVENTS)) as writer:
        for record in metrics:
            for name, value in record.items():
                if name not in ("step", "epoch") and value is not None:
                    writer.add_scalar(name, value, record["step"])
    say(f"tensorboard --logdir {folder / EVENTS}")


def write_report(folder: Path, record: dict, hear: Hear, path: Path | None = None) -> Path:
    """Write the page of the run in a folder. record: its run.json. -> the page's path."""
    path = path or folder / "report.html"
    write_text(path, report_html(run_of(folder, record, hear)))
    return path


def run_of(folder: Path, record: dict, hear: Hear) -> Run:
    """What the pages show of a run folder."""
    metrics = read_metrics(folder / "metrics.jsonl")
    predictions = {split: read_predictions(folder / f"predictions-{split}.tsv") for split in ("test", "dev")}
    heard = hear({p.clip for found in predictions.values() for p in found})
    for split, found in predictions.items():
        predictions[split] = [
            p._replace(speaker=heard.speakers.get(p.clip, ""), seconds=heard.seconds.get(p.clip)) for p in found
        ]
    lang = str(part_of(record, "arguments").get("lang") or "")
    spoken = ", ".join(lines_of(record, "languages")) or lang
    results = results_of(record, predictions)
    return Run(
        title=f"{folder.resolve().name}: {model_name(record)} on {spoken or 'speech'}",
        lang=lang,
        story=story_of(folder, record, metrics, results, lang, spoken),
        advice=advice_of(record, metrics),
        results=results,
        metrics=metrics,
        predictions=predictions,
        decisions=lines_of(record, "decisions"),
        settings={"model": record.get("model"), "data fingerprint": record.get("data_fingerprint")}
        | part_of(record, "settings")
        | {f"text: {name}": value for name, value in part_of(record, "normaliser").items()}
        | {f"version of {name}": value for name, value in part_of(record, "versions").items()}
        | {"commit": record.get("git_commit"), "machine": record.get("machine")},
        listen=heard.listen,
        remarks=[heard.remark] if heard.remark else [],
    )


def read_predictions(path: Path) -> list[Prediction]:
    """The lines of a table that a run wrote. Damaged ones are counted, said and left out."""
    text = read_bytes("the predictions", path).decode("utf-8", "replace") if path.is_file() else ""
    head, *rows = [line.removesuffix("\r").split("\t") for line in text.split("\n") if line] or [[]]
    columns = COLUMNS + (head[COLUMNS:] == ["lang"])
    found = [Prediction(row[0], row[1], row[2], lang="".join(row[3:])) for row in rows if len(row) == columns]
    if len(found) < len(rows):
        say(f"{path}: {len(rows) - len(found)} of {len(rows)} lines are damaged and left out")
    return found


def heard(prepared: Prepared, with_audio: bool) -> Heard:
    """What a run that ends knows of its clips."""
    return _heard(by_name([*prepared.splits.test, *prepared.splits.dev]), prepared.audio, with_audio)


def hear_again(folder: Path, record: dict, args: argparse.Namespace, names: set[str]) -> Heard:
    """What the data that a run names still tells of these clips. The cache decodes again what it has lost."""
    try:
        clips = {name: clip for name, clip in clips_of_run(folder, record, args).items() if name in names}
        audio = None if args.no_audio else build_store(list(clips.values()), cache_of(record, args), 1, say)
    except InputError as error:
        say(f"speakers and audio: not known, {error}")
        return Heard({}, {}, None, f"No clip can be heard: {error}. recipes.report takes --data.")
    return _heard(clips, audio, audio is not None)


def _heard(clips: dict[str, Clip], audio: Audio | None, with_audio: bool) -> Heard:
    speakers = {name: clip.speaker for name, clip in clips.items()}
    if audio is None:
        return Heard(speakers, {name: clip.seconds for name, clip in clips.items() if clip.seconds is not None}, None)
    good = {name: clip for name, clip in clips.items() if clip not in audio.skipped}
    seconds = {name: audio.seconds(clip) for name, clip in good.items()}

    def listen(name: str) -> np.ndarray | None:
        return audio[good[name]] if name in good else None

    return Heard(speakers, seconds, listen if with_audio else None)


def clips_of_run(folder: Path, record: dict, args: argparse.Namespace) -> dict[str, Clip]:
    """The clips of all tables of a run's data, by name."""
    flags, lang = data_of_run(folder), check_locale(str(part_of(record, "arguments").get("lang")))
    given = args.data or flags.get("data") or [Path(os.environ.get("COMMON_VOICE_ROOT") or SAMPLES / lang)]
    columns = Columns(flags.get("audio_column"), flags.get("text_column"))
    clips: list[Clip] = []
    for each in languages_of(lang, given, []):
        if far := [path for path in each.data if path.as_posix().startswith(PREFIX)]:
            raise InputError(f"{far[0]} is not asked for again; give --data PATH")
        corpus = read_corpus(each.data, each.lang, cache_of(record, args), columns)
        clips += (clip for table in corpus.tables.values() for clip in table)
    return by_name(clips)


def cache_of(record: dict, args: argparse.Namespace) -> Path:
    recorded = part_of(record, "arguments").get("cache")
    return Path(args.cache or recorded or default_cache())


def by_name(clips: Iterable[Clip]) -> dict[str, Clip]:
    """Clips whose name is theirs alone; the same clip may be in several tables."""
    found: dict[str, Clip] = {}
    twice = set()
    for clip in clips:
        if found.setdefault(clip.name, clip).source != clip.source:
            twice.add(clip.name)
    return {name: clip for name, clip in found.items() if name not in twice}


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
