"""Reading audio: formats, rates, channels, damage.

Run: pytest tests/test_audio.py
"""

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from transformers import Wav2Vec2FeatureExtractor

from w2v import audio
from w2v.audio import SAMPLE_RATE, UnusableAudioError, check_speech, normalise, read_audio, seconds_of
from w2v.errors import InputError
from w2v.recordings import read_blocks
from w2v.segments import Segment, read_segment


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def encoded(waveform, rate, kind, subtype=None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_format_and_rate_gives_the_same_tone_at_16_khz(kind, rate):
    waveform = read_audio(encoded(tone(rate), rate, kind))
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - SAMPLE_RATE) <= 0.1 * SAMPLE_RATE  # mp3 and ogg pad
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    assert abs(spectrum.argmax() * SAMPLE_RATE / len(waveform) - 440) < 5
    assert 0.4 < np.abs(waveform[2000:-2000]).max() < 0.6


def test_channels_are_averaged():
    left = tone(16_000)
    stereo = np.stack([left, -left / 2], axis=1)
    np.testing.assert_allclose(read_audio(encoded(stereo, 16_000, "WAV", "FLOAT")), left / 4, atol=1e-6)


def test_real_clip_has_its_duration(clips):
    waveform = read_audio(clips[0])
    assert abs(len(waveform) / SAMPLE_RATE - seconds_of(clips[0])) < 0.1


def test_normalisation_equals_transformers(clips):
    waveform = read_audio(clips[3])
    wanted = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(normalise(waveform), wanted, atol=1e-5)
    assert abs(normalise(waveform).std() - 1) < 1e-3


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (1.0, 0.5), (1e-3, 0.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_normalisation_of_offset_and_quiet_clips_equals_transformers(clips, gain, offset, dtype):
    waveform = read_audio(clips[3]) / 2 * gain + np.float32(offset)
    if dtype == np.int16:
        waveform = np.rint(waveform * 32767).astype(np.int16)
    scaled = waveform / np.float32(32768) if dtype == np.int16 else waveform
    wanted = Wav2Vec2FeatureExtractor(do_normalize=True)(scaled, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(normalise(waveform), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_normalisation_writes_where_it_is_told_and_nowhere_else(dtype):
    waveform = (1000 * tone(16_000)).astype(dtype)
    before, buffer = waveform.copy(), np.full(16_010, 7, np.float32)
    out = buffer[5:-5]
    assert normalise(waveform, out) is out
    np.testing.assert_array_equal(out, normalise(waveform))
    assert set(buffer[:5]) | set(buffer[-5:]) == {7}
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x80"])
def test_wav_from_a_pipe_is_whole(size):
    """ffmpeg and sox write sizes they cannot know yet; off-by-a-header RIFF sizes are as common."""
    data = encoded(tone(16_000), 16_000, "WAV")
    at = data.index(b"data") + 4
    assert len(read_audio(data[:4] + size + data[8:at] + size + data[at + 4 :])) == 16_000
    assert len(read_audio(data[:4] + len(data).to_bytes(4, "little") + data[8:])) == 16_000


def test_headerless_file_is_refused_not_fatal(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(UnusableAudioError, match="unreadable"):
        read_audio(tmp_path / "a.raw")
    assert seconds_of(tmp_path / "a.raw") is None


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cut_files_are_reported(kind, share):
    data = encoded(np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32), 16_000, kind)
    with pytest.raises(UnusableAudioError, match=r"truncated|unreadable"):
        read_audio(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"not audio at all" * 50, "unreadable"), (b"RIFF", "unreadable")]
)
def test_unreadable_files_say_why(tmp_path, data, reason):
    file = tmp_path / "a.mp3"
    file.write_bytes(data)
    with pytest.raises(UnusableAudioError, match=reason):
        read_audio(file)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("out of order"), AssertionError(), OverflowError("big")])
def test_whatever_a_decoder_raises_is_the_files_reason(clips, monkeypatch, error):
    def read(*args, **kwargs):
        raise error

    monkeypatch.setattr(audio._Stream, "read", read)
    reason = "not enough memory" if isinstance(error, MemoryError) else str(error) or "AssertionError"
    with pytest.raises(UnusableAudioError, match=f"^unreadable: {reason}$"):
        read_audio(clips[0])


@pytest.mark.parametrize("offset", [-1, 2**70])
def test_damaged_header_prints_no_traceback(offset):
    """soundfile calls this from C, where an exception is printed and ignored."""
    source = audio._Bytes(b"abc")
    source.seek(2)
    assert source.seek(offset) == 2
    assert isinstance(audio.open_stream(encoded(tone(16_000), 16_000, "WAV")).name, audio._Bytes)


def test_reason_does_not_name_the_file(tmp_path):
    """It stands beside the name in skipped.tsv, and a name may hold anything."""
    file = tmp_path / "a\tb.mp3"
    file.write_bytes(b"not audio at all" * 50)
    with pytest.raises(UnusableAudioError, match=r"^unreadable: [^/\t]*$"):
        read_audio(file)


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "WAV"])
@pytest.mark.parametrize("channels", [1, 2])
def test_long_files_are_read_in_blocks(kind, channels, monkeypatch):
    waveform = np.random.default_rng(0).normal(0, 0.1, (8_000 * 7 + 123, channels)).astype(np.float32)
    data = encoded(waveform, 8_000, kind)
    whole = read_audio(data)
    sizes = []
    mono_blocks = audio.mono_blocks
    monkeypatch.setattr(audio, "mono_blocks", lambda file: (sizes.append(len(b)) or b for b in mono_blocks(file)))
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 2)
    np.testing.assert_allclose(read_audio(data), whole, rtol=0, atol=1e-6)
    assert len(sizes) >= 4
    assert max(sizes) == 16_000


def test_blocks_are_shorter_where_there_are_many_channels(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_NUMBERS", 24 * 8_000)
    waveform = np.random.default_rng(0).normal(0, 0.1, (80_000, 8)).astype(np.float32)
    with audio.open_stream(encoded(waveform, 8_000, "WAV", "FLOAT")) as file:
        blocks = list(audio.mono_blocks(file))
    assert {len(block) for block in blocks} == {24_000, 8_000}
    np.testing.assert_allclose(np.concatenate(blocks), waveform.mean(axis=1), atol=1e-6)


def test_clip_of_many_hours_is_refused_before_it_is_all_read(monkeypatch):
    """A megabyte of flac can hold a week of silence."""
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 1200)
    data = encoded(np.zeros(4_000 * 3 * 3600, np.int16), 4_000, "FLAC")
    assert len(data) < 1_000_000
    with pytest.raises(UnusableAudioError, match=r"^longer than 2 hours$"):
        read_audio(data)


def test_huge_file_is_refused_unread(tmp_path):
    file = tmp_path / "a.wav"
    with file.open("wb") as sparse:
        sparse.truncate(audio.LARGEST_BYTES + 1)
    with pytest.raises(UnusableAudioError, match=r"^larger than 1 GiB$"):
        read_audio(file)


def test_too_many_open_files_are_no_fault_of_a_clip(clips, monkeypatch):
    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(audio, "open_file", refuse)
    with pytest.raises(InputError, match="Too many open files; raise the limit, `ulimit -n`") as caught:
        read_audio(clips[0])
    assert not isinstance(caught.value, UnusableAudioError)


@pytest.mark.parametrize("rate", [1_000, 3_999, 400_001])
def test_rate_outside_4_to_400_khz_is_named(rate):
    with pytest.raises(UnusableAudioError, match=f"^the sample rate must be .* from 4000 to 400000 Hz, got {rate}$"):
        read_audio(encoded(tone(16_000), rate, "WAV"))


@pytest.mark.parametrize("rate", [4_000, 16_001, 44_101, 400_000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_unusual_rates_are_read(kind, rate):
    waveform = read_audio(encoded(tone(rate), rate, kind))
    assert len(waveform) == SAMPLE_RATE
    np.testing.assert_allclose(waveform[200:-200], tone(SAMPLE_RATE)[200:-200], atol=2e-3)


def test_missing_file():
    with pytest.raises(UnusableAudioError, match="missing"):
        read_audio("nowhere.mp3")


def test_silence_is_refused_and_quiet_speech_is_not(clips):
    with pytest.raises(UnusableAudioError, match="silent"):
        check_speech(np.zeros(16_000, np.float32))
    with pytest.raises(UnusableAudioError, match="finite"):
        check_speech(np.full(10, np.nan, np.float32))
    with pytest.raises(UnusableAudioError, match=r"^samples are out of range$"):
        check_speech(np.full(10, 1e34, np.float32))
    assert check_speech(np.full(10, -(2.0**31), np.float32)) == 2.0**31, "floats that are scaled as integers are"
    nearly_silent = next(clip for clip in clips if "21135297" in clip.name)
    waveform = read_audio(nearly_silent)
    assert check_speech(waveform) == np.abs(waveform).max()


def test_torchaudio_of_another_release_names_the_pair(tmp_path):
    (tmp_path / "torchaudio.py").write_text("raise OSError('undefined symbol: x')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import w2v"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert 'install the pair: pip install "torch==2.11.*" "torchaudio==2.11.*"' in last
    assert "undefined symbol" in last


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)])
@pytest.mark.parametrize("junk", [bytes(300), b"some junk \xff\xfb here " * 40])
def test_junk_before_an_mp3_s_first_frame_is_passed_whatever_the_file_is_called(tmp_path, capfd, tag, junk):
    """libsndfile passes it in files called .mp3, and in no archive; libmpg123 prints lines about it."""
    clean = encoded(tone(16_000), 16_000, "MP3")
    wanted, data = read_audio(clean), tag + junk + clean
    np.testing.assert_array_equal(read_audio(data), wanted)
    for name in ("a.mp3", "a.MP3", "a.bin"):
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_audio(tmp_path / name), wanted)
        blocks = np.concatenate(list(read_blocks(tmp_path / name)))
        np.testing.assert_array_equal(blocks, np.rint(32767 * wanted) / np.float32(32768))
        assert len(read_segment(Segment(str(tmp_path / name), 0.25, 0.5))) == 8_000
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["W64", "AIFF", "CAF", "AU"])
def test_other_formats_are_the_same_as_files_and_as_bytes(tmp_path, kind):
    """32-bit samples of this value look like mp3 frames of 104 bytes."""
    data = encoded(np.full(16_000, -0x0004_F000, np.int32), 16_000, kind, "PCM_32")
    (tmp_path / "a.mp3").write_bytes(data)
    np.testing.assert_allclose(read_audio(data), -0x4F000 / 2**31, atol=1e-6)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.mp3"), read_audio(data))


@pytest.mark.parametrize("data", [b"text", b"this is no audio", b"not audio at all" * 200, b"\xff\xfb" + b"q" * 300])
def test_what_is_no_audio_is_not_recognised_whatever_it_is_called(tmp_path, capfd, data):
    for name in ("a.mp3", "a.wav"):
        (tmp_path / name).write_bytes(data)
        for source in (tmp_path / name, data):
            with pytest.raises(UnusableAudioError, match=r"^unreadable: Format not recognised$"):
                read_audio(source)
    if not data.startswith(b"\xff"):
        assert capfd.readouterr().err == "", "libmpg123 is not asked about what only a name calls an mp3"
