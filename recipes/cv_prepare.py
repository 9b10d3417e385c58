"""Audit the data and decode it, before any GPU time: splits, leaks, characters, bad clips, the 16 kHz store.

    python -m recipes.cv_prepare --lang tr [--data cv-corpus-17.0-2024-03-15-tr.tar.gz] [--html page.html]

Everything a training run would decide about its data is printed; the same code prepares cv_finetune's.
"""

import functools
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from recipes.audit_page import audit_page
from recipes.check_alignment import check_alignment, load_recogniser
from recipes.console import Parser, run, say, with_flags
from recipes.data_settings import DataSettings, add_data_arguments, data_settings
from recipes.prepared import Prepared, show_character, vocabulary_record
from recipes.proposals import propose_adapter_off, propose_frame_rate, propose_max_seconds, propose_min_char_count
from recipes.start import StartingPoint, add_adapter_argument, default_model, resolve_model, with_adapter
from w2v.data.corpus import Corpus, read_corpus, read_extra
from w2v.data.manifest import Clip, Release, Skipped, used_once
from w2v.data.splits import Splits, leak_report, make_splits
from w2v.data.store import Audio, build_store
from w2v.errors import InputError
from w2v.files import write_text
from w2v.text.locales import has_dotless_i
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import foreign_characters

SAMPLE_NAME = "100 clips of Common Voice 6.1"
LONG_SECONDS = 60.0  # an evaluation clip beyond it is named
MOST_LISTED = 40  # characters in one printed line; run.json holds all of them


def prepare(settings: DataSettings, start: StartingPoint) -> Prepared:
    """Read, divide, normalise, decode and filter.

    start: its config says which clips the model cannot learn from; the vocabulary of a fine-tuned model is kept where
    it covers the training text.
    """
    config = start.config
    decisions: list[str] = []

    def decide(line: str) -> None:
        say(line)
        decisions.append(line)

    normaliser = Normaliser(settings.lang, settings.case, settings.keep_chars, settings.remove_chars)
    decide(f"text: {describe_rules(normaliser)}")
    normalise = functools.cache(normaliser)  # splits, leaks, vocabulary and labels ask for the same sentences
    wanted = [*settings.train_splits, settings.dev_split, settings.test_split]
    corpus = read_corpus(settings.data, settings.lang, settings.cache, settings.columns, wanted)
    skipped = list(corpus.skipped)
    splits = divide(corpus, settings, normalise, skipped, decide)
    leaks = leak_report(splits, normalise)
    for pair, counts in leaks.items():
        decide(
            f"leaks: {pair} share {counts['clips']} clips, {counts['speakers']} speakers, "
            f"{counts['sentences']} sentences"
        )

    draw_train_clips(splits, settings, decide)
    every = [clip for _, clips in splits.items() for clip in clips]
    audio = build_store(every, settings.cache, settings.workers, log=say)
    usable = splits.map(lambda name, clips: usable_clips(name, clips, audio, normalise, config, settings, skipped))
    if not usable.train:
        raise InputError(
            f"no usable training clip is left of {len(splits.train)} ({_reasons(skipped, 'train')}); look at the data, "
            "or loosen --min-seconds and --max-seconds"
        )

    texts = {clip: normalise(clip.sentence) for _, clips in usable.items() for clip in clips}
    characters = _characters(usable, texts)
    train_texts = [texts[clip] for clip in usable.train]
    tokenizer = _tokenizer(start, settings, train_texts, characters, decide)
    facts = {"leaks": leaks, **_describe_text(usable, texts, characters, normaliser, tokenizer, decide)}
    own = Counter({char: n for char, n in characters.items() if not tokenizer.unknown(char)})
    is_new = not tokenizer.same_vocabulary(start.tokenizer)
    aligns = start.family.model.emissions is not None  # CTC, whose frames must suffice for the labels
    facts["proposals"] = [
        *(propose_min_char_count(own, settings.min_char_count) if is_new else []),
        *propose_max_seconds(
            [audio.seconds(clip) for clip in usable.train],
            [audio.seconds(clip) for clip in splits.train if audio.seconds(clip) > settings.max_seconds],
            settings.max_seconds,
            config,
        ),
    ]
    if aligns:
        samples = [audio.samples(clip) for clip in usable.train]
        ids = [tokenizer.encode(text) for text in train_texts]
        facts["proposals"] += propose_adapter_off(samples, ids, config)
        facts["proposals"] += propose_frame_rate(samples, [len(each) for each in ids], config)
    for proposal in facts["proposals"]:
        decide(f"proposal: {proposal}")

    usable = usable.map(
        lambda name, clips: _learnable(clips, texts, tokenizer, audio, config, skipped) if name == "train" else clips
    )
    if not usable.train:
        raise InputError(
            f"no usable training clip is left of {len(splits.train)} ({_reasons(skipped, 'train')}); look at their "
            "length and text"
        )
    prepared = Prepared(
        lang=settings.lang,
        data_name=SAMPLE_NAME if settings.is_sample else _name_data(corpus.releases, settings),
        releases=corpus.releases,
        is_sample=settings.is_sample,
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
        decide(f"{name}: {len(clips)} clips, {hours:.2f} h, {prepared.speakers(clips)} speakers")
    if aligns:
        frames = sum(config.frames(audio.samples(clip)) for clip in usable.train)
        labels = sum(len(texts[clip]) for clip in usable.train)
        decide(f"frames per label: {frames / max(1, labels):.1f} on average over train (CTC needs more than 1)")
    for name in ("dev", "test"):
        long = [clip for clip in dict(usable.items())[name] if audio.seconds(clip) > LONG_SECONDS]
        if long:
            worst = max(long, key=audio.seconds)
            decide(
                f"{name}: {len(long)} clips are longer than {LONG_SECONDS:g} s, up to {audio.seconds(worst):.0f} s "
                f"({worst.name}); each evaluation hears them in chunks of 30 s"
            )
    for reason, count in Counter(_kind(s.reason) for s in skipped).most_common():
        decide(f"skipped: {count} clips, {reason}")
    facts["skipped"] = len(skipped)
    return prepared


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


def describe_rules(normaliser: Normaliser) -> str:
    """The casing and overrides in words."""
    case = "as written" if normaliser.case == "keep" else "lower-cased"
    if normaliser.case == "lower" and has_dotless_i(normaliser.lang):
        case += " with I -> ı and İ -> i"
    words = [f"{normaliser.lang}, {case}"]
    words += [f"kept besides: {normaliser.keep_chars}"] if normaliser.keep_chars else []
    words += [f"removed besides: {normaliser.remove_chars}"] if normaliser.remove_chars else []
    return ", ".join(words)


def _name_data(releases: list[Release], settings: DataSettings) -> str:
    """For the model card: what the data is, with the names of archives, folders and tables, never where they lie."""
    titles = {"scripted": "Common Voice", "spontaneous": "Common Voice Spontaneous Speech"}
    names = [
        f"{titles[r.kind]} {r.version}".rstrip() + f" ({r.name})" if r.kind in titles else r.name for r in releases
    ]
    return ", ".join([*names, *(file.resolve().name for file in settings.extra_data)])


def _fingerprint(splits: Splits, texts: dict[Clip, str], audio: Audio) -> str:
    digest = hashlib.sha256()
    for name, clips in splits.items():
        for clip in clips:
            digest.update(f"{name}\0{clip.name}\0{audio.samples(clip)}\0{texts[clip]}\n".encode())
    return digest.hexdigest()[:16]


def usable_clips(
    split: str,
    clips: list[Clip],
    audio: Audio,
    normalise: Callable[[str], str],
    config,
    settings: DataSettings,
    skipped: list[Skipped],
) -> list[Clip]:
    """Drop, by name and reason, clips without audio or text; training clips also for their length."""

    def why_not(clip: Clip) -> str | None:
        if clip in audio.skipped:
            return audio.skipped[clip]
        if not normalise(clip.sentence):
            return "no text is left of its sentence"
        if split == "train" and audio.seconds(clip) < settings.min_seconds:
            return f"shorter than --min-seconds: {audio.seconds(clip):.2f} s"
        if split == "train" and audio.seconds(clip) > settings.max_seconds:
            return f"longer than --max-seconds: {audio.seconds(clip):.2f} s"
        if split != "train":  # no length is too long to be heard
            return None if config.frames(audio.samples(clip)) >= 1 else "shorter than one frame"
        return config.why_not(audio.samples(clip), [])

    reasons = [(clip, why_not(clip)) for clip in clips]
    skipped += [Skipped(clip.name, split, reason) for clip, reason in reasons if reason]
    return [clip for clip, reason in reasons if not reason]


def _learnable(
    clips: list[Clip], texts: dict[Clip, str], tokenizer, audio: Audio, config, skipped: list[Skipped]
) -> list[Clip]:
    """Drop, by name and reason, clips whose text the model cannot learn from their audio."""
    kept = []
    for clip in clips:
        reason = config.why_not(audio.samples(clip), tokenizer.encode(texts[clip]))
        if reason is None:
            kept.append(clip)
        else:
            skipped.append(Skipped(clip.name, "train", reason))
            say(f"skipped: {clip.name}: {reason}")
    return kept


def _characters(splits: Splits, texts: dict[Clip, str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for clip in splits.train:
        counts.update(texts[clip].replace(" ", ""))
    return counts


def _tokenizer(start: StartingPoint, settings: DataSettings, train_texts: list[str], characters: Counter[str], decide):
    """The vocabulary of the training text; a fine-tuned model's own where that covers it."""
    given, min_count = start.tokenizer, settings.min_char_count
    if given is not None:
        given = given.for_language(settings.lang, settings.prompt_language)
    if given is not None and given.language:
        decide(f"language: the model is told {given.language}")
    foreign = foreign_characters(characters)
    rare = {char for char, n in characters.items() if n < min_count}
    excluded = foreign | rare
    if given is not None:
        lacking = sorted(set().union(*map(given.unknown, train_texts)) - excluded)
        if not lacking:
            decide(f"vocabulary: the model's own, {len(given)} tokens, covers the training text")
            return given
        listed = " ".join(lacking[:MOST_LISTED]) + (" ..." if len(lacking) > MOST_LISTED else "")
        decide(f"vocabulary: the model's own lacks {listed}; a new one and a new head replace it")
    if characters and not set(characters) - excluded:
        raise InputError(
            f"--min-char-count must leave letters in the vocabulary, {min_count} leaves none of {len(characters)}: the "
            f"most frequent is seen {max(characters.values())} times; lower it"
        )
    tokenizer = start.family.tokenizer.from_texts(["".join(characters)], exclude=excluded)
    tokenizer = tokenizer.for_language(settings.lang, settings.prompt_language)
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
    listed = ", ".join(f"{show_character(char)} ({n})" for char, n in removed.most_common())
    decide(f"removed characters: {listed or 'none'}")
    outside: Counter[str] = Counter()
    for clip in splits.dev + splits.test:
        outside.update(tokenizer.unknown(texts[clip]))
    if outside:
        listed = ", ".join(f"{show_character(char)} ({n})" for char, n in outside.most_common(MOST_LISTED))
        more = f" and {len(outside) - MOST_LISTED} more" if len(outside) > MOST_LISTED else ""
        decide(f"in dev or test but not in the vocabulary, so always wrong: {listed}{more}")
    return {
        "vocabulary": vocabulary_record(tokenizer),
        "characters": dict(sorted(characters.items())),
        "removed": dict(removed.most_common()),
        "outside_vocabulary": dict(outside),
    }


def _kind(reason: str) -> str:
    return reason.split(":")[0]


def _reasons(skipped: list[Skipped], split: str) -> str:
    counts = Counter(_kind(s.reason) for s in skipped if s.split == split)
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common(3)) or "the split is empty"


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.cv_prepare", description=__doc__.split("\n")[0])
    add_data_arguments(parser)
    parser.add_argument("--model", help="as in cv_finetune: its frame rate and vocabulary matter here")
    add_adapter_argument(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page to look at and listen to")
    parser.add_argument("--check-alignment", metavar="RUN", help="list the clips that do not say their sentence to it")
    settings = data_settings(args := parser.parse_args(argv))
    if args.html and args.html.is_dir():
        raise InputError(f"--html must name a file, {args.html} is a folder; give a name such as page.html")
    start = resolve_model(args.model or default_model(settings.is_sample), settings.cache, weights=False)
    start = with_adapter(start, args.add_adapter)
    checker = load_recogniser(args.check_alignment) if args.check_alignment else None  # before hours of decoding
    prepared = prepare(settings, start)
    for skip in prepared.skipped:
        say(f"  {skip.split or '-'}\t{skip.name}\t{skip.reason}")
    if args.html:
        write_text(args.html, audit_page(prepared, start.config, settings.seed))
        say(f"page to look at and listen to: {args.html}")
    if checker:
        prepared.facts["alignment"] = check_alignment(checker, prepared.splits, prepared.audio, settings.lang)
    return {"lang": settings.lang, "fingerprint": prepared.fingerprint, **prepared.facts}


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
