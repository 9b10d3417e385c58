"""What of a run's data each split gets: each language's, read and divided by itself, then all languages' together."""

import functools
import random
from collections.abc import Callable
from typing import NamedTuple

from recipes.console import with_flags
from recipes.data_settings import DataSettings
from w2v.data.corpus import Corpus, read_corpus, read_extra
from w2v.data.languages import join, shared_across
from w2v.data.manifest import Clip, Skipped, used_once
from w2v.data.splits import Splits, leak_report, make_splits
from w2v.text.locales import has_dotless_i
from w2v.text.normalise import Normaliser


class Read(NamedTuple):
    """A language's data, divided. No audio was opened."""

    settings: DataSettings
    normaliser: Normaliser
    normalise: Callable[[str], str]  # the same, which remembers: splits, leaks, vocabulary and labels ask alike
    corpus: Corpus
    splits: Splits
    skipped: list[Skipped]


def read_language(settings: DataSettings, decide: Callable[[str], None]) -> Read:
    """Read and divide the data of one language under its text rules."""
    normaliser = Normaliser(settings.lang, settings.case, settings.keep_chars, settings.remove_chars)
    decide(f"text: {describe_rules(normaliser)}")
    normalise = functools.cache(normaliser)
    wanted = [*settings.train_splits, settings.dev_split, settings.test_split]
    corpus = read_corpus(settings.data, settings.lang, settings.cache, settings.columns, wanted)
    skipped = list(corpus.skipped)
    splits = divide(corpus, settings, normalise, skipped, decide)
    return Read(settings, normaliser, normalise, corpus, splits, skipped)


def divide(
    corpus: Corpus,
    settings: DataSettings,
    normalise: Callable[[str], str],
    skipped: list[Skipped],
    decide: Callable[[str], None],
) -> Splits:
    """The splits of the corpus and of --extra-data; what cannot be read of that joins `skipped`."""
    extra: list[tuple[str, list[Clip]]] = []
    held_out: list[Clip] = []  # of dev and test of --extra-data
    for file in settings.extra_data:
        part = read_extra(file, settings.lang, settings.cache, settings.columns)
        clips, repeated, notes = used_once(part.tables["train"], part.release.name)
        extra.append((part.release.name, clips))
        held_out += part.tables.get("dev", []) + part.tables.get("test", [])
        skipped += part.skipped + repeated
        corpus.notes += part.notes + notes
    for note in corpus.notes:
        decide(f"data: {with_flags(note)}")
    splits = make_splits(
        corpus.tables, settings.train_splits, settings.dev_split, settings.test_split, normalise, extra, held_out
    )
    for note in splits.notes:
        decide(f"splits: {note}")
    return splits


def draw_train_clips(splits: Splits, settings: DataSettings, decide: Callable[[str], None]) -> None:
    """Leave so many training clips as --max-train-clips says."""
    if settings.max_train_clips and settings.max_train_clips < len(splits.train):
        splits.train = random.Random(settings.seed).sample(splits.train, settings.max_train_clips)
        decide(f"splits: {settings.max_train_clips} training clips drawn at random, as --max-train-clips says")


def joined(read: dict[str, Read], text_of: Callable[[Clip], str], decide: Callable[[str], None]) -> tuple[Splits, dict]:
    """The splits of all languages as one, and what they still share: within each language, and across them."""
    splits = join({lang: each.splits for lang, each in read.items()}, text_of)
    for note in splits.notes:
        decide(f"splits: {note}")
    leaks: dict[str, dict] = {}
    for lang, each in read.items():
        own = splits.map(lambda _, clips: [clip for clip in clips if clip.lang == lang])  # noqa: B023
        own.repeated = each.splits.repeated
        leaks[lang] = tell_leaks(own, each.normalise, lambda line: decide(f"{lang}: {line}"))  # noqa: B023
    across = shared_across(splits, text_of)
    decide(f"leaks: train of a language and dev or test of others share {_shared(across)}")
    return splits, leaks | {"across": across}


def tell_leaks(splits: Splits, normalise: Callable[[str], str], decide: Callable[[str], None]) -> dict:
    leaks = leak_report(splits, normalise)
    for pair, counts in leaks.items():
        decide(f"leaks: {pair} share {_shared(counts)}")
    return leaks


def _shared(counts: dict[str, int]) -> str:
    return f"{counts['clips']} clips, {counts['speakers']} speakers, {counts['sentences']} sentences"


def describe_rules(normaliser: Normaliser) -> str:
    """The casing and overrides in words."""
    case = "as written" if normaliser.case == "keep" else "lower-cased"
    if normaliser.case == "lower" and has_dotless_i(normaliser.lang):
        case += " with I -> ı and İ -> i"
    words = [f"{normaliser.lang}, {case}"]
    words += [f"kept besides: {normaliser.keep_chars}"] if normaliser.keep_chars else []
    words += [f"removed besides: {normaliser.remove_chars}"] if normaliser.remove_chars else []
    return ", ".join(words)


def name_data(read: Read) -> str:
    """For the model card: what the data is, with the names of archives, folders and tables, never where they lie."""
    titles = {"scripted": "Common Voice", "spontaneous": "Common Voice Spontaneous Speech"}
    names = [
        f"{titles[r.kind]} {r.version}".rstrip() + f" ({r.name})" if r.kind in titles else r.name
        for r in read.corpus.releases
    ]
    return ", ".join([*names, *(file.resolve().name for file in read.settings.extra_data)])
