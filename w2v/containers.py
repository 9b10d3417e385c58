"""What the bytes of a flac, wav, ogg or mp3 file say about its length, and whether they end too soon.

libsndfile reads as many samples as a header declares, and no more. These functions find headers that say nothing or
too little, and mend them in a copy. They also find files that end inside a frame or a page: decoders drop such a piece
silently. Junk before an mp3's first frame is left out of the copy: libsndfile would look behind it in files that are
called .mp3 only.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

# No file holds more seconds than it has bytes / 16: what a header declares beyond that means nothing. Digital silence
# takes 46 bytes a second in 16 kHz flac with the usual blocks, the lowest rate of mp3 is 1,000, and of Opus 750.
FEWEST_BYTES_PER_SECOND = 16
MOST_CHUNKS = 1000  # of a wav, before its data
MOST_JUNK = 1024  # bytes before an mp3's first frame: libmpg123 looks no further
OTHER_FORMATS = (b"FORM", b"RIFF", b"RF64", b"riff", b"caff", b".snd")  # how files begin that are certainly no mp3


class Contents(NamedTuple):
    """What `look` found. A field that is None was not found: libsndfile's own reading holds."""

    mended: bytes | None = None  # the file with another length in its header, where libsndfile would stop too early
    declared: int | None = None  # samples that the header declares; 0 where it declares none
    counted: int | None = None  # samples in all the frames of an mp3
    is_cut: bool = False


def look(data: bytes) -> Contents:
    if data[:4] == b"fLaC":
        return _look_at_flac(data)
    if data[:4] in (b"RIFF", b"RIFX") and data[8:12] == b"WAVE":
        return _look_at_wav(data)
    if data[:4] == b"OggS":
        return Contents(is_cut=ogg_is_cut(data))
    return _look_at_mp3(data)


def is_absurd(seconds: float, size: int) -> bool:
    """Whether a file of `size` bytes cannot be so long."""
    return not 0 <= seconds <= size / FEWEST_BYTES_PER_SECOND


def _look_at_flac(data: bytes) -> Contents:
    """The first block of every flac holds 36 bits of the number of samples; 0 stands for unknown.

    The copy has an unknown length: libsndfile reads such a file until its end.
    """
    if len(data) < 26:
        return Contents()
    declared = int.from_bytes(data[21:26], "big") & 0xF_FFFF_FFFF
    mended = data[:21] + bytes([data[21] & 0xF0, 0, 0, 0, 0]) + data[26:] if declared else None
    return Contents(mended, declared)


def _look_at_wav(data: bytes) -> Contents:
    """A program that writes into a pipe may leave 0 as the size of the data chunk. The copy has the size of the rest.

    A larger size than the rest needs no copy: libsndfile reads until the file ends.
    """
    order: Literal["little", "big"] = "little" if data[:4] == b"RIFF" else "big"
    at = 12  # where a chunk begins: name, size, contents
    for _ in range(MOST_CHUNKS):
        size = int.from_bytes(data[at + 4 : at + 8], order)
        if data[at : at + 4] == b"data" or at + 8 >= len(data):
            break
        at += 8 + size + size % 2
    rest = len(data) - at - 8
    if data[at : at + 4] != b"data" or size or rest <= 0 or _is_chunk(data, at + 8, order):
        return Contents()
    return Contents(data[: at + 4] + rest.to_bytes(4, order) + data[at + 8 :], 0)


def _is_chunk(data: bytes, at: int, order: Literal["little", "big"]) -> bool:
    """Whether a further chunk of a wav begins here, and not its samples."""
    name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], order)
    return len(data) >= at + 8 + size and name.isascii() and name.decode().isprintable()


def ogg_is_cut(data: bytes) -> bool:
    """Whether an ogg ends inside a page, or without the page that is marked as the last one."""
    at, is_last = 0, True
    while data[at : at + 4] == b"OggS" and len(data) >= at + 27:
        segments = data[at + 26]
        is_last = bool(data[at + 5] & 4)
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return at > len(data) or not is_last or (0 < len(data) - at < 27 and b"OggS".startswith(data[at : at + 4]))


_MP3_KBITS = {  # MPEG version bits -> bit rate in kbit/s by index, layer III
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@lru_cache(maxsize=1024)  # a file repeats a few headers
def _mp3_frame_bytes(header: bytes) -> int:
    """Length of the frame that begins with these three bytes (ISO/IEC 11172-3, layer III); 0 where none does."""
    if header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # sync word, layer III
        return 0
    version, bits, hz, padding = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version not in _MP3_HZ or bits in (0, 15) or hz == 3:
        return 0
    samples = 1152 if version == 3 else 576
    return samples // 8 * 1000 * _MP3_KBITS[version][bits] // _MP3_HZ[version][hz] + padding


def _look_at_mp3(data: bytes) -> Contents:
    """Go from frame header to frame header. The walk ends at trailing tags, which are not frames.

    Where the first frame is a Xing frame, it declares how many follow, and libsndfile reads no more than these. Without
    one libsndfile divides the file's size by the first frame's: it stops too early where later frames are smaller.
    """
    if (junk := _junk(data)) and not data[:4].startswith(OTHER_FORMATS):
        clean = data[junk:]
        found = _look_at_mp3(clean)
        return found._replace(mended=found.mended or clean)
    at = first = _first_frame(data)
    frames = 0
    headers: set[bytes] = set()
    while at + 4 <= len(data):
        header = data[at : at + 3]
        length = _mp3_frame_bytes(header)
        if not length:
            break
        headers.add(header)
        frames += 1
        at += length
    if not frames:
        return Contents()
    samples = 1152 if data[first + 1] >> 3 & 3 == 3 else 576  # of a frame
    is_cut = at > len(data)
    count_at = _xing_count(data, first)
    if count_at is None:
        lengths = {_mp3_frame_bytes(header) for header in headers}
        is_even = max(lengths) - min(lengths) <= 1  # a constant bit rate needs a byte more in some frames
        mended = None if is_even else data[:first] + _xing_frame(data[first : first + 4], frames) + data[first:]
        return Contents(mended, 0, frames * samples, is_cut)
    frames -= 1  # the Xing frame holds no samples
    declared = int.from_bytes(data[count_at : count_at + 4], "big")
    mended = data[:count_at] + frames.to_bytes(4, "big") + data[count_at + 4 :] if declared < frames else None
    return Contents(mended, declared * samples, frames * samples, is_cut)


def mp3_declares_its_length(data: bytes) -> bool:
    first = _first_frame(data)
    return len(data) >= first + 4 and _xing_count(data, first) is not None


def _first_frame(data: bytes) -> int:
    """Where an mp3's first frame begins: behind a tag, whose size is in four bytes of seven bits."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    return 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])


def begins_as_mp3(data: bytes) -> bool:
    """Whether a frame of any layer begins where the first one should."""
    at = _first_frame(data)
    return len(data) >= at + 2 and data[at] == 0xFF and data[at + 1] & 0xE0 == 0xE0


def _junk(data: bytes) -> int:
    """Bytes before two frames of one kind that follow each other; 0 where a frame comes first, or none is near."""
    if begins_as_mp3(data):
        return 0
    at = start = _first_frame(data)
    while start <= (at := data.find(b"\xff", at, start + MOST_JUNK)):
        header = data[at : at + 3]
        length = _mp3_frame_bytes(header) if len(header) == 3 else 0
        following = data[at + length : at + length + 3]
        is_alike = len(following) == 3 and header[1] == following[1] and header[2] & 0x0C == following[2] & 0x0C
        if length and is_alike and _mp3_frame_bytes(following):
            return at
        at += 1
    return 0


def _side_bytes(header: bytes) -> int:
    """Bytes of side information that follow a frame's header."""
    is_mono, is_mpeg1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    return (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)


def _xing_count(data: bytes, first: int) -> int | None:
    """Where a file's first frame, which begins at `first`, declares the number of frames; None where it does not."""
    at = first + 4 + _side_bytes(data[first : first + 4])
    for tag in (at, at + 2):  # a checksum may come before the side information
        if data[tag : tag + 4] in (b"Xing", b"Info") and len(data) >= tag + 12:
            return tag + 8 if data[tag + 7] & 1 else None
    return None


def _xing_frame(header: bytes, frames: int) -> bytes:
    """A frame that declares `frames` frames, to stand before a file's first one, whose header is given."""
    kbits = 9  # an index: 128 or 80 kbit/s, a frame long enough
    header = bytes([header[0], header[1] | 1, kbits << 4 | header[2] & 0x0C, header[3]])  # no checksum, no padding
    frame = header + bytes(_side_bytes(header)) + b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return frame.ljust(_mp3_frame_bytes(header[:3]), b"\0")
