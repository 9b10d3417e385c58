"""Write report.html of a run anew, or a page that compares runs.

    python -m recipes.report runs/tr-xlsr-53-1                        # its report.html
    python -m recipes.report runs/tr-xlsr-53-1 runs/tr-xlsr-53-2      # comparison.html

Everything comes from the run folder: run.json, metrics.jsonl, predictions-*.tsv. Speakers and audio come from the data
that run.json names, where it is still there. A run that goes on has a page of what it has done so far (--out FILE).
"""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from recipes.console import Parser, run, say
from recipes.data_settings import SAMPLES
from recipes.health import symptoms
from recipes.locking import check_free
from recipes.prepared import Prepared
from recipes.run_folder import data_of_run, read_metrics, read_run
from w2v.data.columns import Columns
from w2v.data.corpus import read_corpus
from w2v.data.hub import PREFIX
from w2v.data.manifest import Clip
from w2v.data.store import Audio, build_store
from w2v.errors import InputError, show
from w2v.files import read_bytes, write_text
from w2v.metrics import error_rates
from w2v.report import Prediction, Run, SplitResult, report_html
from w2v.report_compare import comparison_html
from w2v.report_curves import NEEDED, has_matplotlib
from w2v.report_parts import percent
from w2v.text.locales import is_spaced

COLUMNS = 3  # of predictions-*.tsv
COMPARISON = "comparison.html"


class Heard(NamedTuple):
    """What is known of the clips of a run's predictions, by name; names that two clips have are not in it."""

    speakers: dict[str, str]
    seconds: dict[str, float]
    listen: Callable[[str], np.ndarray | None] | None  # -> samples (n,) at 16 kHz
    remark: str = ""  # why nothing can be heard


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    if len(args.runs) == 1:
        folder = args.runs[0]
        if args.out is None:
            check_free(folder)
        record = read_run(folder)
        path = write_report(folder, record, hear_again(folder, record, args), args.out)
    else:
        runs = [run_of(folder, record := read_run(folder), hear_again(folder, record, args)) for folder in args.runs]
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
    parser.add_argument("--data", nargs="+", type=Path, metavar="PATH", help="where the runs' data is now")
    parser.add_argument("--cache", type=Path, help="decoded audio (default $W2V_CACHE, ~/.cache/w2v)")
    args = parser.parse_args(argv)
    if args.out and args.out.is_dir():
        raise InputError(f"--out must name a file, {args.out} is a folder")
    return args


def write_report(folder: Path, record: dict, heard: Heard, path: Path | None = None) -> Path:
    """Write the page of the run in a folder. record: its run.json. -> the page's path."""
    path = path or folder / "report.html"
    write_text(path, report_html(run_of(folder, record, heard)))
    return path


def run_of(folder: Path, record: dict, heard: Heard) -> Run:
    """What the pages show of a run folder."""
    metrics = read_metrics(folder / "metrics.jsonl")
    predictions = {split: read_predictions(folder / f"predictions-{split}.tsv", heard) for split in ("test", "dev")}
    settings, arguments = _object(record, "settings"), _object(record, "arguments")
    lang = str(arguments.get("lang") or "")
    results = results_of(record, predictions)
    return Run(
        title=f"{folder.resolve().name}: {model_name(record)} on {lang or 'speech'}",
        lang=lang,
        story=story_of(folder, record, metrics, results, lang),
        advice=advice_of(record, metrics),
        results=results,
        metrics=metrics,
        predictions=predictions,
        decisions=[str(line) for line in record.get("decisions") or []],
        settings={"model": record.get("model"), "data fingerprint": record.get("data_fingerprint")}
        | settings
        | {f"text: {name}": value for name, value in _object(record, "normaliser").items()}
        | {f"version of {name}": value for name, value in _object(record, "versions").items()}
        | {"commit": record.get("git_commit"), "machine": record.get("machine")},
        listen=heard.listen,
        remarks=[heard.remark] if heard.remark else [],
    )


def read_predictions(path: Path, heard: Heard) -> list[Prediction]:
    """The lines of a table that a run wrote. Damaged ones are counted, said and left out."""
    lines = read_bytes("the predictions", path).decode("utf-8", "replace").split("\n")[1:] if path.is_file() else []
    rows = [line.removesuffix("\r").split("\t") for line in lines if line]
    found = [
        Prediction(clip, reference, hypothesis, heard.speakers.get(clip, ""), heard.seconds.get(clip))
        for clip, reference, hypothesis in (row for row in rows if len(row) == COLUMNS)
    ]
    if len(found) < len(rows):
        say(f"{path}: {len(rows) - len(found)} of {len(rows)} lines are damaged and left out")
    return found


# ------------------------------------------------------------------------------------------------ in words


def _object(record: dict, name: str) -> dict:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def model_name(record: dict) -> str:
    """The model that training began with, of a path its last part."""
    name = str(record.get("model") or "a model")
    return Path(name).name if Path(name).is_absolute() else name


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 and math.isfinite(value) else None


def results_of(record: dict, predictions: dict[str, list[Prediction]]) -> list[SplitResult]:
    """The rates of each split: those that the run measured, else those of its predictions."""
    result, data = _object(record, "result"), _object(record, "data")
    rows = []
    for split, prefix in (("test", ""), ("dev", "dev_"), ("train", "train_")):
        clips = _number(_object(data, split).get("clips"))
        wer, cer = (_number(result.get(f"{prefix}{rate}")) for rate in ("wer", "cer"))
        held, note = predictions.get(split, []), ""
        if wer is None and held:
            rates = error_rates([p.reference for p in held], [p.hypothesis for p in held])
            wer, cer, clips = rates.wer, rates.cer, rates.clips
        measured = _number(result.get("train_clips_evaluated"))
        if split == "train" and measured and clips and measured < clips:
            note, clips = f"drawn at random of {clips:,.0f}", measured
        if wer is not None or cer is not None:
            rows.append(SplitResult(split, None if clips is None else int(clips), wer, cer, note))
    return rows


def story_of(folder: Path, record: dict, metrics: list[dict], results: list[SplitResult], lang: str) -> list[str]:
    """What was trained on what, and what came of it."""
    settings, result = _object(record, "settings"), _object(record, "result")
    train = _object(_object(record, "data"), "train")
    total, steps = _number(settings.get("total_steps")), _number(result.get("steps"))
    logged = max((record["step"] for record in metrics), default=0)
    clips, hours = _number(train.get("clips")), _number(train.get("hours"))
    data = f" on {clips:,.0f} clips, {hours:.2f} hours of {lang}" if clips is not None and hours is not None else ""
    rate = _number(settings.get("lr"))
    lines = [
        f"{model_name(record)} was trained{data}: {steps or logged:,.0f} of {total or 0:,.0f} steps"
        + ("" if rate is None else f", learning rate {rate:g} at its highest")
        + f", preset {settings.get('preset')}."
    ]
    dev = [(cer, m["step"]) for m in metrics if (cer := _number(m.get("dev_cer"))) is not None]
    if not result:
        best = f" The lowest dev CER so far is {percent(min(dev)[0])}, of step {min(dev)[1]:,}." if dev else ""
        go_on = f"python -m recipes.cv_finetune --resume --out {folder}"
        return [*lines, f"The run is not over.{best} If it was stopped, it goes on with: {go_on}"]
    tested = [row for row in results if row.split == "test"]
    for row in tested:
        words, characters = f"{percent(row.wer)} of the words (WER)", f"{percent(row.cer)} of the characters (CER)"
        first, second = (words, characters) if is_spaced(lang) else (characters, words)
        lines.append(f"On the {row.clips or 0:,} test clips the errors are {first} and {second}.")
    if not tested:
        lines.append("There are no test clips: how the model does on speech that it never heard is not known.")
    exported = _number(result.get("exported_step"))
    if exported is not None:
        why = "those of the lowest dev CER" if settings.get("keep_best") and dev else "the last ones"
        lines.append(f"The exported weights are of step {exported:,.0f}, {why}.")
    return lines


def advice_of(record: dict, metrics: list[dict]) -> list[str]:
    """The symptoms, each with what to do; of a run that is not over those that show now."""
    result, settings = _object(record, "result"), _object(record, "settings")
    if result:
        found = [str(line) for line in result.get("symptoms") or []]
        return [line[:1].upper() + line[1:] + "." for line in found]
    asked = {name: _number(settings.get(name)) for name in ("total_steps", "warmup_steps", "lr")}
    needed = ("step", "loss", "grad_norm")
    history = [m for m in metrics if "dev_cer" in m or all(_number(m.get(name)) is not None for name in needed)]
    if None in asked.values():
        return []
    return list(symptoms(history, SimpleNamespace(**asked), is_over=False).values())


# ------------------------------------------------------------------------------------------------ sound


def heard(prepared: Prepared, with_audio: bool) -> Heard:
    """What a run that ends knows of its clips."""
    clips = by_name([*prepared.splits.test, *prepared.splits.dev])
    seconds = {name: prepared.audio.seconds(clip) for name, clip in clips.items()}
    speakers = {name: clip.speaker for name, clip in clips.items()}
    return Heard(speakers, seconds, partial(_samples, prepared.audio, clips) if with_audio else None)


def _samples(audio: Audio, clips: dict[str, Clip], name: str) -> np.ndarray | None:
    return audio[clips[name]] if name in clips else None


def hear_again(folder: Path, record: dict, args: argparse.Namespace) -> Heard:
    """What the data that a run names still tells of its clips, decoded as they are asked for."""
    try:
        clips = clips_of_run(folder, record, args)
    except InputError as error:
        say(f"speakers and audio: not known, {error}")
        return Heard(
            {}, {}, None, "Nothing to hear: the data is not where the run had it; recipes.report takes --data."
        )
    cache = cache_of(record, args)
    seconds = {name: clip.seconds for name, clip in clips.items() if clip.seconds is not None}

    def listen(name: str) -> np.ndarray | None:
        clip = clips.get(name)
        if clip is None:
            return None
        try:
            audio = build_store([clip], cache, 1)
        except InputError as error:
            say(f"{show(name)} cannot be heard: {error}")
            return None
        return None if clip in audio.skipped else audio[clip]

    speakers = {name: clip.speaker for name, clip in clips.items()}
    return Heard(speakers, seconds, None if args.no_audio else listen)


def clips_of_run(folder: Path, record: dict, args: argparse.Namespace) -> dict[str, Clip]:
    """The clips of all tables of a run's data, by name."""
    flags, lang = data_of_run(folder), str(_object(record, "arguments").get("lang"))
    paths = args.data or flags.get("data") or [Path(os.environ.get("COMMON_VOICE_ROOT") or SAMPLES / lang)]
    far = [path for path in paths if path.as_posix().startswith(PREFIX)]
    if far:
        raise InputError(f"{far[0]} is not asked for again; give --data PATH")
    columns = Columns(flags.get("audio_column"), flags.get("text_column"))
    corpus = read_corpus(paths, lang, cache_of(record, args), columns)
    return by_name(clip for table in corpus.tables.values() for clip in table)


def cache_of(record: dict, args: argparse.Namespace) -> Path:
    recorded = _object(record, "arguments").get("cache")
    return Path(args.cache or recorded or os.environ.get("W2V_CACHE") or Path.home() / ".cache" / "w2v")


def by_name(clips: Iterable[Clip]) -> dict[str, Clip]:
    """Clips whose name is theirs alone; the same clip may be in several tables."""
    found: dict[str, Clip] = {}
    twice = set()
    for clip in clips:
        if found.setdefault(clip.name, clip).source != clip.source:
            twice.add(clip.name)
    return {name: clip for name, clip in found.items() if name not in twice}


if __name__ == "__main__":
    run(main)
