"""The rows of benchmarks.whisper that take time: a training step, evaluation, and windows cut to their clips.

Ours and transformers' are timed in turn, in one process, and a ratio is that of medians. A step begins with a batch of
log-mel spectrograms in memory and ends with the updated weights.

Shapes: B clips, U labels.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Row, StageClock, interleave
from benchmarks.flops import whisper_products
from benchmarks.peer_step import Inputs, PeerStep, peer_optimizer
from benchmarks.peer_whisper import build_whisper, whisper_extractor, whisper_inputs, whisper_writer
from benchmarks.products import products_seconds
from benchmarks.whisper_clips import folder_of, load, sample, training_batch, waveforms
from recipes.kept import KeptHearing
from w2v.answers import Batch
from w2v.asr import recognise
from w2v.metrics import error_rates
from w2v.text.normalise import Normaliser
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

CPU = torch.device("cpu")
STEP_CLIPS, STEP_ROUNDS, STEP_RATE = 8, 5, 1e-5
GOALS = {"trained": 1.05, "frozen": 1.1, "kept": 4.0}  # transformers' time by ours; its frozen step by our kept one
BATCH, EVALUATION_ROUNDS, LEAST_RATIO = 16, 3, 1.1
BETAS, WEIGHT_DECAY = (0.9, 0.999), 0.0  # peer_optimizer's


def our_step(model: Any, rate: float) -> TrainStep:
    return TrainStep(model, adamw(model, rate, BETAS, WEIGHT_DECAY), lambda _: 1.0)


def take_step(step: TrainStep, number: int, batch: Batch) -> float:
    """-> the loss of the batch before the update."""
    step.begin(number)
    total = step.total_weight([batch])
    step.backward(step.losses(batch, last=True), total)
    return float(step.update().losses.sum() / total)


def take_kept_step(step: TrainStep, kept: KeptHearing, batch: Batch) -> float:
    return take_step(step, 0, kept(list(range(len(batch))), batch))


def take_peer_step(step: PeerStep, inputs: Inputs) -> None:
    step(inputs, 0, StageClock(CPU))


def step(args) -> Row:
    """A training step of 8 clips, base, against transformers: encoder trained, frozen, frozen with kept output.

    The share of the ceiling is the time of the step's bare matrix products by the step's time.
    """
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    for frozen in (False, True):
        asr, peer = load(args, "base", "tr"), build_whisper(folder_of(args, "base"))
        asr.model.train()
        peer.model.train()
        if frozen:
            asr.model.parts.encoder.requires_grad_(False)
            peer.encoder.requires_grad_(False)
        batch, name = training_batch(asr, STEP_CLIPS), "frozen" if frozen else "trained"
        ours = our_step(asr.model, STEP_RATE)
        theirs = PeerStep(peer, peer_optimizer(peer, STEP_RATE), "fp32", CPU)
        runs: dict[str, Callable[[], object]] = {
            name: partial(take_step, ours, 0, batch),
            "transformers": partial(take_peer_step, theirs, whisper_inputs(batch)),
        }
        with tempfile.TemporaryDirectory() as cache_folder:
            if frozen:
                kept = KeptHearing(asr.model, len(batch), Path(cache_folder), "fp32")
                runs["kept"] = partial(take_kept_step, ours, kept, batch)
            seconds = {k: v["median_s"] for k, v in interleave(runs, args.rounds or STEP_ROUNDS, 1, CPU).items()}
        theirs_s, lengths = seconds.pop("transformers"), batch.label_lengths.tolist()
        products = {way: products_seconds(whisper_products(asr.model.config, lengths, way)) for way in seconds}
        figures[f"{name}: transformers s"] = round(theirs_s, 3)
        figures[f"{name}: transformers' share of the ceiling"] = round(products[name] / theirs_s, 2)
        for way, ours_s in seconds.items():
            ratios[way] = theirs_s / ours_s
            figures |= {f"{way}: s": round(ours_s, 3), f"{way}: ratio": round(ratios[way], 3)}
            figures[f"{way}: share of the ceiling"] = round(products[way] / ours_s, 2)
    goal = ", ".join(f"{way} {least:g}" for way, least in GOALS.items())
    return figures, f"ratios of at least {goal}", all(ratios[way] >= least for way, least in GOALS.items())


def evaluation(args) -> Row:
    """Clips of the sample, base, greedy, 16 at once, log-mel included, against transformers' generate.

    w2v.asr.recognise sorts clips by length; transformers takes them in the table's order. The share of the ceiling is
    the time of the bare matrix products, all tokens of a clip at once, by ours: in fp32 no program can be faster.
    """
    asr, clips = load(args, "base", "tr"), waveforms(args.clips)
    features, write = whisper_extractor(folder_of(args, "base")), whisper_writer(folder_of(args, "base"))
    texts: dict[str, list[str]] = {}

    def ours(count: int | None = None) -> None:
        texts["ours"] = recognise(asr.model, asr.tokenizer, clips[:count])

    def theirs(count: int | None = None) -> None:
        chosen = clips[:count]
        batches = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
        texts["transformers"] = [text for batch in batches for text in write(features(batch), "tr")]

    for side in (ours, theirs):  # what is made once
        side(2)
    timed = interleave({"ours": ours, "transformers": theirs}, args.rounds or EVALUATION_ROUNDS, 0, CPU)
    seconds = {name: each["median_s"] for name, each in timed.items()}
    ratio = seconds["transformers"] / seconds["ours"]
    products = heard_products_seconds(asr, texts["ours"])
    figures: dict[str, Any] = {
        "share of the ceiling": round(products / seconds["ours"], 2),
        "largest ratio": round(seconds["transformers"] / products, 2),
        "clips": len(clips),
        "same texts": sum(a == b for a, b in zip(texts["ours"], texts["transformers"], strict=True)),
        "s": round(seconds["ours"], 1),
        "transformers s": round(seconds["transformers"], 1),
        "ratio": round(ratio, 3),
    }
    return figures, f"a ratio of at least {LEAST_RATIO:g}", ratio >= LEAST_RATIO


def heard_products_seconds(asr: Any, texts: list[str]) -> float:
    """What the bare products behind these texts take: the encoder's for each window, the decoder's for each token."""
    tokenizer = asr.tokenizer
    written = [len(tokenizer.prompt()) + len(tokenizer.encode_text(text)) for text in texts]
    batches = [written[i : i + BATCH] for i in range(0, len(written), BATCH)]
    config = asr.model.config
    products = [each for lengths in batches for each in whisper_products(config, lengths, "frozen")]
    return products_seconds(each._replace(gradients=0) for each in products)


def cut_windows(args) -> Row:
    """WER and CER of the sample's clips, base told Turkish, with windows of 30 s and cut to a batch's longest clip."""
    asr, normalise = load(args, "base", "tr"), Normaliser("tr")
    references = [normalise(sentence) for _, sentence in sample()[: args.clips]]
    figures: dict[str, Any] = {"clips": len(references)}
    for name, cut in (("30 s", False), ("cut", True)):
        asr.model.config = replace(asr.model.config, cut_windows=cut)
        start = time.perf_counter()
        heard = recognise(asr.model, asr.tokenizer, waveforms(args.clips))
        figures[f"{name}: s"] = round(time.perf_counter() - start, 1)
        rates = error_rates(references, [normalise(text) for text in heard])
        figures |= {f"{name}: WER": round(rates.wer or 0.0, 3), f"{name}: CER": round(rates.cer or 0.0, 3)}
    return figures, "stated", True
