"""Which data a command reads and how it reads it: flags, the settings they become, the embedded sample."""

import argparse
import os
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

from recipes.console import count, not_negative, positive, say
from recipes.given import LanguageData, Repeated, languages_of
from w2v.data.columns import Columns
from w2v.data.hub import PREFIX
from w2v.errors import InputError, listed
from w2v.files import reading

SAMPLES = Path(__file__).parent / "sample"
SHORTEST_MAX_SECONDS = 0.5
BANNER = 100  # columns
SHARED, PER_LANGUAGE = "shared", "per-language"


@dataclass(frozen=True)
class DataSettings:
    """What is read, divided, dropped and normalised. Made by `data_settings` of the flags of the same names.

    Of several languages `lang`, `data` and `extra_data` are the first one's.
    """

    lang: str
    data: list[Path]
    is_sample: bool
    extra_data: list[Path]
    columns: Columns
    train_splits: list[str]
    dev_split: str
    test_split: str
    min_seconds: float
    max_seconds: float
    max_train_clips: int | None
    cache: Path
    workers: int
    seed: int
    case: str
    keep_chars: str
    remove_chars: str
    min_char_count: int
    prompt_language: str | None
    heads: str | None = None  # None: by the model
    languages: tuple[LanguageData, ...] = ()  # where there are several

    def of_each(self) -> list["DataSettings"]:
        """The settings of each language."""
        several = [replace(self, lang=each.lang, data=each.data, extra_data=each.extra_data, languages=())
                   for each in self.languages]  # fmt: skip
        return several or [self]


def add_data_arguments(parser: argparse.ArgumentParser, trains: bool = True) -> None:
    """trains: False for a command that takes a training command's flags and drops no clip."""

    def of_training(text: str) -> str:
        return text if trains else "not used here; a training command's flags can be copied"

    group = parser.add_argument_group("data")
    group.add_argument("--lang", help="Common Voice locale: tr, sv-SE, ckb ...; not needed where --data says LANG=PATH")
    group.add_argument(
        "--data",
        action=Repeated,
        nargs="+",
        type=Path,
        metavar="PATH",
        help="release archive (.tar.gz), its folder or the folder above; a table of paths and sentences (.tsv .csv "
        ".jsonl, NeMo's too); an AudioFolder, a Kaldi folder, parquet files; hub:owner/name, a data set of the Hub; "
        "repeatable; LANG=PATH where there are several languages; "
        "default: $COMMON_VOICE_ROOT, else the embedded sample",
    )
    group.add_argument(
        "--extra-data",
        action=Repeated,
        default=[],
        type=Path,
        metavar="PATH",
        help="the same kinds: its training or undivided clips join the training split; repeatable",
    )
    group.add_argument(
        "--audio-column", metavar="NAME", help="of paths or recordings, where a table calls it otherwise"
    )
    group.add_argument("--text-column", metavar="NAME", help="of sentences, where its name is unusual")
    group.add_argument(
        "--train-splits",
        default="train",
        help="tables to train on, comma-separated; `validated` means validated minus all that dev and test hold",
    )
    group.add_argument("--dev-split", default="dev", help="table to select by, or none")
    group.add_argument("--test-split", default="test", help="table to test on, or none")
    group.add_argument("--min-seconds", type=not_negative, default=0.5, help=of_training("drop shorter training clips"))
    group.add_argument("--max-seconds", type=not_negative, default=20.0, help=of_training("drop longer training clips"))
    group.add_argument("--max-train-clips", type=positive, help="train on a random part of the clips")
    group.add_argument("--cache", type=Path, help="decoded audio, kept between runs (default $W2V_CACHE, ~/.cache/w2v)")
    group.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="threads that decode audio")
    group.add_argument("--seed", type=count, default=42)
    text = parser.add_argument_group("text")
    text.add_argument("--case", choices=("lower", "keep"), default="lower")
    text.add_argument("--keep-chars", default="", metavar="CHARS", help="punctuation or symbols to keep")
    text.add_argument("--remove-chars", default="", metavar="CHARS", help="characters to remove, letters included")
    text.add_argument("--min-char-count", type=positive, default=1, help=of_training("rarer characters become [UNK]"))
    text.add_argument(
        "--heads",
        choices=(SHARED, PER_LANGUAGE),
        help=of_training(
            "of several languages: one vocabulary for all, or a vocabulary and a head for each (default: for each; "
            "Whisper, and --adapter, have one for all)"
        ),
    )
    text.add_argument(
        "--prompt-language",
        metavar="LANG",
        help="what Whisper is told where it does not know --lang: a language near it",
    )


def default_cache() -> Path:
    return Path(os.environ.get("W2V_CACHE") or Path.home() / ".cache" / "w2v")


def data_settings(args: argparse.Namespace, trains: bool = True) -> DataSettings:
    """The flags as settings. trains: for the sample's banner.

    InputError where they contradict one another, and where there is no data to read.
    """
    if args.max_seconds < SHORTEST_MAX_SECONDS:
        raise InputError(
            f"--max-seconds must be at least {SHORTEST_MAX_SECONDS}, got {args.max_seconds:g}; clips that short carry "
            "no label"
        )
    if args.min_seconds > args.max_seconds:
        raise InputError(
            f"--min-seconds must not exceed --max-seconds, got {args.min_seconds:g} > {args.max_seconds:g}"
        )
    languages = languages_of(args.lang, args.data, args.extra_data)
    names = [each.lang for each in languages]
    if len(languages) > 1 and not trains and args.lang is None:
        raise InputError(f"--lang must say which language is meant, the data has {listed(names)}; add it")
    if len(languages) > 1 and args.prompt_language is not None:
        raise InputError(f"--prompt-language is for data of one language, this is of {listed(names)}; leave it out")
    first = languages[0]
    for path in (path for each in languages for path in each.data + each.extra_data):  # before a model is fetched
        if not path.as_posix().startswith(PREFIX):
            with reading("the data", path):
                path.stat()
    data, is_sample = find_data(first.lang, first.data, trains)
    return DataSettings(
        lang=first.lang,
        data=data,
        is_sample=is_sample,
        extra_data=first.extra_data,
        columns=Columns(args.audio_column, args.text_column),
        train_splits=[name.strip() for name in args.train_splits.split(",") if name.strip()],
        dev_split=args.dev_split,
        test_split=args.test_split,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        max_train_clips=args.max_train_clips,
        cache=args.cache or default_cache(),
        workers=args.workers,
        seed=args.seed,
        case=args.case,
        keep_chars=args.keep_chars,
        remove_chars=args.remove_chars,
        min_char_count=args.min_char_count,
        prompt_language=args.prompt_language,
        heads=args.heads,
        languages=tuple(languages) if len(languages) > 1 and trains else (),
    )


def find_data(lang: str, given: list[Path] | None, trains: bool = True) -> tuple[list[Path], bool]:
    """-> the data to read, and whether it is the embedded sample, announced by its banner."""
    if given:
        return given, False
    if root := os.environ.get("COMMON_VOICE_ROOT"):
        return [Path(root)], False
    sample = SAMPLES / lang
    how = (
        "get the real data: download the archive of your language from the Mozilla Data Collective "
        "(mozilladatacollective.com, a free account) and pass it as it is, --data ARCHIVE.tar.gz"
    )
    if not sample.is_dir():
        held = ", ".join(sorted(p.name for p in SAMPLES.iterdir() if (p / "validated.tsv").is_file()))
        raise InputError(f"--data is needed for {lang}: a sample is embedded for {held} only; {how}")
    about = [
        "EMBEDDED SAMPLE: 100 clips, six minutes of Turkish from Common Voice 6.1 (CC0).",
        "It shows the whole job. Six minutes teach sounds and letters, not words: expect a held-out WER near 1.",
        f"For a model that understands Turkish, {how}.",
    ]
    if not trains:
        about = [
            "EMBEDDED SAMPLE: 100 clips, six minutes of Turkish from Common Voice 6.1 (CC0).",
            "Error rates on so few clips are rough, and a model that was trained on them knows some by heart.",
            f"For rates that can be told to others, {how}.",
        ]
    say("=" * BANNER)
    for text in about:
        for line in textwrap.wrap(text, BANNER, break_on_hyphens=False):
            say(line)
    say("=" * BANNER)
    return [sample], True
