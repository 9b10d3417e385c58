"""Find when each word of a known text is said in a recording of any length, and words that are not said there.

    python -m recipes.align --model runs/tr-xlsr-53-1 lecture.mp3 --text lecture.txt --format srt --out lecture.srt

A word's score is 0 where the model hears just what is written, and far below where it hears something else.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

import w2v
from recipes.console import Parser, run, say
from w2v.asr import blocks_of
from w2v.audio import SAMPLE_RATE, seconds_of
from w2v.decoding.align import AlignedCharacter, AlignedWord, Alignment
from w2v.errors import InputError, show
from w2v.files import read_bytes, write_text
from w2v.subtitles import Cue, srt
from w2v.training.device import resolve_device

MOST_SHOWN = 200  # characters of a path
NAMED = 5  # words that match least
DOUBTFUL = -1.0  # nats a frame: the model finds another text e times as likely, frame by frame
# Control characters would reach a terminal, and would break lines of the formats.
CONTROLS = {code: " " for code in [*range(32), *range(127, 160), 0x2028, 0x2029] if chr(code) != "\n"}
Spoken = AlignedWord | AlignedCharacter


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.align", description=__doc__.split("\n")[0])
    parser.add_argument("audio", type=Path, help="a recording of any length")
    parser.add_argument("--model", required=True, help="a run folder, a folder of transformers, or a Hub repository")
    parser.add_argument("--text", required=True, metavar="FILE", help="what is said in it, as UTF-8; - for stdin")
    parser.add_argument("--lang", help="the text's language, for a model without normaliser.json")
    parser.add_argument("--target-lang", metavar="LANG", help="a language of an MMS model, such as tur")
    parser.add_argument("--format", choices=("json", "textgrid", "srt", "ctm"), default="json")
    parser.add_argument(
        "--characters", action="store_true", help="also each character's times; in ctm in place of words"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: to stdout, before the summary")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    args = parser.parse_args(argv)
    if args.characters and args.format == "srt":
        raise InputError("--characters must go with --format json, textgrid or ctm, got srt; leave it out")
    if args.out and args.out.is_dir():
        raise InputError(f"--out must name a file, {args.out} is a folder; give a name such as words.json")
    text = read_text(args.text)
    asr = w2v.load(args.model, resolve_device(args.device), args.target_lang, lm=False)
    words = asr.written_words(text, args.lang)
    heard = next(asr.all_emissions([with_progress(args.audio)]))
    if heard.error is not None:
        raise InputError(f"{show(str(args.audio), MOST_SHOWN)}: {heard.error}; give a recording of speech") from None
    alignment = asr.align_frames(heard.log_probs, words)
    contents = written(alignment, args.audio, heard.seconds, args.format, args.characters)
    if args.out:
        write_text(args.out, contents)
    else:
        print(contents, end="", flush=True)
    unspelt = sum(word.score is None for word in alignment.words)
    if unspelt:
        say(f"{unspelt} words have no score: the model's vocabulary cannot spell them")
    for word in doubtful(alignment.words):
        say(f"not heard as written: {word.text} at {word.start:.2f} s, score {word.score:.2f}")
    return {
        "words": len(alignment.words),
        "unspelt": unspelt,
        "score": _rounded(alignment.score),
        "audio_seconds": round(heard.seconds, 2),
        **({"out": str(args.out)} if args.out else {}),
    }


def read_text(source: str) -> str:
    """A file, or stdin, with line feeds for its line ends and spaces for control characters."""
    contents = sys.stdin.buffer.read() if source == "-" else read_bytes("the text", source)
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"--text must be UTF-8, {show(source)} is not (byte {contents[error.start]:#x} at {error.start}); convert "
            "it, for example with iconv -f latin1 -t utf-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(CONTROLS)


def with_progress(audio: Path) -> Iterator[np.ndarray]:
    """The recording's blocks, with a bar on a terminal."""
    with tqdm(total=round(seconds_of(audio) or 0), unit="s", desc="listening", disable=None) as bar:
        for block in blocks_of(audio):
            yield block
            bar.update(round(len(block) / SAMPLE_RATE, 1))


def doubtful(words: list[AlignedWord]) -> list[AlignedWord]:
    """The words that match least, worst first."""
    found = [word for word in words if word.score is not None and word.score < DOUBTFUL]
    return sorted(found, key=lambda word: word.score or 0.0)[:NAMED]


def written(alignment: Alignment, audio: Path, seconds: float, form: str, characters: bool) -> str:
    """An alignment as the contents of a file."""
    if form == "json":
        record = {
            "file": audio.name,
            "seconds": _rounded(seconds),
            "score": _rounded(alignment.score),
            "words": [_record(word, characters) for word in alignment.words],
        }
        return json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    if form == "srt":
        return srt(lines_of(alignment.words))
    each = [character for word in alignment.words for character in word.characters]
    if form == "ctm":
        return ctm(each if characters else alignment.words, audio.stem)
    tiers: dict[str, Iterable[Spoken]] = {"words": alignment.words, **({"characters": each} if characters else {})}
    return textgrid(tiers, seconds)


def _record(word: AlignedWord, characters: bool) -> dict:
    def one(spoken: Spoken) -> dict:
        times = {"start": _rounded(spoken.start), "end": _rounded(spoken.end)}
        return {"text": spoken.text, **times, "score": _rounded(spoken.score)}

    return {**one(word), **({"characters": [one(each) for each in word.characters]} if characters else {})}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def textgrid(tiers: dict[str, Iterable[Spoken]], seconds: float) -> str:
    """Praat's long text format (its manual, "TextGrid file formats"): a tier's intervals cover all of the time."""
    end = f"{seconds:.4f}"
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spoken) in enumerate(tiers.items(), 1):
        intervals, last = [], f"{0:.4f}"
        for each in spoken:
            start, stop = f"{min(each.start, seconds):.4f}", f"{min(each.end, seconds):.4f}"
            if start != last:
                intervals.append((last, start, ""))
            if stop != start:
                intervals.append((start, stop, each.text))
            last = stop
        if last != end:
            intervals.append((last, end, ""))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for i, (start, stop, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {stop}"]
            lines += [f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def lines_of(words: list[AlignedWord]) -> Iterator[Cue]:
    """A subtitle for each line of the text, from its first word to its last."""
    for _, group in groupby(words, key=lambda word: word.line):
        line = list(group)
        yield Cue(line[0].start, line[-1].end, [" ".join(word.text for word in line)])


def ctm(spoken: Iterable[Spoken], name: str) -> str:
    """NIST sctk's time marks (its doc/infmts.htm): recording, channel, start, duration, word, confidence.

    Fields end at spaces, so names and words lose theirs. The confidence is exp(score); a word without score has none.
    """
    name = "_".join(name.split())
    rows = []
    for each in spoken:
        confidence = "" if each.score is None else f" {math.exp(each.score):.3f}"
        text = "".join(each.text.split())
        rows.append(f"{name} 1 {each.start:.3f} {each.end - each.start:.3f} {text}{confidence}\n")
    return "".join(rows)


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
