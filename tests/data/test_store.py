"""The decoded store: contents, damage, resumption, room.

Run: pytest tests/data/test_store.py
"""

import contextlib
import errno
import io
import multiprocessing
import operator
import os
import pickle
import shutil
import sys
import tarfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import SAMPLE

from recipes import console
from w2v.audio import read_audio, seconds_of
from w2v.data import store
from w2v.data.corpus import read_corpus
from w2v.data.manifest import read_manifest
from w2v.errors import InputError


@pytest.fixture
def table(tmp_path):
    """Twelve real clips in a folder with a table."""
    files = sorted((SAMPLE / "clips").glob("*.mp3"))[:12]
    (tmp_path / "data").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "data")
    lines = "".join(f"{file.name}\tsentence\n" for file in files)
    (tmp_path / "data" / "m.tsv").write_text("path\tsentence\n" + lines)
    return tmp_path / "data" / "m.tsv"


def test_store_holds_the_decoded_clips_and_little_else(table, tmp_path):
    clips, _ = read_manifest(table)
    lines = []
    audio = store.build_store(clips, tmp_path / "cache", 1, log=lines.append)
    seconds = 0.0
    for clip in clips:
        wanted = read_audio(clip.source.file(clip.name))
        np.testing.assert_allclose(audio[clip] / 32767, wanted / max(1, np.abs(wanted).max()), atol=1 / 32767)
        seconds += audio.seconds(clip)
    written = sum(f.stat().st_size for f in (tmp_path / "cache").rglob("*") if f.is_file())
    assert written <= 32_500 * seconds
    assert "MB" in lines[0]
    assert store.build_store(clips, tmp_path / "cache", 1, log=lines.append)[clips[0]] is not None
    assert len(lines) == 1, "a complete store is not built again"


def test_clip_beyond_full_scale_is_scaled_and_not_wrapped():
    waveform = 1.5 * np.sin(np.arange(16_000, dtype=np.float32) / 20)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16_000, format="WAV", subtype="FLOAT")
    samples = store._decode("a.wav", buffer.getvalue())[2]
    np.testing.assert_allclose(samples, waveform * 32767 / np.abs(waveform).max(), atol=0.51)


def test_every_line_is_on_disk_after_its_samples_and_before_the_next_clip(table, tmp_path, monkeypatch):
    """What a killed build leaves is all it has done."""
    clips, _ = read_manifest(table)

    def decode_all(tasks, workers):
        total = 0
        for done, task in enumerate(tasks):
            index, audio = (next((tmp_path / "cache").rglob(name)) for name in ("index-*.tsv", "*.i16"))
            assert len(index.read_text().splitlines()) == done
            assert audio.stat().st_size == 2 * total
            total += 100  # few samples, which a buffer might hold back
            yield (*store._decode(*task)[:2], np.ones(100, np.int16), "")

    monkeypatch.setattr(store, "_decode_all", decode_all)
    store.build_store(clips, tmp_path / "cache", 1)


def test_several_workers_give_the_same_store(table, tmp_path):
    clips, _ = read_manifest(table)
    store.build_store(clips, tmp_path / "one", 1)
    store.build_store(clips, tmp_path / "four", 4)
    for pattern in ("*.i16", "index-*.tsv"):
        one, four = (next((tmp_path / name).rglob(pattern)) for name in ("one", "four"))
        assert one.read_bytes() == four.read_bytes()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_workers_have_one_thread_each_and_torch_has_its_own_back(monkeypatch, error):
    threads = []

    def decode(name, contents):
        torch.zeros(300, 300) @ torch.zeros(300, 300)
        threads.append(torch.get_num_threads())
        if error:
            raise error

    monkeypatch.setattr(store, "_decode", decode)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(error) if error else contextlib.nullcontext():
            list(store._decode_all(((str(i), None) for i in range(20)), 2))
        assert set(threads) == {1}
        assert torch.get_num_threads() == 3
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)


def test_workers_run_only_a_few_clips_ahead(monkeypatch):
    """An archive's clips are held in memory while they wait."""
    monkeypatch.setattr(store, "_decode", lambda name, contents: name)
    asked = []
    tasks = ((asked.append(i) or i, None) for i in range(1000))
    results = store._decode_all(tasks, 2)
    for done in range(100):
        assert next(results) == done, "in the order of the tasks"
        assert len(asked) <= done + 2 * store.CLIPS_AHEAD
    results.close()


def test_bad_clips_are_named_and_the_rest_goes_on(table, tmp_path):
    folder = table.parent
    files = sorted(folder.glob("*.mp3"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:3000])
    files[2].unlink()
    clips, _ = read_manifest(table)
    audio = store.build_store(clips, tmp_path / "cache", 1)
    reasons = {clip.name: reason for clip, reason in audio.skipped.items()}
    assert reasons[files[0].name] == "empty file"
    assert reasons[files[1].name].startswith("truncated")
    assert reasons[files[2].name] == "missing file"
    assert len(reasons) == 3
    # A mended file is tried again; the others are remembered.
    shutil.copy(SAMPLE / "clips" / files[0].name, files[0])
    assert len(store.build_store(clips, tmp_path / "cache", 1).skipped) == 2


def test_interrupted_build_is_resumed_from_what_is_whole(table, tmp_path, monkeypatch):
    clips, _ = read_manifest(table)
    decoded = []
    real = store._decode

    def decode(name, source):
        decoded.append(name)
        if len(decoded) == 8:
            raise KeyboardInterrupt
        return real(name, source)

    monkeypatch.setattr(store, "_decode", decode)
    with pytest.raises(KeyboardInterrupt):
        store.build_store(clips, tmp_path / "cache", 1)
    # As a crash may leave them: a line cut in the middle, and one whose samples never reached the disk.
    index = next((tmp_path / "cache").rglob("index-*.tsv"))
    whole = index.read_text()
    assert len(whole.splitlines()) == 7
    line = f"{clips[7].name}\t1\t0\t999999999\t".encode()
    checksum = store._checksum(index.name.replace("index-", "audio-").replace(".tsv", ".i16"), line)
    index.write_bytes(whole.encode() + line + b"\t" + checksum + b"\n" + clips[8].name.encode() + b"\t12")
    decoded.clear()
    monkeypatch.setattr(store, "_decode", lambda name, source: (decoded.append(name), real(name, source))[1])
    audio = store.build_store(clips, tmp_path / "cache", 1)
    assert sorted(decoded) == sorted(clip.name for clip in clips[7:])
    reference = store.build_store(clips, tmp_path / "other", 1)
    for clip in clips:
        assert (audio[clip] == reference[clip]).all()


def test_line_cut_inside_a_letter_is_no_line(table, tmp_path):
    clips, _ = read_manifest(table)
    store.build_store(clips, tmp_path / "cache", 1)
    index = next((tmp_path / "cache").rglob("index-*.tsv"))
    index.write_bytes(index.read_bytes() + "cümle".encode()[:2])
    assert len(store.build_store(clips, tmp_path / "cache", 1).skipped) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[0] + lines[1], *lines[2:]],  # joined
        lambda lines: [lines[0][:-12], *lines[1:]],
        lambda lines: ["\t".join([lines[0].split("\t")[0], *lines[1].split("\t")[1:]]), *lines[1:]],  # another's audio
        lambda lines: [lines[0].replace("\t0\t", "\t16\t"), *lines[1:]],
        lambda lines: ["\udcff" + lines[0], *lines[1:]],
        lambda lines: [lines[0].rpartition("\t")[0], *lines[1:]],
    ],
)
def test_damaged_line_costs_its_clip_one_more_decoding(table, tmp_path, monkeypatch, damage):
    clips, _ = read_manifest(table)
    right = store.build_store(clips, tmp_path / "other", 1)
    store.build_store(clips, tmp_path / "cache", 1)
    index = next((tmp_path / "cache").rglob("index-*.tsv"))
    lines = damage(index.read_text().splitlines())
    index.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    decoded, real = [], store._decode
    monkeypatch.setattr(store, "_decode", lambda name, source: (decoded.append(name), real(name, source))[1])
    audio = store.build_store(clips, tmp_path / "cache", 1)
    assert decoded[0] == clips[0].name and len(decoded) <= 2
    for clip in clips:
        assert (audio[clip] == right[clip]).all()


def test_line_of_another_shard_counts_for_nothing(table, tmp_path):
    """Such as a folder that was put together from two caches leaves."""
    clips, _ = read_manifest(table)
    store.build_store(clips[3:6], tmp_path / "cache", 1)
    store.build_store(clips[:6], tmp_path / "cache", 1)
    first, second = sorted((tmp_path / "cache").rglob("index-*.tsv"))
    second.write_bytes(first.read_bytes())
    right = store.build_store(clips[:6], tmp_path / "other", 1)
    audio = store.build_store(clips[:6], tmp_path / "cache", 1)
    assert all((audio[clip] == right[clip]).all() for clip in clips[:6])


def test_pickled_audio_holds_no_samples(table, tmp_path, monkeypatch):
    clips, _ = read_manifest(table)
    monkeypatch.chdir(tmp_path)
    audio = store.build_store(clips, Path("cache"), 1)
    pickled = pickle.dumps(audio)
    assert len(pickled) < sum(audio[clip].nbytes for clip in clips) / 100
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    for clip in clips:
        np.testing.assert_array_equal(again[clip], audio[clip])


def test_unpickled_audio_is_as_it_was_when_opened(table, tmp_path):
    """Another run may have added to the store in between."""
    clips, _ = read_manifest(table)
    few = store.build_store(clips[:6], tmp_path / "cache", 1)
    pickled = pickle.dumps(few)
    shutil.copy(SAMPLE / "clips" / clips[7].name, clips[0].source.file(clips[0].name))
    changed = store.build_store(clips, tmp_path / "cache", 1)
    assert changed.samples(clips[0]) != few.samples(clips[0])
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again[clips[0]], few[clips[0]])
    with pytest.raises(KeyError):
        again[clips[11]]


@pytest.mark.slow
def test_audio_is_read_in_a_process_that_was_spawned(table, tmp_path):
    clips, _ = read_manifest(table)
    audio = store.build_store(clips, tmp_path / "cache", 1)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        theirs = process.submit(operator.getitem, audio, clips[3]).result(timeout=120)
    np.testing.assert_array_equal(theirs, audio[clips[3]])


def test_no_room_is_said_before_anything_is_written(table, tmp_path, monkeypatch):
    clips, _ = read_manifest(table)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(InputError, match=r"needs .* MB"):
        store.build_store(clips, tmp_path / "cache", 1)
    assert not list((tmp_path / "cache").rglob("*.i16"))


@pytest.fixture
def release(tmp_path):
    """A locale folder of six real clips whose tables promise two that are not there."""
    root = tmp_path / "cv" / "tr"
    (root / "clips").mkdir(parents=True)
    files = sorted((SAMPLE / "clips").glob("*.mp3"))[:6]
    for file in files[2:]:
        shutil.copy(file, root / "clips")
    names = [file.name for file in files]
    (root / "train.tsv").write_text("path\tsentence\n" + "".join(f"{name}\tBir\n" for name in names))
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\n" + "".join(f"{name}\t\n" for name in names))
    return root


def pack(root, archive):
    with tarfile.open(archive, "w") as tar:
        tar.add(root.parent, arcname="cv")
    return archive


def skipped(data, tmp_path) -> list[str]:
    clips = read_corpus([data], "tr", tmp_path / "cache").tables["train"]
    return sorted(store.build_store(clips, tmp_path / "cache", 1).skipped.values())


def test_mended_archive_is_tried_again(release, tmp_path, monkeypatch):
    archive = tmp_path / "tr.tar"
    bad = sorted((SAMPLE / "clips").glob("*.mp3"))[2]
    good = bad.read_bytes()
    (release / "clips" / bad.name).write_bytes(b"\0" * len(good))
    pack(release, archive)
    first = skipped(archive, tmp_path)
    assert first[:2] == ["missing from the archive"] * 2
    assert len(first) == 3
    with monkeypatch.context() as patch:
        patch.setattr(store, "_build", lambda *_: pytest.fail("the same archive fails in the same way"))
        assert skipped(archive, tmp_path) == first
    (release / "clips" / bad.name).write_bytes(good)
    size = archive.stat().st_size
    os.utime(pack(release, archive), ns=(10**18, 10**18))  # clocks may be coarse, and the size is no help
    assert archive.stat().st_size == size
    assert skipped(archive, tmp_path) == ["missing from the archive"] * 2
    for file in sorted((SAMPLE / "clips").glob("*.mp3"))[:2]:
        shutil.copy(file, release / "clips")
    assert skipped(pack(release, archive), tmp_path) == []


def test_failures_of_a_folder_and_of_an_archive_are_not_each_others(release, tmp_path):
    partial = pack(release, tmp_path / "partial.tar")
    assert skipped(release, tmp_path) == ["missing file"] * 2
    assert skipped(partial, tmp_path) == ["missing from the archive"] * 2
    assert skipped(release, tmp_path) == ["missing file"] * 2
    for file in sorted((SAMPLE / "clips").glob("*.mp3"))[:2]:
        shutil.copy(file, release / "clips")
    whole = pack(release, tmp_path / "whole.tar")
    shutil.rmtree(release / "clips")
    assert skipped(whole, tmp_path) == []


def test_clip_too_short_for_its_duration_is_tried_again_too(release, tmp_path):
    """It decodes without complaint: only the durations table says that audio is missing."""
    short, *_, long = sorted((SAMPLE / "clips").glob("*.mp3"), key=seconds_of)
    (release / "train.tsv").write_text("path\tsentence\na.mp3\tBir\n")
    (release / "clip_durations.tsv").write_text(f"clip\tduration[ms]\na.mp3\t{seconds_of(long) * 1000}\n")
    shutil.copy(short, release / "clips" / "a.mp3")
    archive = pack(release, tmp_path / "tr.tar")
    assert skipped(archive, tmp_path)[0].startswith("truncated")
    shutil.copy(long, release / "clips" / "a.mp3")
    assert skipped(pack(release, archive), tmp_path) == []


def test_progress_over_many_headers_on_a_terminal(table, tmp_path, monkeypatch, capsys):
    clips, _ = read_manifest(table)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    store.build_store(clips, tmp_path / "few", 1)
    assert "reading headers" not in capsys.readouterr().err
    monkeypatch.setattr(store, "MANY_HEADERS", 11)
    lines = []
    store.build_store(clips, tmp_path / "many", 1, log=lines.append)
    assert "reading headers: 100%" in capsys.readouterr().err
    assert "0.00 h" not in lines[0]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("out\tof\norder \udcff"), ZeroDivisionError(), KeyError("x")]
)
def test_whatever_goes_wrong_with_one_clip_is_its_reason(table, tmp_path, monkeypatch, error):
    clips, _ = read_manifest(table)
    real = store.read_audio

    def read(source):
        if str(source).endswith(clips[2].name):
            raise error
        return real(source)

    monkeypatch.setattr(store, "read_audio", read)
    for _ in range(2):  # the second time from the index
        audio = store.build_store(clips, tmp_path / "cache", 2)
        assert list(audio.skipped) == [clips[2]]
        reason = {MemoryError: "not enough memory", RuntimeError: "out of order ?", KeyError: "'x'"}
        assert audio.skipped[clips[2]] == f"unreadable: {reason.get(type(error), 'ZeroDivisionError')}"
    assert audio.samples(clips[3]) > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_decoding_stays_one(table, tmp_path, monkeypatch, error):
    clips, _ = read_manifest(table)

    def stop(source):
        raise error

    monkeypatch.setattr(store, "read_audio", stop)
    with pytest.raises(error):
        store.build_store(clips, tmp_path / "cache", 2)


def test_what_is_no_fault_of_a_clip_ends_the_build(table, tmp_path, monkeypatch):
    """Else a thousand good clips would be remembered as bad ones."""
    clips, _ = read_manifest(table)

    def refuse(source):
        raise InputError("cannot read a.mp3: Too many open files; raise the limit, `ulimit -n`")

    with monkeypatch.context() as patch:
        patch.setattr(store, "read_audio", refuse)
        with pytest.raises(InputError, match="Too many open files"):
            store.build_store(clips, tmp_path / "cache", 2)
    assert store.build_store(clips, tmp_path / "cache", 1).skipped == {}


def test_error_of_writing_the_store_stays_an_error(table, tmp_path, monkeypatch):
    clips, _ = read_manifest(table)

    class FullDisk(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "builtins.open",
        lambda file, *args, real=open, **more: (
            FullDisk(file, "w") if str(file).endswith(".i16") and args == ("wb",) else real(file, *args, **more)
        ),
    )
    with pytest.raises(OSError, match="No space left"):
        store.build_store(clips, tmp_path / "cache", 1)


def test_headers_and_tables_with_absurd_lengths_are_not_believed(tmp_path):
    """A flac whose header declares 2^36 - 1 samples, and durations that no clip has."""
    (tmp_path / "data").mkdir()
    lines = []
    for i, (declared, seconds) in enumerate([(0, ""), (2**36 - 1, ""), (24_000, "1e300"), (24_000, "1e9"), (0, "1.5")]):
        file = tmp_path / "data" / f"{i}.flac"
        soundfile.write(file, 0.3 * np.sin(np.arange(24_000) / 8), 16_000)
        data = bytearray(file.read_bytes())
        data[21:26] = (data[21] >> 4 << 36 | declared).to_bytes(5, "big")
        file.write_bytes(data)
        lines.append(f"{file.name}\tsentence\t{seconds}\n")
    (tmp_path / "data" / "m.tsv").write_text("path\tsentence\tduration\n" + "".join(lines))
    clips, _ = read_manifest(tmp_path / "data" / "m.tsv")
    log: list[str] = []
    audio = store.build_store(clips, tmp_path / "cache", 1, log=log.append)
    assert audio.skipped == {}
    assert [audio.samples(clip) for clip in clips] == [24_000] * 5
    assert "decoding 5 clips, 0.00 h, into a 16 kHz store of 0 MB" in log[0]


def flip_a_sample(cache: Path, audio, clip) -> None:
    """Another bit in the middle of what the store holds of a clip."""
    shard = next(cache.rglob("audio-0001.i16"))
    entry = audio._entry(clip)
    with open(shard, "rb+") as file:
        file.seek(2 * (entry.start + entry.samples // 2))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


def test_damaged_samples_are_found_when_they_are_first_read_and_decoded_again(table, tmp_path):
    clips, _ = read_manifest(table)
    right = store.build_store(clips, tmp_path / "other", 1)
    flip_a_sample(tmp_path / "cache", store.build_store(clips, tmp_path / "cache", 1), clips[3])
    lines = []
    audio = store.build_store(clips, tmp_path / "cache", 1, log=lines.append)
    assert lines == [], "nothing is read before it is needed"
    for clip in clips:
        np.testing.assert_array_equal(audio[clip], right[clip])
    assert len(lines) == 1 and f"holds damaged samples of '{clips[3].name}': the clip is decoded again" in lines[0]
    again = store.build_store(clips, tmp_path / "cache", 1, log=lines.append)
    np.testing.assert_array_equal(again[clips[3]], right[clips[3]])
    assert len(lines) == 1, "it is mended for good"


@pytest.mark.slow
def test_a_process_that_reads_mends_too(table, tmp_path, capfd):
    """Loader processes read the clips of training."""
    clips, _ = read_manifest(table)
    right = store.build_store(clips, tmp_path / "other", 1)
    flip_a_sample(tmp_path / "cache", store.build_store(clips, tmp_path / "cache", 1), clips[3])
    audio = store.build_store(clips, tmp_path / "cache", 1, log=console.say)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        got = pool.submit(operator.getitem, audio, clips[3]).result()
    np.testing.assert_array_equal(got, right[clips[3]])
    assert "damaged samples" in capfd.readouterr().err


def test_a_damaged_clip_is_decoded_again_once_for_all_that_read_it(table, tmp_path):
    """Each epoch has loader processes of its own, which know the store as it was."""
    clips, _ = read_manifest(table)
    right = store.build_store(clips, tmp_path / "other", 1)
    flip_a_sample(tmp_path / "cache", store.build_store(clips, tmp_path / "cache", 1), clips[3])
    lines = []
    readers = [store.build_store(clips, tmp_path / "cache", 1, log=lines.append) for _ in range(3)]
    for audio in readers:
        np.testing.assert_array_equal(audio[clips[3]], right[clips[3]])
    assert len(lines) == 1 and len(list((tmp_path / "cache").rglob("*.i16"))) == 2


@pytest.mark.parametrize("now", ["gone", "shorter"])
def test_damaged_samples_of_a_clip_that_cannot_be_decoded_again_are_refused(table, tmp_path, now):
    clips, _ = read_manifest(table)
    flip_a_sample(tmp_path / "cache", store.build_store(clips, tmp_path / "cache", 1), clips[3])
    audio = store.build_store(clips, tmp_path / "cache", 1)
    if now == "gone":
        clips[3].path.unlink()
    else:
        shutil.copy(clips[0].path, clips[3].path)
    with pytest.raises(InputError, match=r"decoding it again gives .*; restore"):
        audio[clips[3]]


def test_clips_that_the_store_holds_are_not_needed_as_files(table, tmp_path):
    clips, _ = read_manifest(table)
    right = store.build_store(clips, tmp_path / "other", 1)
    store.build_store(clips[:8], tmp_path / "cache", 1)
    for clip in clips[4:]:
        clip.path.unlink()
    lines = []
    audio = store.build_store(clips, tmp_path / "cache", 1, log=lines.append)
    assert "4 clips are gone as files, and taken from the decoded store" in lines[0]
    for clip in clips[:8]:
        np.testing.assert_array_equal(audio[clip], right[clip])
    assert set(audio.skipped) == set(clips[8:]), "the store does not hold these"


def test_one_process_at_a_time_adds_to_a_store(table, tmp_path, monkeypatch):
    """The second waits for the first, says so, and decodes nothing that is there then."""
    clips, _ = read_manifest(table)
    decoded, real, begun, waits, lines = [], store._decode, threading.Event(), threading.Event(), []

    def decode(name, source):
        decoded.append(name)
        begun.set()
        assert waits.wait(60)
        return real(name, source)

    def told(line):
        lines.append(line)
        if "waiting" in line:
            waits.set()

    monkeypatch.setattr(store, "_decode", decode)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.build_store, clips, tmp_path / "cache", 1)
        assert begun.wait(60)
        second = pool.submit(store.build_store, clips, tmp_path / "cache", 1, told)
        one, two = first.result(), second.result()
    assert sorted(decoded) == sorted(clip.name for clip in clips), "each once"
    assert len(lines) == 1 and "another process adds to the decoded store" in lines[0]
    for clip in clips:
        np.testing.assert_array_equal(one[clip], two[clip])


def test_half_a_sample_at_the_end_of_a_shard_is_no_harm(table, tmp_path):
    """What a power cut or a full disk can leave of a build."""
    clips, _ = read_manifest(table)
    right = store.build_store(clips, tmp_path / "other", 1)
    store.build_store(clips[:6], tmp_path / "cache", 1)
    with open(next((tmp_path / "cache").rglob("*.i16")), "ab") as file:
        file.write(b"x")
    audio = store.build_store(clips, tmp_path / "cache", 1)
    assert all((audio[clip] == right[clip]).all() for clip in clips)
