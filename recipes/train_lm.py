"""Estimate an n-gram language model from text, for transcribing with --lm.

    python -m recipes.train_lm --lang tr --text news.txt --data cv-corpus-tr.tar.gz --out lm.arpa
    python -m recipes.train_lm --model runs/tr-xlsr-53-1 --text news.txt.gz wiki.txt=3 --from-data --out lm.safetensors

Text goes through the rules that the model's labels went through. Sentences of the data's dev and test splits are left
out and counted, wherever they come from: a model that has seen them would be measured on what it knows by heart.
Smoothing is interpolated modified Kneser-Ney, as KenLM's lmplz does it. Its discounts come from how many n-grams are
counted once, twice and so on, so a text's weight is a whole number: how many times its sentences count.
"""

import argparse
import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipes.console import Parser, positive, run, say
from recipes.data_settings import add_data_arguments, data_settings
from recipes.dividing import describe_rules, divide, draw_train_clips
from recipes.run_folder import data_of_run, is_run
from w2v.data.corpus import read_corpus
from w2v.data.manifest import Skipped
from w2v.data.splits import Splits
from w2v.decoding.arpa import write_arpa
from w2v.decoding.estimate import MOST_ORDER, Corpus, Estimate, check_shape, estimate_ngram
from w2v.decoding.fusion import SPACE
from w2v.decoding.ngram import SPECIAL
from w2v.decoding.ngram_file import save_ngram
from w2v.errors import InputError, show
from w2v.files import open_file, reading
from w2v.text.locales import check_locale, has_dotless_i, is_spaced
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer

SUFFIXES = (".arpa", ".arpa.gz", ".safetensors")
LONGEST_LINE = 1 << 20  # characters: a text without line ends is no list of sentences
MOST_SHOWN = 10  # characters that the vocabulary lacks


@dataclass
class Taken:
    """What became of the sentences."""

    corpus: Corpus = field(default_factory=Corpus)
    lines: int = 0
    held_out: int = 0  # sentences of dev, of test and of --leave-out
    empty: int = 0  # without a letter
    special: int = 0  # with <s> and the like as a word


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    if not args.text and not args.from_data:
        raise InputError("a language model needs text, give --text FILE or --from-data")
    if not args.out.name.endswith(SUFFIXES):
        raise InputError(f"--out must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {args.out.name!r}")
    if args.out.is_dir():
        raise InputError(f"--out must name a file, {args.out} is a folder")
    check_shape(args.order, args.prune)
    weights = [weighed(given) for given in args.text]
    check_files([*(name for name, _ in weights), *args.leave_out])
    normaliser, tokenizer = rules_of(args)
    say(f"text: {describe_rules(normaliser)}")
    written = writer_of(tokenizer, normaliser.lang)
    by_character = args.characters or not is_spaced(normaliser.lang)
    say("words: each character is one, and the space is |" if by_character else "words: between spaces")
    has_data = args.from_data or args.data or args.extra_data or (args.model is not None and is_run(args.model))
    splits = splits_of(args, normaliser) if has_data else None
    taken = Taken()
    held_out = {text for name in args.leave_out for text in map(normaliser, lines_of(name))}
    if splits is not None:
        held_out |= {normaliser(clip.sentence) for clip in [*splits.dev, *splits.test]}
    elif not args.leave_out:
        say("left out: nothing, no data is given; with --data the sentences of its dev and test splits are")
    sources: list[tuple[str, int, Iterable[str]]]
    sources = [("stdin" if name == "-" else name, weight, map(normaliser, lines_of(name))) for name, weight in weights]
    if args.from_data and splits is not None:  # a sentence that many people read is not said more often for that
        texts = dict.fromkeys(normaliser(clip.sentence) for clip in splits.train)
        sources.append((f"the training split, {len(splits.train)} clips", 1, texts))
    for name, weight, sentences in sources:
        before = len(taken.corpus), taken.held_out
        for sentence in tqdm(sentences, unit=" sentences", desc="reading", disable=None):
            take(taken, sentence, weight, held_out, lambda text: words_of(written(text), by_character, tokenizer))
        say(
            f"{name}: {len(taken.corpus) - before[0]} sentences{f', each {weight} times' if weight > 1 else ''}; "
            f"{taken.held_out - before[1]} held-out ones left out"
        )
    if not len(taken.corpus):
        raise InputError(f"the text must hold sentences, none is left of {taken.lines}; give more")
    say_oddities(taken)
    unspellable = say_spelling(taken.corpus, tokenizer)
    what = "characters" if by_character else "words"
    say(f"estimating order {args.order} from {taken.corpus.tokens} {what} of {len(taken.corpus)} sentences")
    estimate = estimate_ngram(taken.corpus, args.order, args.prune)
    say_estimate(estimate, args.order, by_character)
    (save_ngram if args.out.suffix == ".safetensors" else write_arpa)(args.out, estimate.ngram)
    say(f"recipes.transcribe --lm {args.out} uses it; recipes.cv_evaluate --lm {args.out} --tune-lm fits its weights")
    return {
        "out": str(args.out),
        "order": estimate.ngram.order,
        "sentences": len(taken.corpus),
        "words": taken.corpus.tokens,
        "left_out": taken.held_out,
        "without_text": taken.empty,
        "with_special_words": taken.special,
        "unspellable_words": unspellable,
        "ngrams": list(estimate.ngram.counts),
        "pruned": estimate.pruned,
        "discounts": [[round(value, 4) for value in each.values] for each in estimate.discounts],
        "fallback_orders": [order for order, each in enumerate(estimate.discounts, 1) if each.lacking],
    }


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags; where the model is a run of ours, those of its data that are not given are the run's."""
    parser = Parser(prog="python -m recipes.train_lm", description=(__doc__ or "").split("\n")[0])
    group = parser.add_argument_group("language model")
    group.add_argument(
        "--text",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE[=WEIGHT]",
        help="a sentence a line, UTF-8, also .gz; - for stdin; a whole WEIGHT counts its sentences so many times",
    )
    group.add_argument("--from-data", action="store_true", help="also the training split's sentences, each once")
    group.add_argument(
        "--leave-out",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="sentences that are left out, besides those of the data's dev and test splits; as --text",
    )
    group.add_argument("--model", type=Path, metavar="RUN", help="a run or model folder: its text rules, its data")
    group.add_argument("--order", type=positive, default=5, help=f"1 to {MOST_ORDER} (default: %(default)s)")
    group.add_argument(
        "--prune",
        nargs="+",
        type=int,
        default=[0],
        metavar="COUNT",
        help="leave out n-grams with at most that count, for order 1, 2, ...; the last one holds for the rest: 0 0 1",
    )
    group.add_argument("--characters", action="store_true", help="of characters; default for languages without spaces")
    group.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"{', '.join(SUFFIXES)}")
    add_data_arguments(parser, trains=False)
    folder = parser.parse_args(argv).model
    if folder is not None:
        parser.set_defaults(**data_of_run(folder))
    return parser.parse_args(argv)


def rules_of(args: argparse.Namespace) -> tuple[Normaliser, CharTokenizer | None]:
    """The text rules, and the model's vocabulary where there is a model. Sets args.lang."""
    normaliser = tokenizer = None
    if args.model is not None:
        with reading("the model", args.model):
            has_rules = (args.model / "normaliser.json").is_file()
        tokenizer = CharTokenizer.from_pretrained(args.model)
        normaliser = Normaliser.from_pretrained(args.model) if has_rules else None
    if args.lang is None and normaliser is None:
        raise InputError("--lang is needed, the text's language, such as tr; or --model, a run that knows it")
    args.lang = check_locale(args.lang or normaliser.lang) if normaliser is not None else check_locale(args.lang)
    if normaliser is None:
        normaliser = Normaliser(args.lang, args.case, args.keep_chars, args.remove_chars)
    elif normaliser.lang != args.lang:
        say(f"text: WARNING: the model's normaliser.json is of {normaliser.lang}, --lang is {args.lang}")
    return normaliser, tokenizer


def splits_of(args: argparse.Namespace, normaliser: Normaliser) -> Splits:
    """The data as a training run divides it; no audio is opened."""
    settings = data_settings(args, trains=False)
    wanted = [*settings.train_splits, settings.dev_split, settings.test_split]
    corpus = read_corpus(settings.data, settings.lang, settings.cache, settings.columns, wanted)
    unread: list[Skipped] = []
    splits = divide(corpus, settings, normaliser, unread, say)
    draw_train_clips(splits, settings, say)
    return splits


def weighed(given: str) -> tuple[str, int]:
    """FILE or FILE=WEIGHT. A file whose name looks like that is taken as it is."""
    name, equals, weight = given.rpartition("=")
    if not equals or Path(given).exists():
        return given, 1
    if not weight.isascii() or not weight.isdecimal() or not 1 <= int(weight[:9]) <= 10**6:
        raise InputError(
            f"a weight must be a whole number from 1 to 1000000, how often the sentences count, got {show(weight)}"
        )
    return name, int(weight)


def check_files(names: list[str]) -> None:
    """InputError for a text that cannot be read, before hours are spent on those before it."""
    for name in names:
        if name != "-":
            with reading("the text", name):
                open_file(name).close()
    if names.count("-") > 1:
        raise InputError("--text must name stdin, -, once; leave out the others")


def lines_of(name: str) -> Iterator[str]:
    """The lines of a file, or of stdin for -. InputError where it cannot be read or is not UTF-8."""
    number = 0
    try:
        with reading("the text", name), _opened(name) as text:
            while line := text.readline(LONGEST_LINE):
                number += 1
                if len(line) >= LONGEST_LINE:
                    raise InputError(
                        f"{name} line {number} has over {LONGEST_LINE} characters; write one sentence a line"
                    )
                yield line.strip()  # a normaliser has nothing to do on a line that is clean
    except UnicodeDecodeError:
        raise InputError(f"{name} must be UTF-8, something after line {number} is not; convert it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name} is cut short or damaged ({error}); pack it again") from None


def _opened(name: str) -> io.TextIOWrapper:
    file: Any = sys.stdin.buffer if name == "-" else open_file(name)
    return io.TextIOWrapper(gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file, "utf-8-sig")


def take(taken: Taken, sentence: str, weight: int, held_out: set[str], words_of_it: Callable[[str], list[str]]) -> None:
    """A normalised sentence into the corpus, or into the counts of those that are not taken."""
    taken.lines += 1
    if not sentence:
        taken.empty += 1
    elif sentence in held_out:
        taken.held_out += 1
    elif any(word in SPECIAL for word in sentence.split()):
        taken.special += 1
    else:
        taken.corpus.add(words_of_it(sentence), weight)


def words_of(sentence: str, by_character: bool, tokenizer: CharTokenizer | None) -> list[str]:
    """What the language model calls words."""
    words = sentence.split()
    if not by_character:
        return words
    pieces = [tokenizer.pieces(word) if tokenizer else list(word) for word in words]
    return [piece for i, word in enumerate(pieces) for piece in ([SPACE] if i else []) + word]


def writer_of(tokenizer: CharTokenizer | None, lang: str) -> Callable[[str], str]:
    """What makes the model's letters of normalised text: capitals where its vocabulary has no others."""
    letters = [] if tokenizer is None or tokenizer.do_lower_case else [t for t in tokenizer.tokens if len(t) == 1]
    if not any(letter.lower() != letter for letter in letters) or any(letter.upper() != letter for letter in letters):
        return lambda text: text
    say("letters: capitals, as the model writes")
    return lambda text: (text.replace("i", "İ") if has_dotless_i(lang) else text).upper()


def say_oddities(taken: Taken) -> None:
    if taken.empty:
        say(f"left out: {taken.empty} lines without a letter")
    if taken.special:
        say(f"left out: {taken.special} sentences with {', '.join(SPECIAL)} as a word")


def say_spelling(corpus: Corpus, tokenizer: CharTokenizer | None) -> int:
    """How many of the text's words the model's vocabulary cannot spell; they stay as context of the others.

    InputError where it can spell none: text and model are of different languages.
    """
    if tokenizer is None:
        return 0
    lacking, words = Counter[str](), 0
    for word in corpus.words[len(SPECIAL) :]:
        unknown = set() if word == SPACE else set(tokenizer.unknown(word))
        lacking.update(unknown)
        words += bool(unknown)
    total = len(corpus.words) - len(SPECIAL)
    listed = ", ".join(f"{show(char)} (in {count} words)" for char, count in lacking.most_common(MOST_SHOWN))
    if words == total:
        raise InputError(f"the model must spell words of the text, it lacks {listed}; give text of its language")
    if words:
        say(f"spelling: the model can never write {words} of {total} different words, it lacks {listed}")
    return words


def say_estimate(estimate: Estimate, asked: int, by_character: bool) -> None:
    counts = estimate.ngram.counts
    if len(counts) < asked:
        say(f"order {len(counts)} and not {asked}: no longer n-grams are left")
    for order, (count, discounts) in enumerate(zip(counts, estimate.discounts, strict=False), 1):
        left_out = f", {estimate.pruned[order - 1]} left out" if estimate.pruned[order - 1] else ""
        values = " ".join(f"{value:.3f}" for value in discounts.values)
        line = f"{order}-grams: {count}{left_out}; discounts {values}"
        if discounts.lacking:
            why = "there are few characters" if by_character and order == 1 else "the text is small or unnatural"
            line += f", the fallback, because {discounts.lacking}: {why}"
        say(line)


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
