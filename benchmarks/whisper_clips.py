"""What the rows of benchmarks.whisper hear: the sample's clips, and readings whose words have known times.

Shapes: S samples.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import w2v
from benchmarks.lm_corpus import SHARED, needed
from recipes.data_settings import SAMPLES
from w2v.answers import Batch
from w2v.audio import read_audio
from w2v.errors import InputError
from w2v.text.normalise import Normaliser

READINGS = SHARED / "fixtures/pocketsphinx/test/data/librivox"
VARIANT = re.compile(r"\(\d+\)$")  # pocketsphinx's second way of saying a word: to(2)


class Reading(NamedTuple):
    waveform: np.ndarray  # (S,)
    words: list[tuple[str, float]]  # with the second at which each begins


def folder_of(args, name: str) -> Path:
    """The folder of real weights, base or tiny.en."""
    folder = args.weights / name
    if not folder.is_dir():
        raise InputError(
            f"--weights must be a folder with {name} in it, got {args.weights}; "
            f"python ../shared/tools/whisper_weights.py {name} {folder} makes it"
        )
    return folder


def load(args, name: str, lang: str | None = None) -> Any:
    """A Recogniser; its model is of any family to a type checker."""
    return w2v.load(folder_of(args, name), target_lang=lang)


@cache
def sample() -> list[tuple[np.ndarray, str]]:
    """The sample's clips in their table's order: waveform (S,), sentence."""
    lines = [line.split("\t") for line in (SAMPLES / "tr" / "validated.tsv").read_text("utf-8").splitlines()]
    path, sentence = lines[0].index("path"), lines[0].index("sentence")
    return [(read_audio(SAMPLES / "tr" / "clips" / row[path]), row[sentence].strip('"')) for row in lines[1:]]


def waveforms(count: int) -> list[np.ndarray]:
    return [waveform for waveform, _ in sample()[:count]]


def training_batch(asr: Any, count: int, first: int = 0) -> Batch:
    """Clips of the sample with the labels of their sentences as recipes train them by default: lower case, no marks."""
    clips, normalise = sample()[first : first + count], Normaliser("tr")
    labels = [asr.tokenizer.encode(normalise(sentence)) for _, sentence in clips]
    return asr.model.config.collate([waveform for waveform, _ in clips], labels)


def readings() -> list[Reading]:
    """pocketsphinx's recordings of one reader, and the word times that its own aligner found for their known texts."""
    found = []
    for file in sorted(needed(READINGS).glob("*[0-9].json")):
        words = [
            (VARIANT.sub("", word["t"]), float(word["b"]))
            for word in json.loads(file.read_text("utf-8"))["w"]
            if not word["t"].startswith("<")
        ]
        found.append(Reading(read_audio(file.with_suffix(".wav")), words))
    return found
