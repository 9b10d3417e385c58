"""How commands decode: the flags of a beam search with a language model, and the fitting of its weights."""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from recipes.console import not_negative, positive, say
from w2v.answers import TRANSCRIBING, DecodeOptions, Emissions, GenerateOptions, Hypothesis
from w2v.asr import Recogniser
from w2v.data.batching import cut
from w2v.decoding.beam import BEAM, BeamSearch
from w2v.decoding.ctc import decode
from w2v.decoding.fusion import HOT, CharacterFusion, WordFusion
from w2v.decoding.language_model import LanguageModel, load_language_model
from w2v.decoding.seq2seq import opening_of
from w2v.errors import InputError, listed, show
from w2v.files import read_bytes
from w2v.hearing import NUMBERS_DECODED, hear

NO_LM = "none"
DOUBTFUL_SHARE = 0.5  # of the language model's words that the vocabulary can spell
FRAMES_SEARCHED = 20_000  # at once
# Where decoders with an n-gram are tuned: alpha in 0 to 2, beta in -3 to 5. Three rounds, each twice as fine as before.
ALPHAS, BETAS = (0.0, 0.5, 1.0, 1.5, 2.0), (-2.0, 0.0, 2.0, 4.0)
ROUNDS = 3


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("language model")
    group.add_argument(
        "--lm",
        metavar="PATH",
        help="an ARPA file (.arpa, .arpa.gz), a .safetensors file of recipes.train_lm, or a folder with "
        f"language_model/; default: the model folder's own; {NO_LM}: greedy decoding",
    )
    group.add_argument(
        "--beam", type=positive, metavar="N", help=f"texts that a search holds (default: {BEAM}; Whisper's: 1)"
    )
    group.add_argument(
        "--alpha", type=not_negative, help="weight of the language model's ln p (default: its own, or 0.5)"
    )
    group.add_argument(
        "--beta",
        type=finite,
        help="added for each of its words (default: its own, or 1.5; 0.75 where they are characters)",
    )
    group.add_argument(
        "--hot-words",
        action="append",
        metavar="WORDS",
        help=f"words to expect, comma-separated, each with =WEIGHT where it is not {HOT:g}; or a file with one a line",
    )
    group.add_argument(
        "--prompt",
        metavar="TEXT",
        help="Whisper: read before each window as if it had been said, with names and spelling to expect",
    )


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, got {text}")
    return value


def decoding_of(
    args: argparse.Namespace, asr: Recogniser, words: bool = False, measures: bool = False
) -> DecodeOptions:
    """How the flags ask a model to decode. measures: the likeliest text is wanted as it is.

    InputError for a language model or hot words where the model writes its text itself: its beam needs neither. And for
    a prompt where it does not, or one that is too long.
    """
    prompt = args.prompt or ""
    if asr.model.emissions is not None:
        if prompt:
            raise InputError(
                "--prompt needs a model that writes its text, as Whisper does; leave it out, or give --hot-words"
            )
        return DecodeOptions(words, search_of(args, asr))
    for name in ("lm", "alpha", "beta", "hot_words"):
        if getattr(args, name) not in (None, NO_LM):
            raise InputError(
                f"--{name.replace('_', '-')} needs a model with frame posteriors, as CTC's are; this one writes its "
                "text itself: leave it out" + (", or give --prompt" if name == "hot_words" else "")
            )
    opening_of(prompt, asr.tokenizer, asr.model.config)  # whether it fits is known before anything is heard
    generate = GenerateOptions() if measures else TRANSCRIBING
    return DecodeOptions(words, generate=replace(generate, beam=args.beam or 1, prompt=prompt))


def search_of(args: argparse.Namespace, asr: Recogniser) -> BeamSearch | None:
    """The search that the flags ask for, announced; None: greedy decoding."""
    hot_words = hot_words_of(args.hot_words or [], asr)
    lm = asr.lm if args.lm is None else None if args.lm == NO_LM else load_language_model(args.lm, asr.tokenizer)
    if lm is None and (args.alpha is not None or args.beta is not None):
        raise InputError("--alpha and --beta weigh a language model, there is none; add --lm")
    if lm is None and args.beam is not None and not hot_words:
        raise InputError("--beam is the width of a search with --lm or --hot-words, got neither; add one of them")
    if lm is None and not hot_words:
        return None
    if lm is not None:
        announce(lm)
    asr.lm = lm
    search = asr.search(lm, args.beam or BEAM, args.alpha, args.beta, hot_words)
    assert search is not None  # there is something to search with
    fusion = search.fusion
    if lm is not None and isinstance(fusion, (WordFusion, CharacterFusion)):
        what = "characters" if isinstance(fusion, CharacterFusion) else "words"
        share = f"the vocabulary can spell {100 * fusion.spelled:.0f} % of its {what}"
        if fusion.spelled < DOUBTFUL_SHARE:
            share = f"WARNING: {share} only; is it of the model's language, under the same text rules?"
        say(f"language model: {share}")
        say(f"language model: alpha {fusion.alpha:g}, beta {fusion.beta:g}, beam {search.beam}")
    if hot_words:
        say(f"hot words: {listed(f'{word} {weight:g}' for word, weight in hot_words.items())}")
    return search


def announce(lm: LanguageModel, of: str = "") -> None:
    """of: the model that it belongs to, where there are two."""
    counts = " ".join(str(count) for count in lm.ngram.counts)
    title = f"language model of {of}" if of else "language model"
    say(f"{title}: order {lm.ngram.order}, n-grams of each order: {counts}")
    for sentence in lm.mended:
        say(f"{title}: {sentence}")


def hot_words_of(given: Sequence[str], asr: Recogniser) -> dict[str, float]:
    """Words, each with its weight, in the form of the model's text. InputError for a weight that is no number."""
    lines: list[str] = []
    for item in given:
        try:
            is_file = Path(item).is_file()
        except (OSError, ValueError):
            is_file = False
        if is_file:
            try:
                lines += read_bytes("the hot words", Path(item)).decode("utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{item} must be UTF-8, some of it is not; convert it") from None
        elif item.lower().endswith(".txt"):
            raise InputError(f"--hot-words must name a file that is there, found nothing at {show(item)}")
        else:
            lines += item.split(",")
    words: dict[str, float] = {}
    for line in filter(None, map(str.strip, lines)):
        text, equals, number = line.rpartition("=")
        try:
            weight = float(number) if equals else HOT
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise InputError(f"--hot-words are WORD or WORD=WEIGHT, a number, got {show(line)}")
        found = (asr.normaliser or str)(text if equals else line).split()
        if not found:
            raise InputError(f"--hot-words must have a letter under the model's text rules, {show(line)} has none")
        words |= dict.fromkeys(found, weight)
    return words


class Phrases(NamedTuple):
    """What a model said of clips, before it is decoded."""

    log_probs: list[Tensor]  # (T, V) each
    seconds_per_frame: float
    of_clip: list[list[int]]  # which phrases are a clip's


def phrases_of(asr: Recogniser, waveforms: Sequence[np.ndarray]) -> Phrases:
    """Clips -> their phrases, cut as `hear` cuts them: one pass of the model for all searches."""
    kept: list[Tensor] = []
    seconds = 0.0

    def keep(emissions: Emissions, words: bool) -> list[list[Hypothesis]]:
        """A search whose texts are the numbers of the phrases."""
        nonlocal seconds
        seconds = emissions.seconds_per_frame
        first = len(kept)
        kept.extend(
            row[:length].clone() for row, length in zip(emissions.log_probs, emissions.lengths.tolist(), strict=True)
        )
        return [[Hypothesis(str(number), [], 0.0)] for number in range(first, len(kept))]

    of_clip: list[list[int]] = [[] for _ in waveforms]
    recordings = ([waveform] for waveform in waveforms)
    with tqdm(total=len(waveforms), unit="clip", desc="listening", disable=None) as bar:
        for news in hear(asr.model, asr.tokenizer, recordings, options=DecodeOptions(search=keep)):
            of_clip[news.number] += [int(segment.text) for segment in news.segments]
            bar.update(news.is_over)
    return Phrases(kept, seconds, of_clip)


def texts_of(asr: Recogniser, phrases: Phrases, search: BeamSearch | None) -> list[str]:
    """The texts of clips from their phrases."""
    texts = [""] * len(phrases.log_probs)
    lengths = [len(each) for each in phrases.log_probs]
    most = max(1, min(FRAMES_SEARCHED, NUMBERS_DECODED // len(asr.tokenizer)))
    for numbers in cut(range(len(texts)), lengths, most, pads=True):
        rows = pad_sequence([phrases.log_probs[i] for i in numbers], batch_first=True)
        of_rows = torch.tensor([lengths[i] for i in numbers], device=rows.device)
        emissions = Emissions(rows, of_rows, phrases.seconds_per_frame)
        found = decode(emissions, asr.tokenizer, DecodeOptions(search=search))
        for i, hypothesis in zip(numbers, found, strict=True):
            texts[i] = hypothesis.text
    return [asr.tokenizer.between.join(texts[i] for i in each if texts[i]) for each in phrases.of_clip]


def weighed(search: BeamSearch, alpha: float, beta: float) -> BeamSearch:
    """The search with other weights of its language model."""
    assert isinstance(search.fusion, (WordFusion, CharacterFusion))
    return replace(search, fusion=search.fusion.weighed(alpha, beta))


def tune(search: BeamSearch, rate: Callable[[BeamSearch], float]) -> tuple[float, float, float]:
    """alpha, beta and the error rate they give: the lowest on a grid that gets finer around its best point.

    Equal rates: the weaker language model, then the beta nearer to 0.
    """
    found: dict[tuple[float, float], float] = {}

    def best() -> tuple[float, float]:
        return min(found, key=lambda point: (found[point], point[0], abs(point[1])))

    points: Iterable[tuple[float, float]] = [(alpha, beta) for alpha in ALPHAS for beta in BETAS]
    step = (ALPHAS[1] - ALPHAS[0], BETAS[1] - BETAS[0])
    for _ in range(ROUNDS):
        for point in tqdm([point for point in points if point not in found], desc="tuning", disable=None):
            found[point] = rate(weighed(search, *point))
        alpha, beta = best()
        step = (step[0] / 2, step[1] / 2)
        moves = [(a, b) for a in (-step[0], 0.0, step[0]) for b in (-step[1], 0.0, step[1])]
        points = [(max(0.0, alpha + a), beta + b) for a, b in moves]
    return (*best(), found[best()])
