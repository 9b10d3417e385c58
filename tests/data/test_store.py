"""The decoded store: contents, damage, resumption, room.

Run: pytest tests/data/test_store.py
"""

import shutil

import numpy as np
import pytest
from conftest import SAMPLE

from w2v.audio import read_audio
from w2v.data import store
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


def test_worker_processes_give_the_same_store(table, tmp_path, monkeypatch):
    clips, _ = read_manifest(table)
    one = store.build_store(clips, tmp_path / "one", 1)
    monkeypatch.setattr(store, "SECONDS_WORTH_WORKERS", 0.0)
    monkeypatch.setattr(store, "CLIPS_PER_TASK", 2)
    two = store.build_store(clips, tmp_path / "two", 2)
    for clip in clips:
        assert (one[clip] == two[clip]).all()


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
    monkeypatch.setattr(store, "CLIPS_PER_TASK", 3)
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
    index.write_text(whole + f"{clips[6].name}\t1\t0\t999999999\t\n" + clips[7].name + "\t12")
    decoded.clear()
    monkeypatch.setattr(store, "_decode", lambda name, source: (decoded.append(name), real(name, source))[1])
    audio = store.build_store(clips, tmp_path / "cache", 1)
    assert sorted(decoded) == sorted(clip.name for clip in clips[6:])
    reference = store.build_store(clips, tmp_path / "other", 1)
    for clip in clips:
        assert (audio[clip] == reference[clip]).all()


def test_no_room_is_said_before_anything_is_written(table, tmp_path, monkeypatch):
    clips, _ = read_manifest(table)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(InputError, match=r"needs .* MB"):
        store.build_store(clips, tmp_path / "cache", 1)
    assert not list((tmp_path / "cache").rglob("*.i16"))
