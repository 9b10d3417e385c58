"""A page on this machine to speak into, or to drop a recording on; words are shaded by how unsure the model is.

    python -m recipes.demo --model runs/tr-xlsr-53-1 --lm lm.arpa

Nobody else can open the page, and it asks no other machine for anything. Recordings lie in a temporary folder, which
is deleted when the command ends.
"""

import argparse
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from html import escape
from importlib.util import find_spec
from pathlib import Path

import w2v
from recipes.console import Parser, run, say
from recipes.demo_page import HOST, page, serve
from recipes.searching import add_search_arguments, decoding_of
from w2v.answers import DecodeOptions, Word
from w2v.asr import Recogniser, blocks_of
from w2v.errors import InputError
from w2v.heard import Segment
from w2v.training.device import resolve_device

SURE, DOUBTFUL = 0.9, 0.6  # confidences: at least, and under


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a run folder, a folder of transformers, or a Hub repository")
    parser.add_argument("--target-lang", metavar="LANG", help="a language of an MMS model, or what Whisper is told")
    parser.add_argument("--port", type=port, default=7860, help="of the page's address (default: 7860; 0: a free one)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    add_search_arguments(parser)
    args = parser.parse_args(argv)
    if find_spec("gradio") is None:
        raise InputError('the page needs gradio; install it, pip install "w2v[demo]"')
    asr = w2v.load(args.model, resolve_device(args.device), args.target_lang, lm=args.lm is None)
    options = decoding_of(args, asr, words=True)
    try:
        listener = socket.create_server((HOST, args.port))
    except OSError as error:
        raise InputError(f"`port` must be free, {args.port} is not: {error.strerror}; give another") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the recordings are deleted then, too
    with tempfile.TemporaryDirectory(prefix="w2v-demo-") as folder, listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        say(f"open {address} in a browser on this machine; Ctrl-C ends it")
        os.environ["GRADIO_TEMP_DIR"] = folder  # looked at while gradio is imported
        with suppress(KeyboardInterrupt):
            serve(page(partial(listen, asr, options), Path(args.model).absolute().name), listener)
    return {"address": address}


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"must be at least 0 and at most {2**16 - 1}, got {value}")
    return value


def listen(asr: Recogniser, options: DecodeOptions, file: str | None) -> Iterator[str]:
    """What is heard in a file, as HTML, again and again while there is more of it."""
    if file is None:  # the browser has no microphone, or nothing was recorded
        yield note("Nothing was recorded.")
        return
    segments: list[Segment] = []
    for news in asr.hear([blocks_of(file)], options):
        segments += news.segments
        text = asr.tokenizer.between.join(map(shaded, segments))
        if news.error is not None:
            last = note(f"This recording cannot be used: {news.error}", "alert")
        elif not news.is_over:
            last = note(f"{news.seconds:.0f} s heard, there is more ...")
        else:
            last = note(f"{news.seconds:.1f} s heard." if segments else "No words were heard.")
        yield f'<p class="heard" dir="auto">{text}</p>{last}'


def note(text: str, role: str = "status") -> str:
    return f'<p class="note" role="{role}">{escape(text)}</p>'


def shaded(segment: Segment) -> str:
    """Its text as HTML, letter for letter; a word shows its confidence, and an unsure one is underlined and shaded."""
    html, rest = "", segment.text
    for word in segment.words:
        if (at := rest.find(word.text)) >= 0:
            html += escape(rest[:at]) + _marked(word)
            rest = rest[at + len(word.text) :]
    return html + escape(rest)


def _marked(word: Word) -> str:
    kind = "sure" if word.confidence >= SURE else "unsure" if word.confidence >= DOUBTFUL else "unsure doubtful"
    percent = round(100 * word.confidence)
    title = f"{percent} % sure, {word.start:.2f} to {word.end:.2f} s"
    style = f"--doubt: {1 - word.confidence:.2f}"
    return f'<span class="{kind}" data-percent="{percent}" style="{style}" title="{title}">{escape(word.text)}</span>'


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
