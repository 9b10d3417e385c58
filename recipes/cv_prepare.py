"""Audit the data and decode it, before any GPU time: splits, leaks, characters, bad clips, the 16 kHz store.

    python -m recipes.cv_prepare --lang tr [--data cv-corpus-17.0-2024-03-15-tr.tar.gz]

Everything a training run would decide about its data is printed; the same code prepares cv_finetune's.
"""

import argparse
import functools
import hashlib
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recipes.base_model import BaseModel, default_model, resolve_model
from recipes.console import Parser, not_negative, positive, run, say
from w2v.audio import SAMPLE_RATE
from w2v.ctc import frames_needed
from w2v.data.commonvoice import read_common_voice
from w2v.data.manifest import Clip, Skipped, read_manifest
from w2v.data.splits import Splits, leak_report, make_splits
from w2v.data.store import Audio, build_store
from w2v.errors import InputError
from w2v.models.wav2vec2 import CONFIGS, Wav2Vec2Config
from w2v.text import (
    CharTokenizer,
    Normaliser,
    check_locale,
    foreign_characters,
    has_dotless_i,
    is_common_voice,
)

SAMPLE = Path(__file__).parent / "sample"
SAMPLE_NAME = "100 clips of Common Voice 6.1"
SHORTEST_MAX_SECONDS = 0.5
MOST_LISTED = 40  # characters in one printed line; run.json holds all of them


@dataclass
class Prepared:
    """A run's data, ready for training."""

    lang: str
    data_name: str  # for people: the sample, or the archive or folder
    is_sample: bool
    normaliser: Normaliser
    tokenizer: CharTokenizer
    splits: Splits  # usable clips only
    texts: dict[Clip, str]  # normalised
    audio: Audio
    skipped: list[Skipped]
    fingerprint: str  # of every clip, its length and its text: what a run is trained and measured on
    decisions: list[str]  # the lines that were printed, for run.json
    facts: dict  # the same in numbers

    def decide(self, line: str) -> None:
        """Print a decision and keep it for run.json."""
        say(line)
        self.decisions.append(line)

    def seconds(self, clips: list[Clip]) -> float:
        return sum(self.audio.samples(clip) for clip in clips) / SAMPLE_RATE


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--lang", required=True, help="Common Voice locale: tr, sv-SE, ckb ...")
    group.add_argument(
        "--data",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="release archive (.tar.gz), its folder or the folder above, or a table (.tsv .csv .jsonl) with path and "
        "sentence; default: $COMMON_VOICE_ROOT, else the embedded sample",
    )
    group.add_argument(
        "--extra-data",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="table with path and sentence whose clips join the training split; repeatable",
    )
    group.add_argument(
        "--train-splits",
        default="train",
        help="tables to train on, comma-separated; `validated` means validated minus all that dev and test hold",
    )
    group.add_argument("--dev-split", default="dev", help="table to select by, or none")
    group.add_argument("--test-split", default="test", help="table to test on, or none")
    group.add_argument("--min-seconds", type=not_negative, default=0.5, help="drop shorter training clips")
    group.add_argument("--max-seconds", type=not_negative, default=20.0, help="drop longer training clips")
    group.add_argument("--max-train-clips", type=positive, help="train on a random part of the clips")
    group.add_argument("--cache", type=Path, help="decoded audio, kept between runs (default $W2V_CACHE, ~/.cache/w2v)")
    group.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="threads that decode audio")
    group.add_argument("--seed", type=int, default=42)
    text = parser.add_argument_group("text")
    text.add_argument("--case", choices=("lower", "keep"), default="lower")
    text.add_argument("--keep-chars", default="", metavar="CHARS", help="punctuation or symbols to keep")
    text.add_argument("--remove-chars", default="", metavar="CHARS", help="characters to remove, letters included")
    text.add_argument("--min-char-count", type=positive, default=1, help="rarer characters become [UNK]")


def prepare(
    args: argparse.Namespace,
    data: list[Path],
    is_sample: bool,
    config: Wav2Vec2Config,
    tokenizer: CharTokenizer | None = None,
) -> Prepared:
    """Read, divide, normalise, decode and filter. data, is_sample: as find_data gave them.

    config: its frame rate decides which clips CTC can align. tokenizer: the vocabulary of a fine-tuned model, kept
    where it covers the training text.
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
    decisions: list[str] = []

    def decide(line: str) -> None:
        say(line)
        decisions.append(line)

    normaliser = Normaliser(args.lang, args.case, args.keep_chars, args.remove_chars)
    decide(f"text: {describe_rules(normaliser)}")
    normalise = functools.cache(normaliser)  # splits, leaks, vocabulary and labels ask for the same sentences
    cache = cache_folder(args)
    corpus = read_common_voice(data, args.lang, cache)
    skipped = list(corpus.skipped)
    for note in corpus.notes:
        decide(f"data: {note}")
    splits = make_splits(
        corpus.tables,
        [name.strip() for name in args.train_splits.split(",") if name.strip()],
        args.dev_split,
        args.test_split,
        normalise,
    )
    for file in args.extra_data:
        clips, unread = read_manifest(file)
        splits.train += clips
        skipped += unread
        splits.notes.append(f"{len(clips)} training clips from {file.name}")
    for note in splits.notes:
        decide(f"splits: {note}")
    leaks = leak_report(splits, normalise)
    for pair, counts in leaks.items():
        decide(
            f"leaks: {pair} share {counts['clips']} clips, {counts['speakers']} speakers, "
            f"{counts['sentences']} sentences"
        )

    if args.max_train_clips and args.max_train_clips < len(splits.train):
        splits.train = random.Random(args.seed).sample(splits.train, args.max_train_clips)
        decide(f"splits: {args.max_train_clips} training clips drawn at random, as --max-train-clips says")

    audio = build_store([clip for _, clips in splits.items() for clip in clips], cache, args.workers, log=say)
    usable = splits.map(lambda name, clips: _usable(name, clips, audio, normalise, config, args, skipped))
    if not usable.train:
        raise InputError(
            f"no usable training clip is left of {len(splits.train)} ({_reasons(skipped, 'train')}); look at the data, "
            "or loosen --min-seconds and --max-seconds"
        )

    texts = {clip: normalise(clip.sentence) for _, clips in usable.items() for clip in clips}
    characters = _characters(usable, texts)
    tokenizer = _tokenizer(tokenizer, characters, args.min_char_count, decide)
    facts = {"leaks": leaks, **_describe_text(usable, texts, characters, normaliser, tokenizer, decide)}

    usable = usable.map(
        lambda name, clips: _alignable(clips, texts, tokenizer, audio, config, skipped) if name == "train" else clips
    )
    if not usable.train:
        raise InputError(
            f"no usable training clip is left of {len(splits.train)} ({_reasons(skipped, 'train')}); every clip needs "
            "at least one frame per character"
        )
    prepared = Prepared(
        lang=args.lang,
        data_name=SAMPLE_NAME if is_sample else _name_data(data, args),
        is_sample=is_sample,
        normaliser=normaliser,
        tokenizer=tokenizer,
        splits=usable,
        texts=texts,
        audio=audio,
        skipped=skipped,
        fingerprint=_fingerprint(usable, texts, audio),
        decisions=decisions,
        facts=facts,
    )
    for name, clips in usable.items():
        hours = prepared.seconds(clips) / 3600
        facts[name] = {"clips": len(clips), "hours": round(hours, 4)}
        speakers = len({clip.speaker for clip in clips} - {""})
        decide(f"{name}: {len(clips)} clips, {hours:.2f} h, {speakers} speakers")
    frames = sum(_frames(audio.samples(clip), config) for clip in usable.train)
    labels = sum(len(texts[clip]) for clip in usable.train)
    decide(f"frames per label: {frames / max(1, labels):.1f} on average over train (CTC needs more than 1)")
    for reason, count in Counter(_kind(s.reason) for s in skipped).most_common():
        decide(f"skipped: {count} clips, {reason}")
    facts["skipped"] = len(skipped)
    return prepared


def describe_rules(normaliser: Normaliser) -> str:
    """The casing and overrides in words, with a warning for a language without rules of its own."""
    case = "as written" if normaliser.case == "keep" else "lower-cased"
    if normaliser.case == "lower" and has_dotless_i(normaliser.lang):
        case += " with I -> ı and İ -> i"
    words = [f"{normaliser.lang}, {case}"]
    words += [f"kept besides: {normaliser.keep}"] if normaliser.keep else []
    words += [f"removed besides: {normaliser.remove}"] if normaliser.remove else []
    if not is_common_voice(normaliser.lang):
        words.append("WARNING: not a locale of Common Voice, so the default rules apply; is it spelt right?")
    return ", ".join(words)


def _name_data(data: list[Path], args: argparse.Namespace) -> str:
    """For the model card: archive, folder and table names, never where they lie."""
    names = ", ".join(path.resolve().name for path in [*data, *args.extra_data])
    return f"Common Voice ({names})" if is_common_voice(args.lang) else names


def _fingerprint(splits: Splits, texts: dict[Clip, str], audio: Audio) -> str:
    digest = hashlib.sha256()
    for name, clips in splits.items():
        for clip in clips:
            digest.update(f"{name}\0{clip.name}\0{audio.samples(clip)}\0{texts[clip]}\n".encode())
    return digest.hexdigest()[:16]


def cache_folder(args: argparse.Namespace) -> Path:
    return args.cache or Path(os.environ.get("W2V_CACHE") or Path.home() / ".cache" / "w2v")


def find_data(args: argparse.Namespace) -> tuple[list[Path], bool]:
    """-> the data to read, and whether it is the embedded sample, announced by its banner."""
    if args.data:
        return args.data, False
    if root := os.environ.get("COMMON_VOICE_ROOT"):
        return [Path(root)], False
    sample = SAMPLE / args.lang
    how = (
        "get the real data: download the archive of your language from commonvoice.mozilla.org/datasets and pass it "
        "as it is, --data cv-corpus-...-LANG.tar.gz"
    )
    if not sample.is_dir():
        held = ", ".join(sorted(p.name for p in SAMPLE.iterdir() if (p / "validated.tsv").is_file()))
        raise InputError(f"--data is needed for {args.lang}: a sample is embedded for {held} only; {how}")
    say("=" * 100)
    say("EMBEDDED SAMPLE: 100 clips, six minutes of Turkish from Common Voice 6.1 (CC0), small model from scratch.")
    say("It shows the whole job, and ends with a training CER near 0: the model has learned these clips by heart.")
    say("Six minutes of speech cannot generalise: expect a held-out WER near 1. For a model that understands Turkish,")
    say(how + ".")
    say("=" * 100)
    return [sample], True


def _usable(
    split: str,
    clips: list[Clip],
    audio: Audio,
    normalise: Callable[[str], str],
    config: Wav2Vec2Config,
    args: argparse.Namespace,
    skipped: list[Skipped],
) -> list[Clip]:
    """Drop, by name and reason, clips without audio or text; training clips also for their length."""

    def why_not(clip: Clip) -> str | None:
        if clip in audio.skipped:
            return audio.skipped[clip]
        if not normalise(clip.sentence):
            return "no text is left of its sentence"
        if audio.samples(clip) < config.receptive_field:
            return f"shorter than one frame: {audio.samples(clip)} samples"
        if split == "train" and audio.seconds(clip) < args.min_seconds:
            return f"shorter than --min-seconds: {audio.seconds(clip):.2f} s"
        if split == "train" and audio.seconds(clip) > args.max_seconds:
            return f"longer than --max-seconds: {audio.seconds(clip):.2f} s"
        return None

    reasons = [(clip, why_not(clip)) for clip in clips]
    skipped += [Skipped(clip.name, split, reason) for clip, reason in reasons if reason]
    return [clip for clip, reason in reasons if not reason]


def _frames(samples: int, config: Wav2Vec2Config) -> int:
    return (samples - config.receptive_field) // config.hop + 1


def _alignable(
    clips: list[Clip],
    texts: dict[Clip, str],
    tokenizer: CharTokenizer,
    audio: Audio,
    config: Wav2Vec2Config,
    skipped: list[Skipped],
) -> list[Clip]:
    """Drop clips with fewer frames than CTC needs: their loss would be infinite."""
    kept = []
    for clip in clips:
        frames, needed = _frames(audio.samples(clip), config), frames_needed(tokenizer.encode(texts[clip]))
        if frames >= needed:
            kept.append(clip)
        else:
            skipped.append(Skipped(clip.name, "train", f"too few frames for its text: {frames} for {needed}"))
            say(f"skipped: {clip.name}: CTC cannot align {needed} labels to {frames} frames")
    return kept


def _characters(splits: Splits, texts: dict[Clip, str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for clip in splits.train:
        counts.update(texts[clip].replace(" ", ""))
    return counts


def _tokenizer(given: CharTokenizer | None, characters: Counter[str], min_count: int, decide) -> CharTokenizer:
    """The vocabulary of the training text; a fine-tuned model's own where that covers it."""
    foreign = foreign_characters(characters)
    rare = {char for char, n in characters.items() if n < min_count}
    excluded = foreign | rare
    if given is not None:
        lacking = sorted(set(characters) - excluded - set(given.vocab))
        if not lacking:
            decide(f"vocabulary: the model's own, {len(given)} tokens, covers the training text")
            return given
        decide(f"vocabulary: the model's own lacks {' '.join(lacking)}; a new one and a new head replace it")
    tokenizer = CharTokenizer.from_texts(["".join(characters)], exclude=excluded)
    shown = " ".join(tokenizer.tokens) if len(tokenizer) <= 200 else f"{' '.join(tokenizer.tokens[:MOST_LISTED])} ..."
    decide(f"vocabulary: {len(tokenizer)} tokens from the training text: {shown}")
    for title, chars in (("of foreign scripts", foreign), (f"seen less than {min_count} times", rare - foreign)):
        if chars:
            listed = ", ".join(f"{char} ({characters[char]})" for char in sorted(chars))
            decide(f"[UNK]: rare characters {title}: {listed}")
    return tokenizer


def _describe_text(
    splits: Splits, texts: dict[Clip, str], characters: Counter[str], normaliser: Normaliser, tokenizer, decide
) -> dict:
    """Say which characters were removed, so that a missing letter is seen before any GPU time."""
    removed: Counter[str] = Counter()
    for _, clips in splits.items():
        for clip in clips:
            removed.update(Counter(normaliser.spell(clip.sentence)) - Counter(texts[clip]))
    removed = Counter({char: n for char, n in removed.items() if not char.isspace()})
    listed = ", ".join(f"{_show(char)} ({n})" for char, n in removed.most_common())
    decide(f"removed characters: {listed or 'none'}")
    outside = Counter()
    for clip in splits.dev + splits.test:
        outside.update(c for c in texts[clip] if c != " " and c not in tokenizer.vocab)
    if outside:
        listed = ", ".join(f"{_show(char)} ({n})" for char, n in outside.most_common(MOST_LISTED))
        more = f" and {len(outside) - MOST_LISTED} more" if len(outside) > MOST_LISTED else ""
        decide(f"in dev or test but not in the vocabulary, so always wrong: {listed}{more}")
    return {
        "vocabulary": tokenizer.tokens,
        "characters": dict(sorted(characters.items())),
        "removed": dict(removed.most_common()),
        "outside_vocabulary": dict(outside),
    }


def _show(char: str) -> str:
    """The character, and its code where one cannot see or place it."""
    printable = char.isprintable() and not unicodedata.combining(char)
    return char if printable else f"U+{ord(char):04X} {unicodedata.name(char, '?')}"


def _kind(reason: str) -> str:
    return reason.split(":")[0]


def _reasons(skipped: list[Skipped], split: str) -> str:
    counts = Counter(_kind(s.reason) for s in skipped if s.split == split)
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common(3)) or "the split is empty"


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.cv_prepare", description=__doc__.split("\n")[0])
    add_data_arguments(parser)
    parser.add_argument("--model", help="as in cv_finetune: its frame rate and vocabulary matter here")
    args = parser.parse_args(argv)
    args.lang = check_locale(args.lang)
    data, is_sample = find_data(args)
    spec = args.model or default_model(is_sample)
    # A published model's config is known without its weights, which nobody needs yet.
    base = BaseModel(spec, CONFIGS[spec], None) if spec in CONFIGS else resolve_model(spec, cache_folder(args))
    prepared = prepare(args, data, is_sample, base.config, base.tokenizer)
    for skip in prepared.skipped:
        say(f"  {skip.split or '-'}\t{skip.name}\t{skip.reason}")
    return {"lang": args.lang, "fingerprint": prepared.fingerprint, **prepared.facts}


if __name__ == "__main__":
    run(main)
