"""Damage at random: to bytes, to text of lines and cells, to JSON. Each mutator takes a generator and a valid input."""

import copy
import json
import random
import re
from collections.abc import Callable

EDGES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS = (
    "nan", "NaN", "inf", "-inf", "Infinity", "1e400", "1e308", "1e-400", "-1", "-0", "0", "00", "1_0", "0x10", "1.5",
    str(2**31), str(2**63), str(2**70), "9" * 400, "9" * 5000, "\u0663", "\u00b2", "", " 1", "1 ", "+1",
)  # fmt: skip
PIECES = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\t", b"\n", b"\r", b"\r\n", b"\x0b", b"\x0c", b"\x1b[31m", b"\x85",
    "\u2028".encode(), "\u0085".encode(), "\u202e".encode(), "\ufffe".encode(), "\U0001f600".encode(), b"\xed\xa0\x80",
    b"\\ud800", b'"', b'""', b"'", b"\\", b"/", b"../", b"/dev/zero", b"//", b".", b"..", b"%s%n", b" ", b"{", b"}",
    b"[", b"]", b",", b":", b"null", b"\x00" * 64, b"\xff" * 64, b"A" * 300, b"A" * 5000,
)  # fmt: skip


def several(operations: list[Callable], most: int = 4) -> Callable[[random.Random, bytes], bytes]:
    """A mutator that applies from one to `most` of the operations, few more often than many."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        for _ in range(min(rng.randint(1, most), rng.randint(1, most))):
            data = rng.choice(operations)(rng, data)
        return data

    return mutate


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 512, len(data))))


def flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def flip_early(rng: random.Random, data: bytes) -> bytes:
    """Headers stand at the beginning."""
    most = min(len(data), rng.choice((16, 64, 256)))
    return flip(rng, data[:most]) + data[most:]


def set_byte(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def cut_start(rng: random.Random, data: bytes) -> bytes:
    return data[rng.randint(0, min(len(data), 64)) :]


def drop(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 10)) + data[end:]


def move(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    rest, at = data[:start] + data[end:], rng.randint(0, len(data) - (end - start))
    return rest[:at] + data[start:end] + rest[at:]


def blank(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.choice((b"\0", b"\xff", b" ")) * (end - start) + data[end:]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(PIECES) + data[at:]


def append(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((*PIECES, rng.randbytes(rng.choice((1, 4, 128)))))


def length_field(rng: random.Random, data: bytes) -> bytes:
    """Write a number of 2, 4 or 8 bytes over others: more often in the first 128 bytes, where formats keep lengths."""
    size = rng.choice((2, 4, 8))
    at = rng.randint(0, max(0, min(len(data), rng.choice((64, 128, len(data)))) - size))
    order = rng.choice(("little", "big"))
    old = int.from_bytes(data[at : at + size], order)
    new = rng.choice((*EDGES, old + 1, old - 1, old * 2, old // 2, len(data), len(data) - at, -old))
    return data[:at] + (new % 256**size).to_bytes(size, order) + data[at + size :]


def ascii_number(rng: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    if not found:
        return insert(rng, data)
    number = rng.choice(found)
    return data[: number.start()] + rng.choice(NUMBERS).encode() + data[number.end() :]


mutate_bytes = several(
    [flip, flip, flip_early, flip_early, set_byte, cut, cut_start, drop, repeat, move, blank, insert, append,
     length_field, length_field, length_field, ascii_number]
)  # fmt: skip


def _ogg_checksums(data: bytes) -> bytes:
    """The same pages with checksums that are right, as far as they follow each other."""
    out, at = bytearray(data), 0
    while data[at : at + 4] == b"OggS" and len(data) >= at + 27:
        end = at + 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
        out[at + 22 : at + 26] = bytes(4)
        crc = 0
        for byte in out[at:end]:
            crc = (crc << 8 & 0xFFFFFFFF) ^ OGG_CRC[crc >> 24 ^ byte]
        out[at + 22 : at + 26] = crc.to_bytes(4, "little")
        at = end
    return bytes(out[: len(data)])


def _ogg_table() -> list[int]:
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = (value << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if value >> 31 else 0)
        table.append(value)
    return table


OGG_CRC = _ogg_table()


def mutate_ogg(rng: random.Random, data: bytes) -> bytes:
    """A decoder leaves out pages whose checksum is wrong, so most of them get a right one."""
    data = mutate_bytes(rng, data)
    return data if rng.random() < 0.3 else _ogg_checksums(data)


def _lines(change: Callable[[random.Random, list[bytes]], object]) -> Callable[[random.Random, bytes], bytes]:
    def mutate(rng: random.Random, data: bytes) -> bytes:
        lines = data.split(b"\n")
        change(rng, lines)
        return b"\n".join(lines)

    return mutate


def _join_lines(rng: random.Random, lines: list[bytes]) -> None:
    at = rng.randrange(len(lines))
    lines[at : at + 2] = [b"".join(lines[at : at + 2])]


def _cut_line(rng: random.Random, lines: list[bytes]) -> None:
    at = rng.randrange(len(lines))
    lines[at] = cut(rng, lines[at])


def _line_again(rng: random.Random, lines: list[bytes]) -> None:
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))


def _swap_lines(rng: random.Random, lines: list[bytes]) -> None:
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]


def cells(delimiter: bytes) -> Callable[[random.Random, bytes], bytes]:
    """Change the cells of one line."""

    def change(rng: random.Random, lines: list[bytes]) -> None:
        at = rng.choice((0, rng.randrange(len(lines))))
        row = lines[at].split(delimiter)
        a, b = rng.randrange(len(row)), rng.randrange(len(row))
        how = rng.randrange(6)
        if how == 0:
            row[a], row[b] = row[b], row[a]
        elif how == 1:
            del row[a]
        elif how == 2:
            row.insert(a, row[b])
        elif how == 3:
            row[a] = insert(rng, row[a])
        elif how == 4:
            row[a] = rng.choice((b"", rng.choice(NUMBERS).encode(), rng.choice(PIECES)))
        else:
            row[a] = b'"' + row[a] + rng.choice((b'"', b""))
        lines[at] = delimiter.join(row)

    return _lines(change)


def mutate_text(delimiter: bytes) -> Callable[[random.Random, bytes], bytes]:
    """For tables: lines and cells more often than bytes."""
    lines = [_lines(change) for change in (_join_lines, _cut_line, _line_again, _swap_lines)]
    return several(
        [*lines, *[cells(delimiter)] * 5, ascii_number, ascii_number, insert, insert, flip, cut, drop, repeat, move]
    )


class Raw(str):
    """JSON text that stands for itself."""


class Pairs(list):
    """A JSON object by its pairs, so that a key can stand twice."""


DEEP = 5000
ODD_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 1.5, -0.0, 1e308, Raw("1e400"), Raw("-1e400"), Raw("NaN"),
    Raw("Infinity"), Raw("9" * 5000), "", " ", "a", "x" * 100_000, "\0", "a\tb", "a\nb", "\x1b[31m", "../../x",
    "/dev/zero", "x" * 300, Raw('"\\ud800"'), Raw('"\\udfff\\ud800"'), "\u202e", "\ufeff", "\U0001f600", "1", "nan",
    "true", [], Pairs(), [None], [[]], [1, "a"], Raw('{"a": 1, "a": 2}'), Raw("[" * DEEP + "]" * DEEP),
    Raw('{"a":' * DEEP + "1" + "}" * DEEP), Raw("[" * DEEP), Raw("tru"), Raw("'a'"), Raw(""),
)  # fmt: skip


def _parse(text: str) -> object:
    return json.loads(text, object_pairs_hook=Pairs)


def _dump(value: object, is_ascii: bool) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{_dump(key, is_ascii)}: {_dump(item, is_ascii)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_dump(item, is_ascii) for item in value) + "]"
    return json.dumps(value, ensure_ascii=is_ascii)


def _nodes(value: object, found: list[list]) -> list[list]:
    """The objects and lists that hold something, outer ones first."""
    if isinstance(value, list) and value:
        found.append(value)
        for item in value:
            _nodes(item[1] if isinstance(value, Pairs) else item, found)
    return found


def _change_json(rng: random.Random, value: object) -> object:
    nodes = _nodes(value, [])
    if not nodes or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(ODD_VALUES))
    node = rng.choice((nodes[0], rng.choice(nodes)))
    at = rng.randrange(len(node))
    odd = copy.deepcopy(rng.choice(ODD_VALUES))
    is_pairs = isinstance(node, Pairs)
    how = rng.randrange(10)
    if how < 5:
        node[at] = (node[at][0], odd) if is_pairs else odd
    elif how == 5:
        del node[at]
    elif how == 6:
        node.insert(at, (node[at][0], odd) if is_pairs else node[at])
    elif how == 7:
        other = rng.randrange(len(node))  # values change places
        if is_pairs:
            (a, b), (c, d) = node[at], node[other]
            node[at], node[other] = (a, d), (c, b)
        else:
            node[at], node[other] = node[other], node[at]
    elif how == 8 and is_pairs:
        key = rng.choice([item for item in ODD_VALUES if isinstance(item, str)])
        node[at] = (key, node[at][1])
    elif is_pairs:
        wrapped = rng.choice(([node[at][1]], Pairs([node[at]]), [item for _, item in node]))
        node[at] = (node[at][0], wrapped)
    else:
        node[at] = [node[at]]
    return value


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Change values, keys and types of a JSON text; one in ten is damaged as bytes."""
    if rng.random() < 0.1:
        return mutate_bytes(rng, data)
    try:
        value = _parse(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data)
    for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
        value = _change_json(rng, value)
    return _dump(value, rng.random() < 0.5).encode("utf-8", "surrogatepass")


def mutate_jsonl(rng: random.Random, data: bytes) -> bytes:
    """Change one line of JSON, or the lines as lines."""
    if rng.random() < 0.3:
        return mutate_text(b",")(rng, data)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(rng, lines[at])
    return b"\n".join(lines)
