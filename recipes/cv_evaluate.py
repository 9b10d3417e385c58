"""Measure a model on a Common Voice language: error rates with their uncertainty, what goes wrong, two models compared.

    python -m recipes.cv_evaluate --model runs/tr-xlsr-53-1 --lang tr [--data PATH] [--split test] [--out DIR]
    python -m recipes.cv_evaluate --model owner/name --lang tr --compare runs/tr-xlsr-53-1
    python -m recipes.cv_evaluate --model runs/tr-xlsr-53-1 --lang tr --lm lm.arpa --tune-lm

Data is read and divided as a training run does it; the flags that a run of ours was given hold here too. A model that
has its own normaliser.json writes text in that form, and its text is compared as it is, as at the end of a run. The
text of any other model goes through the same rules as the references.
"""

import argparse
import functools
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from recipes import evaluation
from recipes.console import Parser, positive, run, say
from recipes.cv_prepare import usable_clips
from recipes.data_settings import DataSettings, add_data_arguments, data_settings
from recipes.dividing import describe_rules, divide, draw_train_clips
from recipes.evaluation import Score, score
from recipes.run_folder import data_of_run
from recipes.searching import NO_LM, add_search_arguments, announce, decoding_of, phrases_of, texts_of, tune, weighed
from recipes.upload import by_hand, repository_name
from w2v import asr, heads
from w2v.answers import DecodeOptions
from w2v.asr import Recogniser
from w2v.data.corpus import Corpus, read_corpus
from w2v.data.manifest import Clip, Skipped
from w2v.data.splits import OFFICIAL, Splits
from w2v.data.store import Audio, build_store
from w2v.decoding.beam import BeamSearch
from w2v.decoding.language_model import save_language_model
from w2v.errors import InputError, show
from w2v.files import write_json, write_text
from w2v.heard import Segment
from w2v.hearing import hear
from w2v.metrics import Edits
from w2v.text.locales import is_spaced
from w2v.text.normalise import Normaliser
from w2v.text.yardsticks import YARDSTICKS
from w2v.training.device import resolve_device

MOST_LISTED = 20  # skipped clips and characters on the terminal; evaluation.json has all
MOST_TUNED = 100_000_000  # numbers of emissions that --tune-lm holds
MOST_UNSPELLABLE = 0.5  # of the references' characters: beyond it, model and data are of different languages


class Model(NamedTuple):
    name: str  # as given
    asr: Recogniser
    normaliser: Normaliser | None  # of its folder


class Chosen(NamedTuple):
    """The clips that are measured."""

    clips: list[Clip]
    audio: Audio
    skipped: list[Skipped]
    train_texts: set[str]


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    device = resolve_device(args.device)
    if args.out and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out must be a folder, {args.out} is a file")
    settings = data_settings(args, trains=False)
    model = load_model(args.model, device, settings, args.target_lang, lm=args.lm is None)
    other = load_model(args.compare, device, settings, lm=args.lm != NO_LM) if args.compare else None
    normaliser, rules_are = rules_of(model, settings)
    normalise = functools.cache(normaliser)
    options = decoding_of(args, model.asr, measures=True)
    search = options.search
    assert search is None or isinstance(search, BeamSearch)
    if args.tune_lm and (search is None or model.asr.lm is None):
        raise InputError("--tune-lm fits the weights of a language model, there is none; add --lm")
    if args.tune_lm and (args.alpha is not None or args.beta is not None):
        raise InputError("--tune-lm finds --alpha and --beta by itself; leave out one or the other")
    if other and other.asr.lm:
        announce(other.asr.lm, other.name)
    corpus, splits = read_data(args, settings, normalise)
    if args.tune_lm and not splits.dev:
        raise InputError("--tune-lm needs clips of a dev split, the data has none; give --alpha and --beta instead")
    if args.tune_lm and args.split == "dev":
        say("split: WARNING: alpha and beta are fitted on the dev clips, so their rates are too good")
    chosen = choose_clips(args, args.split, corpus, splits, settings, normalise, model.asr.model.config)
    texts = [normalise(clip.sentence) for clip in chosen.clips]
    unspellable = check_spelling(model, texts)
    if other:
        check_spelling(other, texts)

    sentences = [clip.sentence for clip in chosen.clips]
    if search is not None and args.tune_lm:
        dev = choose_clips(args, "dev", corpus, splits, settings, normalise, model.asr.model.config)
        search = tune_on(model, dev, search, normaliser, settings)
        options = replace(options, search=search)
    hypotheses = recognise(model, chosen, device, options)
    scored = score(sentences, hypotheses, normalise, for_text_of(model, normaliser))
    rules = {"own": scored}
    for name, rule in YARDSTICKS.items():
        rules[name] = score(sentences, hypotheses, rule, rule)
    report = make_report(args, settings, chosen, texts, rules)
    report["lm"] = search_record(args.lm or args.model, search, args.hot_words)
    report["prompt"] = args.prompt
    report |= {"rules_are": rules_are, "normaliser": normaliser.to_dict(), "unspellable_references": unspellable}
    rows = [prediction_rows(sentences, texts, hypotheses, scored)]
    if other:
        their_search = other.asr.search() if other.asr.lm else None
        theirs = recognise(other, chosen, device, replace(options, search=their_search))
        other_scored = score(sentences, theirs, normalise, for_text_of(other, normaliser))
        speakers = [clip.speaker for clip in chosen.clips]
        report["compare"] = {
            "model": other.name,
            "lm": search_record(other.name, their_search),
            **evaluation.comparison(scored, other_scored, speakers, settings.seed),
        }
        rows.append(prediction_rows(sentences, texts, theirs, other_scored))
    for line in evaluation.lines_of(report):
        say(line)
    if args.out:
        write_json(args.out / "evaluation.json", report)
        write_text(args.out / "predictions.tsv", predictions_table(chosen.clips, rows))
        say(f"evaluation.json and predictions.tsv: {args.out}")
    return summary_of(report, args.out)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags; where the model is a run of ours, those of its data that are not given are the run's."""
    parser = Parser(prog="python -m recipes.cv_evaluate", description=(__doc__ or "").split("\n")[0])
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", required=True, help="a run, a folder in transformers' layout, or owner/name[@revision]"
    )
    group.add_argument(
        "--target-lang", metavar="LANG", help="the language of an MMS model, as ISO 639-3: tur; or what Whisper hears"
    )
    group.add_argument("--compare", metavar="MODEL", help="another model, measured on the same clips")
    group.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    group.add_argument(
        "--split", default="test", help="train, dev or test as a run makes them, or any table of the data"
    )
    group.add_argument("--limit", type=positive, metavar="N", help="measure a random part of the clips")
    group.add_argument("--out", type=Path, metavar="DIR", help="write evaluation.json and predictions.tsv there")
    add_search_arguments(parser)
    parser.add_argument(
        "--tune-lm", action="store_true", help="fit --alpha and --beta on the dev split, and keep them with the model"
    )
    add_data_arguments(parser, trains=False)
    folder = Path(parser.parse_args(argv).model)
    parser.set_defaults(**data_of_run(folder))
    return parser.parse_args(argv)


def load_model(spec: str, device, settings: DataSettings, target_lang: str | None = None, lm: bool = True) -> Model:
    """A model of several languages that was not fine-tuned for one alone is told that of the data."""
    folder = asr.folder_of(spec, target_lang, lm)
    if target_lang is None and (folder / heads.FOLDER / settings.lang).is_dir():
        target_lang = settings.lang
    recogniser = asr.load(folder, device, target_lang, lm)
    if recogniser.tokenizer.language is None:
        recogniser.tokenizer = recogniser.tokenizer.for_language(settings.lang, settings.prompt_language)
    return Model(spec, recogniser, recogniser.normaliser)


def rules_of(model: Model, settings: DataSettings) -> tuple[Normaliser, str]:
    """The text rules of the evaluation, and where they come from in words."""
    if model.normaliser is not None:
        if model.normaliser.lang != settings.lang:
            say(f"text: WARNING: the model's normaliser.json is of {model.normaliser.lang}, --lang is {settings.lang}")
        say(f"text: {describe_rules(model.normaliser)}, as the model's normaliser.json says")
        return model.normaliser, "the model's own rules"
    normaliser = Normaliser(settings.lang, settings.case, settings.keep_chars, settings.remove_chars)
    say(f"text: {describe_rules(normaliser)}; the model has no normaliser.json, so these are w2v's rules")
    return normaliser, f"w2v's rules for {settings.lang}"


def for_text_of(model: Model, normaliser: Normaliser):
    """What a model's text goes through: nothing where the rules are its own. See the top of this file."""
    own = model.normaliser is not None and model.normaliser.to_dict() == normaliser.to_dict()
    return (lambda text: text) if own else normaliser


def read_data(args: argparse.Namespace, settings: DataSettings, normalise) -> tuple[Corpus, Splits]:
    """Read and divide the data as for training."""
    wanted = [*settings.train_splits, settings.dev_split, settings.test_split, args.split]
    corpus = read_corpus(settings.data, settings.lang, settings.cache, settings.columns, wanted)
    unread: list[Skipped] = []
    splits = divide(corpus, without_lacking(settings, corpus), normalise, unread, say)
    draw_train_clips(splits, settings, say)
    return corpus, splits


def choose_clips(
    args: argparse.Namespace,
    split: str,
    corpus: Corpus,
    splits: Splits,
    settings: DataSettings,
    normalise,
    config,
) -> Chosen:
    """Decode the clips of a split. None is dropped for its length."""
    clips = clips_of(split, splits, corpus)
    if args.limit and args.limit < len(clips):
        drawn = sorted(random.Random(settings.seed).sample(range(len(clips)), args.limit))
        clips = [clips[i] for i in drawn]
        say(f"split: {len(clips)} clips drawn at random, as --limit says")
    audio = build_store(clips, settings.cache, settings.workers, log=say)
    skipped = [skip for skip in corpus.skipped if skip.split in (split, "")]  # rows; "": of a plain table
    usable = usable_clips("test", clips, audio, lambda clip: normalise(clip.sentence), config, settings, skipped)
    for skip in skipped[:MOST_LISTED]:
        say(f"left out: {show(skip.name)}: {skip.reason}")
    if len(skipped) > MOST_LISTED:
        say(f"left out: {len(skipped) - MOST_LISTED} more clips")
    if not usable:
        raise InputError(
            f"--split {split} must hold clips with audio and text, none of its {len(clips)} has both "
            f"(the first: {skipped[0].reason}); look at the data"
        )
    return Chosen(usable, audio, skipped, {normalise(clip.sentence) for clip in splits.train})


def without_lacking(settings: DataSettings, corpus: Corpus) -> DataSettings:
    """The settings without `train` where the data has other official tables only: nothing is trained here."""
    if "train" in corpus.tables or not any(corpus.tables.get(name) for name in OFFICIAL):
        return settings
    return replace(settings, train_splits=[name for name in settings.train_splits if name != "train"])


def clips_of(split: str, splits: Splits, corpus: Corpus) -> list[Clip]:
    by_name = dict(splits.items())
    by_name |= {name: clips for name, clips in corpus.tables.items() if name not in by_name}
    held = ", ".join(name for name, clips in by_name.items() if clips)
    if split not in by_name:
        raise InputError(f"--split must be one of {held or 'the tables, all of which are empty'}, got {show(split)}")
    if not by_name[split]:
        raise InputError(f"--split {split} must hold clips, it has none here; choose of {held or 'other data'}")
    return by_name[split]


def check_spelling(model: Model, texts: list[str]) -> dict[str, Any]:
    """Count and say which references the model's vocabulary cannot spell, in either case of its letters.

    InputError where that is most of the text: the model is of another language.
    """
    tokenizer, lacking, clips = model.asr.tokenizer, Counter[str](), 0
    for text in texts:
        found = [piece for piece in tokenizer.unknown(text) if tokenizer.unknown(piece.upper())]
        lacking.update(found)
        clips += bool(found)
    listed = ", ".join(f"{evaluation.printable(char)} ({n})" for char, n in lacking.most_common(MOST_LISTED))
    share = sum(len(piece) * n for piece, n in lacking.items()) / max(1, sum(len(t.replace(" ", "")) for t in texts))
    if share > MOST_UNSPELLABLE:
        raise InputError(
            f"the vocabulary of {model.name} must spell the references, it lacks {100 * share:.0f} % of their "
            f"characters ({listed:.100}); check --lang and --data, and --target-lang for an MMS model"
        )
    if lacking:
        say(
            f"spelling: {clips} of {len(texts)} references have characters that {model.name} cannot write, always "
            f"wrong: {listed}"
        )
    return {"clips": clips, "characters": dict(lacking.most_common())}


def tune_on(
    model: Model, dev: Chosen, search: BeamSearch, normaliser: Normaliser, settings: DataSettings
) -> BeamSearch:
    """The search with the weights that fit the dev clips best. A model's folder keeps them, with the language model."""
    assert model.asr.lm is not None  # or there is nothing to fit
    config: Any = model.asr.model.config
    frames = [config.frames(dev.audio.samples(clip)) for clip in dev.clips]
    held = max(1, MOST_TUNED // (len(model.asr.tokenizer) * max(1, sum(frames) // len(frames))))
    clips = dev.clips if held >= len(dev.clips) else random.Random(settings.seed).sample(dev.clips, held)
    say(f"tuning on {len(clips)} dev clips, from one pass of the model")
    phrases = phrases_of(model.asr, [dev.audio[clip] for clip in clips])
    sentences, headline = [clip.sentence for clip in clips], "wer" if is_spaced(settings.lang) else "cer"

    def rate(tried: BeamSearch | None) -> float:
        texts = texts_of(model.asr, phrases, tried)
        return score(sentences, texts, normaliser, for_text_of(model, normaliser)).rates[headline] or 0.0

    if search.fusion is not None and phrases.log_probs:  # its tables go to the device once, not for each try
        search.fusion.start(1, phrases.log_probs[0].device)
    alpha, beta, lowest = tune(search, rate)
    without = rate(None)
    say(
        f"tuned: alpha {alpha:g}, beta {beta:g}; dev {headline.upper()} {evaluation.percent(lowest)}, "
        f"{evaluation.percent(without)} without the language model"
    )
    lm = replace(model.asr.lm, alpha=alpha, beta=beta)
    if lowest >= without:
        say(f"WARNING: the language model is no help on the dev clips, so {model.name} does not keep it")
    elif Path(model.name).is_dir():
        place = heads.folder_of_lm(Path(model.name), settings.lang)
        save_language_model(place, lm, model.asr.tokenizer)
        say(f"the language model and its weights are in {place}; commands use them unless --lm says otherwise")
        name = f"YOUR_NAME/{repository_name(Path(model.name).resolve().name)}"
        say(f"to publish it with them: {by_hand(name, Path(model.name))}")
    else:
        say(f"to use them: --alpha {alpha:g} --beta {beta:g}; {model.name} is no folder here that could keep them")
    return weighed(search, alpha, beta)


def search_record(path: str, search: BeamSearch | None, hot_words: list[str] | None = None) -> dict[str, Any] | None:
    """For evaluation.json. path: of the language model."""
    if search is None:
        return None
    has_lm = getattr(search.fusion, "ngram", None) is not None
    weights = {name: getattr(search.fusion, name) if has_lm else None for name in ("alpha", "beta")}
    return {"path": path if has_lm else None, "beam": search.beam, **weights, "hot_words": hot_words}


def recognise(model: Model, chosen: Chosen, device, options: DecodeOptions) -> list[str]:
    """The texts of the clips, in their order, as at the end of a training run."""
    say(f"listening to {len(chosen.clips)} clips with {model.name} on {device}")
    segments: list[list[Segment]] = [[] for _ in chosen.clips]
    waveforms = ([chosen.audio[clip]] for clip in chosen.clips)
    with tqdm(total=len(chosen.clips), unit="clip", desc="listening", disable=None) as bar:
        for news in hear(model.asr.model, model.asr.tokenizer, waveforms, options=options):
            segments[news.number] += news.segments
            bar.update(news.is_over)
    return [model.asr.transcript(each).text for each in segments]


def make_report(
    args: argparse.Namespace, settings: DataSettings, chosen: Chosen, texts: list[str], rules: dict[str, Score]
) -> dict[str, Any]:
    """evaluation.json; see `evaluation`."""
    scored, headline = rules["own"], "wer" if is_spaced(settings.lang) else "cer"
    speakers = [clip.speaker for clip in chosen.clips]
    seconds = np.array([chosen.audio.seconds(clip) for clip in chosen.clips])
    seen = np.array([text in chosen.train_texts for text in texts])
    return {
        "model": args.model,
        "lang": settings.lang,
        "split": args.split,
        "headline": headline,
        "clips": len(chosen.clips),
        "seconds": round(float(seconds.sum()), 2),
        "speakers": len(set(speakers) - {""}),
        "skipped": [{"clip": skip.name, "reason": skip.reason} for skip in chosen.skipped],
        **scored.rates,
        "intervals": evaluation.intervals(scored, speakers, settings.seed),
        "rules": {name: evaluation.rates_under(each) for name, each in rules.items()},
        "by_length": evaluation.by_length(scored, seconds),
        "seen_in_training": evaluation.seen_in_training(scored, seen) if chosen.train_texts else None,
        "by_speaker": evaluation.by_speaker(scored, speakers, headline, [clip.name for clip in chosen.clips]),
        "confusions": {
            "words": evaluation.confusions(scored.words),
            "characters": evaluation.confusions(scored.characters),
        },
    }


def prediction_rows(
    sentences: list[str], texts: list[str], hypotheses: list[str], scored: Score
) -> list[tuple[str, str, str, str, str]]:
    """(sentence as written, reference, hypothesis as the model wrote it, its WER, its CER) of each clip."""

    def rates(edits: Edits) -> list[str]:
        return [f"{errors / length:.4f}" for errors, length in zip(edits.errors, edits.lengths, strict=True)]

    return list(zip(sentences, texts, hypotheses, rates(scored.words), rates(scored.characters), strict=True))


def predictions_table(clips: list[Clip], rows: list[list[tuple[str, str, str, str, str]]]) -> str:
    """predictions.tsv: no client_id in it. rows: the model's, then those of the one it is compared with."""
    columns = ["clip", "reference_raw", "reference", "prediction", "wer", "cer"]
    columns += ["other_prediction", "other_wer", "other_cer"] if len(rows) > 1 else []
    lines = [columns]
    for clip, own, *others in zip(clips, *rows, strict=True):
        lines.append([clip.name, *own, *(cell for other in others for cell in other[2:])])
    return "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in lines)


def summary_of(report: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """The one line on stdout: the report without its long lists."""
    long = ("skipped", "by_length", "by_speaker", "confusions", "unspellable_references", "rules_are")
    kept = {name: value for name, value in report.items() if name not in long}
    counts = {"skipped": len(report["skipped"]), "unspellable_references": report["unspellable_references"]["clips"]}
    return kept | counts | {"out": None if out is None else str(out)}


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
