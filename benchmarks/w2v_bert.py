"""W2V-BERT 2.0 without real weights: equal to transformers, exact in any batch, and how fast.

    python -m benchmarks.w2v_bert --features --parity --packing --loss-curve
    python -m benchmarks.w2v_bert --step --inference --by-heart

Each flag is a row of docs/NUMBERS.md; exit code 1 where one misses its goal. transformers computes in fp32 too, with
the same random weights and on the same clips, in turn with ours.

Shapes: B clips, T rows of features, of 20 ms.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Row, interleave, run_rows
from benchmarks.flops import w2v_bert_products
from benchmarks.lm_corpus import SHARED, needed
from benchmarks.peer_ctc import build_w2v_bert, w2v_bert_extractor, w2v_bert_inputs
from benchmarks.peer_step import Peer, PeerStep, note_losses, peer_optimizer
from benchmarks.products import products_seconds
from benchmarks.speech import VOCABULARY, Speech, draw_speech
from benchmarks.whisper_speed import CPU, our_step, take_peer_step, take_step
from recipes import cv_finetune
from recipes.console import Parser, positive, run
from w2v.answers import Batch
from w2v.audio import SAMPLE_RATE, read_audio
from w2v.features import mel_energies, mel_pairs
from w2v.models.w2v_bert import Wav2Vec2BertForCTC
from w2v.models.w2v_bert_config import W2V_BERT_2, Wav2Vec2BertConfig
from w2v.training.step import TrainStep

DROPOUTS = [field.name for field in dataclasses.fields(W2V_BERT_2) if field.name.endswith("dropout")]
QUIET: dict[str, Any] = dict.fromkeys([*DROPOUTS, "layerdrop"], 0.0) | {"apply_spec_augment": False}
FEATURE_CLIPS, MOST_ENERGY, MOST_FEATURE, LEAST_REAL_TIME = 200, 2e-6, 1e-5, 1000
DEPTHS = (2, W2V_BERT_2.num_hidden_layers)
MOST_LOGITS, MOST_GRADIENT, MOST_BATCH = 2e-5, 1e-4, 1e-5
STEP_LAYERS, STEP_CLIPS, STEP_BATCHES, STEP_ROUNDS = 4, 4, 5, 5
LEAST_STEP, LEAST_INFERENCE = 1.2, 1.3
CURVE_LAYERS, CURVE_STEPS, CURVE_CLIPS, CURVE_RATE, MOST_LOSS = 2, 20, 4, 5e-5, 1e-3
MOST_CER, MOST_CPU_MINUTES = 0.05, 6.0


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.w2v_bert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=positive, default=STEP_ROUNDS, help="of --step and --inference (default: 5)")
    return run_rows(parser, ROWS, argv)


def features(args) -> Row:
    """200 clips of data/cv6: energies and normalised features against transformers', and how fast ours are made.

    Clips with a bin that never changes are named: there rounding is divided by next to nothing. The time is that of one
    core; the other figure is that of reading the same rows from a file, had they been stored.
    """
    files = sorted(needed(SHARED / "data/cv6").glob("*/clips/*.mp3"))
    files = files[:: len(files) // FEATURE_CLIPS][:FEATURE_CLIPS]
    waveforms, peer = [read_audio(file) for file in files], w2v_bert_extractor()
    energy = feature = 0.0
    constant = []
    for file, waveform in zip(files, waveforms, strict=True):
        energies, theirs = mel_energies(waveform), peer(waveform, sampling_rate=SAMPLE_RATE)
        energy = max(energy, float(np.abs(energies - peer._extract_fbank_features(waveform).T).max()))
        if (energies == energies[:, :1]).all(1).any():
            constant.append(file.name)
            continue
        rows = int(theirs["attention_mask"].sum())
        feature = max(feature, float(np.abs(mel_pairs(waveform).numpy() - theirs["input_features"][0, :rows]).max()))
    seconds = sum(map(len, waveforms)) / SAMPLE_RATE
    made, read = real_time(waveforms, seconds), read_time(waveforms, seconds)
    figures: dict[str, Any] = {
        "clips": len(files),
        "with a constant bin": constant or "none",
        "energies differ": f"{energy:.1e}",
        "features differ": f"{feature:.1e}",
        "seconds of speech per second of a core": round(made),
        "the same, read from a file": round(read),
    }
    goal = f"energies {MOST_ENERGY:g}, features {MOST_FEATURE:g}, {LEAST_REAL_TIME} times real time"
    return figures, goal, energy <= MOST_ENERGY and feature <= MOST_FEATURE and made >= LEAST_REAL_TIME


def real_time(waveforms: list[np.ndarray], seconds: float) -> float:
    """Seconds of speech that a core makes features of in a second of its time."""
    start = time.process_time()  # of all threads
    for waveform in waveforms:
        mel_pairs(waveform)
    return seconds / (time.process_time() - start)


def read_time(waveforms: list[np.ndarray], seconds: float) -> float:
    """The same where float32 features, as large as int16 samples, lie in a file that the system has in memory."""
    rows = [mel_pairs(waveform).numpy() for waveform in waveforms]
    with tempfile.TemporaryFile() as file:
        stored = np.memmap(file, np.float32, "w+", shape=(sum(map(len, rows)), rows[0].shape[1]))
        np.concatenate(rows, out=stored)
        ends = np.cumsum([len(each) for each in rows])
        start = time.process_time()
        for end, each in zip(ends, rows, strict=True):
            stored[end - len(each) : end].copy()
        return seconds / (time.process_time() - start)


def pair(config: Wav2Vec2BertConfig) -> tuple[Any, Peer]:
    """-> ours and transformers' with the same random weights, in training mode."""
    torch.manual_seed(0)
    model = Wav2Vec2BertForCTC(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases away from 1 and 0
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model, build_w2v_bert(config, model.state_dict())


def noise(*samples: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(-8000, 8000, n, dtype=np.int16) for n in samples]


def parity(args) -> Row:
    """Logits and gradients against transformers', random weights, 2 and 24 layers, with and without the adapter."""
    figures: dict[str, Any] = {}
    logits = gradients = 0.0
    for layers in DEPTHS:
        for adapter in (False, True):
            ours, peer = pair(dataclasses.replace(W2V_BERT_2, num_hidden_layers=layers, add_adapter=adapter, **QUIET))
            apart, far = compare(ours, peer.model, ours.config.collate(noise(20_000), pad=True))
            name = f"{layers} layers{', adapter' if adapter else ''}"
            figures |= {f"{name}: logits differ": f"{apart:.1e}", f"{name}: gradients differ": f"{far:.1e}"}
            if not adapter:  # transformers' batches are wrong with it
                batch = ours.config.collate(noise(20_000, 9_000), pad=True)
                apart = max(apart, compare(ours, peer.model, batch)[0])
                figures[f"{name}, two rows: logits differ"] = f"{apart:.1e}"
            logits, gradients = max(logits, apart), max(gradients, far)
            del ours, peer
    goal = f"logits {MOST_LOGITS:g}, gradients {MOST_GRADIENT:g} relative"
    return figures, goal, logits <= MOST_LOGITS and gradients <= MOST_GRADIENT


def compare(ours, theirs, batch: Batch) -> tuple[float, float]:
    """-> the largest difference of logits, and of a parameter's gradient, relative. linear_k.bias has rounding only."""
    ours.zero_grad()
    theirs.zero_grad()
    out, inputs = ours(batch), w2v_bert_inputs(batch)
    peer = theirs(input_features=inputs["input_features"], attention_mask=inputs["attention_mask"]).logits
    real = torch.arange(out.logits.shape[1]) < out.logit_lengths[:, None]
    upstream = torch.randn_like(out.logits) * real[:, :, None]
    (out.logits * upstream).sum().backward()
    (peer * upstream).sum().backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    far = max(
        float((parameter.grad - wanted[name]).norm() / wanted[name].norm())
        for name, parameter in ours.named_parameters()
        if not name.endswith(("linear_k.bias", "masked_spec_embed"))
    )
    return float((out.logits - peer)[real].detach().abs().max()), far


def packing(args) -> Row:
    """Padded, packed and alone, with the same masks given, full width, with and without the adapter."""
    figures: dict[str, Any] = {}
    largest = 0.0
    for adapter in (False, True):
        config = dataclasses.replace(W2V_BERT_2, num_hidden_layers=2, add_adapter=adapter, **QUIET)
        model, clips = pair(config)[0], noise(16_000, 9_000, 560, 30_001, 880)
        packed, padded = config.collate(clips), config.collate(clips, pad=True)
        mask = torch.rand(len(clips), packed.layout.longest, generator=torch.manual_seed(0)) < 0.2
        with torch.no_grad():
            one, other = model(packed, time_mask=mask).logits, model(padded, time_mask=mask).logits
            apart = float((one - other).abs().max())
            for row, clip, masked in zip(one, clips, mask, strict=True):
                batch = config.collate([clip])
                alone = model(batch, time_mask=masked[None, : batch.layout.longest]).logits[0]
                apart = max(apart, float((row[: len(alone)] - alone).abs().max()))
        figures[f"{'with' if adapter else 'without'} adapter: logits differ"] = f"{apart:.1e}"
        largest = max(largest, apart)
    return figures, f"{MOST_BATCH:g}", largest <= MOST_BATCH


def drawn(seed: int) -> Speech:
    """Batches of 4 clips as they are drawn from the Common Voice mix, not grouped by length."""
    speech, grouped = Speech(), draw_speech("common-voice", None, 1, None, STEP_BATCHES * STEP_CLIPS)
    seconds = [clip.samples / SAMPLE_RATE for clip in grouped.clips]
    rng = np.random.default_rng(seed)
    for batch in np.split(rng.permutation(seconds), STEP_BATCHES):
        speech.add_batch(batch.tolist(), rng)
    return speech


def step(args) -> Row:
    """A training step, 4 layers of full width, 4 clips of the Common Voice mix, fp32, against transformers.

    The goal is for clips as they are drawn; clips grouped by length, where next to nothing is padded, are stated.
    The share of the ceiling is the time of the step's bare matrix products, without padding, by the step's time.
    """
    return timed(args, LEAST_STEP, take_step, take_peer_step)


def inference(args) -> Row:
    """The same without gradients, in evaluation mode."""
    return timed(args, LEAST_INFERENCE, hear, peer_hear)


def timed(args, least: float, ours_do: Callable, theirs_do: Callable) -> Row:
    config = dataclasses.replace(
        W2V_BERT_2, num_hidden_layers=STEP_LAYERS, vocab_size=VOCABULARY, layerdrop=0.0, apply_spec_augment=False
    )
    model, peer = pair(config)
    trains = ours_do is take_step
    if not trains:
        model.eval()
        peer.model.eval()
    ours = our_step(model, CURVE_RATE)
    theirs = PeerStep(peer, peer_optimizer(peer, CURVE_RATE), "fp32", CPU)
    figures: dict[str, Any] = {}
    ratios = {}
    grouped = draw_speech("common-voice", None, STEP_CLIPS, None, STEP_BATCHES)
    for name, speech in (("as drawn", drawn(0)), ("grouped by length", grouped)):
        packed, padded = speech.dataset(config), speech.dataset(config, pad=True)
        seconds = {"ours": 0.0, "transformers": 0.0, "products": 0.0}
        for numbers in speech.batches:
            batch, inputs = packed[numbers], w2v_bert_inputs(padded[numbers])
            runs: dict[str, Callable[[], object]] = {
                "ours": partial(ours_do, ours, 0, batch),
                "transformers": partial(theirs_do, theirs, inputs),
            }
            for side, each in interleave(runs, args.rounds, 1, CPU).items():
                seconds[side] += each["median_s"]
            seconds["products"] += products_seconds(w2v_bert_products(config, batch.layout.lengths.tolist(), trains))
        ratios[name] = seconds["transformers"] / seconds["ours"]
        figures |= {
            f"{name}: s": round(seconds["ours"] / STEP_BATCHES, 3),
            f"{name}: ratio": round(ratios[name], 3),
            f"{name}: share of the ceiling": round(seconds["products"] / seconds["ours"], 2),
            f"{name}: padding": f"{padding_of(speech):.0%}",
        }
    return figures, f"a ratio of at least {least:g} as drawn", ratios["as drawn"] >= least


def padding_of(speech: Speech) -> float:
    """The share of a padded batch that no clip fills."""
    sizes = [speech.samples(numbers) for numbers in speech.batches]
    return 1 - sum(map(sum, sizes)) / sum(len(each) * max(each) for each in sizes)


@torch.no_grad()
def hear(step: TrainStep, number: int, batch: Batch) -> None:
    step.model(batch)


@torch.no_grad()
def peer_hear(step: PeerStep, inputs: dict[str, Tensor]) -> None:
    step.peer.hear(inputs)


def loss_curve(args) -> Row:
    """20 training steps, ours and transformers', the same weights and batches, no dropout, even lengths."""
    config = dataclasses.replace(W2V_BERT_2, num_hidden_layers=CURVE_LAYERS, add_adapter=True, **QUIET)
    model, peer = pair(config)
    losses: dict[str, list[float]] = {"ours": [], "transformers": note_losses(peer)}
    ours = our_step(model, CURVE_RATE)
    theirs = PeerStep(peer, peer_optimizer(peer, CURVE_RATE), "fp32", CPU)
    rng = np.random.default_rng(0)
    for number in range(CURVE_STEPS):
        samples = (4 * rng.integers(20, 60, CURVE_CLIPS) * 160 + 400 - 160).tolist()  # so many mel frames, in fours
        labels = [rng.integers(1, config.vocab_size, n // 2000).tolist() for n in samples]
        waveforms = [rng.integers(-8000, 8000, n, dtype=np.int16) for n in samples]
        losses["ours"].append(take_step(ours, number, config.collate(waveforms, labels)))
        take_peer_step(theirs, w2v_bert_inputs(config.collate(waveforms, labels, pad=True)))
    apart = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    figures: dict[str, Any] = {"steps": CURVE_STEPS, "largest difference": f"{apart:.1e}"}
    figures |= {name: [round(loss, 4) for loss in each] for name, each in losses.items()}
    return figures, f"within {MOST_LOSS:g} at every step", apart <= MOST_LOSS


def by_heart(args) -> Row:
    """A small random conformer learns the sample's 80 training clips by heart, with the recipe's preset."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        words = [
            "--lang",
            "tr",
            "--model",
            "random:w2v-bert-tiny",
            "--device",
            "cpu",
            "--out",
            str(Path(folder) / "run"),
        ]
        summary = cv_finetune.main(words)
        minutes = (time.process_time() - start) / 60
    figures = {"training CER": round(summary["train_cer"], 3), "CPU minutes": round(minutes, 1)}
    holds = summary["train_cer"] <= MOST_CER and minutes <= MOST_CPU_MINUTES
    return figures, f"a CER of at most {MOST_CER:g} within {MOST_CPU_MINUTES:g} CPU minutes", holds


ROWS = {
    "features": features,
    "parity": parity,
    "packing": packing,
    "step": step,
    "inference": inference,
    "loss-curve": loss_curve,
    "by-heart": by_heart,
}


if __name__ == "__main__":
    run(main)
