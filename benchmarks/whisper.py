"""Whisper on real weights: equal to transformers, right on real speech, and how fast.

    python -m benchmarks.whisper --weights DIR --parity --greedy --jfk --words --loss-curve
    python -m benchmarks.whisper --weights DIR --step --evaluation --cut-windows

DIR holds `base/` and `tiny.en/` in transformers' layout. Each flag is a row of docs/NUMBERS.md; exit code 1 where one
misses its goal. transformers computes in fp32 too, on the same clips, in turn with ours. The rows that take time are in
benchmarks/whisper_speed.py.
"""

import difflib
import re
import statistics
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Row, run_rows
from benchmarks.lm_corpus import SHARED, needed
from benchmarks.peer_step import PeerStep, note_losses, peer_optimizer
from benchmarks.peer_whisper import (
    build_whisper,
    whisper_encoder,
    whisper_extractor,
    whisper_inputs,
    whisper_writer,
)
from benchmarks.whisper_clips import folder_of, load, readings, sample, training_batch
from benchmarks.whisper_speed import CPU, cut_windows, evaluation, our_step, step, take_peer_step, take_step
from recipes.console import Parser, positive, run
from w2v.answers import DecodeOptions
from w2v.audio import read_audio
from w2v.features import log_mel
from w2v.models.whisper_config import CONFIGS

NAMES = ("base", "tiny.en")
PARITY_CLIPS, PARITY_TOKENS, GRADIENT_CLIPS = 8, 20, 2
MOST_LOGITS, MOST_GRADIENT, MOST_MEL = 1e-4, 1e-4, 1e-6
LANGUAGES, OF_EACH = ("tr", "cs", "de", "en", "fr", "pl", "ru", "hi"), 5  # of --greedy
SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
MOST_SECONDS = 0.1  # between a word's start and the known one, in the median
LEAST_MATCHED = 0.75  # of the known words: a median over few says nothing
STEPS, STEP_CLIPS, RATE, MOST_LOSS = 20, 4, 1e-5, 1e-3  # of --loss-curve


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.whisper", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="with base/ and tiny.en/")
    parser.add_argument("--clips", type=positive, default=100, help="of --evaluation and --cut-windows (default: 100)")
    parser.add_argument("--rounds", type=positive, help="default: 5 of --step, 3 of --evaluation")
    return run_rows(parser, ROWS, argv)


def parity(args) -> Row:
    """Logits, gradients, log-mel and tokens against transformers' and tiktoken's, real base and tiny.en.

    How far rounding alone moves logits is seen in transformers' own, which are compared with its float64.
    """
    figures: dict[str, Any] = {}
    largest = {"logits": 0.0, "gradients": 0.0}
    for name in NAMES:
        asr, peer = load(args, name, "tr" if name == "base" else None), build_whisper(folder_of(args, name))
        batch = training_batch(asr, PARITY_CLIPS)
        tokens = torch.randint(asr.tokenizer.eos_id, (PARITY_CLIPS, PARITY_TOKENS), generator=torch.manual_seed(0))
        with torch.no_grad():
            theirs = peer.model(input_features=batch.inputs, decoder_input_ids=tokens).logits
            apart = float((asr.model(batch.inputs, tokens) - theirs).abs().max())
            exact = deepcopy(peer.model).double()(input_features=batch.inputs.double(), decoder_input_ids=tokens).logits
        figures |= {f"{name}: logits differ": f"{apart:.1e}", f"{name}: largest logit": round(float(theirs.max()), 1)}
        figures[f"{name}: transformers from its float64"] = f"{float((theirs - exact).abs().max()):.1e}"
        largest["logits"] = max(largest["logits"], apart)
        batch = training_batch(asr, GRADIENT_CLIPS)
        (asr.model.losses(batch).values.sum() / sum(batch.weights)).backward()
        peer.loss(peer.model, whisper_inputs(batch)).backward()
        wanted = {key: parameter.grad for key, parameter in peer.model.named_parameters()}
        apart = max(
            float((parameter.grad - wanted[key]).norm() / wanted[key].norm())
            for key, parameter in asr.model.named_parameters()
        )
        figures[f"{name}: gradients differ"] = f"{apart:.1e}"
        largest["gradients"] = max(largest["gradients"], apart)
    mel, config = whisper_extractor(folder_of(args, "base")), CONFIGS["whisper-base"]
    apart = max(float((log_mel(x, config.num_mel_bins, config.window) - mel([x])[0]).abs().max()) for x, _ in sample())
    tokens_figures, others = other_tokens(args)
    figures |= {"clips of log-mel": len(sample()), "log-mel differs": f"{apart:.1e}", **tokens_figures}
    goal = f"logits {MOST_LOGITS:g}, gradients {MOST_GRADIENT:g} relative, log-mel {MOST_MEL:g}, no other token"
    holds = largest["logits"] <= MOST_LOGITS and largest["gradients"] <= MOST_GRADIENT and apart <= MOST_MEL
    return figures, goal, holds and not others


def other_tokens(args) -> tuple[dict[str, Any], int]:
    """Figures, and how many lines of data/text have other ids than the peer gives them, with both vocabularies."""
    files = sorted(needed(SHARED / "data/text").rglob("*.txt"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    figures: dict[str, Any] = {"lines": len(lines)}
    others = 0
    for name in NAMES:
        ours, (whose, theirs) = load(args, name).tokenizer, whisper_encoder(folder_of(args, name))
        figures[f"{name}: lines unlike {whose}"] = differ = sum(ours.encode_text(x) != list(theirs(x)) for x in lines)
        others += differ
    return figures, others


def greedy(args) -> Row:
    """Greedy text of 40 clips in eight languages, base, against transformers' generate: identical."""
    asr, write = load(args, "base"), whisper_writer(folder_of(args, "base"))
    figures: dict[str, Any] = {}
    for lang in LANGUAGES:
        files = sorted(needed(SHARED / "data/cv6" / lang / "clips").glob("*.mp3"))[:OF_EACH]
        batch = asr.model.config.collate([read_audio(file) for file in files])
        found = asr.model.decode(batch, asr.tokenizer.for_language(lang), DecodeOptions())
        theirs = write(batch.inputs, lang)
        figures[lang] = sum(a.text == b != "" for a, b in zip(found, theirs, strict=True))
    same, clips = sum(figures.values()), OF_EACH * len(LANGUAGES)
    return figures | {"identical": same}, f"all of {clips}", same == clips


def bare(text: str) -> str:
    """Without case and punctuation."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def jfk(args) -> Row:
    """OpenAI's own test clip, tiny.en and base: word for word."""
    file = needed(SHARED / "fixtures/whisper/jfk.flac")
    heard = {name: load(args, name).transcribe(file)[0].text for name in NAMES}
    return heard, "word for word", all(bare(text) == SAID for text in heard.values())


def words(args) -> Row:
    """Word starts, tiny.en, against those that pocketsphinx's aligner found in five readings; base's are stated."""
    known, figures, holds = readings(), dict[str, Any](), True
    total = sum(len(reading.words) for reading in known)
    for name in NAMES:
        asr, late = load(args, name, "en"), list[float]()
        for reading, heard in zip(known, asr.transcribe([each.waveform for each in known], words=True), strict=True):
            late += lateness(reading.words, [(bare(word.text), word.start) for word in heard.words])
        apart = sorted(map(abs, late))
        figures |= {
            f"{name}: words": f"{len(late)} of {total}",
            f"{name}: median s": round(statistics.median(apart or [9.9]), 3),
            f"{name}: of ten, nine within s": round(apart[len(apart) * 9 // 10] if apart else 9.9, 3),
            f"{name}: late by s": round(statistics.median(late or [9.9]), 3),
        }
        if name == "tiny.en":
            holds = len(late) >= LEAST_MATCHED * total and statistics.median(apart) <= MOST_SECONDS
    return figures, f"tiny.en's median at most {MOST_SECONDS:g} s", holds


def lateness(known: list[tuple[str, float]], heard: list[tuple[str, float]]) -> list[float]:
    """How many seconds later than known each word begins that is heard as it is written; mister is written Mr."""
    spelled = {"mr": "mister", "mrs": "missus"}
    one, other = ([spelled.get(name, name) for name, _ in side] for side in (known, heard))
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return [heard[b + i][1] - known[a + i][1] for a, b, size in blocks for i in range(size)]


def loss_curve(args) -> Row:
    """20 training steps of 4 clips, base, ours and transformers' from the same weights: the losses of each step."""
    asr, peer = load(args, "base", "tr"), build_whisper(folder_of(args, "base"))
    losses: dict[str, list[float]] = {"ours": [], "transformers": note_losses(peer)}
    ours = our_step(asr.model.train(), RATE)
    theirs = PeerStep(peer, peer_optimizer(peer, RATE), "fp32", CPU)
    peer.model.train()
    for number in range(STEPS):
        batch = training_batch(asr, STEP_CLIPS, STEP_CLIPS * number)
        losses["ours"].append(take_step(ours, number, batch))
        take_peer_step(theirs, whisper_inputs(batch))
    apart = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    figures: dict[str, Any] = {"steps": STEPS, "clips": STEP_CLIPS, "largest difference": f"{apart:.1e}"}
    figures |= {name: [round(loss, 4) for loss in each] for name, each in losses.items()}
    return figures, f"within {MOST_LOSS:g} at every step", apart <= MOST_LOSS


ROWS = {
    "parity": parity,
    "greedy": greedy,
    "jfk": jfk,
    "words": words,
    "loss-curve": loss_curve,
    "step": step,
    "evaluation": evaluation,
    "cut-windows": cut_windows,
}


if __name__ == "__main__":
    run(main)
