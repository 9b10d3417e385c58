"""How fast audio is prepared, and how large the store is: mp3 clips to mono 16 kHz int16, and store to batch.

    python -m benchmarks.data_prep [--data FOLDER --lang tr tt ...] [--workers 2] [--peer datasets] [--save]

By default the 100 embedded Turkish clips (48 kHz mp3, 6.5 minutes). Real time means seconds of speech per second.
The peer does what transformers' recipes do, `datasets.map` to normalised input_values, on the same clips and in turn
with us, each into a fresh folder and with the start of its workers. Both keep what they write until the end: 100 kB in
the temporary folder per second of speech and repeat.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import soundfile
import torch

from benchmarks.common import interleave, machine, print_result
from recipes.console import Parser, positive, say
from recipes.data_settings import SAMPLES
from w2v.audio import SAMPLE_RATE
from w2v.data.batching import BatchSampler
from w2v.data.corpus import read_corpus
from w2v.data.loading import ClipDataset
from w2v.data.manifest import Clip
from w2v.data.store import Audio, build_store
from w2v.errors import InputError
from w2v.models.wav2vec2_config import XLSR_53

PEER_PACKAGES = ("datasets", "torchcodec", "transformers")


def ours(clips: list[Clip], root: Path, workers: int) -> Callable[[], object]:
    folders = (root / f"w2v-{number}" for number in count())
    return lambda: build_store(clips, next(folders), workers)


def theirs(files: list[str], root: Path, workers: int) -> Callable[[], None]:
    """transformers' run_speech_recognition_ctc.py: the audio feature decodes, the extractor normalises."""
    import datasets
    from transformers import Wav2Vec2FeatureExtractor

    datasets.disable_progress_bars()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)

    def features(row: dict) -> dict:
        audio = row["audio"]
        return {"input_values": extractor(audio["array"], sampling_rate=audio["sampling_rate"]).input_values[0]}

    def prepare() -> None:
        folder = next(folders)
        folder.mkdir()
        table = datasets.Dataset.from_dict({"audio": files})
        table = table.cast_column("audio", datasets.Audio(sampling_rate=SAMPLE_RATE))
        table.map(features, num_proc=workers, remove_columns="audio", cache_file_name=str(folder / "cache.arrow"))

    folders = (root / f"datasets-{number}" for number in count())
    return prepare


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = Parser(prog="python -m benchmarks.data_prep", description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", type=Path, default=[SAMPLES / "tr"], help="Common Voice folders")
    parser.add_argument("--lang", nargs="+", default=["tr"], help="their locales, all of which are prepared")
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--peer", choices=("datasets", "none"), default="none")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()

    missing = [name for name in PEER_PACKAGES if args.peer == "datasets" and not find_spec(name)]
    if missing:
        raise InputError(
            f"--peer datasets needs {' and '.join(missing)}; pip install {' '.join(missing)}, and FFmpeg, which "
            "torchcodec reads audio with: apt install ffmpeg"
        )
    torch.set_num_threads(1)  # the workers are the parallelism, ours and theirs
    with tempfile.TemporaryDirectory() as root:
        summary = measure(args, Path(root))
    say(f"prepare: {summary['prepare_real_time']}x real time with {args.workers} workers")
    say(f"store: {summary['store_bytes_per_second']} bytes per second of speech")
    say(f"store to batch, one process: {summary['store_to_batch_audio_s_per_s']} s of speech per second")
    if "peer" in summary:
        peer = summary["peer"]
        say(f"datasets: {peer['real_time']}x real time, {peer['cache_bytes_per_second']} bytes per second of speech")
        say(f"w2v / datasets: {summary['speed_ratio']}x the speed, {summary['size_ratio']} of the size")
    print_result("data_prep", summary, args.save)


def measure(args, root: Path) -> dict:
    corpora = [read_corpus(args.data, lang, root) for lang in args.lang]
    clips = [clip for corpus in corpora for table in corpus.tables.values() for clip in table]
    clips = list({(clip.source, clip.name): clip for clip in clips}.values())  # tables overlap
    if any(clip.source.is_archive or clip.row is not None for clip in clips):
        raise InputError("--data must hold audio files, got an archive, whose clips the peer cannot open; extract it")
    if args.peer == "datasets" and any(clip.start is not None for clip in clips):
        raise InputError("--peer datasets reads whole files, --data holds segments; leave one of them out")
    skipped = build_store(clips, root / "all", args.workers).skipped
    clips = [clip for clip in clips if clip not in skipped]
    files = [str(clip.path) for clip in clips]

    runs = {"w2v": ours(clips, root, args.workers)}
    if args.peer == "datasets":
        runs["datasets"] = theirs(files, root, args.workers)
    timings = interleave(runs, args.repeats, 1, torch.device("cpu"))

    audio = Audio(clips, root / "w2v-0")
    seconds = sum(map(audio.seconds, clips))
    dataset = ClipDataset(partial(XLSR_53.collate, pad=True), audio, clips, [[] for _ in clips])
    sampler = BatchSampler([XLSR_53.cost(audio.samples(clip)) for clip in clips], batch_seconds=160)

    def epoch() -> None:
        for step in sampler.epoch(0):
            for batch in step:
                _ = dataset[batch]

    to_batch = interleave({"epoch": epoch}, 10 * args.repeats, 1, torch.device("cpu"))["epoch"]
    real_time = seconds / timings["w2v"]["median_s"]
    store_bytes = size_of(root / "w2v-0")
    summary = {
        "clips": len(clips),
        "audio_seconds": round(seconds, 1),
        "source_rates": Counter(soundfile.info(file).samplerate for file in files),
        "workers": args.workers,
        "prepare_real_time": round(real_time),
        "prepare_real_time_per_core": round(real_time / args.workers),
        "prepare": timings,
        "store_bytes_per_second": round(store_bytes / seconds, 1),
        "store_to_batch_audio_s_per_s": round(seconds / to_batch["median_s"]),
        "load_average": os.getloadavg()[0],
        "machine": machine(torch.device("cpu")),
    }
    if args.peer == "datasets":
        cache_bytes = size_of(root / "datasets-0")
        summary["peer"] = {
            "real_time": round(seconds / timings["datasets"]["median_s"]),
            "cache_bytes_per_second": round(cache_bytes / seconds, 1),
            "versions": {name: version(name) for name in PEER_PACKAGES},
        }
        summary["speed_ratio"] = round(timings["datasets"]["median_s"] / timings["w2v"]["median_s"], 2)
        summary["size_ratio"] = round(store_bytes / cache_bytes, 4)
    return summary


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        say(f"error: {error}")
        sys.exit(2)
