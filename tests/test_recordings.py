"""Recordings as blocks: what read_audio gives, in bounded memory; what only ffmpeg reads.

Run: pytest tests/test_recordings.py
"""

import os
import stat
import sys

import numpy as np
import pytest
import soundfile

from w2v.audio import SAMPLE_RATE, read_audio
from w2v.data.manifest import Clip, Source
from w2v.data.store import build_store
from w2v.errors import UnusableAudioError
from w2v.recordings import read_blocks


@pytest.fixture(scope="module")
def speech(clips) -> np.ndarray:
    """70 s at 44.1 kHz, two channels."""
    mono = np.concatenate([soundfile.read(clip, dtype="float32")[0] for clip in clips[:30]])[: 70 * 44_100]
    return np.stack([mono, mono[::-1]], axis=1)


def in_16_bits(waveform: np.ndarray) -> np.ndarray:
    return np.rint(32767 * waveform) / np.float32(32768)


def write(file, waveform: np.ndarray) -> None:
    with soundfile.SoundFile(file, "w", 44_100, waveform.shape[1]) as out:
        for i in range(0, len(waveform), 44_100):  # libsndfile writes no more of an ogg at once
            out.write(waveform[i : i + 44_100])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_blocks_end_to_end_are_what_read_audio_gives_in_16_bits(tmp_path, speech, name):
    write(tmp_path / name, speech)
    blocks = list(read_blocks(tmp_path / name))
    assert max(map(len, blocks)) <= 60 * SAMPLE_RATE
    np.testing.assert_array_equal(np.concatenate(blocks), in_16_bits(read_audio(tmp_path / name)))


def test_a_file_is_heard_as_the_store_holds_it(tmp_path, clips):
    """Or a model that learned from the store would hear something else in silence."""
    made = [Clip(clip.name, "", "", Source(clip.parent, "f")) for clip in clips[:8]]
    audio = build_store(made, tmp_path, 1)
    for clip, file in zip(made, clips, strict=False):
        block = np.concatenate(list(read_blocks(file)))
        np.testing.assert_array_equal(block, audio[clip] / np.float32(32768))
        assert block.dtype == np.float32


def test_a_flac_with_a_tag_behind_its_last_frame_loses_nothing(tmp_path, speech):
    soundfile.write(tmp_path / "a.flac", speech, 44_100)
    whole = read_audio(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes() + b"TAG" + bytes(125))
    blocks = np.concatenate(list(read_blocks(tmp_path / "a.flac")))
    np.testing.assert_array_equal(blocks, in_16_bits(whole))


def test_a_recording_that_is_cut_short_says_so_at_its_end(tmp_path, speech):
    soundfile.write(tmp_path / "a.wav", speech, 44_100)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) * 2 // 3])
    blocks = read_blocks(tmp_path / "a.wav")
    assert len(next(blocks)) > 46 * SAMPLE_RATE
    with pytest.raises(UnusableAudioError, match=r"^truncated after 46\.67 s$"):
        list(blocks)


@pytest.mark.parametrize("name", ["empty.wav", "text.wav", "missing.wav", "folder", "text.m4a"])
def test_what_cannot_be_read_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))  # no ffmpeg
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder").mkdir()
    for file in ("text.wav", "text.m4a"):
        (tmp_path / file).write_text("this is no audio")
    why = {
        "empty.wav": "empty file",
        "text.wav": "unreadable: Format not recognised",
        "missing.wav": "missing file",
        "folder": "unreadable: Is a directory",
        "text.m4a": "unreadable: Format not recognised; ffmpeg reads .m4a files, install it",
    }
    with pytest.raises(UnusableAudioError) as found:
        list(read_blocks(tmp_path / name))
    assert str(found.value) == why[name]


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program of that name. It notes how it was called and does what the text says."""

    def install(does: str) -> None:
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        called = f"open({str(tmp_path / 'called')!r}, 'w').write(chr(10).join(sys.argv))"
        program.write_text(f"#!{sys.executable}\nimport sys, time\n{called}\n{does}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return install


@pytest.mark.skipif(os.name == "nt", reason="the made-up program is a script")
def test_ffmpeg_reads_what_libsndfile_cannot(tmp_path, ffmpeg):
    ffmpeg("sys.stdout.buffer.write(b'\\x00\\x40' * (100 * 16000) + b'\\x01')")  # an odd byte at the end
    file = tmp_path / "-a.m4a"
    file.write_bytes(b"....ftypM4A ")
    blocks = list(read_blocks(file))
    assert [len(block) for block in blocks] == [60 * SAMPLE_RATE, 40 * SAMPLE_RATE]
    assert all((block == 0.5).all() for block in blocks)
    called = (tmp_path / "called").read_text().split("\n")
    assert called[called.index("-i") + 1] == f"file:{file}"  # never a flag, nor an address
    assert called[called.index("-protocol_whitelist") + 1] == "file"
    assert "hls" not in called[called.index("-format_whitelist") + 1]


@pytest.mark.skipif(os.name == "nt", reason="the made-up program is a script")
def test_what_ffmpeg_cannot_read_either_is_named(tmp_path, ffmpeg):
    ffmpeg("sys.stderr.write('[mov] moov atom not found\\na.m4a: Invalid data found'); sys.exit(1)")
    (tmp_path / "a.m4a").write_bytes(b"....ftypM4A ")
    with pytest.raises(UnusableAudioError, match=r"^unreadable: Format not recognised; ffmpeg: Invalid data found$"):
        list(read_blocks(tmp_path / "a.m4a"))


@pytest.mark.skipif(os.name == "nt", reason="the made-up program is a script")
def test_ffmpeg_ends_where_nobody_reads_on(tmp_path, ffmpeg):
    ffmpeg("sys.stdout.buffer.write(bytes(4_000_000)); sys.stdout.flush(); time.sleep(600)")
    (tmp_path / "a.m4a").write_bytes(b"....ftypM4A ")
    blocks = read_blocks(tmp_path / "a.m4a")
    next(blocks)
    blocks.close()  # waits for the program's end
