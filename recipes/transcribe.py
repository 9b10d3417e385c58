"""Write down what is said in audio files of any length, as text, subtitles or tables, or in a live stream.

    python -m recipes.transcribe --model runs/tr-xlsr-53-1 lecture.mp3 --format srt --out subtitles
    arecord -f S16_LE -r 16000 -c 1 -t raw | python -m recipes.transcribe --model runs/tr-xlsr-53-1 -

Without --out the transcripts go to stdout. With it each recording gets a file of its own, and those that are there
already are not made again.
"""

import dataclasses
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

import w2v
from recipes.console import Parser, run, say
from recipes.searching import add_search_arguments, decoding_of
from w2v.answers import DecodeOptions
from w2v.asr import Recogniser, blocks_of
from w2v.audio import SAMPLE_RATE, seconds_of
from w2v.errors import InputError
from w2v.files import reading, write_text
from w2v.heard import Segment
from w2v.recordings import CONVERTED, READ
from w2v.subtitles import cues, srt, vtt
from w2v.training.device import resolve_device

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv"}
LIVE_SECONDS = 0.1  # read at once from a live stream


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.transcribe", description=__doc__.split("\n")[0])
    parser.add_argument("audio", nargs="+", help="files, folders, or - for raw 16-bit mono 16 kHz on stdin")
    parser.add_argument("--model", required=True, help="a run folder, a folder of transformers, or a Hub repository")
    parser.add_argument(
        "--target-lang",
        "--lang",
        metavar="LANG",
        help="a language of an MMS model, such as tur, one of a run's several, or what Whisper is told, such as tr",
    )
    parser.add_argument("--task", choices=("transcribe", "translate"), help="Whisper's: translate into English")
    parser.add_argument(
        "--chunked", action="store_true", help="Whisper: cut long recordings at pauses, faster and less exact"
    )
    parser.add_argument("--format", choices=SUFFIXES, default="text")
    parser.add_argument("--words", action="store_true", help="each word's times and confidence, in json and tsv")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a file for each recording into this folder")
    parser.add_argument("--overwrite", action="store_true", help="also make the files that --out holds already")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    add_search_arguments(parser)
    args = parser.parse_args(argv)
    if "-" in args.audio and (len(args.audio) > 1 or args.out):
        raise InputError("a live stream, -, must be the only recording, and goes to stdout; leave out the rest")
    recordings = [] if args.audio == ["-"] else find_recordings(args.audio)
    asr = w2v.load(args.model, resolve_device(args.device), args.target_lang, lm=args.lm is None)
    options = decoding_of(args, asr, args.words or args.format in ("srt", "vtt"))
    if asr.model.emissions is not None and (args.task or args.chunked):
        raise InputError("--task and --chunked are for models that write their text, as Whisper does; leave them out")
    if args.task == "translate" and not asr.tokenizer.is_multilingual:
        raise InputError("--task translate needs a multilingual model, this one is English-only; leave it out")
    if args.task:
        asr.tokenizer.task = args.task
    options = replace(options, generate=replace(options.generate, chunked=args.chunked))
    if not recordings:
        return transcribe_live(asr, args.format, options)
    if args.out:
        targets = {file: args.out / place.with_name(place.name + SUFFIXES[args.format]) for file, place in recordings}
        todo = [file for file, _ in recordings if args.overwrite or not targets[file].exists()]
        if len(todo) < len(recordings):
            say(f"{len(recordings) - len(todo)} of {len(recordings)} recordings are in {args.out} already")
    else:
        targets, todo = {}, [file for file, _ in recordings]
    return transcribe_files(asr, todo, targets, args.format, args.words, options)


def find_recordings(given: list[str]) -> list[tuple[Path, Path]]:
    """Files, and the audio files in folders -> each with its place below the folder that was given.

    InputError where there is nothing at a path, and where a folder holds no audio.
    """
    found: dict[Path, Path] = {}
    for name in given:
        path = Path(name)
        with reading("the recording", path):
            is_folder = path.is_dir() if path.exists() else None
        if is_folder is None:
            raise InputError(f"a recording must be a file or a folder, found nothing at {name!r}")
        if not is_folder:
            found[path] = Path(path.name)
            continue
        with reading("the folder", path):
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in READ | CONVERTED)
        if not files:
            raise InputError(f"{path} must hold audio files, it holds none ({' '.join(sorted(READ | CONVERTED))})")
        found |= {file: file.relative_to(path) for file in files}
    places = list(found.values())
    if twice := [file for file, place in found.items() if places.count(place) > 1]:
        raise InputError(f"two recordings must not have one name, {twice[0].name!r} comes twice; rename one of them")
    return list(found.items())


def transcribe_files(
    asr: Recogniser, files: list[Path], targets: dict[Path, Path], form: str, words: bool, options: DecodeOptions
) -> dict:
    """Transcribe the files in turn; name those that cannot be read. -> the summary."""
    began, skipped, heard = time.perf_counter(), {}, 0.0
    total = sum(seconds_of(file) or 0.0 for file in files)
    segments: list[Segment] = []
    with tqdm(total=round(total), unit="s", desc="transcribing", disable=None) as bar:
        done = 0.0
        for news in asr.hear(map(blocks_of, files), options):
            segments += news.segments
            bar.update(news.seconds - done)
            done = news.seconds
            if not news.is_over:
                continue
            file = files[news.number]
            if news.error is not None:
                skipped[str(file)] = str(news.error)
                if len(files) > 1:
                    tqdm.write(f"skipped {str(file)!r}: {news.error}", file=sys.stderr)
            else:
                text = written(asr, file, segments, form, words)
                if file in targets:
                    write_text(targets[file], text)
                else:
                    print(text if len(files) == 1 or form != "text" else f"{file}\t{text}", end="", flush=True)
            heard, done, segments = heard + news.seconds, 0.0, []
    if files and len(skipped) == len(files):
        name, why = next(iter(skipped.items()))
        raise InputError(f"none of {len(files)} recordings can be transcribed; {name!r}: {why}")
    seconds = time.perf_counter() - began
    say(f"{len(files) - len(skipped)} recordings, {heard:.0f} s of audio in {seconds:.1f} s")
    return {
        "recordings": len(files) - len(skipped),
        "skipped": skipped,
        "audio_seconds": round(heard, 2),
        "seconds": round(seconds, 2),
        **({"out": str(next(iter(targets.values())).parent)} if targets else {}),
    }


def written(asr: Recogniser, file: Path, segments: list[Segment], form: str, words: bool) -> str:
    """A transcript as the contents of a file."""
    transcript = asr.transcript(segments)
    if form == "text":
        return transcript.text + "\n"
    if form == "json":
        record = {"file": file.name, "text": transcript.text, "segments": list(map(dataclasses.asdict, segments))}
        return json.dumps(_rounded(record), ensure_ascii=False, indent=2) + "\n"
    if form == "tsv":
        return "".join(_row(*cells) for cells in [("start", "end", "text"), *_rows(segments, words)])
    return (srt if form == "srt" else vtt)(cues(transcript.words))


def _rows(segments: list[Segment], words: bool) -> Iterator[tuple]:
    for segment in segments:
        for each in segment.words if words else [segment]:
            yield f"{each.start:.3f}", f"{each.end:.3f}", each.text


def _row(*cells: str) -> str:
    return "\t".join(cells) + "\n"


def _rounded(value):
    """Milliseconds are enough of a time, and a confidence has no more than three digits."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(_rounded, value))
    return round(value, 3) if isinstance(value, float) else value


def transcribe_live(asr: Recogniser, form: str, options: DecodeOptions) -> dict:
    """Print each phrase as soon as its speaker pauses, until stdin ends."""
    if form in ("srt", "vtt"):
        raise InputError(f"a live stream is printed as text, json or tsv, got --format {form}; give another")
    say("listening: raw 16-bit mono 16 kHz on stdin")
    seconds, phrases = 0.0, 0
    for news in asr.hear([_live_blocks()], options, eager=True):
        for segment in news.segments:
            phrases += 1
            if form == "json":
                print(json.dumps(_rounded(dataclasses.asdict(segment)), ensure_ascii=False), flush=True)
            elif form == "tsv":
                print("".join(_row(*cells) for cells in _rows([segment], options.words)), end="", flush=True)
            else:
                print(segment.text, flush=True)
        seconds = news.seconds
    return {"phrases": phrases, "audio_seconds": round(seconds, 2)}


def _live_blocks() -> Iterable[np.ndarray]:
    """What comes on stdin, (samples,) float32, as it comes."""
    size = round(LIVE_SECONDS * SAMPLE_RATE) * 2
    rest, stdin = b"", cast(io.BufferedReader, sys.stdin.buffer)
    while data := stdin.read1(size):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768


def command() -> None:
    run(main, if_stopped="with --out the same command goes on where it stopped")


if __name__ == "__main__":
    command()
