"""Headers that declare too much, too little or nothing: audio is read until it ends, and truncated means truncated.

Run: pytest tests/test_containers.py
"""

import io
import struct

import numpy as np
import pytest
import soundfile

from w2v.audio import SAMPLE_RATE, UnusableAudioError, read_audio, seconds_of
from w2v.containers import _mp3_frame_bytes, is_absurd, look, ogg_is_cut

SPEECHLIKE = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)


def encoded(waveform, rate, kind, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, **options)
    return buffer.getvalue()


def both(tmp_path, data: bytes, suffix: str) -> list:
    """The bytes, and a file that holds them: libsndfile opens the two in different ways."""
    (tmp_path / f"a{suffix}").write_bytes(data)
    return [data, tmp_path / f"a{suffix}"]


def flac(declared: int) -> bytes:
    data = bytearray(encoded(SPEECHLIKE, SAMPLE_RATE, "FLAC"))
    data[21:26] = (data[21] >> 4 << 36 | declared).to_bytes(5, "big")
    return bytes(data)


@pytest.mark.parametrize("declared", [0, 1, 100, 20_000, 32_000, 400_000_000, 2**36 - 1])
def test_flac_is_read_to_its_end(tmp_path, declared):
    wanted = read_audio(flac(len(SPEECHLIKE)))
    assert len(wanted) == len(SPEECHLIKE)
    for source in both(tmp_path, flac(declared), ".flac"):
        np.testing.assert_array_equal(read_audio(source), wanted)


@pytest.mark.parametrize(("declared", "seconds"), [(0, None), (2**36 - 1, None), (32_000, 2.0), (48_000, 3.0)])
def test_seconds_of_flac_are_believed_unless_they_are_absurd(tmp_path, declared, seconds):
    assert [seconds_of(source) for source in both(tmp_path, flac(declared), ".flac")] == [seconds] * 2


def test_flac_that_lacks_samples_is_refused():
    with pytest.raises(UnusableAudioError, match=r"^truncated after 2\.00 s$"):
        read_audio(flac(40_000))
    for declared in (0, 32_000, 2**36 - 1):
        with pytest.raises(UnusableAudioError, match=r"^unreadable: .*lost sync|^truncated after 1\.\d\d s$"):
            read_audio(flac(declared)[: len(flac(0)) * 3 // 4])


def test_flac_with_a_tag_behind_it_is_whole():
    assert len(read_audio(flac(32_000) + b"TAG" + bytes(125))) == 32_000


def wav(size: int | None, riff: int | None = None, order="little", after: bytes = b"") -> bytes:
    data = encoded(SPEECHLIKE, SAMPLE_RATE, "WAV", endian=order.upper())
    at = data.index(b"data") + 4
    size = len(SPEECHLIKE) * 2 if size is None else size
    riff = len(data) - 8 if riff is None else riff
    return data[:4] + riff.to_bytes(4, order) + data[8:at] + size.to_bytes(4, order) + data[at + 4 :] + after


@pytest.mark.parametrize("size", [0, 2**31 - 1, 2**31, 2**32 - 40, 2**32 - 1, 1_900_000_000])
@pytest.mark.parametrize("riff", [None, 0, 8, 36, 2**32 - 1])
@pytest.mark.parametrize("order", ["little", "big"])
def test_wav_whose_size_was_never_filled_in_is_whole(tmp_path, size, riff, order):
    for source in both(tmp_path, wav(size, riff, order), ".wav"):
        np.testing.assert_allclose(read_audio(source), SPEECHLIKE, atol=1e-4)


def test_wav_without_samples_has_none():
    data = encoded(np.empty(0, np.float32), SAMPLE_RATE, "WAV")
    for after in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        with pytest.raises(UnusableAudioError, match=r"^no samples$"):
            read_audio(data + after)
    assert seconds_of(wav(0)) is None


def test_wav_with_a_further_chunk_and_one_that_is_cut():
    np.testing.assert_allclose(read_audio(wav(None, after=b"LIST\4\0\0\0INFO")), SPEECHLIKE, atol=1e-4)
    with pytest.raises(UnusableAudioError, match=r"^truncated after 2\.00 s$"):
        read_audio(wav(100_000))


def pages(data: bytes) -> list[bytes]:
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_is_truncated_where_its_end_is_missing(tmp_path, subtype):
    waveform = np.random.default_rng(0).normal(0, 0.1, 10 * SAMPLE_RATE).astype(np.float32)
    data = encoded(waveform, SAMPLE_RATE, "OGG", subtype=subtype)
    assert not ogg_is_cut(data)
    assert abs(len(read_audio(data)) - len(waveform)) <= 1000
    assert len(pages(data)) > 4
    assert not ogg_is_cut(data + b"TAG" + bytes(125))
    without_last = b"".join(pages(data)[:-1])
    for cut in (without_last, data[:-1], data[: len(without_last) + 20], data[: len(data) // 2]):
        for source in both(tmp_path, cut, ".ogg"):
            with pytest.raises(UnusableAudioError, match=r"^truncated after \d\.\d\d s$"):
                read_audio(source)


def mp3(mode: str, seconds: float = 4.0, rate: int = 44_100) -> bytes:
    """Noise, then silence: with a variable bit rate the first frames are the largest ones."""
    samples = np.random.default_rng(0).normal(0, 0.2, int(seconds * rate)).astype(np.float32)
    samples[len(samples) // 4 :] *= 0.001
    return encoded(samples, rate, "MP3", bitrate_mode=mode, compression_level=0.5)


def frames_of(data: bytes) -> list[bytes]:
    frames, at = [], 0
    while at + 4 <= len(data) and (length := _mp3_frame_bytes(data[at : at + 3])):
        frames.append(data[at : at + length])
        at += length
    return frames


def without_xing(data: bytes) -> bytes:
    assert b"Xing" in frames_of(data)[0] or b"Info" in frames_of(data)[0]
    return b"".join(frames_of(data)[1:])


def with_xing_count(data: bytes, count: int) -> bytes:
    at = max(data.find(b"Xing", 0, 200), data.find(b"Info", 0, 200)) + 8
    return data[:at] + count.to_bytes(4, "big") + data[at + 4 :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050, 16_000])
def test_mp3_without_a_xing_frame_is_whole(tmp_path, mode, rate):
    data = mp3(mode, rate=rate)
    for source in both(tmp_path, without_xing(data), ".mp3"):
        assert 4.0 <= len(read_audio(source)) / SAMPLE_RATE < 4.2
    assert 4.0 <= seconds_of(without_xing(data)) < 4.2


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("count", [0, 1, 50, 0x7FFFFFFF, 0xFFFFFFFF])
def test_mp3_with_a_wrong_xing_frame_is_whole(tmp_path, mode, count):
    data = mp3(mode)
    wanted = read_audio(data)
    for source in both(tmp_path, with_xing_count(data, count), ".mp3"):
        got = read_audio(source)
        assert 0 <= len(got) - len(wanted) < 0.15 * SAMPLE_RATE  # padding is trimmed by a count that is right
        np.testing.assert_allclose(got[: len(wanted) - 100], wanted[:-100], atol=1e-6)
    for source in both(tmp_path, with_xing_count(data, 0xFFFFFFFF), ".mp3"):
        assert seconds_of(source) is None or seconds_of(source) < 5


def test_two_mp3_files_in_one_are_read_to_the_end():
    data = mp3("VARIABLE")
    assert abs(len(read_audio(data + data)) / SAMPLE_RATE - 8) < 0.2


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_that_is_cut_is_truncated(tmp_path, mode):
    data = mp3(mode)
    between_frames = b"".join(frames_of(data)[:100])
    for cut in (between_frames, data[:-10], without_xing(data)[:-10]):
        for source in both(tmp_path, cut, ".mp3"):
            with pytest.raises(UnusableAudioError, match=r"^truncated after \d\.\d\d s$"):
                read_audio(source)


def test_cut_mp3_is_told_from_a_whole_one(clips):
    for clip in clips[:20]:
        data = clip.read_bytes()
        contents = look(data)
        assert not contents.is_cut
        assert contents.mended is None, "an honest file is read as it is"
        assert not look(data + b"TAG" + bytes(125)).is_cut  # an ID3v1 tag at the end is no frame
        assert look(data[: len(data) * 2 // 3]).is_cut


def test_a_bound_that_no_file_exceeds():
    """The slowest files that encoders write, and what a header of garbage declares."""
    silence = np.zeros(60 * SAMPLE_RATE, np.int16)
    for kind, options in (("FLAC", {}), ("OGG", {"subtype": "OPUS"}), ("OGG", {}), ("MP3", {"compression_level": 0.9})):
        data = encoded(silence, SAMPLE_RATE, kind, **options)
        assert abs(seconds_of(data) - 60) < 0.2
        assert not is_absurd(2 * 60, len(data))
    assert is_absurd(float("nan"), 10**6)
    assert is_absurd(float("inf"), 10**6)
    assert is_absurd(-1, 10**6)


@pytest.mark.parametrize("data", [b"fLaC", b"RIFF", b"RIFF\0\0\0\0WAVE", b"OggS", b"ID3", b"\xff\xfb\x90", b"\xff\xfb"])
def test_pieces_of_headers_are_no_trouble(data):
    for i in range(len(data) + 1):
        look(data[:i] + bytes(40))
        look(data[:i])
