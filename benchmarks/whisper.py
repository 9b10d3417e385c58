"""Whisper on real weights: equal to transformers, right on real speech, and how fast.

    python -m benchmarks.whisper --weights DIR --parity --greedy --jfk --words --loss-curve
    python -m benchmarks.whisper --weights DIR --step --evaluation --cut-windows

DIR holds `base/` and `tiny.en/` in transformers' layout. Each flag is a row of docs/NUMBERS.md; exit code 1 where one
misses its goal. transformers computes in fp32 too, on the same clips, in turn with ours.
"""

import difflib
import json
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperTokenizer
from transformers import WhisperForConditionalGeneration as Theirs

import w2v
from benchmarks.common import Row, interleave, run_rows
from benchmarks.lm_corpus import SHARED, needed
from recipes.console import Parser, positive, run
from recipes.data_settings import SAMPLES
from w2v.answers import Batch, DecodeOptions
from w2v.asr import recognise
from w2v.audio import read_audio
from w2v.features import log_mel
from w2v.metrics import error_rates
from w2v.models.whisper import WhisperForConditionalGeneration
from w2v.text.normalise import Normaliser
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

MOST_LOGITS, MOST_GRADIENT, MOST_MEL, MOST_LOSS = 1e-4, 1e-4, 1e-6, 1e-3
LANGUAGES = ("tr", "cs", "de", "en", "fr", "pl", "ru", "hi")  # of --greedy, five clips each
MOST_SECONDS = 0.1  # between a word's start and the known one, in the median
GOALS = {"trained": 1.05, "frozen": 1.1, "frozen, kept output": 4.0}
LEAST_EVALUATION = 1.1
BATCH = 16  # clips of --evaluation
SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.whisper", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="with base/ and tiny.en/")
    parser.add_argument("--clips", type=positive, default=100, help="of --evaluation and --cut-windows (default: 100)")
    parser.add_argument("--rounds", type=positive, default=5, help="of --step (default: 5)")
    return run_rows(parser, ROWS, argv)


def theirs_of(folder: Path) -> Any:
    return Theirs.from_pretrained(folder, dtype=torch.float32).eval()


def sample_table() -> list[tuple[np.ndarray, str]]:
    """The sample's clips in their table's order: waveform, sentence."""
    lines = [line.split("\t") for line in (SAMPLES / "tr" / "validated.tsv").read_text("utf-8").splitlines()]
    path, sentence = lines[0].index("path"), lines[0].index("sentence")
    return [(read_audio(SAMPLES / "tr" / "clips" / row[path]), row[sentence].strip('"')) for row in lines[1:]]


def load(folder: Path, lang: str | None = None) -> Any:
    """A Recogniser; its model is of any family to a type checker."""
    return w2v.load(folder, target_lang=lang)


def labelled(asr: Any, count: int, first: int = 0) -> Batch:
    clips = sample_table()[first : first + count]
    normalise = Normaliser("tr")
    labels = [asr.tokenizer.encode(normalise(sentence)) for _, sentence in clips]
    return asr.model.config.collate([waveform for waveform, _ in clips], labels)


def padded(batch: Batch) -> Tensor:
    """Labels as transformers takes them."""
    places = torch.arange(batch.labels.shape[1])[None]
    return batch.labels.masked_fill(places >= batch.label_lengths[:, None], -100)


def parity(args) -> Row:
    """Logits, gradients, log-mel and tokens against transformers, real base and tiny.en."""
    figures: dict[str, Any] = {}
    holds = True
    for name, lang in (("base", "tr"), ("tiny.en", None)):
        asr, theirs = load(args.weights / name, lang), theirs_of(args.weights / name)
        batch = labelled(asr, 2)
        out = theirs(input_features=batch.inputs, labels=padded(batch))
        with torch.no_grad():
            apart = (asr.model(batch) - out.logits)[padded(batch) >= 0].abs().max().item()
        (asr.model.losses(batch).values.sum() / sum(batch.weights)).backward()
        out.loss.backward()
        wanted = {n: p.grad for n, p in theirs.named_parameters()}
        worst = max(float((p.grad - wanted[n]).norm() / wanted[n].norm()) for n, p in asr.model.named_parameters())
        figures |= {f"{name}: logits": f"{apart:.1e}", f"{name}: gradients": f"{worst:.1e}"}
        holds &= apart <= MOST_LOGITS and worst <= MOST_GRADIENT
    mel = WhisperFeatureExtractor.from_pretrained(args.weights / "base")._torch_extract_fbank_features
    apart = max(
        float(np.abs(log_mel(x, 80, 480_000).numpy() - mel(np.pad(x, (0, 480_000 - len(x))))).max())
        for x, _ in sample_table()[:20]
    )
    ours, peer = load(args.weights / "base").tokenizer, WhisperTokenizer.from_pretrained(args.weights / "base")
    files = sorted(needed(SHARED / "data/text").rglob("*.txt"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    differ = sum(ours.encode_text(line) != peer.encode(line, add_special_tokens=False) for line in lines)
    figures |= {"log-mel": f"{apart:.1e}", "lines": len(lines), "lines with other tokens than tokenizers": differ}
    goal = f"logits {MOST_LOGITS:g}, gradients {MOST_GRADIENT:g} relative, log-mel {MOST_MEL:g}, no other token"
    return figures, goal, holds and apart <= MOST_MEL and not differ


def greedy(args) -> Row:
    """Greedy text of 40 clips in eight languages, base, against transformers' generate: identical."""
    asr, theirs = load(args.weights / "base"), theirs_of(args.weights / "base")
    figures: dict[str, Any] = {}
    for lang in LANGUAGES:
        files = sorted(needed(SHARED / "data/cv6" / lang / "clips").glob("*.mp3"))[:5]
        batch = asr.model.config.collate([read_audio(file) for file in files])
        tokenizer = asr.tokenizer.for_language(lang)
        found = [each.text for each in asr.model.decode(batch, tokenizer, DecodeOptions())]
        with torch.no_grad():
            ids = theirs.generate(batch.inputs, language=lang, task="transcribe")
        figures[lang] = sum(a == tokenizer.decode(b) for a, b in zip(found, ids.tolist(), strict=True))
    same = sum(figures.values())
    return figures | {"identical": same}, f"all of {5 * len(LANGUAGES)}", same == 5 * len(LANGUAGES)


def words_of(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s']", "", text.lower()).split())


def jfk(args) -> Row:
    """OpenAI's own test clip, tiny.en and base: word for word."""
    file = needed(SHARED / "fixtures/whisper/jfk.flac")
    heard = {name: load(args.weights / name).transcribe(file)[0].text for name in ("tiny.en", "base")}
    return heard, "word for word", all(words_of(text) == SAID for text in heard.values())


def words(args) -> Row:
    """Word starts, tiny.en, against pocketsphinx's alignments of five readings."""
    asr, apart, total = load(args.weights / "tiny.en"), [], 0
    for known in sorted(needed(SHARED / "fixtures/pocketsphinx/test/data/librivox").glob("*[0-9].json")):
        begins = [
            (re.sub(r"\(\d+\)$", "", word["t"]), word["b"])
            for word in json.loads(known.read_text())["w"]
            if not word["t"].startswith("<")
        ]
        heard = asr.transcribe(known.with_suffix(".wav"), words=True)[0].words
        mine = [(words_of(word.text), word.start) for word in heard]
        apart += matched(begins, mine)
        total += len(begins)
    figures = {"words": total, "heard as written": len(apart), "median s": round(statistics.median(apart), 3)}
    figures["of ten, nine within s"] = round(sorted(apart)[int(0.9 * len(apart))], 3)
    return figures, f"median at most {MOST_SECONDS:g} s", figures["median s"] <= MOST_SECONDS


def matched(known: list[tuple[str, float]], heard: list[tuple[str, float]]) -> list[float]:
    """How far the starts of equal words lie apart, in order; mister is written Mr."""
    spelled = {"mr": "mister", "mrs": "missus"}
    one, other = ([spelled.get(name, name) for name, _ in side] for side in (known, heard))
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return [abs(known[a + k][1] - heard[b + k][1]) for a, b, n in blocks for k in range(n)]


def loss_curve(args) -> Row:
    """20 training steps of 4 clips, base, ours and transformers' from the same weights: the losses of each step."""
    asr, theirs = load(args.weights / "base", "tr"), theirs_of(args.weights / "base").train()
    step = TrainStep(asr.model.train(), adamw(asr.model, 1e-5, (0.9, 0.999), 0.0), lambda number: 1.0)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-5, weight_decay=0.0)
    apart, last = [], (0.0, 0.0)
    for number in range(20):
        batch = labelled(asr, 4, first=4 * number)
        ours = float(trained(step, number, batch))
        loss = theirs_loss(theirs, optimizer, batch)
        last = (ours, loss)
        apart.append(abs(ours - loss))
    figures = {"largest difference": f"{max(apart):.1e}", "last losses": f"{last[0]:.4f} {last[1]:.4f}"}
    return figures, f"within {MOST_LOSS:g} at every step", max(apart) <= MOST_LOSS


def trained(step: TrainStep, number: int, batch: Batch) -> Tensor:
    step.begin(number)
    total = step.total_weight([batch])
    losses = step.losses(batch, last=True)
    step.backward(losses, total)
    step.update()
    return losses.values.detach().sum() / total


def theirs_loss(theirs, optimizer, batch: Batch) -> float:
    loss = theirs(input_features=batch.inputs, labels=padded(batch)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_((p for p in theirs.parameters() if p.requires_grad), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def step(args) -> Row:
    """A training step of 8 clips, base, against transformers: encoder trained, frozen, frozen with kept output."""
    figures: dict[str, Any] = {}
    holds = True
    for frozen in (False, True):
        asr, theirs = load(args.weights / "base", "tr"), theirs_of(args.weights / "base").train()
        if frozen:
            asr.model.parts.encoder.requires_grad_(False)
            theirs.model.encoder.requires_grad_(False)
        ours = TrainStep(asr.model.train(), adamw(asr.model, 1e-6, (0.9, 0.999), 0.0), lambda number: 1.0)
        optimizer = torch.optim.AdamW((p for p in theirs.parameters() if p.requires_grad), lr=1e-6, fused=True)
        batch = labelled(asr, 8)
        runs: dict[str, Callable[[], object]] = {
            "ours": partial(trained, ours, 0, batch),
            "transformers": partial(theirs_loss, theirs, optimizer, batch),
        }
        if frozen:
            kept = Batch(**{**vars(batch), "heard": asr.model.hear(batch).detach()})
            runs["kept"] = partial(trained, ours, 0, kept)
        seconds = {k: v["median_s"] for k, v in interleave(runs, args.rounds, 1, CPU).items()}
        name = "frozen" if frozen else "trained"
        products = multiplications(asr.model, batch, frozen)
        figures |= {
            f"{name}: s": round(seconds["ours"], 2),
            f"{name}: transformers s": round(seconds["transformers"], 2),
            f"{name}: of which bare products": f"{100 * products / seconds['ours']:.0f} and "
            f"{100 * products / seconds['transformers']:.0f} %",
        }
        ratios = {name: seconds["transformers"] / seconds["ours"]}
        if frozen:
            figures["frozen, kept output: s"] = round(seconds["kept"], 2)
            ratios["frozen, kept output"] = seconds["transformers"] / seconds["kept"]
        for each, ratio in ratios.items():
            figures[f"{each}: ratio"] = round(ratio, 2)
            holds &= ratio >= GOALS[each]
    return figures, ", ".join(f"{name} {goal:g}" for name, goal in GOALS.items()), holds


def multiplications(model: Any, batch: Batch, frozen: bool) -> float:
    """Seconds that the matrix products of the step's linear maps and attention take alone: what no code can save."""
    config, clips, longest = model.config, len(batch), batch.labels.shape[1]
    positions, width = config.max_source_positions, config.d_model
    heard, read, heads = clips * positions, clips * longest, clips * config.encoder_attention_heads
    frozen_times = 1 if frozen else 3  # forward; and twice as much backward
    cross_times = config.decoder_layers * 2 * (2 if frozen else 3)  # a frozen encoder needs no gradient
    linear = {
        (heard, width, width): config.encoder_layers * 4 * frozen_times + cross_times,
        (heard, width, config.encoder_ffn_dim): config.encoder_layers * 2 * frozen_times,
        (read, width, width): config.decoder_layers * 6 * 3,
        (read, width, config.decoder_ffn_dim): config.decoder_layers * 2 * 3,
        (sum(map(int, batch.weights)), width, config.vocab_size): 3,
    }
    seconds = sum(times * timed(lambda a, b: a @ b, (n, k), (k, m)) for (n, k, m), times in linear.items())
    depth = width // config.encoder_attention_heads
    pairs = timed(torch.bmm, (heads, positions, depth), (heads, depth, positions))
    return seconds + pairs * config.encoder_layers * 2 * frozen_times


def timed(product, *shapes) -> float:
    operands = [torch.randn(shape) for shape in shapes]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        product(*operands)
        times.append(time.perf_counter() - start)
    return min(times)


def evaluation(args) -> Row:
    """Clips of the sample, base, greedy, 16 at once, log-mel included, against transformers' generate."""
    asr, theirs = load(args.weights / "base", "tr"), theirs_of(args.weights / "base")
    features = WhisperFeatureExtractor.from_pretrained(args.weights / "base")
    clips = [waveform for waveform, _ in sample_table()[: args.clips]]
    texts: dict[str, list[str]] = {}

    def peer() -> None:
        texts["theirs"] = []
        for first in range(0, len(clips), BATCH):
            mel = features(clips[first : first + BATCH], sampling_rate=16_000, return_tensors="pt").input_features
            with torch.no_grad():
                ids = theirs.generate(mel, language="tr", task="transcribe")
            texts["theirs"] += [asr.tokenizer.decode(row) for row in ids.tolist()]

    def ours() -> None:
        texts["ours"] = recognise(asr.model, asr.tokenizer, clips)

    seconds = {k: v["median_s"] for k, v in interleave({"ours": ours, "theirs": peer}, 1, 0, CPU).items()}
    ratio = seconds["theirs"] / seconds["ours"]
    figures = {
        "clips": len(clips),
        "s": round(seconds["ours"], 1),
        "transformers s": round(seconds["theirs"], 1),
        "ratio": round(ratio, 2),
        "same texts": sum(a == b for a, b in zip(texts["ours"], texts["theirs"], strict=True)),
    }
    return figures, f"at least {LEAST_EVALUATION:g} times as fast", ratio >= LEAST_EVALUATION


def cut_windows(args) -> Row:
    """WER and CER of the sample's clips, base told Turkish, with windows of 30 s and cut to a batch's longest clip."""
    clips, normalise = sample_table()[: args.clips], Normaliser("tr")
    references = [normalise(sentence) for _, sentence in clips]
    figures: dict[str, Any] = {}
    tokenizer = load(args.weights / "base", "tr").tokenizer
    for name, cut in (("30 s", False), ("cut", True)):
        model = WhisperForConditionalGeneration.from_pretrained(args.weights / "base", cut_windows=cut)
        start = time.perf_counter()
        heard = recognise(model, tokenizer, [waveform for waveform, _ in clips])
        rates = error_rates(references, [normalise(text) for text in heard])
        figures |= {f"{name}: WER": round(rates.wer or 0.0, 3), f"{name}: CER": round(rates.cer or 0.0, 3)}
        figures[f"{name}: s"] = round(time.perf_counter() - start, 1)
    return figures, "stated", True


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
