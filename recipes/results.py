"""What a run ends with: the chosen weights exported, measured on every split, and explained."""

import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import nn

from recipes.checkpoints import best_folder
from recipes.console import say
from recipes.data_settings import DataSettings
from recipes.health import read_history, symptoms
from recipes.prepared import Prepared
from recipes.report import heard, write_report
from recipes.settings import Settings
from recipes.start import BOX, BY_HEART, StartingPoint
from recipes.upload import Describe, by_hand, repository_name
from w2v.asr import recognise
from w2v.data.manifest import Clip
from w2v.files import read_json, write_json, write_text
from w2v.heads import FOLDER, save_head
from w2v.metrics import ErrorRates, error_rates, mean_rates
from w2v.model_card import CardFacts, Share, model_card
from w2v.text.locales import is_spaced
from w2v.text.normalise import Normaliser
from w2v.training import distributed
from w2v.training.compile import eagerly
from w2v.training.device import describe_device
from w2v.training.distributed import by_first
from w2v.training.state import Progress
from w2v.weights.hf import WEIGHT_FILES, damage

TRAIN_CLIPS_EVALUATED = 500  # train_wer and train_cer of large data are measured on a random part this big
LEARNED_CER = 0.1  # of the sample's training clips
SCRATCH_CER = 0.87  # of the sample's held-out clips, docs/RESULTS.md
SAMPLE_PATH = "recipes/sample/tr"  # in a checkout
SETTINGS_ON_CARD = ("preset", "lr", "schedule", "warmup_steps", "batch_seconds", "batch_clips",
                    "accumulation", "precision", "adam_betas", "weight_decay", "seed")  # fmt: skip


class Prediction(NamedTuple):
    clip: str
    reference: str
    hypothesis: str
    lang: str = ""  # where the run has several


def evaluate(model, prepared: Prepared, clips: list[Clip], precision: str) -> tuple[ErrorRates, list[str]]:
    """-> error rates and hypotheses, each process transcribing its share. References are the normalised text, before
    any [UNK]. Of several languages the rates are the means of theirs: a large one does not drown a small one."""
    rank, world = distributed.rank(), distributed.world()
    mine = clips[rank::world]
    texts: dict[Clip, str] = {}
    with eagerly(model):
        for lang, language in prepared.of_each.items():
            of_lang = [clip for clip in mine if (clip.lang or prepared.lang) == lang]
            waveforms = [prepared.audio[clip] for clip in of_lang]
            with language.alone(model):
                texts |= zip(of_lang, recognise(model, language.tokenizer, waveforms, precision), strict=True)
    shares = distributed.gather([texts[clip] for clip in mine])
    hypotheses = [shares[i % world][i // world] for i in range(len(clips))]
    return rates_of(prepared, clips, hypotheses), hypotheses


def rates_of(prepared: Prepared, clips: list[Clip], hypotheses: list[str]) -> ErrorRates:
    """Of one language its own; of several their means, and each one's."""
    references = [prepared.texts[clip] for clip in clips]
    if not prepared.languages:
        return error_rates(references, hypotheses)
    by_language = {}
    for lang in prepared.languages:
        chosen = [i for i, clip in enumerate(clips) if clip.lang == lang]
        by_language[lang] = error_rates([references[i] for i in chosen], [hypotheses[i] for i in chosen])
    return mean_rates(by_language)


def percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{100 * rate:.1f} %"


@by_first
def export(out: Path, model, tokenizer, normaliser: Normaliser) -> None:
    """The folder's top: what w2v.load and transformers read."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    normaliser.save(out)


@by_first
def export_languages(out: Path, model, prepared: Prepared) -> None:
    """What is each language's own, where there are several; see w2v.heads."""
    for lang, language in prepared.languages.items():
        folder = out / FOLDER / lang
        language.normaliser.save(folder)
        if language.rows is not None:
            save_head(folder, model, language.rows)
            language.tokenizer.save_pretrained(folder)


def exported_step(settings: Settings, progress: Progress) -> int:
    return progress.best_step if settings.keep_best and progress.best_step else progress.step


def export_best(
    out: Path, model, settings: Settings, prepared: Prepared, progress: Progress, build: Callable[[], Any]
) -> None:
    """Put the chosen weights into the model and the top of the run folder.

    build: makes the model as it was before training.
    """
    wrong = damaged_best(out, settings, progress)
    if wrong:
        say(f"the weights of the lowest dev CER, of step {progress.best_step}, are damaged ({wrong})")
        progress.best_step = None  # summary and card tell of the last ones
    if settings.keep_best and progress.best_step is not None and not wrong:
        best = type(model).from_pretrained(best_folder(out, progress.best_step))
        model.load_state_dict(best.state_dict())
        say(f"exporting the weights of step {progress.best_step}, the lowest dev CER")
    else:
        why = "as the preset says" if not settings.keep_best else "there is no dev split to select by"
        why = "the best ones are lost" if wrong else why
        say(f"exporting the last weights, {why}")
    if settings.start_share:
        mix(model, build(), settings.start_share)
        say(f"of them {settings.start_share:g} are the weights that training began with (--start-share)")
    first = prepared.of_each[prepared.lang]
    with first.alone(model):
        export(out, model, first.tokenizer, first.normaliser)
    export_languages(out, model, prepared)
    if getattr(model.config, "adapter_attn_dim", None):  # what MMS keeps for each language
        by_first(model.save_adapter)(out / f"adapter.{prepared.lang}.safetensors")


@by_first
def damaged_best(out: Path, settings: Settings, progress: Progress) -> str | None:
    """What is wrong with the weights that were chosen to be exported, or None."""
    if not settings.keep_best or progress.best_step is None:
        return None
    return damage(best_folder(out, progress.best_step) / WEIGHT_FILES[0])


@torch.no_grad()
def mix(model: nn.Module, start: nn.Module, share: float) -> None:
    """The model's weights become a mean of theirs and the start's, whose share is given."""
    for weight, before in zip(model.parameters(), start.parameters(), strict=True):
        weight.lerp_(before.to(weight.device), share)


def card_facts(
    start: StartingPoint,
    model: nn.Module,
    settings: Settings,
    data: DataSettings,
    prepared: Prepared,
    progress: Progress,
    tags: list[str],
    repository: str,
    results: dict[str, ErrorRates],
) -> CardFacts:
    """What the card says of a run, now. results: what has been measured so far."""
    releases = prepared.languages[prepared.lang].releases if prepared.languages else prepared.releases
    return CardFacts(
        name=f"{start.family.model_type}-{start.short_name}-{prepared.title}",
        lang=prepared.lang,
        family=start.family.title,
        model_type=start.family.model_type,
        model_class=type(model).__name__,
        has_frames=model.emissions is not None,
        start=start.name if start.hub_id or not start.checkpoint else start.short_name,
        hub_id=start.hub_id,
        licence=start.licence,
        data=prepared.data_name,
        releases=prepared.releases,
        data_names=[SAMPLE_PATH] if prepared.is_sample else [release.name for release in releases],
        split_names=(data.train_splits, data.dev_split, data.test_split),
        splits={
            name: Share(len(clips), prepared.seconds(clips) / 3600, prepared.speakers(clips))
            for name, clips in prepared.splits.items()
        },
        results=results,
        headline="wer" if all(map(is_spaced, prepared.langs)) else "cer",
        hardware=describe_device(next(model.parameters()).device),
        training_seconds=progress.train_seconds,
        weights_of=exported_step(settings, progress),
        steps=(progress.step, settings.total_steps),
        settings={name: value for name, value in asdict(settings).items() if name in SETTINGS_ON_CARD},
        normalisation=prepared.normaliser.to_dict(),
        tags=tags,
        repository=repository,
        languages=list(prepared.languages),
    )


def measure_and_explain(
    out: Path,
    model: nn.Module,
    settings: Settings,
    prepared: Prepared,
    progress: Progress,
    epochs: float,
    describe: Describe,
) -> dict:
    """Measure the exported weights on every split, and write what explains the run. -> the summary.

    describe: the card's facts, of what was measured.
    """
    splits = dict(prepared.splits.items())
    if len(splits["train"]) > TRAIN_CLIPS_EVALUATED:
        splits["train"] = random.Random(settings.seed).sample(splits["train"], TRAIN_CLIPS_EVALUATED)
    results: dict[str, ErrorRates] = {}
    predictions: dict[str, list[Prediction]] = {}
    for name in ("test", "dev", "train"):
        results[name], hypotheses = evaluate(model, prepared, splits[name], "fp32")
        predictions[name] = [
            Prediction(clip.name, prepared.texts[clip], hypothesis, clip.lang)
            for clip, hypothesis in zip(splits[name], hypotheses, strict=True)
        ]
    summary: dict[str, Any] = {
        "wer": results["test"].wer,
        "cer": results["test"].cer,
        "train_wer": results["train"].wer,
        "train_cer": results["train"].cer,
        "dev_wer": results["dev"].wer,
        "dev_cer": results["dev"].cer,
        "split": "test" if splits["test"] else None,
        "test_clips": results["test"].clips,
        "train_clips_evaluated": results["train"].clips,
        "steps": progress.step,
        "epochs": epochs,
        "exported_step": exported_step(settings, progress),
        "train_audio_s_per_s": round(progress.audio_seconds / max(1e-9, progress.train_seconds), 2),
        "train_seconds": round(progress.train_seconds, 1),
        "vocabulary": len(prepared.tokenizer),
        "skipped": len(prepared.skipped),
        "symptoms": find_symptoms(out, settings, prepared),
        "out": str(out),
    }
    if prepared.languages:
        summary["languages"] = {lang: rates_by_split(results, lang) for lang in prepared.languages}
    facts = describe(results)
    write_results(out, facts, predictions, settings, prepared, summary)
    say_result(facts, summary, out, prepared.is_sample)
    return summary


def rates_by_split(results: dict[str, ErrorRates], lang: str) -> dict[str, float | None]:
    """One language's part of the summary, under the summary's names."""
    return {
        f"{prefix}{rate}": getattr(results[split].languages[lang], rate)
        for split, prefix in (("test", ""), ("dev", "dev_"), ("train", "train_"))
        for rate in ("wer", "cer")
    } | {"test_clips": results["test"].languages[lang].clips}


@by_first
def find_symptoms(out: Path, settings: Settings, prepared: Prepared) -> list[str]:
    """The health of the run that is over, a line for each thing that is wrong."""
    held_out = prepared.splits.dev + prepared.splits.test
    unspellable = sum(bool(prepared.unknown(clip)) for clip in held_out)
    history = read_history(out / "metrics.jsonl")
    return list(symptoms(history, settings, True, unspellable, len(held_out)).values())


@by_first
def write_results(
    out: Path,
    facts: CardFacts,
    predictions: dict[str, list[Prediction]],
    settings: Settings,
    prepared: Prepared,
    summary: dict,
) -> None:
    """Write the model card, the held-out predictions, report.html of all that, and the result into run.json."""
    for split in ("test", "dev"):
        if predictions[split]:
            columns = 4 if prepared.languages else 3
            rows = [("clip", "reference", "prediction", "lang"), *predictions[split]]
            lines = ["\t".join(row[:columns]) for row in rows]
            write_text(out / f"predictions-{split}.tsv", "".join(f"{line}\n" for line in lines))
    write_text(out / "README.md", model_card(facts))
    record = read_json(out / "run.json", "the run's") | {"result": summary}
    with_audio = not record["arguments"].get("no_audio")
    write_report(out, record, lambda names: heard(prepared, with_audio))
    write_json(out / "run.json", record)  # at last: a run whose record has a result is over


def say_of_sample(start: StartingPoint) -> None:
    """What a run on the sample shows, where its model is one that a laptop trains."""
    if start.name == BOX.name:
        say(
            f"{BOX.name} has heard three and a half hours of other speech. Watch the CER of dev, clips of speakers "
            f"that it does not hear: from scratch it stays about {percent(SCRATCH_CER)}"
        )
    elif start.name in BY_HEART:
        say("fresh weights: training CER goes to 0, the model learns these clips by heart and understands no others")


def say_result(facts: CardFacts, summary: dict, out: Path, is_sample: bool) -> None:
    if is_sample and facts.start == BOX.name:
        held_out = [summary[rate] for rate in ("dev_cer", "cer") if summary[rate] is not None]
        if held_out:
            say(f"transfer: CER {percent(fmean(held_out))} on speakers it never heard, from six minutes of Turkish")
            say(f"from scratch it is about {percent(SCRATCH_CER)} (--model tiny; docs/RESULTS.md)")
    if is_sample and facts.start in BY_HEART:
        learned = "learned by heart" if summary["train_cer"] < LEARNED_CER else "not learned by heart, too few steps"
        say(f"{learned}: training CER {percent(summary['train_cer'])}, WER {percent(summary['train_wer'])}")
        say("held-out rates near 100 % are expected: six minutes of speech cannot generalise")
    if summary["split"]:
        order = sorted(("wer", "cer"), key=lambda rate: rate != facts.headline)
        rates = ", ".join(f"{rate.upper()} {percent(summary[rate])}" for rate in order)
        mean = f", the means of {len(facts.languages)} languages" if facts.languages else ""
        say(f"test: {rates} over {summary['test_clips']} clips{mean}")
        for lang, of_lang in summary.get("languages", {}).items():
            rates = ", ".join(f"{rate.upper()} {percent(of_lang[rate])}" for rate in order)
            say(f"test, {lang}: {rates} over {of_lang['test_clips']} clips")
    else:
        say("test: not measured, the data holds no test clips")
    for line in summary["symptoms"]:
        say(line)
    say(f"model, card, predictions and report: {out}")
    if not facts.repository:
        say(f"to publish it: {by_hand(f'YOUR_NAME/{repository_name(facts.name)}', out)}")
