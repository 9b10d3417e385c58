"""Damaged and hostile archives: bytes, members of odd kinds and names, and files that unpack to gigabytes."""

import gzip
import io
import random
import tarfile
from collections.abc import Mapping
from functools import lru_cache

from .mutators import NUMBERS, cut, flip, mutate_bytes, mutate_text

BLOCK = 512
NAMES = (
    "tr/clips/../../x", "/etc/x", "../x", "", ".", "tr", "tr/clips", "tr/clips/", "tr/clips/a.wav", "tr/validated.tsv",
    "tr/train.tsv", "de/validated.tsv", "other/tr/validated.tsv", "tr/clips/a\tb.wav", "tr/clips/a\nb.wav",
    "tr/clips/\x1b[31m.wav", "tr/clips/" + "x" * 300 + ".wav", "x/" * 2000,
    "tr/clips/\udcff.wav", "tr/clips/\u202e.wav",
    "tr/._validated.tsv", "tr/clip_durations.tsv", "C:\\x.tsv", "tr/\udcff.tsv", "\x1b]0;x\x07/tr/x.tsv",
)  # fmt: skip
TYPES = (
    tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z",
)  # fmt: skip
FIELDS = (
    (0, 100),
    (124, 12),
    (124, 12),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
)  # of a header, its size more often
PAX = ("path", "size", "mtime", "linkpath", "hdrcharset", "GNU.sparse.major", "GNU.sparse.size", "GNU.sparse.map",
       "GNU.sparse.realsize", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.numblocks", "uid")  # fmt: skip


def archive(files: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind, bufsize=BLOCK) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return _short(packed.getvalue())


def _short(data: bytes) -> bytes:
    """Without tarfile's padding to 10 kB."""
    return data.rstrip(b"\0").ljust(-(-len(data.rstrip(b"\0")) // BLOCK) * BLOCK, b"\0") + bytes(2 * BLOCK)


def _members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return [(member, tar.extractfile(member).read() if member.isreg() else b"") for member in tar]
    except Exception:  # spliced of two
        return []


def _rebuilt(rng: random.Random, data: bytes) -> bytes:
    """The archive again, with members changed, added or left out; its headers are right."""
    members = _members(data) or [(tarfile.TarInfo("tr/validated.tsv"), b"")]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(members))
        member, contents = members[at]
        how = rng.randrange(7)
        if how == 0:
            member.name = rng.choice(NAMES)
        elif how == 1:
            member.type = rng.choice(TYPES)
            member.linkname = rng.choice(NAMES)
        elif how == 2:
            new = tarfile.TarInfo(rng.choice(NAMES))
            new.type = rng.choice(TYPES)
            members.insert(at, (new, contents if new.isreg() else b""))
        elif how == 3:
            members[at] = (
                member,
                (mutate_text(b"\t") if member.name.endswith(".tsv") else mutate_bytes)(rng, contents),
            )
        elif how == 4:
            member.pax_headers = {**member.pax_headers, rng.choice(PAX): rng.choice((*NUMBERS, *NAMES))}
        elif how == 5 and len(members) > 1:
            del members[at]
        else:
            members.insert(rng.randrange(len(members) + 1), members[at])
    packed = io.BytesIO()
    kind = rng.choice((tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=packed, mode="w", format=kind, errors="surrogateescape") as tar:
        for member, contents in members:
            member.size = len(contents) if member.isreg() else 0
            try:
                tar.addfile(member, io.BytesIO(contents))
            except (ValueError, OSError):  # no header can say so
                continue
    return _short(packed.getvalue())


def _change_header(rng: random.Random, data: bytes) -> bytes:
    """Change a field of a member's header, and mend its checksum, so that it is believed."""
    starts = [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not starts:
        return flip(rng, data)
    at = rng.choice(starts)
    header = bytearray(data[at : at + BLOCK])
    start, size = rng.choice(FIELDS)
    value = rng.choice(
        (b"7" * 12, b"\x80" + bytes(7) + b"\x7f\xff\xff\xff", b"\xff" * 12, b"00000000000", b"-1", b"0000000x000",
         bytes([rng.choice(b"01234567LKxgXSNVM")]), rng.randbytes(size), b"%011o" % rng.randrange(1 << 33))
    )  # fmt: skip
    header[start : start + size] = value[:size].ljust(size, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + BLOCK :]


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@lru_cache
def _bombs(rng_seed: int = 0) -> tuple[bytes, ...]:
    """Archives of less than a megabyte, packed by gzip, that hold gigabytes or hundreds of thousands of files."""
    many = b"".join(_header(f"tr/clips/{i % 10}.wav", 0) for i in range(2000))
    return (
        _gzip_of(_header("tr/validated.tsv", 900 << 20), 900),
        _gzip_of(_header("tr/clips/a.wav", 900 << 20), 900),
        _gzip_of(_header("notes/readme.txt", 900 << 20), 900),
        _gzip_of(_header("././@LongLink", 900 << 20, tarfile.GNUTYPE_LONGNAME), 900),
        _gzip_of(_header("PaxHeaders/x", 900 << 20, tarfile.XHDTYPE), 900),
        _gzip_of(_header("PaxHeaders/x", 900 << 20, tarfile.XGLTYPE), 900),
        _gzip_of(archive({"tr/validated.tsv": b"path\tsentence\n"}), 900),  # zeros behind its end
        gzip.compress(many * 120, 9),
    )


def _gzip_of(start: bytes, megabytes: int) -> bytes:
    """gzip of the start and of zeros behind it. gzip's members may follow each other: a megabyte is packed once."""
    return gzip.compress(start, 1) + gzip.compress(bytes(1 << 20), 9) * megabytes


def sparse(size: int) -> bytes:
    """A plain tar of 1,536 bytes with a table of `size` bytes, all of them a hole."""
    header = bytearray(_header("tr/validated.tsv", 0, tarfile.GNUTYPE_SPARSE))
    header[386:410] = b"%011o\0%011o\0" % (size % 8**11, 0)
    header[483:495] = b"%011o\0" % (size % 8**11)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(2 * BLOCK)


def mutate_tar(rng: random.Random, data: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.02:
        return sparse(rng.choice((0, 1, 1 << 20, 1 << 30, 7 << 30))) + rng.choice((b"", data))
    if chance < 0.5:
        return _rebuilt(rng, data)
    if chance < 0.8:
        return _change_header(rng, data)
    return mutate_bytes(rng, data)


def mutate_gzip(rng: random.Random, data: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.01:
        return rng.choice(_bombs())
    if chance < 0.5:
        return gzip.compress(mutate_tar(rng, data), 1)
    packed = gzip.compress(data, 1)
    return cut(rng, packed) if chance < 0.55 else mutate_bytes(rng, packed)
