"""The decoded store: every clip once, as mono 16 kHz int16, memory-mapped.

    audio = build_store(clips, Path("~/.cache/w2v").expanduser(), workers=4)
    audio[clip]                                   # (samples,) int16, a view into the file
    audio.skipped                                 # {clip: reason}

One second takes 32,000 bytes; the float features that a mapped dataset caches can take half a terabyte. A store belongs
to one source, and the fingerprint of the source's tables is its name. Each build adds its own shards, so an interrupted
one can be resumed where it stopped. One process at a time builds, any number read:
    audio-0001.i16       samples, end to end
    index-0001.tsv       name, bytes of the source file, first sample, samples, their checksum, reason it was skipped,
                         the line's checksum
Where an archive could not give a clip, the second column holds the archive's stamp: see _stamp.
A line is written after its samples: a line that is complete can be trusted. The checksum of the line, and of the
shard's name, tells that it is. Any other line counts for nothing, and its clip is decoded again. So is a clip whose
samples have another checksum when they are first read. Later shards count for more than earlier ones.
"""

import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from w2v.audio import LONGEST_HOURS, SAMPLE_RATE, check_speech, read_audio, reason_of, seconds_of
from w2v.data import parquet
from w2v.data.archives import CACHE_REMEDY, archive_members
from w2v.data.manifest import Clip, Source
from w2v.errors import InputError, UnusableAudioError, show
from w2v.files import open_file, read_bytes, reading, writing
from w2v.segments import Segment, read_segment

BYTES_PER_SECOND = 2 * SAMPLE_RATE
CLIPS_AHEAD = 8  # per worker: enough that one long clip does not stop the others
# A clip shorter than this share of its declared duration has lost audio. Encoders' padding changes far less.
TRUNCATED_SHARE = 0.9
# Reading the headers of more clips than this takes so long that a progress bar is shown.
MANY_HEADERS = 1000
LINE_FIELDS = 6  # of the index, without the line's checksum
SECONDS_PER_LINE = 30.0  # where there is no terminal for a bar


class Entry(NamedTuple):
    shard: str  # name of the file that holds the samples
    source_bytes: int
    start: int
    samples: int
    checksum: int  # of the samples
    reason: str  # "" for a usable clip


class DamagedSamplesError(InputError):
    """What a store holds of a clip is not what was written."""


class Store:
    """One source's shards, read-only. Opening reads the indices and maps the audio.

    A pickle holds the folder and how many bytes of each index were read. A process that unpickles it reads the same
    lines again and maps the audio itself. It ignores what other builds have added since.
    """

    def __init__(self, folder: Path, index_bytes: dict[str, int] | dict[str, None] | None = None):
        self.folder = Path(folder).absolute()  # the working directory may change
        self.entries: dict[str, Entry] = {}
        self.shards: dict[str, np.ndarray] = {}
        self._sound: set[str] = set()  # clips whose samples were found to be as written
        if index_bytes is None:  # all of each
            index_bytes = dict.fromkeys(_indices(self.folder))
        self.index_bytes: dict[str, int] = {}
        for name, size in index_bytes.items():
            lines = read_bytes("the store", self.folder / name, CACHE_REMEDY)[:size]
            lines = lines[: lines.rfind(b"\n") + 1]  # a line without an end was cut off
            self.index_bytes[name] = len(lines)
            self._open_shard(name.replace("index-", "audio-").replace(".tsv", ".i16"), lines.split(b"\n")[:-1])

    def _open_shard(self, shard: str, lines: list[bytes]) -> None:
        file = self.folder / shard
        samples = np.empty(0, np.int16)
        with reading("the store", file, CACHE_REMEDY):
            if os.path.lexists(file) and (whole := file.stat().st_size // 2):  # an empty file cannot be mapped
                with open_file(file) as contents:  # half of a sample may be at its end
                    samples = np.memmap(contents, dtype=np.int16, mode="r", shape=(whole,))
        self.shards[shard] = samples
        for line in lines:
            text, _, checksum = line.rpartition(b"\t")
            if checksum != _checksum(shard, text):
                continue
            fields = text.decode().split("\t")
            if len(fields) != LINE_FIELDS:  # of an older store
                continue
            name, source_bytes, start, count, samples_checksum, reason = fields
            entry = Entry(shard, int(source_bytes), int(start), int(count), int(samples_checksum, 16), reason)
            if entry.start + entry.samples <= len(samples):
                self.entries[name] = entry

    def __getitem__(self, name: str) -> np.ndarray:
        """(samples,) int16 at 16 kHz, a view into the file. DamagedSamplesError where they are not what was written."""
        entry = self.entries[name]
        samples = self.shards[entry.shard][entry.start : entry.start + entry.samples]
        if name not in self._sound:  # looked at once: a checksum takes a tenth of a millisecond
            if zlib.crc32(samples.data) != entry.checksum:
                raise DamagedSamplesError(f"the decoded store {self.folder} holds damaged samples of {show(name)}")
            self._sound.add(name)
        return samples

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, dict[str, int]]]:
        return Store, (self.folder, self.index_bytes)


def _checksum(shard: str, line: bytes) -> bytes:
    return b"%08x" % zlib.crc32(line, zlib.crc32(shard.encode()))


def _indices(folder: Path) -> list[str]:
    """The names of a store's indices; none where nothing has been built yet."""
    with reading("the store", folder, CACHE_REMEDY):  # glob() would find nothing in a folder it may not read
        files = folder.iterdir() if os.path.lexists(folder) else []
        return sorted(file.name for file in files if file.match("index-*.tsv"))


def _quiet(line: str) -> None:
    """Where nobody wants to be told."""


class Audio:
    """Decoded clips of all the sources of a run. Its pickle holds no audio: see Store.

    log: told of a clip whose samples were damaged, and which is decoded again. It must be picklable.
    """

    def __init__(self, clips: list[Clip], cache: Path, log: Callable[[str], object] = _quiet):
        sources = dict.fromkeys(clip.source for clip in clips)
        self._log = log
        self._stores = {source: Store(store_folder(cache, source)) for source in sources}
        self.skipped: dict[Clip, str] = {}
        for clip in clips:
            entry = self._entry(clip)
            if entry.reason:
                self.skipped[clip] = entry.reason
            elif _is_short(clip, entry.samples):
                self.skipped[clip] = f"truncated: {entry.samples / SAMPLE_RATE:.2f} s of {_declared(clip):.2f} s"

    def _entry(self, clip: Clip) -> Entry:
        return self._stores[clip.source].entries[clip.name]

    def __getitem__(self, clip: Clip) -> np.ndarray:
        """(samples,) int16 at 16 kHz. InputError where they are damaged and the clip's file gives others now."""
        try:
            return self._stores[clip.source][clip.name]
        except DamagedSamplesError as error:
            return self._decoded_again(clip, str(error))

    def _decoded_again(self, clip: Clip, what: str) -> np.ndarray:
        before = self._entry(clip)
        with _sole_writer(self._stores[clip.source].folder, self._log) as folder:
            mended = Store(folder)
            if mended.entries[clip.name] == before:  # else another process has done it
                self._log(f"{what}: the clip is decoded again")
                _build(clip.source, {clip.name: clip}, folder, 1, _quiet)
                mended = Store(folder)
        now = mended.entries[clip.name]
        if now.samples != before.samples:
            found = now.reason or f"{now.samples} samples instead of {before.samples}"
            raise InputError(f"{what}, and decoding it again gives {found}; restore its file, or begin another run")
        self._stores[clip.source] = mended
        return mended[clip.name]

    def samples(self, clip: Clip) -> int:
        return self._entry(clip).samples

    def content(self, clip: Clip) -> tuple[int, int]:
        """What tells a clip's samples from others': their number and checksum. No audio is read."""
        entry = self._entry(clip)
        return entry.samples, entry.checksum

    def seconds(self, clip: Clip) -> float:
        return self.samples(clip) / SAMPLE_RATE


def store_folder(cache: Path, source: Source) -> Path:
    return cache / "audio" / source.fingerprint


def build_store(clips: list[Clip], cache: Path, workers: int, log: Callable[[str], object] = _quiet) -> Audio:
    """Decode what the stores in `cache` do not hold yet, and open them.

    log: receives the size line before anything is written, and then, where stderr is no terminal for a bar, a line
    twice a minute. Clips that cannot be used are remembered with the reason, and tried again once their file or archive
    changes. A clip that the store holds is not needed as a file. Raises InputError where the disk has no room.
    """
    by_source: dict[Source, list[Clip]] = {}
    for clip in clips:
        by_source.setdefault(clip.source, []).append(clip)
    for source, wanted in by_source.items():
        folder = store_folder(cache, source)
        stale, gone = _outdated(Store(folder), wanted)
        if gone:
            log(f"{len(gone)} clips are gone as files, and taken from the decoded store {folder}")
        if stale:
            with _sole_writer(folder, log):
                # What another process has decoded meanwhile is there now.
                todo, _ = _outdated(Store(folder), stale)
                if todo:
                    _build(source, {clip.name: clip for clip in todo}, folder, workers, log)
    return Audio(clips, cache, log)


@contextmanager
def _sole_writer(folder: Path, log: Callable[[str], object]) -> Iterator[Path]:
    """One process at a time adds to a store. The system takes the lock from a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "writer.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"another process adds to the decoded store {folder}: waiting for it")
        lock.acquire()
    try:
        yield folder
    finally:
        lock.release()


def _outdated(store: Store, wanted: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """-> the clips that must be decoded, and those that the store holds but of which there is no file any more.

    Segments of one recording in turn: a worker reads on where it stopped. Other clips stay as they are listed.
    """
    old = [clip for clip in wanted if not _is_current(store, clip)]
    gone = {clip for clip in old if _is_usable(store, clip) and not os.path.lexists(clip.path)}
    stale = [clip for clip in old if clip not in gone]
    return sorted(stale, key=lambda clip: (clip.file, clip.row or 0, clip.start or 0.0)), list(gone)


def _is_usable(store: Store, clip: Clip) -> bool:
    """Whether the store holds a clip, and all of it."""
    entry = store.entries.get(clip.name)
    return entry is not None and not entry.reason and not _is_short(clip, entry.samples)


def _is_current(store: Store, clip: Clip) -> bool:
    """Whether a clip need not be tried again. Folders and archives of the same tables share a store."""
    entry = store.entries.get(clip.name)
    if entry is None:
        return False
    if (packed := _packed_in(clip)) is not None:  # looking at its clips would take a pass over all of it
        return _is_usable(store, clip) or entry.source_bytes == _stamp(packed)
    return entry.source_bytes == _file_size(clip.path)


def _packed_in(clip: Clip) -> Path | None:
    """The archive or parquet file that a clip is taken from; None where it lies in a file of its own."""
    if clip.source.is_archive:
        return clip.source.path
    return None if clip.row is None else clip.path


def _declared(clip: Clip) -> float:
    """The clip's duration in the tables; 0 where they do not tell it, or tell one that no clip can have."""
    seconds = clip.seconds or 0.0
    return seconds if 0 < seconds <= 3600 * LONGEST_HOURS else 0.0


def _is_short(clip: Clip, samples: int) -> bool:
    return samples / SAMPLE_RATE < TRUNCATED_SHARE * _declared(clip)


def _stamp(packed: Path) -> int:
    """A number that changes with the file. A failure counts for this state of it, not for a mended one."""
    with reading("the archive", packed):
        status = packed.stat()
    return status.st_mtime_ns ^ status.st_size


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a name with a null character
        return 0


def _build(source: Source, todo: dict[str, Clip], folder: Path, workers: int, log: Callable[[str], object]) -> None:
    seconds = _total_seconds(list(todo.values()))
    needed = int(seconds * BYTES_PER_SECOND * 1.01)
    length = f"{seconds / 3600:.2f} h, into a 16 kHz store of {needed / 1e6:.0f} MB"
    log(f"decoding {len(todo)} clips, {length if seconds else 'of unknown length, into a 16 kHz store'} in {folder}")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the decoded store needs {needed / 1e6:.0f} MB, {folder} has {free / 1e6:.0f} MB free; "
            "free some space or choose another `cache`"
        )
    stamps = {path: _stamp(path) for path in set(map(_packed_in, todo.values())) if path is not None}
    audio_file, index_file = _new_shard(folder)
    bar = tqdm(total=len(todo), unit="clip", desc="decoding audio", disable=None)  # None: only on a terminal
    told = time.monotonic()
    with writing(audio_file), open(audio_file, "wb") as audio, open(index_file, "wb") as index, bar:
        start = 0
        for done, (name, source_bytes, samples, reason) in enumerate(_decode_all(_tasks(source, todo), workers), 1):
            packed = _packed_in(todo[name])
            if packed is not None and (reason or _is_short(todo[name], len(samples))):
                source_bytes = stamps[packed]
            audio.write(samples.data)
            audio.flush()  # before the line: a line on disk means that its samples are on disk
            fields = (name, source_bytes, start, len(samples), f"{zlib.crc32(samples.data):08x}", reason)
            line = "\t".join(map(str, fields)).encode()
            index.write(line + b"\t" + _checksum(audio_file.name, line) + b"\n")
            index.flush()
            start += len(samples)
            bar.update()
            if bar.disable and time.monotonic() - told >= SECONDS_PER_LINE:
                log(f"decoded {done} of {len(todo)} clips")
                told = time.monotonic()


def _total_seconds(clips: list[Clip]) -> float:
    """The sum of the durations in the tables, else in the files' headers. A clip without either counts as 0."""
    unknown = [clip for clip in clips if not _declared(clip) and _packed_in(clip) is None]
    disable = True if len(unknown) <= MANY_HEADERS else None  # None: only on a terminal
    bar = tqdm(unknown, unit="clip", desc="reading headers", disable=disable)
    stated = sum(map(_declared, clips))
    return stated + sum(max(0.0, (seconds_of(clip.path) or 0.0) - (clip.start or 0.0)) for clip in bar)


def _new_shard(folder: Path) -> tuple[Path, Path]:
    """The next free pair of names, claimed by creating the audio file exclusively."""
    number = 1
    while True:
        audio = folder / f"audio-{number:04d}.i16"
        try:
            os.close(os.open(audio, os.O_CREAT | os.O_EXCL))
            return audio, folder / f"index-{number:04d}.tsv"
        except FileExistsError:
            number += 1


def _tasks(source: Source, todo: dict[str, Clip]) -> Iterator[tuple[str, str | bytes | Segment | None]]:
    """(name, path, contents or segment) of each clip; None for one that an archive or parquet file lacks."""
    if not source.is_archive:
        if any(clip.row is not None for clip in todo.values()):
            yield from parquet.recordings(todo)
            return
        for name, clip in todo.items():
            path = str(clip.path)
            yield name, path if clip.start is None else Segment(path, clip.start, clip.seconds)
        return
    inside = {str(PurePosixPath(source.prefix, name)): name for name in todo}
    for member, data in archive_members(source.path, "decoding"):
        if member in inside:
            yield inside.pop(member), data
    yield from ((name, None) for name in inside.values())


def _decode_all(tasks: Iterator, workers: int) -> Iterator[tuple[str, int, np.ndarray, str]]:
    """_decode of each task, in their order, by `workers` threads that run a few clips ahead.

    Threads are as fast as processes here, because libsndfile and torch release the interpreter's lock. They also start
    at once.
    """
    threads = torch.get_num_threads()
    pending: deque[Future] = deque()
    try:
        # Each worker gives torch one thread: with more of them the workers would wait for each other.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for name, contents in tasks:
                pending.append(pool.submit(_decode, name, contents))
                if len(pending) >= CLIPS_AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads)  # the workers' calls also changed the number for threads that start later


def _decode(name: str, source: str | bytes | Segment | None) -> tuple[str, int, np.ndarray, str]:
    """-> name, bytes of the file, int16 samples (none where unusable), reason.

    Whatever goes wrong with one clip is that clip's reason. An InputError of another kind is no fault of the clip.
    """
    if source is None:
        return name, 0, np.empty(0, np.int16), "missing from the archive"
    if isinstance(source, bytes):
        size = len(source)
    else:
        size = _file_size(Path(source.path if isinstance(source, Segment) else source))
    try:
        return name, size, _int16(source), ""
    except UnusableAudioError as error:
        reason = str(error)
    except InputError:
        raise
    except Exception as error:
        reason = f"unreadable: {reason_of(error)}"
    # The index is a table in UTF-8, and a reason can quote a file's name, which may be anything.
    return name, size, np.empty(0, np.int16), " ".join(reason.encode("utf-8", "replace").decode().split())


def _int16(source: str | bytes | Segment) -> np.ndarray:
    waveform = read_segment(source) if isinstance(source, Segment) else read_audio(source)
    peak = check_speech(waveform)
    # mp3 decoders exceed full scale. Scaling such a clip down loses nothing: normalisation removes any gain.
    waveform *= 32767 / max(1.0, peak)
    return np.rint(waveform, out=waveform).astype(np.int16)
