"""The vocabulary of a run, and what its text holds beside it."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from recipes.data_settings import DataSettings
from recipes.dividing import Read
from recipes.prepared import Language, show_character, vocabulary_record
from recipes.start import StartingPoint
from w2v.data.manifest import Clip
from w2v.data.splits import Splits
from w2v.errors import InputError
from w2v.heads import side_by_side
from w2v.text.tokenizer import CharTokenizer, foreign_characters

MOST_LISTED = 40  # characters in one printed line; run.json holds all of them


def characters_of(splits: Splits, texts: dict[Clip, str], lang: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for clip in splits.train:
        if clip.lang == lang:
            counts.update(texts[clip].replace(" ", ""))
    return counts


def _foreign(by_language: Iterable[Counter[str]]) -> set[str]:
    """The rare letters of foreign scripts that are foreign to each language that has them."""
    found = [(counts, foreign_characters(counts)) for counts in by_language]
    return {char for _, foreign in found for char in foreign if all(char in f or char not in c for c, f in found)}


def choose_tokenizer(
    start: StartingPoint, settings: DataSettings, train_texts: list[str], by_language: dict[str, Counter[str]], decide
):
    """The vocabulary of the training text; a fine-tuned model's own where that covers it."""
    characters = sum(by_language.values(), Counter())
    given, min_count = start.tokenizer, settings.min_char_count
    if given is not None:
        given = given.for_language(settings.lang, settings.prompt_language)
    if given is not None and given.language:
        decide(f"language: the model is told {given.language}")
    foreign = _foreign(by_language.values())
    rare = {char for char, n in characters.items() if n < min_count}
    excluded = foreign | rare
    if characters and not set(characters) - excluded:
        raise InputError(
            f"--min-char-count must leave letters in the vocabulary, {min_count} leaves none of {len(characters)}: the "
            f"most frequent is seen {max(characters.values())} times; lower it"
        )
    if given is not None:
        lacking = sorted(set().union(*map(given.unknown, train_texts)) - excluded)
        if not lacking:
            decide(f"vocabulary: the model's own, {len(given)} tokens, covers the training text")
            return given
        listed = " ".join(lacking[:MOST_LISTED]) + (" ..." if len(lacking) > MOST_LISTED else "")
        decide(f"vocabulary: the model's own lacks {listed}; a new one replaces it, its head keeps what both hold")
    tokenizer = start.family.tokenizer.from_texts(["".join(characters)], exclude=excluded)
    tokenizer = tokenizer.for_language(settings.lang, settings.prompt_language)
    shown = " ".join(tokenizer.tokens) if len(tokenizer) <= 200 else f"{' '.join(tokenizer.tokens[:MOST_LISTED])} ..."
    decide(f"vocabulary: {len(tokenizer)} tokens from the training text: {shown}")
    for title, chars in (("of foreign scripts", foreign), (f"seen less than {min_count} times", rare - foreign)):
        if chars:
            listed = ", ".join(f"{char} ({characters[char]})" for char in sorted(chars))
            decide(f"[UNK]: rare characters {title}: {listed}")
    return tokenizer


def choose_heads(
    start: StartingPoint,
    read: dict[str, Read],
    splits: Splits,
    texts: dict[Clip, str],
    characters: dict[str, Counter[str]],
    decide: Callable[[str], None],
) -> tuple[CharTokenizer, dict[str, Language]]:
    """A vocabulary of its own for each language, and the one that holds them side by side."""
    fresh = replace(start, tokenizer=None)
    own = {}
    for lang, each in read.items():
        train_texts = [texts[clip] for clip in splits.train if clip.lang == lang]
        told = partial(_tell_of, decide, lang)
        own[lang] = choose_tokenizer(fresh, each.settings, train_texts, {lang: characters[lang]}, told)
    whole, rows = side_by_side(own)
    decide(f"heads: one for each language, together {len(whole)} tokens; one vocabulary for all: --heads shared")
    languages = {
        lang: Language(each.normaliser, own[lang], each.corpus.releases, rows[lang]) for lang, each in read.items()
    }
    return whole, languages


def _tell_of(decide: Callable[[str], None], lang: str, line: str) -> None:
    decide(f"{lang}: {line}")


def describe_text(
    splits: Splits, texts: dict[Clip, str], characters: Counter[str], of: Callable[[Clip], Language], tokenizer, decide
) -> dict:
    """Say which characters were removed, so that a missing letter is seen before any GPU time."""
    removed: Counter[str] = Counter()
    for _, clips in splits.items():
        for clip in clips:
            removed.update(Counter(of(clip).normaliser.spell(clip.sentence)) - Counter(texts[clip]))
    removed = Counter({char: n for char, n in removed.items() if not char.isspace()})
    listed = ", ".join(f"{show_character(char)} ({n})" for char, n in removed.most_common())
    decide(f"removed characters: {listed or 'none'}")
    outside: Counter[str] = Counter()
    for clip in splits.dev + splits.test:
        outside.update(of(clip).tokenizer.unknown(texts[clip]))
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
