"""How fast audio is prepared, and how large the store is: mp3 clips to mono 16 kHz int16, and store to batch.

    python -m benchmarks.data_prep [--data FOLDER] [--repeats 5] [--save]

By default the 100 embedded Turkish clips (48 kHz mp3, 6.5 minutes). Real time means seconds of speech per second.
"""

import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import conclude, interleave, machine
from recipes.console import Parser, positive, say
from recipes.cv_prepare import SAMPLE
from w2v.data import store
from w2v.data.batching import BatchSampler
from w2v.data.collate import ClipDataset
from w2v.data.commonvoice import read_common_voice


def main() -> None:
    parser = Parser(prog="python -m benchmarks.data_prep", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=SAMPLE / "tr", help="Common Voice folder")
    parser.add_argument("--lang", default="tr")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)  # real time per core
    root = Path(tempfile.mkdtemp())
    clips = [c for table in read_common_voice([args.data], args.lang, root).tables.values() for c in table]

    def prepare() -> None:
        shutil.rmtree(root / "audio", ignore_errors=True)
        store.build_store(clips, root, workers=1)

    timings = interleave({"one_core": prepare}, args.repeats, 1, torch.device("cpu"))
    audio = store.Audio(clips, root)
    usable = [clip for clip in clips if clip not in audio.skipped]
    seconds = sum(audio.seconds(clip) for clip in usable)
    size = sum(file.stat().st_size for file in (root / "audio").rglob("*") if file.is_file())

    dataset = ClipDataset(audio, usable, [[] for _ in usable])
    sampler = BatchSampler([audio.samples(clip) for clip in usable], batch_seconds=160)
    start, epochs = time.perf_counter(), 0
    while time.perf_counter() - start < 2.0:
        for step in sampler.epoch(epochs):
            for batch in step:
                _ = dataset[batch]
        epochs += 1
    to_batch = epochs * seconds / (time.perf_counter() - start)

    shutil.rmtree(root)
    summary = {
        "clips": len(clips),
        "audio_seconds": round(seconds, 1),
        "prepare_real_time_per_core": round(seconds / timings["one_core"]["median_s"]),
        "prepare": timings,
        "store_bytes_per_second": round(size / seconds, 1),
        "store_to_batch_audio_s_per_s": round(to_batch),
        "machine": machine(torch.device("cpu")),
    }
    say(f"prepare: {summary['prepare_real_time_per_core']}x real time on one core")
    say(f"store: {summary['store_bytes_per_second']} bytes per second of speech")
    say(f"store to batch, one process: {summary['store_to_batch_audio_s_per_s']} s of speech per second")
    conclude("data_prep", summary, args.save)


if __name__ == "__main__":
    main()
