"""Audit the data and decode it, before any GPU time: splits, leaks, characters, bad clips, the 16 kHz store.

    python -m recipes.cv_prepare --lang tr [--data cv-corpus-17.0-2024-03-15-tr.tar.gz] [--html page.html]

Everything a training run would decide about its data is printed; the same code prepares cv_finetune's.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from recipes.audit_page import audit_page
from recipes.check_alignment import check_alignment, load_recogniser
from recipes.console import Parser, run, say
from recipes.data_settings import PER_LANGUAGE, SHARED, DataSettings, add_data_arguments, data_settings
from recipes.dividing import draw_train_clips, joined, name_data, read_language, tell_leaks
from recipes.prepared import Language, Prepared
from recipes.proposals import propose_adapter_off, propose_frame_rate, propose_max_seconds, propose_min_char_count
from recipes.start import StartingPoint, add_adapter_argument, default_model, resolve_model, with_adapter
from recipes.vocabulary import characters_of, choose_heads, choose_tokenizer, describe_text
from w2v.data.languages import apart_by_sound
from w2v.data.manifest import Clip, Skipped
from w2v.data.splits import Splits
from w2v.data.store import Audio, build_store
from w2v.errors import InputError
from w2v.files import write_text

SAMPLE_NAME = "100 clips of Common Voice 6.1"
LONG_SECONDS = 60.0  # an evaluation clip beyond it is named


def prepare(settings: DataSettings, start: StartingPoint) -> Prepared:
    """Read, divide, normalise, decode and filter.

    start: its config says which clips the model cannot learn from; the vocabulary of a fine-tuned model is kept where
    it covers the training text.
    """
    config = start.config
    is_ctc = start.family.model.emissions is not None  # frames must suffice for the labels, and the head is its own
    if settings.heads == PER_LANGUAGE and not is_ctc:
        raise InputError(
            f"--heads {PER_LANGUAGE} needs a CTC model, {start.name} writes with its own vocabulary; leave it"
        )
    decisions: list[str] = []

    def decide(line: str) -> None:
        say(line)
        decisions.append(line)

    read = {each.lang: read_language(each, _told(each, settings, decide)) for each in settings.of_each()}
    normaliser, several = read[settings.lang].normaliser, len(read) > 1

    def text_of(clip: Clip) -> str:
        return read[clip.lang or settings.lang].normalise(clip.sentence)

    skipped = [skip for each in read.values() for skip in each.skipped]
    if several:
        splits, leaks = joined(read, text_of, decide)
    else:
        splits = read[settings.lang].splits
        leaks = tell_leaks(splits, read[settings.lang].normalise, decide)
    draw_train_clips(splits, settings, decide)
    every = [clip for _, clips in splits.items() for clip in clips]
    audio = build_store(every, settings.cache, settings.workers, log=say)
    usable = splits.map(lambda name, clips: usable_clips(name, clips, audio, text_of, config, settings, skipped))
    if several:
        usable, alike = apart_by_sound(usable, audio.content)
        skipped += alike
    _check_trainable(usable, splits, list(read), skipped, "data, or loosen --min-seconds and --max-seconds")

    texts = {clip: text_of(clip) for _, clips in usable.items() for clip in clips}
    characters = {lang: characters_of(usable, texts, lang if several else "") for lang in read}
    train_texts = [texts[clip] for clip in usable.train]
    # Five languages of six minutes had a mean CER of .51 with a head each, .71 with one vocabulary (docs/RESULTS.md).
    if several and is_ctc and settings.heads != SHARED:
        tokenizer, languages = choose_heads(start, read, usable, texts, characters, decide)
    else:
        tokenizer = choose_tokenizer(start, settings, train_texts, characters, decide)
        languages = {
            lang: Language(
                each.normaliser, tokenizer.for_language(lang, settings.prompt_language), each.corpus.releases
            )
            for lang, each in read.items()
        }

    def of(clip: Clip) -> Language:
        return languages[clip.lang or settings.lang]

    counts = sum(characters.values(), Counter())
    facts = {"leaks": leaks, **describe_text(usable, texts, counts, of, tokenizer, decide)}
    spelled = [each.tokenizer for each in languages.values()]
    own = Counter({char: n for char, n in counts.items() if not all(each.unknown(char) for each in spelled)})
    is_new = not tokenizer.same_vocabulary(start.tokenizer)
    facts["proposals"] = [
        *(propose_min_char_count(own, settings.min_char_count) if is_new else []),
        *propose_max_seconds(
            [audio.seconds(clip) for clip in usable.train],
            [audio.seconds(clip) for clip in splits.train if audio.seconds(clip) > settings.max_seconds],
            settings.max_seconds,
            config,
        ),
    ]
    if is_ctc:
        samples = [audio.samples(clip) for clip in usable.train]
        ids = [of(clip).encode(texts[clip]) for clip in usable.train]
        facts["proposals"] += propose_adapter_off(samples, ids, config)
        facts["proposals"] += propose_frame_rate(samples, [len(each) for each in ids], config)
    for proposal in facts["proposals"]:
        decide(f"proposal: {proposal}")

    labels_of = {clip: of(clip).encode(texts[clip]) for clip in usable.train}
    usable = usable.map(
        lambda name, clips: _learnable(clips, labels_of, audio, config, skipped) if name == "train" else clips
    )
    _check_trainable(usable, splits, list(read), skipped, "length and text of those")
    prepared = Prepared(
        lang=settings.lang,
        data_name=SAMPLE_NAME if settings.is_sample else ", ".join(map(name_data, read.values())),
        releases=[release for each in read.values() for release in each.corpus.releases],
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
        languages=languages if several else {},
    )
    for name, clips in usable.items():
        facts[name] = _share(prepared, clips)
        decide(f"{name}: {_share_in_words(prepared, clips)}")
        for lang in prepared.languages:
            of_lang = [clip for clip in clips if clip.lang == lang]
            facts.setdefault("languages", {}).setdefault(lang, {})[name] = _share(prepared, of_lang)
            decide(f"{name}, {lang}: {_share_in_words(prepared, of_lang)}")
    if is_ctc:
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


def _told(settings: DataSettings, run: DataSettings, decide: Callable[[str], None]) -> Callable[[str], None]:
    """Where there are several languages each line names its own."""
    return (lambda line: decide(f"{settings.lang}: {line}")) if run.languages else decide


def _check_trainable(usable: Splits, splits: Splits, langs: list[str], skipped: list[Skipped], look_at: str) -> None:
    """InputError where nothing is left to train on, of any language."""
    for lang in langs if len(langs) > 1 else [""]:
        if any(clip.lang == lang for clip in usable.train):
            continue
        asked, why = sum(clip.lang == lang for clip in splits.train), _reasons(skipped, "train")
        of = f" of {lang}" if lang else ""
        raise InputError(f"no usable training clip{of} is left of {asked} ({why}); look at the {look_at}")


def _share(prepared: Prepared, clips: list[Clip]) -> dict:
    return {"clips": len(clips), "hours": round(prepared.seconds(clips) / 3600, 4)}


def _share_in_words(prepared: Prepared, clips: list[Clip]) -> str:
    return f"{len(clips)} clips, {prepared.seconds(clips) / 3600:.2f} h, {prepared.speakers(clips)} speakers"


def _fingerprint(splits: Splits, texts: dict[Clip, str], audio: Audio) -> str:
    digest = hashlib.sha256()
    for name, clips in splits.items():
        for clip in clips:
            digest.update(f"{name}\0{clip.lang}{clip.name}\0{audio.samples(clip)}\0{texts[clip]}\n".encode())
    return digest.hexdigest()[:16]


def usable_clips(
    split: str,
    clips: list[Clip],
    audio: Audio,
    text_of: Callable[[Clip], str],
    config,
    settings: DataSettings,
    skipped: list[Skipped],
) -> list[Clip]:
    """Drop, by name and reason, clips without audio or text; training clips also for their length."""

    def why_not(clip: Clip) -> str | None:
        if clip in audio.skipped:
            return audio.skipped[clip]
        if not text_of(clip):
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
    clips: list[Clip], labels_of: dict[Clip, list[int]], audio: Audio, config, skipped: list[Skipped]
) -> list[Clip]:
    """Drop, by name and reason, clips whose text the model cannot learn from their audio."""
    kept = []
    for clip in clips:
        reason = config.why_not(audio.samples(clip), labels_of[clip])
        if reason is None:
            kept.append(clip)
        else:
            skipped.append(Skipped(clip.name, "train", reason))
            say(f"skipped: {clip.name}: {reason}")
    return kept


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
    if settings.languages and args.check_alignment:
        raise InputError("--check-alignment takes data of one language, got several; give those of one")
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
