"""How often a language's clips are drawn, and when: --language-temperature, --language-weights, --begin-with."""

import argparse
import math

from recipes.prepared import Prepared
from w2v.errors import InputError, listed, show
from w2v.text.locales import check_locale


def add_drawing_arguments(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--language-temperature",
        type=temperature,
        default=1.0,
        metavar="T",
        help="of several languages: n hours count as n^(1/T), so that small ones are drawn more often (1: as they are)",
    )
    group.add_argument(
        "--language-weights",
        type=weights,
        metavar="LANG=W,...",
        help="how much each counts on top of that, such as tr=2,az=0.5; those that are not named: 1",
    )
    group.add_argument(
        "--begin-with",
        type=language_and_epochs,
        metavar="LANG[=N]",
        help="the first N epochs (1) have this language alone: fresh weights leave CTC's blanks soonest on one clear "
        "reader, and learn other languages faster from there",
    )


def temperature(text: str) -> float:
    value = float(text)
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 1 and finite, got {text}")
    return value


def weights(text: str) -> str:
    """As it was given, when it can be read."""
    weights_of(text)
    return text


def weights_of(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in text.split(","):
        lang, _, number = item.strip().partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"takes LANG=WEIGHT, a number above 0, got {show(item)}")
        try:
            found[check_locale(lang)] = value
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return found


def times_drawn(args: argparse.Namespace, prepared: Prepared) -> list[float] | None:
    """How often each training clip comes in an epoch, on average and at least once; None where each comes once.

    InputError where the flags are for other languages than the data's.
    """
    weighed = weights_of(args.language_weights) if args.language_weights else {}
    if not prepared.languages and (weighed or args.language_temperature != 1):
        raise InputError("--language-temperature and --language-weights need several languages, the data has one")
    if others := sorted(weighed.keys() - set(prepared.langs)):
        raise InputError(
            f"--language-weights must name languages of the data, {listed(prepared.langs)}, got {others[0]}; leave it "
            "out"
        )
    train = prepared.splits.train
    if not weighed and args.language_temperature == 1:
        return None
    seconds = {lang: prepared.seconds([clip for clip in train if clip.lang == lang]) for lang in prepared.langs}
    wanted = {lang: weighed.get(lang, 1.0) * n ** (1 / args.language_temperature) for lang, n in seconds.items()}
    least = min(wanted[lang] / seconds[lang] for lang in wanted)
    # Rounded: powers differ in their last digits from machine to machine, and an epoch must not.
    times = {lang: round(wanted[lang] / seconds[lang] / least, 4) for lang in wanted}
    total = sum(times[lang] * seconds[lang] for lang in times)
    shares = (
        f"{lang} {n:g} times, {times[lang] * seconds[lang] / total:.0%} of the speech" for lang, n in times.items()
    )
    prepared.decide(f"an epoch draws each clip of {'; '.join(shares)}")
    return None if set(times.values()) == {1.0} else [times[clip.lang] for clip in train]


def language_and_epochs(text: str) -> str:
    """As it was given, when it can be read."""
    lang, _, number = text.partition("=")
    try:
        check_locale(lang)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if (number != "" and not (number.isascii() and number.isdigit() and int(number) > 0)) or text.endswith("="):
        raise argparse.ArgumentTypeError(f"takes LANG or LANG=EPOCHS, a whole number above 0, got {show(text)}")
    return text


def begin_with(args: argparse.Namespace, prepared: Prepared) -> tuple[list[int] | None, int]:
    """The training clips of the first epochs by number, None where they have all, and how many epochs that are.

    InputError for a language that the data has not, or has alone.
    """
    if args.begin_with is None:
        return None, 0
    lang, _, number = args.begin_with.partition("=")
    if not prepared.languages or lang not in prepared.langs:
        raise InputError(
            f"--begin-with must be one of several languages, the data has {listed(prepared.langs)}, got {lang}; leave "
            "it out"
        )
    train, epochs = prepared.splits.train, int(number or 1)
    numbers = [i for i, clip in enumerate(train) if clip.lang == lang]
    prepared.decide(f"the first epochs, {epochs}, have the {len(numbers)} clips of {lang} alone")
    return numbers, epochs
