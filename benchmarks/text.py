"""From model to text: decoding, the join of chunks, words' times, memory and speed, each against its goal.

    python -m benchmarks.text --greedy --join --word-times [--model RUN]

Each flag is a row of docs/NUMBERS.md. Exit code 1 where a row misses its goal. RUN is a run of the sample; without it
a tiny model of random weights takes its place.
"""

import dataclasses
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
from torch import nn

import w2v
from benchmarks.against import ROOT
from benchmarks.common import Row, run_rows
from benchmarks.speech import VOCABULARY
from recipes.console import Parser, positive, run, say
from recipes.data_settings import SAMPLES
from w2v.answers import Word
from w2v.asr import Recogniser, recognise
from w2v.audio import SAMPLE_RATE, read_audio
from w2v.data.batching import cut
from w2v.decoding.longform import cut_into_chunks
from w2v.errors import InputError
from w2v.hearing import BATCH_SECONDS, core_frames
from w2v.metrics import word_edits

MATRICES, BATCH = 1000, 20  # random logits of --greedy; a vocabulary for every 20 of them
JOIN_SECONDS, MOST_DIFFERENCE = 600, 1e-5
CLIPS_IN_A_ROW, MOST_WER, LEAST_INSIDE = 18, 0.02, 0.95
SHIFT_SECONDS = 0.02  # of zeros before a clip: half a frame of the sample's model
MOST_EXTRA_MB = 300
FORMATS = {"wav": (16_000, 1), "mp3": (16_000, 1), "flac": (44_100, 2)}  # rate and channels of the hour
ROUNDS, LEAST_RATIO = 5, 1.0
POCKETSPHINX = ROOT.parent / "shared" / "fixtures" / "pocketsphinx" / "test" / "data"
ROW_SECONDS = 100  # a row of recordings, of which --word-times hears several
MODELS = 3  # of random weights


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.text", description=__doc__.split("\n")[0])
    parser.add_argument("--model", metavar="RUN", help="a run of the sample; default: random weights")
    parser.add_argument("--clips", type=positive, default=100, help="how many --evaluation hears (default: 100)")
    return run_rows(parser, ROWS, argv)


def sample_clips() -> list[Path]:
    return sorted((SAMPLES / "tr" / "clips").glob("*.mp3"))


def random_recogniser(seed: int = 0) -> Recogniser:
    """A tiny model that spells something: few blanks, and other letters from frame to frame."""
    torch.manual_seed(seed)
    tokenizer = w2v.CharTokenizer.from_texts(["abcçdefgğhıijklmnoöprsştuüvyz"])
    config = dataclasses.replace(w2v.TINY, vocab_size=len(tokenizer), pad_token_id=tokenizer.blank_id)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    nn.init.normal_(model.lm_head.weight)
    return Recogniser(model, tokenizer)


def recogniser(model: str | None) -> Recogniser:
    return w2v.load(model) if model else random_recogniser()


def greedy(args) -> Row:
    """The best path against transformers' processor, on random logits and on the sample's clips.

    [UNK] is left out: transformers writes it out, and here it stands for no text.
    """
    rng, pick, equal = np.random.default_rng(0), random.Random(0), 0
    for _ in range(MATRICES // BATCH):
        tokenizer = random_tokenizer(pick)
        lengths = rng.integers(1, 300, BATCH)
        logits = rng.normal(size=(BATCH, lengths.max(), len(tokenizer))).astype(np.float32)
        logits = np.repeat(logits, rng.integers(1, 4), axis=1)[:, : lengths.max()]  # letters that last
        logits[..., tokenizer.blank_id] += rng.uniform(0, 3)
        logits[..., tokenizer.vocab["|"]] += rng.uniform(0, 2)
        logits[..., tokenizer.vocab["[UNK]"]] = -1e9
        ours = w2v.greedy_decode(torch.from_numpy(logits), torch.from_numpy(lengths), tokenizer)
        rows = [row[:length] for row, length in zip(logits, lengths, strict=True)]
        theirs = peer_texts(tokenizer, rows)
        equal += sum(a == b for a, b in zip(ours, theirs, strict=True))
    asr = recogniser(args.model)
    frames = [asr.emissions(clip) for clip in sample_clips()]
    for each in frames:
        each[:, asr.tokenizer.vocab["[UNK]"]] = -1e9
    texts = [w2v.greedy_decode(each[None], torch.tensor([len(each)]), asr.tokenizer)[0] for each in frames]
    clips = sum(
        a == b for a, b in zip(texts, peer_texts(asr.tokenizer, [each.numpy() for each in frames]), strict=True)
    )
    figures = {
        "matrices": MATRICES,
        "equal": equal,
        "clips": len(texts),
        "clips_equal": clips,
    }
    return figures, "all texts equal", equal == MATRICES and clips == len(texts) and any(texts)


def random_tokenizer(pick: random.Random) -> w2v.CharTokenizer:
    """Up to 200 letters of several scripts, the special tokens anywhere among them."""
    scripts = [(0x61, 26), (0xE0, 30), (0x430, 32), (0x10D0, 33), (0x4E00, 300), (0x915, 37)]
    letters = [chr(start + i) for start, size in scripts for i in range(size) if chr(start + i) != "÷"]
    tokens = [*pick.sample(letters, pick.randint(2, 200)), "|", "[UNK]", "[PAD]"]
    pick.shuffle(tokens)
    return w2v.CharTokenizer({token: i for i, token in enumerate(tokens)})


def peer_texts(tokenizer: w2v.CharTokenizer, rows: list[np.ndarray]) -> list[str]:
    """What transformers' processor makes of logits, (T, V) each."""
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        theirs = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), theirs)
    return [processor.batch_decode(row.argmax(-1)[None])[0] for row in rows]


class Deaf(nn.Module):
    """Attention that hears nothing: what is left of a tiny layer sees 0.7 s to either side, through the positions."""

    def forward(self, hidden, *_, **__):
        return torch.zeros_like(hidden)


def join(args) -> Row:
    """The frames of chunks against those of ten minutes heard at once, with a model that hears near by only."""
    torch.manual_seed(0)
    config = dataclasses.replace(w2v.TINY, do_normalize=False, vocab_size=VOCABULARY, pad_token_id=0)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    for layer in model.wav2vec2.encoder.layers:
        layer.attention = Deaf()
    speech = in_a_row(map(read_audio, cycle(sample_clips())), JOIN_SECONDS)
    with torch.no_grad():
        whole = model(torch.from_numpy(speech)[None]).logits[0].log_softmax(-1)
        chunks = list(cut_into_chunks([speech], config.hop))
        kept: Any = core_frames(model, chunks, "fp32")
    joined = torch.cat(kept)
    figures: dict[str, float] = {"chunks": len(chunks), "frames": len(joined), "frames_at_once": len(whole)}
    if joined.shape != whole.shape:
        return figures, "as many frames", False
    figures["largest_difference"] = float((joined - whole).abs().max())
    return figures, f"at most {MOST_DIFFERENCE:g}", figures["largest_difference"] <= MOST_DIFFERENCE


def in_a_row(waveforms: Iterator[np.ndarray], seconds: float) -> np.ndarray:
    """Waveforms (S,) until there are so many seconds."""
    held: list[np.ndarray] = []
    while sum(map(len, held)) < seconds * SAMPLE_RATE:
        held.append(next(waveforms))
    return np.concatenate(held)[: round(seconds * SAMPLE_RATE)]


def clips_in_a_row(args) -> Row:
    """18 training clips with a second of silence between against the same clips alone. --model RUN is needed.

    A run of the sample has learned its clips by where they begin. `shifted_wer` shows it: the WER of the clips against
    their own texts with 20 ms of silence before each. `found_*` is what was to be had: each clip cut out of the row
    at its exact place.
    """
    if args.model is None:
        raise InputError("--clips-in-a-row must hear a run of the sample, got none; give --model RUN")
    asr = w2v.load(args.model)
    held_out = {line.split("\t")[0] for file in Path(args.model).glob("predictions-*.tsv")
                for line in file.read_text(encoding="utf-8").splitlines()[1:]}  # fmt: skip
    paths = [clip for clip in sample_clips() if clip.stem not in held_out][:CLIPS_IN_A_ROW]
    clips = [read_audio(path) for path in paths]
    alone = [each.text for each in asr.transcribe(clips)]
    silence, places, start = np.zeros(SAMPLE_RATE, np.float32), list[tuple[int, int]](), 0
    for clip in clips:
        places.append((start, start + len(clip)))
        start += len(clip) + len(silence)
    row = np.concatenate([part for clip in clips for part in (clip, silence)])[: -len(silence)]

    heard = asr.transcribe(row, words=True)[0]
    cut_out = asr.transcribe([row[begin:end] for begin, end in places], words=True)
    found = [dataclasses.replace(word, start=word.start + begin / SAMPLE_RATE, end=word.end + begin / SAMPLE_RATE)
             for (begin, _), each in zip(places, cut_out, strict=True) for word in each.words]  # fmt: skip
    shifted = [np.concatenate([np.zeros(round(SHIFT_SECONDS * SAMPLE_RATE), np.float32), clip]) for clip in clips]
    together = word_edits([" ".join(alone)], [heard.text]).rate()
    if together is None:
        raise InputError(f"a run of the sample must hear words in its own clips, {args.model} hears none; train longer")
    figures = {
        "clips": len(clips),
        "wer": round(together, 3),
        "inside": round(share_inside(alone, heard.words, places), 3),
        "found_wer": round(word_edits([" ".join(alone)], [" ".join(each.text for each in cut_out)]).rate() or 0.0, 3),
        "found_inside": round(share_inside(alone, found, places), 3),
        "shifted_wer": round(word_edits(alone, [each.text for each in asr.transcribe(shifted)]).rate() or 0.0, 3),
    }
    holds = figures["wer"] <= MOST_WER and figures["inside"] >= LEAST_INSIDE
    return figures, f"wer at most {MOST_WER}, inside at least {LEAST_INSIDE}", holds


def share_inside(texts: list[str], words: list[Word], places: list[tuple[int, int]]) -> float:
    """Which share of the clips' words is heard between the first and the last sample of its own clip."""
    frame, inside = 0.02, []  # s: half a frame of the sample's model
    for begin, end in places:
        first, last = begin / SAMPLE_RATE - frame, end / SAMPLE_RATE + frame
        inside.append(" ".join(word.text for word in words if first <= word.start and word.end <= last))
    edits = word_edits(texts, inside)
    lost = (edits.substitutions + edits.deletions).sum()
    return 1 - float(lost) / max(1, int(edits.lengths.sum()))


def memory(args) -> Row:
    """Peak memory of recipes.transcribe on an hour of audio and on a minute, in several formats."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model
        if model is None:
            model = str(folder / "model")
            asr = random_recogniser()
            cast(w2v.Wav2Vec2ForCTC, asr.model).save_pretrained(model)
            asr.tokenizer.save_pretrained(model)
        clips = [read_audio(clip) for clip in sample_clips()]
        for form, (rate, channels) in FORMATS.items():
            peaks = []
            for minutes in (1, 60):
                file = folder / f"{minutes}.{form}"
                write_recording(file, clips, 60 * minutes, rate, channels)
                peaks.append(peak_megabytes(model, file, folder / "out"))
                file.unlink()
            figures[f"{form}_minute_mb"], figures[f"{form}_hour_mb"] = map(round, peaks)
    extra = max(figures[f"{form}_hour_mb"] - figures[f"{form}_minute_mb"] for form in FORMATS)
    return figures, f"an hour needs at most {MOST_EXTRA_MB} MB more than a minute", extra <= MOST_EXTRA_MB


def write_recording(file: Path, clips: list[np.ndarray], seconds: int, rate: int, channels: int) -> None:
    """So many seconds of these clips, 16 kHz, again and again. Another rate is drawn with straight lines."""
    left = seconds * rate
    with soundfile.SoundFile(file, "w", rate, channels) as out:
        for clip in cycle(clips):
            at = np.arange(len(clip) * rate // SAMPLE_RATE) * (SAMPLE_RATE / rate)
            samples = np.interp(at, np.arange(len(clip)), clip)[:left].clip(-1, 1)
            out.write(np.repeat(samples[:, None], channels, axis=1))
            left -= len(samples)
            if not left:
                break


def peak_megabytes(model: str, file: Path, out: Path) -> float:
    """The largest resident set of a process that writes a recording's subtitles."""
    command = [sys.executable, "-m", "recipes.transcribe", "--model", model, "--device", "cpu", "--format", "srt"]
    command += ["--overwrite", "--out", str(out), str(file)]
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)  # the usage of this child alone
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise InputError(
                f"recipes.transcribe must end with 0, it ended with {child.returncode}: {said.read()[-300:]}"
            )
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def evaluation(args) -> Row:
    """Clips per second at XLSR-53's shape against transformers' pipeline with the same batches, in turn, on the CPU.

    Random weights. Each round hears clips of its own, ours first in every other one, so that all clips are heard once.
    """
    torch.manual_seed(0)
    tokenizer = w2v.CharTokenizer.from_texts(["abcçdefgğhıijklmnoöprsştuüvyz"])
    config = dataclasses.replace(w2v.XLSR_53, vocab_size=len(tokenizer), pad_token_id=tokenizer.blank_id)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    pipe = peer_pipeline(model, tokenizer)
    clips = sorted(map(read_audio, sample_clips()[: args.clips]), key=len, reverse=True)
    rounds = [clips[i::ROUNDS] for i in range(min(ROUNDS, len(clips)))]
    batches = [
        cut(range(len(each)), [config.cost(len(x)) for x in each], BATCH_SECONDS, config.pads) for each in rounds
    ]

    def ours(number: int) -> list[str]:
        return recognise(model, tokenizer, rounds[number])

    def theirs(number: int) -> list[str]:
        inputs = [{"raw": clip, "sampling_rate": SAMPLE_RATE} for clip in rounds[number]]
        return [each["text"] for each in pipe(inputs, batch_size=max(map(len, batches[number])))]

    for side in (ours, theirs):  # what is made once
        rounds.append(clips[-1:])
        batches.append([[0]])
        side(len(rounds) - 1)
        del rounds[-1], batches[-1]
    ratios, seconds, equal = [], [0.0, 0.0], 0
    for number in range(len(rounds)):
        took, texts = [0.0, 0.0], list[list[str]]([[], []])
        for i in (0, 1) if number % 2 == 0 else (1, 0):
            start = time.perf_counter()
            texts[i] = (ours, theirs)[i](number)
            took[i] = time.perf_counter() - start
            seconds[i] += took[i]
        ratios.append(took[1] / took[0])
        equal += sum(a == b for a, b in zip(*texts, strict=True))
        say(f"round {number + 1}: ours {took[0]:.1f} s, transformers {took[1]:.1f} s: {ratios[-1]:.3f}")
    ratio = statistics.median(ratios)
    figures: dict[str, Any] = {"clips": len(clips), "audio_seconds": round(sum(map(len, clips)) / SAMPLE_RATE, 1)}
    figures |= {"batches": [list(map(len, each)) for each in batches], "texts_equal": equal}
    figures |= {"seconds": round(seconds[0], 1), "transformers_seconds": round(seconds[1], 1), "ratio": round(ratio, 3)}
    return figures, f"a ratio of at least {LEAST_RATIO:g}", ratio >= LEAST_RATIO


def peer_pipeline(model: w2v.Wav2Vec2ForCTC, tokenizer: w2v.CharTokenizer) -> Any:
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, pipeline

    from benchmarks.peers import build_peer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        theirs = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    net = build_peer("transformers", model).model.eval()
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return pipeline("automatic-speech-recognition", net, tokenizer=theirs, feature_extractor=extractor, device="cpu")


def word_times(args) -> Row:
    """Times of words heard and of words aligned in pocketsphinx's recordings and in long rows of them."""
    files = sorted(POCKETSPHINX.rglob("*.wav"))
    if not files:
        raise InputError(
            f"--word-times must hear pocketsphinx's recordings, there are none in {POCKETSPHINX}; get them"
        )
    said = " ".join(file.read_text(encoding="utf-8") for file in sorted(POCKETSPHINX.rglob("librivox/*.txt")))
    waveforms, pick = [read_audio(file) for file in files], random.Random(0)
    rows = [in_a_row((pick.choice(waveforms) for _ in cycle([None])), ROW_SECONDS) for _ in range(3)]
    models = [w2v.load(args.model)] if args.model else list(map(random_recogniser, range(MODELS)))
    words, faults = 0, 0
    for asr in models:
        recordings = [*waveforms, *rows]
        heard: list[Any] = [each.words for each in asr.transcribe(recordings, words=True)]
        aligned = [asr.align(recording, said, lang="en").words for recording in rows]
        for recording, found in zip([*recordings, *rows], [*heard, *aligned], strict=True):
            words += len(found)
            faults += violations(found, len(recording) / SAMPLE_RATE)
    figures = {"recordings": len(files), "rows": len(rows), "models": len(models), "words": words, "violations": faults}
    return figures, "0 violations", words > 0 and faults == 0


def violations(words: list[Any], seconds: float) -> int:
    """Words that end before they begin, that are not inside the recording, or that begin before the last one ends."""
    outside = sum(not 0 <= word.start < word.end <= seconds + 1e-6 for word in words)
    return outside + sum(after.start < before.end - 1e-6 for before, after in pairwise(words))


ROWS = {
    "greedy": greedy,
    "join": join,
    "clips-in-a-row": clips_in_a_row,
    "memory": memory,
    "evaluation": evaluation,
    "word-times": word_times,
}


if __name__ == "__main__":
    run(main)
