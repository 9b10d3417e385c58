"""Readers of tables, audio, archives and what the project itself keeps in its cache."""

import io
from pathlib import Path

import numpy as np
import soundfile

from w2v.audio import read_audio, seconds_of
from w2v.data.manifest import read_manifest

from .harness import Reader
from .mutators import mutate_bytes, mutate_text

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "recipes" / "sample" / "tr"


def tables(folder: Path) -> list[bytes]:
    lines = (SAMPLE / "validated.tsv").read_bytes().split(b"\n")
    quoted = b'path\tsentence\tclient_id\na.mp3\t"He said ""no""."\t1\nb.mp3\t"one\ntwo"\t2\n'
    return [b"\n".join(lines[:6]), b"\n".join(lines[:6]).replace(b"\n", b"\r\n"), quoted]


def read_table(suffix: str):
    def read(folder: Path, data: bytes) -> object:
        (folder / f"a{suffix}").write_bytes(data)
        return read_manifest(folder / f"a{suffix}")

    return read


def is_table(value) -> bool:
    clips, skipped = value
    return all(clip.name and clip.name.isprintable() for clip in clips) and isinstance(skipped, list)


def speech(seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """Noise that rises and falls."""
    noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    return (noise * np.hanning(len(noise))[:, None]).astype(np.float32)


def encoded(waveform: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def flacs(folder: Path) -> list[bytes]:
    return [encoded(speech(0.3), 16_000, "FLAC"), encoded(speech(0.1, 44_100, 2), 44_100, "FLAC", "PCM_24")]


def read_sound(suffix: str):
    """From a file and from its bytes, as clips of folders and of archives are read."""

    def read(folder: Path, data: bytes) -> object:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        seconds = (seconds_of(path), seconds_of(data))
        answers = []
        for source in (str(path), data):
            answers.append(read_audio(source))
        return answers, seconds

    return read


def is_sound(value) -> bool:
    waveforms, seconds = value
    return all(
        waveform.dtype == np.float32 and waveform.ndim == 1 and len(waveform) > 0 for waveform in waveforms
    ) and all(s is None or 0 < s < 1e6 for s in seconds)


READERS = [
    Reader("tsv", tables, read_table(".tsv"), mutate_text(b"\t"), is_table),
    Reader("flac", flacs, read_sound(".flac"), mutate_bytes, is_sound),
]
