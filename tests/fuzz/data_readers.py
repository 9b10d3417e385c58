"""Readers of tables, audio, archives and what the project itself keeps in its cache."""

import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile

from w2v.audio import read_audio, seconds_of
from w2v.data.corpus import read_corpus
from w2v.data.store import build_store, store_folder
from w2v.errors import InputError

from .archive_mutators import archive, mutate_gzip, mutate_tar
from .folder_mutators import mutate_layout
from .harness import Reader
from .mutators import mutate_bytes, mutate_json, mutate_jsonl, mutate_ogg, mutate_text

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "recipes" / "sample" / "tr"


def speech(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise that rises and falls."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * rate), channels))
    return (noise * np.hanning(len(noise))[:, None]).astype(np.float32)


def encoded(waveform: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


CLIPS = {f"{name}.wav": encoded(speech(0.02 + 0.01 * i, seed=i), 16_000, "WAV") for i, name in enumerate("abcd")}
TABLE = "client_id\tpath\tsentence\tlocale\n" + "".join(f"me\t{name}\tBir iki {name}.\ttr\n" for name in CLIPS)
DURATIONS = "clip\tduration[ms]\n" + "".join(f"{name}\t{20 + 10 * i}\n" for i, name in enumerate(CLIPS))


# Tables


def tsv(folder: Path) -> list[bytes]:
    lines = (SAMPLE / "validated.tsv").read_bytes().split(b"\n")[:5]
    own = TABLE.encode()
    quoted = b'path\tsentence\tspeaker\tduration\na.wav\t"He said ""no""."\t1\t0.02\nb.wav\t"one\ntwo"\t2\t\n'
    return [b"\n".join(lines), own, own.replace(b"\n", b"\r\n"), quoted]


def csv(folder: Path) -> list[bytes]:
    return [b'path,sentence,client_id,duration\na.wav,"Bir, iki ""uc"".",me,0.02\nb.wav,"iki\nuc",me,nan\nc.wav,uc,,\n']


def jsonl(folder: Path) -> list[bytes]:
    rows = [{"path": name, "sentence": f"Bir ışık {name}", "duration": 0.02, "speaker": None} for name in CLIPS]
    parts = [{"path": "d.wav", "sentence": f"{i}", "offset": i / 100, "duration": 0.01} for i in range(4)]
    return [
        "\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(given)).encode()
        for given in (rows, parts)
    ]


def prepared(folder: Path, data: Path) -> object:
    """Read the data, and decode it twice: what the first run leaves must not stop the second."""
    cache = folder / "cache"
    answers = []
    for _ in range(2):
        corpus = read_corpus([data], "tr", cache)
        clips = [clip for clips in corpus.tables.values() for clip in clips]
        audio = build_store(clips, cache, workers=1)
        answers.append(
            {clip.name: audio.skipped.get(clip) or hash(audio[clip].tobytes()) for clip in clips},
        )
        seconds = [clip.seconds for clip in clips]
    return answers, corpus, seconds


def is_prepared(value) -> bool:
    (first, second), corpus, seconds = value
    lines = [skip.name + skip.split + skip.reason for skip in corpus.skipped]
    return (
        first == second
        and all(name.encode("utf-8") and not set(name) & set("\0\t\n\r") for name in first)
        and all("\n" not in line and line.encode("utf-8") for line in lines)
        and all(s is None or 0 <= s < 1e6 for s in seconds)
    )


def read_table(suffix: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, data: bytes) -> object:
        (folder / f"table{suffix}").write_bytes(data)
        for name in ("a.wav", "b.wav", "d.wav"):  # one is missing
            (folder / name).write_bytes(CLIPS[name])
        return prepared(folder, folder / f"table{suffix}")

    return read


# Folders


def durations(folder: Path) -> list[bytes]:
    return [DURATIONS.encode(), DURATIONS.replace("\n", "\r\n").encode()]


def read_durations(folder: Path, data: bytes) -> object:
    (folder / "tr" / "clips").mkdir(parents=True)
    (folder / "tr" / "validated.tsv").write_text(TABLE, encoding="utf-8")
    (folder / "tr" / "clip_durations.tsv").write_bytes(data)
    (folder / "tr" / "clips" / "a.wav").write_bytes(CLIPS["a.wav"])
    return prepared(folder, folder / "tr")


def spontaneous(folder: Path) -> list[bytes]:
    header = (
        "client_id\taudio_id\taudio_file\tduration_ms\tprompt_id\tprompt\ttranscription\tvotes\tage\tgender\tlanguage"
    )
    rows = [
        f"me\t{i}\t{name}\t{20 + 10 * i}\t1\tNe?\tBir [noise] iki <disfluency>.\t1\t\t\tTurkish\t{split}\t{tag}"
        for i, (name, split, tag) in enumerate(
            zip(CLIPS, ("train", "dev", "test", ""), ("", "speech-rate|x", "", ""), strict=True)
        )
    ]
    return ["\n".join([f"{header}\tsplit\tquality_tags", *rows, ""]).encode()]


def read_spontaneous(folder: Path, data: bytes) -> object:
    (folder / "audios").mkdir()
    (folder / "ss-corpus-tr.tsv").write_bytes(data)
    reported = "audio_id\taudio_file\treason\n0\ta.wav\tnoise\n"
    (folder / "ss-reported-audios-tr.tsv").write_text(reported, encoding="utf-8")
    for name in ("b.wav", "c.wav"):
        (folder / "audios" / name).write_bytes(CLIPS[name])
    return prepared(folder, folder)


def kaldi(folder: Path) -> list[bytes]:
    """The four files, with a line of their names before each."""
    scp = "".join(f"r{name[0]} {name}\n" for name in CLIPS)
    text = "".join(f"u{i} Bir iki {i}.\n" for i in range(4))
    segments = "u0 ra 0 0.02\nu1 rd 0.01 0.03\nu2 rd 0.02 -1\nu3 rb 0 9\n"
    speakers = "".join(f"u{i} me\n" for i in range(4))
    whole = f"== wav.scp\n{scp}== text\n" + "".join(f"r{name[0]} Bir.\n" for name in CLIPS)
    return [whole.encode(), f"== wav.scp\n{scp}== text\n{text}== segments\n{segments}== utt2spk\n{speakers}".encode()]


def read_kaldi(folder: Path, data: bytes) -> object:
    home = folder / "train"
    home.mkdir()
    for part in data.split(b"== ")[1:]:
        name, _, contents = part.partition(b"\n")
        if name in (b"wav.scp", b"text", b"segments", b"utt2spk"):
            (home / name.decode()).write_bytes(contents)
    for name in ("a.wav", "b.wav", "d.wav"):  # the paths in wav.scp are relative to where a command runs, or here
        (home / name).write_bytes(CLIPS[name])
    return prepared(folder, home)


def parquet(folder: Path) -> list[bytes]:
    import pyarrow
    import pyarrow.parquet as arrow_parquet

    rows = [
        {"audio": {"bytes": CLIPS[name], "path": name}, "sentence": f"Bir {name}", "duration": 0.02} for name in CLIPS
    ]
    plain = [{"audio": CLIPS[name], "text": f"Bir {name}"} for name in CLIPS]
    made = []
    for given, codec in ((rows, "none"), (rows, "snappy"), (plain, "zstd")):
        arrow_parquet.write_table(pyarrow.Table.from_pylist(given), folder / "a.parquet", compression=codec)
        made.append((folder / "a.parquet").read_bytes())
    return made


def layouts(folder: Path) -> list[bytes]:
    entries = [["tr/validated.tsv", "file", TABLE], ["tr/clip_durations.tsv", "file", DURATIONS]]
    entries += [[f"tr/clips/{name}", "clip", name] for name in CLIPS]
    release = [[f"cv-corpus-17.0/{path}", kind, text] for path, kind, text in entries]
    flat = [["validated.tsv", "file", TABLE], ["train.tsv", "file", TABLE], ["a.wav", "clip", "a.wav"]]
    return [json.dumps(value).encode() for value in (entries, release, flat)]


def read_layout(folder: Path, data: bytes) -> object:
    """Files, folders, links, pipes and devices as a JSON list says: [path, kind, contents]."""
    home = folder / "data"
    home.mkdir()
    for path, kind, text in json.loads(data):
        try:
            place = home / path
            if os.path.commonpath((home, os.path.realpath(place.parent))) != str(home):  # a link may lead out
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(place):  # writing into a pipe would wait
                _make(place, kind, text)
        except (OSError, ValueError, KeyError):  # no such file can be
            continue
    return prepared(folder, home)


def _make(place: Path, kind: str, text: str) -> None:
    if kind == "file":
        place.write_bytes(text.encode("utf-8", "surrogateescape"))
    elif kind == "clip":
        place.write_bytes(CLIPS[text])
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(place))
    else:
        place.symlink_to(text)


# Audio


def sounds(kind: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        if kind == "mp3":
            real = sorted((SAMPLE / "clips").glob("*.mp3"))[0].read_bytes()
            return [real[:2500], encoded(speech(0.2), 16_000, "MP3"), encoded(speech(0.1, 44_100, 2), 44_100, "MP3")]
        if kind == "wav":
            float32 = encoded(speech(0.05, 48_000, 2), 48_000, "WAV", "FLOAT")
            codecs = [
                encoded(speech(0.05), 16_000, "WAV", name) for name in ("PCM_24", "ULAW", "IMA_ADPCM", "MS_ADPCM")
            ]
            others = [encoded(speech(0.05), 16_000, name) for name in ("WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")]
            return [CLIPS["a.wav"], CLIPS["d.wav"], float32, *codecs, *others]
        if kind == "flac":
            return [encoded(speech(0.2), 16_000, "FLAC"), encoded(speech(0.1, 44_100, 2), 44_100, "FLAC", "PCM_24")]
        subtype = "VORBIS" if kind == "ogg" else "OPUS"
        rate = 44_100 if kind == "ogg" else 48_000
        return [encoded(speech(0.2), 16_000, "OGG", subtype), encoded(speech(0.1, rate, 2), rate, "OGG", subtype)]

    return seeds


def read_sound(suffix: str) -> Callable[[Path, bytes], object]:
    """From a file and from its bytes, as clips of folders and of archives are read."""

    def read(folder: Path, data: bytes) -> object:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        seconds = (seconds_of(path), seconds_of(data))
        answers: list[np.ndarray | InputError] = []
        for source in (str(path), data):
            try:
                answers.append(read_audio(source))
            except InputError as refusal:
                answers.append(refusal)
        if all(isinstance(answer, InputError) for answer in answers):
            raise answers[1]
        return answers, seconds

    return read


def is_sound(value) -> bool:
    answers, seconds = value
    waveforms = [answer for answer in answers if not isinstance(answer, InputError)]  # libsndfile knows a file's suffix
    return all(
        (wave.dtype, wave.ndim) == (np.float32, 1)
        and len(wave) > 0
        and len(wave) == len(waveforms[0])  # of damaged Opus libsndfile gives other samples each time
        for wave in waveforms
    ) and all(s is None or 0 < s < 1e6 for s in seconds)


# Archives and the cache


def tars(folder: Path) -> list[bytes]:
    tables = {"tr/validated.tsv": TABLE.encode(), "tr/train.tsv": TABLE.encode()}
    few = {f"tr/clips/{name}": CLIPS[name] for name in ("a.wav", "b.wav")}
    stated = {"tr/clip_durations.tsv": DURATIONS.encode()}
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    long = {f"cv-corpus-17.0-{'x' * 90}/{name}": data for name, data in (tables | few | stated).items()}
    return [archive(tables | few, formats[0]), *(archive(long, kind) for kind in formats[1:])]


def read_packed(suffix: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, data: bytes) -> object:
        (folder / f"a{suffix}").write_bytes(data)
        return prepared(folder, folder / f"a{suffix}")

    return read


RELEASE = archive({"tr/validated.tsv": TABLE.encode(), "tr/clip_durations.tsv": DURATIONS.encode()})


def cached(folder: Path) -> list[bytes]:
    (folder / "a.tar").write_bytes(RELEASE)
    read_corpus([folder / "a.tar"], "tr", folder / "cache")
    (found,) = folder.glob("cache/archives/*/survey.json")
    return [found.read_bytes()]


def read_cached(folder: Path, data: bytes) -> object:
    """Of an archive whose tables an earlier run put into the cache, where they were damaged."""
    (folder / "a.tar").write_bytes(RELEASE)
    right = read_corpus([folder / "a.tar"], "tr", folder / "cache")
    (found,) = folder.glob("cache/archives/*/survey.json")
    found.write_bytes(data)
    return read_corpus([folder / "a.tar"], "tr", folder / "cache"), right


def is_cached(value) -> bool:
    corpus, right = value
    return corpus == right


def stored(folder: Path) -> list[bytes]:
    return [_store(folder)[0].read_bytes()]


def _store(folder: Path) -> tuple[Path, list, dict[str, bytes]]:
    for name, data in CLIPS.items():
        (folder / name).write_bytes(data)
    (folder / "empty.wav").write_bytes(b"")  # its line has a reason
    (folder / "table.tsv").write_text(TABLE + "me\tempty.wav\tYok.\ttr\n", encoding="utf-8")
    clips = read_corpus([folder / "table.tsv"], "tr", folder / "cache").tables["validated"]
    audio = build_store(clips, folder / "cache", workers=1)
    (index,) = store_folder(folder / "cache", clips[0].source).glob("index-*.tsv")
    return index, clips, {clip.name: audio[clip].tobytes() for clip in clips}


def read_stored(folder: Path, data: bytes) -> object:
    index, clips, right = _store(folder)
    index.write_bytes(data)
    audio = build_store(clips, folder / "cache", workers=1)
    again = build_store(clips, folder / "cache", workers=1)
    return [
        ({clip.name: store[clip].tobytes() for clip in clips}, {clip.name for clip in store.skipped}, right)
        for store in (audio, again)
    ]


def is_stored(value) -> bool:
    return all(got == right and skipped == {"empty.wav"} for got, skipped, right in value)


READERS = [
    Reader("tsv", tsv, read_table(".tsv"), mutate_text(b"\t"), is_prepared),
    Reader("csv", csv, read_table(".csv"), mutate_text(b","), is_prepared),
    Reader("jsonl", jsonl, read_table(".jsonl"), mutate_jsonl, is_prepared),
    Reader("clip_durations", durations, read_durations, mutate_text(b"\t"), is_prepared),
    Reader("spontaneous", spontaneous, read_spontaneous, mutate_text(b"\t"), is_prepared),
    Reader("kaldi", kaldi, read_kaldi, mutate_text(b" "), is_prepared),
    Reader("folder", layouts, read_layout, mutate_layout, is_prepared),
    *(Reader(kind, sounds(kind), read_sound(f".{kind}"), mutate_bytes, is_sound) for kind in ("mp3", "wav", "flac")),
    *(Reader(kind, sounds(kind), read_sound(f".{kind}"), mutate_ogg, is_sound) for kind in ("ogg", "opus")),
    Reader("tar", tars, read_packed(".tar"), mutate_tar, is_prepared),
    Reader("tar.gz", tars, read_packed(".tar.gz"), mutate_gzip, is_prepared),
    Reader("archive-cache", cached, read_cached, mutate_json, is_cached),
    Reader("store-index", stored, read_stored, mutate_text(b"\t"), is_stored),
]
if find_spec("pyarrow"):  # the extra `parquet`
    READERS.append(Reader("parquet", parquet, read_packed(".parquet"), mutate_bytes, is_prepared))
