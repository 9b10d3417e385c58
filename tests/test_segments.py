"""Segments of long recordings: the same samples as a decode of the whole, at a small part of its cost.

Run: pytest tests/test_segments.py
"""

import threading

import numpy as np
import pytest
import soundfile

from w2v import segments
from w2v.audio import read_audio
from w2v.data.manifest import read_manifest
from w2v.data.store import build_store
from w2v.errors import UnusableAudioError
from w2v.resampling import SAMPLE_RATE, resample
from w2v.segments import Segment, read_segment

SECONDS = 30
KINDS = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}


@pytest.fixture(autouse=True)
def nothing_kept():
    segments._kept = threading.local()


def record(file, rate=SAMPLE_RATE, channels=1, subtype=None) -> None:
    """Half a minute in which no two moments are alike."""
    t = np.arange(SECONDS * rate) / rate
    waveform = 0.3 * np.sin(2 * np.pi * (200 + 20 * t) * t) + 0.02 * np.random.default_rng(0).normal(size=len(t))
    with soundfile.SoundFile(file, "w", rate, channels, subtype) as out:
        for i in range(0, len(t), rate):
            out.write(np.stack([waveform[i : i + rate]] * channels, axis=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_segments_are_slices_of_the_recording(tmp_path, kind, channels, capfd):
    file = tmp_path / f"a.{kind}"
    record(file, channels=channels, subtype=KINDS[kind])
    whole = read_audio(file)
    starts = [0.0, 0.5, 2.0, 2.1, 9.3, 28.5, 4.0, 4.0, 0.0, 20.0]  # overlaps, jumps, and steps back
    for start in starts:
        first = round(start * SAMPLE_RATE)
        got = read_segment(Segment(str(file), start, 1.25))
        np.testing.assert_allclose(got, whole[first : first + 20_000], atol=1e-6, err_msg=f"{start}")
    np.testing.assert_allclose(read_segment(Segment(str(file), 27.0)), whole[27 * SAMPLE_RATE :], atol=1e-6)
    assert segments._kept.recording.whole is None, "a decode of all of it"
    assert capfd.readouterr().err == "", "libmpg123 prints to stderr where it jumps"


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_a_segment_is_resampled_as_a_file_of_its_own(tmp_path, rate):
    file = tmp_path / "a.wav"
    record(file, rate)
    samples, _ = soundfile.read(file, dtype="float32")
    wanted = resample(samples[2 * rate : 5 * rate], rate)
    np.testing.assert_allclose(read_segment(Segment(str(file), 2.0, 3.0)), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_in_turn_cost_one_pass(tmp_path, kind, monkeypatch):
    file = tmp_path / f"a.{kind}"
    record(file, subtype=KINDS[kind])
    read = []
    blocks = segments.mono_blocks

    def counted(stream, samples):
        read.append(samples)
        return blocks(stream, samples)

    monkeypatch.setattr(segments, "mono_blocks", counted)
    monkeypatch.setattr(segments, "read_audio", lambda path: pytest.fail("a decode of all of it"))
    for i in range(100):
        assert len(read_segment(Segment(str(file), i * 0.25, 0.5))) == 8_000
    assert sum(read) <= 2 * SECONDS * SAMPLE_RATE
    assert len(segments._kept.recording.rest) <= 8_000


def test_a_segment_outside_the_recording_is_named(tmp_path):
    file = tmp_path / "a.wav"
    record(file)
    for _ in range(2):
        with pytest.raises(UnusableAudioError, match=r"^outside the recording: begins at 70\.00 s, 30\.00 s are all"):
            read_segment(Segment(str(file), 70.0, 2.0))
    assert len(read_segment(Segment(str(file), 29.0, 5.0))) == SAMPLE_RATE, "as far as it goes"
    assert len(read_segment(Segment(str(file), 29.0, 1.01))) == SAMPLE_RATE


def test_a_header_that_declares_too_little_is_not_believed(tmp_path):
    file = tmp_path / "a.flac"
    record(file)
    whole = read_audio(file)
    data = bytearray(file.read_bytes())
    for declared in (0, 5 * SAMPLE_RATE, 2**36 - 1):
        data[21:26] = (data[21] >> 4 << 36 | declared).to_bytes(5, "big")
        file.write_bytes(data)
        got = read_segment(Segment(str(file), 20.0, 1.0))
        np.testing.assert_array_equal(got, whole[20 * SAMPLE_RATE : 21 * SAMPLE_RATE])


@pytest.mark.parametrize("contents", [b"", b"not audio at all" * 50, None])
def test_a_recording_that_cannot_be_read_is_named(tmp_path, contents):
    file = tmp_path / "a.wav"
    if contents is not None:
        file.write_bytes(contents)
    with pytest.raises(UnusableAudioError, match=r"^(missing file|empty file|unreadable: )"):
        read_segment(Segment(str(file), 1.0, 1.0))


def test_a_segment_of_the_whole_is_read_with_the_checks_of_a_whole_file(tmp_path):
    file = tmp_path / "a.mp3"
    record(file, subtype="MPEG_LAYER_III")
    np.testing.assert_array_equal(read_segment(Segment(str(file), 0.0, 30.0)), read_audio(file))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UnusableAudioError, match=r"^truncated"):
        read_segment(Segment(str(file), 0.0, 30.0))


def test_the_store_holds_segments_and_tries_the_bad_ones_again(tmp_path):
    record(tmp_path / "a.wav")
    whole = read_audio(tmp_path / "a.wav")
    rows = [(20.0, 2.0), (0.0, 1.5), (29.0, 4.0), (3.5, 2.0), (70.0, 1.0)]
    lines = [f'{{"audio_filepath": "a.wav", "offset": {o}, "duration": {d}, "text": "x"}}\n' for o, d in rows]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    clips, skipped = read_manifest(tmp_path / "m.jsonl")
    assert not skipped
    assert [clip.name for clip in clips][:3] == ["a.wav#20.000-22.000", "a.wav#0.000-1.500", "a.wav#29.000-33.000"]
    audio = build_store(clips, tmp_path / "cache", 2)
    index = next((tmp_path / "cache").rglob("index-*.tsv")).read_text()
    starts = [line.split("\t")[0].split("#")[1].split("-")[0] for line in index.splitlines() if "#" in line]
    assert starts == ["0.000", "3.500", "20.000", "29.000", "70.000"], "in the order of time"
    for clip in (clips[0], clips[1], clips[3]):
        first, last = round(clip.start * SAMPLE_RATE), round((clip.start + clip.seconds) * SAMPLE_RATE)
        np.testing.assert_allclose(audio[clip] / 32767, whole[first:last], atol=1 / 32767)
    assert audio.skipped == {
        clips[2]: "truncated: 1.00 s of 4.00 s",
        clips[4]: "outside the recording: begins at 70.00 s, 30.00 s are all there is",
    }
    lines = []
    build_store(clips, tmp_path / "cache", 2, log=lines.append)
    assert lines == [], "the same recording fails in the same way"
    with soundfile.SoundFile(tmp_path / "a.wav", "r+") as file:
        file.seek(0, soundfile.SEEK_END)
        file.write(np.tile(whole, 2))
    assert build_store(clips, tmp_path / "cache", 2, log=lines.append).skipped == {}
    assert lines[0].startswith("decoding 5 clips")
