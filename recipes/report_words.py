"""What a run's record says of it in sentences, for report.html: what was trained on what, its result, what to do next.

run.json may be of an older version or damaged in places: what it lacks is not said.
"""

import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recipes.health import symptoms
from w2v.metrics import error_rates
from w2v.report import Prediction, SplitResult
from w2v.report_parts import percent
from w2v.text.locales import is_spaced


def part_of(record: dict, name: str) -> dict:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def lines_of(record: dict, name: str) -> list[str]:
    value = record.get(name)
    return [str(line) for line in value] if isinstance(value, list) else []


def model_name(record: dict) -> str:
    """The model that training began with, of a path its last part."""
    name = str(record.get("model") or "a model")
    return Path(name).name if Path(name).is_absolute() else name


def number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 and math.isfinite(value) else None


def results_of(record: dict, predictions: dict[str, list[Prediction]]) -> list[SplitResult]:
    """The rates of each split: those that the run measured, else those of its predictions."""
    result, data = part_of(record, "result"), part_of(record, "data")
    rows = []
    for split, prefix in (("test", ""), ("dev", "dev_"), ("train", "train_")):
        clips = number(part_of(data, split).get("clips"))
        wer, cer = (number(result.get(f"{prefix}{rate}")) for rate in ("wer", "cer"))
        held, note = predictions.get(split, []), ""
        if wer is None and held:
            rates = error_rates([p.reference for p in held], [p.hypothesis for p in held])
            wer, cer, clips = rates.wer, rates.cer, rates.clips
        measured = number(result.get("train_clips_evaluated"))
        if split == "train" and measured and clips and measured < clips:
            note, clips = f"drawn at random of {clips:,.0f}", measured
        if wer is not None or cer is not None:
            each = [lang for lang, of_lang in part_of(result, "languages").items() if isinstance(of_lang, dict)]
            note = f"means of {len(each)} languages" + f", {note}" * bool(note) if each else note
            rows.append(SplitResult(split, None if clips is None else int(clips), wer, cer, note))
            for lang in each:
                of_lang = result["languages"][lang]
                of_split = part_of(part_of(part_of(data, "languages"), lang), split)
                clips = None if split == "train" else number(of_split.get("clips"))
                wer, cer = (number(of_lang.get(f"{prefix}{rate}")) for rate in ("wer", "cer"))
                rows.append(SplitResult(split, None if clips is None else int(clips), wer, cer, "", lang))
    return rows


def story_of(
    folder: Path, record: dict, metrics: list[dict], results: list[SplitResult], lang: str, spoken: str
) -> list[str]:
    """What was trained on what, and what came of it. spoken: the run's languages, of which `lang` is the first."""
    settings, result = part_of(record, "settings"), part_of(record, "result")
    train = part_of(part_of(record, "data"), "train")
    total, steps = number(settings.get("total_steps")), number(result.get("steps"))
    logged = max((record["step"] for record in metrics), default=0)
    clips, hours = number(train.get("clips")), number(train.get("hours"))
    data = f" on {clips:,.0f} clips, {hours:.2f} hours of {spoken}" if clips is not None and hours is not None else ""
    rate = number(settings.get("lr"))
    lines = [
        f"{model_name(record)} was trained{data}: {steps or logged:,.0f} of {total or 0:,.0f} steps"
        + ("" if rate is None else f", learning rate {rate:g} at its highest")
        + f", preset {settings.get('preset')}."
    ]
    dev = [(cer, m["step"]) for m in metrics if (cer := number(m.get("dev_cer"))) is not None]
    if not result:
        best = f" The lowest dev CER so far is {percent(min(dev)[0])}, of step {min(dev)[1]:,}." if dev else ""
        go_on = shlex.join(["python", "-m", "recipes.cv_finetune", "--resume", "--out", str(folder)])
        return [*lines, f"The run is not over.{best} If it was stopped, it goes on with: {go_on}"]
    tested = [row for row in results if row.split == "test" and not row.lang]
    for row in tested:
        words, characters = f"{percent(row.wer)} of the words (WER)", f"{percent(row.cer)} of the characters (CER)"
        first, second = (words, characters) if is_spaced(lang) else (characters, words)
        of = ", the means of all languages" if part_of(result, "languages") else ""
        lines.append(f"On the {row.clips or 0:,} test clips the errors are {first} and {second}{of}.")
    if not tested:
        lines.append("There are no test clips: how the model does on speech that it never heard is not known.")
    exported = number(result.get("exported_step"))
    if exported is not None:
        why = "those of the lowest dev CER" if settings.get("keep_best") and dev else "the last ones"
        lines.append(f"The exported weights are of step {exported:,.0f}, {why}.")
    return lines


def advice_of(record: dict, metrics: list[dict]) -> list[str]:
    """The symptoms, each with what to do; of a run that is not over those that show now."""
    result, settings = part_of(record, "result"), part_of(record, "settings")
    if result:
        return [line[:1].upper() + line[1:] + "." for line in lines_of(result, "symptoms")]
    asked = {name: number(settings.get(name)) for name in ("total_steps", "warmup_steps", "lr")}
    needed = ("step", "loss", "grad_norm")
    history = [m for m in metrics if "dev_cer" in m or all(number(m.get(name)) is not None for name in needed)]
    if None in asked.values():
        return []
    return list(symptoms(history, SimpleNamespace(**asked), is_over=False).values())
