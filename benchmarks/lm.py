"""Language models: estimated, asked and searched with, each against its goal.

    python -m benchmarks.lm --estimator --query --exhaustive --pyctcdecode --speed --corpus --wer --model RUN

Each flag is a row of docs/NUMBERS.md. Exit code 1 where a row misses its goal. --query needs `kenlm` (ufal-kenlm, in
the extra `test`). --speed measures pyctcdecode and ctc-beam-decoder beside ours where they can be imported; neither is
a dependency of this project.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import w2v
from benchmarks.against import ROOT
from benchmarks.common import RESULTS, Row, run_rows
from benchmarks.every_text import ALPHA, BETA, UNKNOWN, all_texts, random_bigram, word_scores
from benchmarks.lm_corpus import SHARED, corpus_of, needed, turkish
from recipes.console import Parser, run
from recipes.data_settings import SAMPLES
from recipes.searching import Phrases, phrases_of, texts_of, tune
from w2v.answers import Emissions
from w2v.asr import Recogniser
from w2v.audio import read_audio
from w2v.decoding.arpa import read_arpa, write_arpa
from w2v.decoding.beam import BeamSearch
from w2v.decoding.estimate import estimate_ngram
from w2v.decoding.fusion import CharacterFusion, WordFusion
from w2v.decoding.language_model import LanguageModel
from w2v.decoding.ngram import BOS, NGram
from w2v.decoding.ngram_file import load_ngram
from w2v.errors import InputError
from w2v.metrics import character_edits, word_edits
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer

LIBRI = SHARED / "fixtures" / "pyctcdecode" / "libri_logits.json"
STORED = RESULTS / "pyctcdecode-libri.json"
SEEDS, FRAMES, UNSURE = 100, 250, 3.0  # of --pyctcdecode and --speed
MOST_DIFFERENCE = 1e-4
SENTENCES, NOISE = 10_000, 0.1  # of --query; share of words that no model knows
MATRICES, MOST_TEXTS = 100, 20_000  # of --exhaustive
LEAST_RATIO = 8.0  # pyctcdecode's time by ours
MOST_SECONDS, MOST_GB, MOST_LOADING = 180.0, 4.0, 1.0  # of --corpus
ROUNDS = 21
LETTERS = ["|", *map(chr, range(ord("a"), ord("z") + 1)), "'", "[PAD]"]


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.lm", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", metavar="RUN", help="a run of the sample, for --wer")
    return run_rows(parser, ROWS, argv)


@cache
def english() -> tuple[CharTokenizer, NGram]:
    """A vocabulary of 26 letters and a 5-gram of an English reader's sentences."""
    rows = needed(SHARED / "data/kathleen_en/metadata.tsv").read_text(encoding="utf-8").splitlines()[1:]
    sentences = dict.fromkeys(Normaliser("en")(row.split("\t")[1]) for row in rows)
    tokenizer = CharTokenizer({token: i for i, token in enumerate(LETTERS)}, unk=None)
    return tokenizer, estimate_ngram(corpus_of(sentences), 5).ngram


def noisy_libri(unsure: bool) -> list[torch.Tensor]:
    """250 frames of real logits with Gumbel noise, seeds 0 to 99: (T, V) log-probabilities each.

    The logits are those of a model that is sure of nearly every frame, and stay so with the noise. unsure: a third of
    them, with which pyctcdecode needs about the second a clip that its users tell of.
    """
    logits = np.array(json.loads(needed(LIBRI).read_text()), np.float64)[:FRAMES] / (UNSURE if unsure else 1.0)
    noisy = [logits + np.random.default_rng(seed).gumbel(size=logits.shape) for seed in range(SEEDS)]
    return [torch.from_numpy(each).log_softmax(-1).float() for each in noisy]


# ---------------------------------------------------------------------------------------------- rows


def estimator(args) -> Row:
    """Kneser-Ney against lmplz: its own models of fixtures/lmplz, order 3, and order 4 pruned 0 1 1."""
    folder = needed(SHARED / "fixtures" / "lmplz")
    corpus = corpus_of((folder / "tr1500.txt").read_text(encoding="utf-8").splitlines())
    figures: dict[str, Any] = {}
    holds = True
    for name, order, prune in (("order3", 3, (0,)), ("order4.prune-0-1-1", 4, (0, 1, 1))):
        ours, theirs = estimate_ngram(corpus, order, prune).ngram, read_arpa(folder / f"tr1500.{name}.arpa.gz")[0]
        mine, its = grams_of(ours), grams_of(theirs)
        same = mine.keys() == its.keys()
        worst = max(max(abs(a - b) for a, b in zip(mine[g], its[g], strict=True)) for g in mine.keys() & its.keys())
        sums = max(abs(total - 1) for total in sums_of(ours))
        figures |= {
            f"{name}: n-grams": len(mine),
            f"{name}: same": same,
            f"{name}: differ": f"{worst:.1e}",
            f"{name}: sums differ": f"{sums:.1e}",
        }
        holds &= same and worst <= 1e-6 and sums <= 1e-6
    return figures, "the same n-grams, log10 within 1e-6, every context sums to 1 within 1e-6", holds


def grams_of(lm: NGram) -> dict[tuple[str, ...], tuple[float, float]]:
    words, grams = list(lm.words), [()]
    for key in lm.keys.tolist():
        grams.append((*grams[key // len(words)], words[key % len(words)]))
    rows = zip(grams, lm.log10_probs.tolist(), lm.log10_backoffs.tolist(), strict=True)
    return {gram: (prob, backoff) for gram, prob, backoff in rows if gram}


def sums_of(lm: NGram) -> list[float]:
    """The sum of p over all words, in each context."""
    words = torch.tensor([i for i in range(len(lm.words)) if i != BOS])
    states = torch.unique(lm.after.long())
    return [float((10 ** lm.advance(state.expand(len(words)), words)[0].double()).sum()) for state in states]


def query(args) -> Row:
    """log10 p of 10,000 sentences with noise words against KenLM, orders 2 to 5, and flashlight's ARPA."""
    try:
        import kenlm
    except ImportError:
        raise InputError('--query compares with KenLM, which is missing; pip install -e ".[test]"') from None
    sentences = turkish()
    rng = np.random.default_rng(0)
    asked = []
    for i in rng.integers(0, len(sentences), SENTENCES):
        words = sentences[i].split()
        asked.append([f"noise{k}" if rng.random() < NOISE else word for k, word in enumerate(words)])
    figures: dict[str, Any] = {}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        paths = {"flashlight": needed(SHARED / "fixtures/flashlight_decoder/lm.arpa")}
        for order in range(2, 6):
            paths[f"order {order}"] = Path(folder) / f"{order}.arpa"
            write_arpa(paths[f"order {order}"], estimate_ngram(corpus_of(sentences), order).ngram)
        for name, path in paths.items():
            model, ours = kenlm.Model(str(path)), read_arpa(path)[0].score(asked)
            theirs = [model.score(" ".join(words)) for words in asked]
            difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
            figures[name], worst = f"{difference:.1e}", max(worst, difference)
    return figures, f"within {MOST_DIFFERENCE} in log10", worst <= MOST_DIFFERENCE


def exhaustive(args) -> Row:
    """The best text and its score against a search of all texts, with and without a bigram, on random matrices."""
    rng = np.random.default_rng(0)
    worst, same, sizes = 0.0, 0, []
    for number in range(MATRICES):
        while True:
            size, frames = int(rng.integers(2, 7)), int(rng.integers(1, 13))
            if (size - 1) ** frames <= MOST_TEXTS:
                break
        tokenizer = CharTokenizer({t: i for i, t in enumerate(["|", *"abcd"[: size - 2], "[PAD]"])}, unk=None)
        log_probs = torch.from_numpy(rng.normal(size=(frames, size)) * 2).log_softmax(-1)
        expected, fusion = all_texts(log_probs.numpy(), tokenizer), None
        if number % 2 and size > 2:  # with letters
            lm = random_bigram(rng, tokenizer)
            fusion = WordFusion(tokenizer, lm, ALPHA, BETA, UNKNOWN)
            expected = {text: expected[text] + more for text, more in word_scores(lm, list(expected)).items()}
        text = max(expected, key=expected.__getitem__)
        search = BeamSearch(tokenizer, fusion, beam=10_000, token_min=-1e9, prune=-1e9)
        found = search(Emissions(log_probs[None], torch.tensor([frames]), 0.02))[0][0]
        worst = max(worst, abs(found.score - expected[text]))
        same += found.text == text
        sizes.append(len(expected))
    figures = {"matrices": MATRICES, "same text": same, "differ": f"{worst:.1e}", "texts at most": max(sizes)}
    return figures, f"within {MOST_DIFFERENCE}", worst <= MOST_DIFFERENCE and same == MATRICES


def pyctcdecode(args) -> Row:
    """The best score on real logits with Gumbel noise against pyctcdecode's stored ones, seeds 0 to 99.

    benchmarks/pyctcdecode_results.py made them: beam 100, without a language model and with the 5-gram, on sure and
    unsure matrices (see noisy_libri). Unsure ones without a language model are no part of the goal: there, two searches
    of one width drop different texts.
    """
    stored = json.loads(STORED.read_text())
    tokenizer, lm = english()
    figures: dict[str, Any] = {}
    holds = True
    for name in stored["best"]:
        fusion = WordFusion(tokenizer, lm) if name.endswith("5-gram") else None
        found = BeamSearch(tokenizer, fusion)(as_batch(noisy_libri(name.startswith("unsure"))))
        gains = [ours[0].score - theirs["score"] for ours, theirs in zip(found, stored["best"][name], strict=True)]
        texts = sum(a[0].text == b["text"] for a, b in zip(found, stored["best"][name], strict=True))
        figures |= {
            f"{name}: not worse": sum(gain >= -MOST_DIFFERENCE for gain in gains),
            f"{name}: least gain": f"{min(gains):.1e}",
            f"{name}: same text": texts,
        }
        holds &= name == "unsure, alone" or min(gains) >= -MOST_DIFFERENCE
    return figures, f"equal or better on every one of {SEEDS}, but for those unsure and alone", holds


def as_batch(rows: list[torch.Tensor]) -> Emissions:
    return Emissions(torch.stack(rows), torch.tensor([len(row) for row in rows]), 0.02)


def speed(args) -> Row:
    """Beam 100 and a 5-gram on 100 matrices of 250 frames, one core: pyctcdecode and its C++ twin in the same run.

    Sure and unsure matrices, see noisy_libri. Ours takes them as one batch, the others one by one.
    """
    tokenizer, lm = english()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    search = BeamSearch(tokenizer, WordFusion(tokenizer, lm))
    labels = [*(" " if token == "|" else token for token in LETTERS[:-1]), ""]
    peers = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lm.arpa"
        write_arpa(path, lm)
        for module in ("pyctcdecode", "ctc_beam_decoder"):
            with suppress(ImportError):
                peers[module] = __import__(module).build_ctcdecoder(labels, str(path))
    figures: dict[str, Any] = {}
    holds = bool(peers)
    for name, rounds in (("sure", ROUNDS), ("unsure", 1)):
        rows = noisy_libri(name == "unsure")
        batch, matrices = as_batch(rows), [row.numpy() for row in rows]
        runs: dict[str, Callable[[], Any]] = {"ours": partial(search, batch)}
        runs |= {peer: partial(peer_texts, decoder, matrices) for peer, decoder in peers.items()}
        search(as_batch(rows[:2]))
        times: dict[str, list[float]] = {each: [] for each in runs}
        for _ in range(rounds):
            for each, call in runs.items():
                start = time.perf_counter()
                call()
                times[each].append(time.perf_counter() - start)
        seconds = {each: statistics.median(those) for each, those in times.items()}
        ratios = {peer: seconds[peer] / seconds["ours"] for peer in peers}
        figures |= {f"{name}, {each}: ms a clip": round(1000 * s / SEEDS, 2) for each, s in seconds.items()}
        figures |= {f"{name}, {peer} / ours": round(ratio, 2) for peer, ratio in ratios.items()}
        holds &= ratios.get("pyctcdecode", 0.0) >= LEAST_RATIO and ratios.get("ctc_beam_decoder", 2.0) > 1
    torch.set_num_threads(threads)
    goal = f"{LEAST_RATIO:g} times as fast as pyctcdecode, faster than ctc_beam_decoder"
    return figures, goal if peers else f"{goal}; neither can be imported here", holds


def peer_texts(decoder, matrices: list[np.ndarray]) -> list[str]:
    return [decoder.decode_beams(each, beam_width=100)[0][0] for each in matrices]


def corpus(args) -> Row:
    """Order 5 on a million sentences drawn from a bigram of data/text/tr, seed 0; loading the binary form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lm.safetensors"
        # A process of its own: its peak memory is this row's.
        code = f"from benchmarks.lm_corpus import estimate_large; estimate_large({str(path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False
        )
        if done.returncode:
            raise InputError(f"the estimate failed: {done.stderr.strip().splitlines()[-1:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
        start = time.perf_counter()
        load_ngram(path)
        figures |= {"loading s": round(time.perf_counter() - start, 2), "file GB": round(path.stat().st_size / 1e9, 2)}
    goal = f"under {MOST_SECONDS:g} s and {MOST_GB:g} GB, loading under {MOST_LOADING:g} s"
    holds = figures["seconds"] < MOST_SECONDS and figures["GB"] < MOST_GB and figures["loading s"] < MOST_LOADING
    return figures, goal, holds


def wer(args) -> Row:
    """WER and CER with and without a language model: held-out clips of the sample, and its training clips with noise.

    alpha and beta are tuned on the dev split, and on one half of the noisy clips. The goal is that the figures are
    stated, not that a language model of few sentences helps.
    """
    if not args.model:
        raise InputError("--wer needs a run of the sample, give --model RUN")
    asr = w2v.load(args.model)
    normalise = Normaliser("tr")
    splits = {name: rows_of(Path(args.model) / f"predictions-{name}.tsv") for name in ("dev", "test")}
    held = {normalise(sentence) for rows in splits.values() for sentence in rows.values()}
    table = [line.split("\t") for line in (SAMPLES / "tr" / "validated.tsv").read_text("utf-8").splitlines()]
    path, sentence = table[0].index("path"), table[0].index("sentence")
    sentences = {row[path]: normalise(row[sentence].strip('"')) for row in table[1:]}
    train = [name for name in sentences if all(name not in rows for rows in splits.values())]
    large = estimate_ngram(corpus_of(text for text in turkish() if text not in held), 5).ngram
    small = estimate_ngram(corpus_of(sentences[name] for name in train), 3).ngram
    figures: dict[str, Any] = {}
    dev, test = list(splits["dev"]), list(splits["test"])
    for name, lm, noise, fit, measure in (
        ("held-out, 5-gram", large, 0.0, dev, test),
        ("training with noise, 3-gram", small, 0.003, train[::2], train[1::2]),
    ):
        figures |= with_and_without(asr, name, lm, noise, fit, measure, sentences)
    return figures, "stated", True


def rows_of(table: Path) -> dict[str, str]:
    """The clips of a predictions table and their references."""
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    columns = rows[0]
    return {row[columns.index("clip")]: row[columns.index("reference")] for row in rows[1:]}


def with_and_without(asr: Recogniser, name, ngram, noise, fit, measure, sentences) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def heard(names: list[str]) -> Phrases:
        waves = [read_audio(SAMPLES / "tr" / "clips" / clip) for clip in names]
        waves = [(wave + noise * rng.standard_normal(len(wave))).astype(np.float32) for wave in waves]
        return phrases_of(asr, waves)

    def rates(names: list[str], phrases: Phrases, search: BeamSearch | None) -> tuple[float, float]:
        texts = texts_of(asr, phrases, search)
        references = [sentences[clip] for clip in names]
        return word_edits(references, texts).rate() or 0.0, character_edits(references, texts).rate() or 0.0

    tuning, measured = heard(fit), heard(measure)
    search = asr.search(LanguageModel(ngram))
    assert search is not None and isinstance(search.fusion, (WordFusion, CharacterFusion))
    alpha, beta, _ = tune(search, lambda tried: rates(fit, tuning, tried)[0])
    tuned = BeamSearch(asr.tokenizer, search.fusion.weighed(alpha, beta))
    without, with_lm = rates(measure, measured, None), rates(measure, measured, tuned)
    return {
        f"{name}: WER without": round(without[0], 3),
        f"{name}: WER with": round(with_lm[0], 3),
        f"{name}: CER without": round(without[1], 3),
        f"{name}: CER with": round(with_lm[1], 3),
        f"{name}: alpha, beta": f"{alpha:g}, {beta:g}",
    }


ROWS = {
    "estimator": estimator,
    "query": query,
    "exhaustive": exhaustive,
    "pyctcdecode": pyctcdecode,
    "speed": speed,
    "corpus": corpus,
    "wer": wer,
}

if __name__ == "__main__":
    run(main)
