"""ARPA files, the text form of n-gram models: read with what they lack mended and said, written as lmplz does.

    \\data\\                      then "ngram N=COUNT" for each order, and an empty line
    \\1-grams:                   sections in order, an empty line between them
    LOG10 P <tab> w1 w2 <tab> LOG10 BACK-OFF
    \\end\\

The back-off may be missing. Words hold any character but those that KenLM splits at: space, tab, line ends, NUL.

Shapes: n n-grams of an order.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import torch

from w2v.data.archives import FREE_BYTES, MOST_EXPANSION
from w2v.decoding.ngram import SPECIAL, NGram, build
from w2v.errors import InputError, reason, show
from w2v.files import open_file, reading, write_whole

PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}  # by what a file begins with
UNKNOWN_LOG10 = -100.0  # of <unk> where a file has none: KenLM's
START_LOG10 = -99.0  # of <s>, which is never asked for: SRILM's
BLOCK = 1 << 22  # bytes that are read at once
LONGEST_LINE = 1 << 20  # bytes
MOST_PREAMBLE = 1000  # lines before \data\; SRILM allows comments there
MOST_ORDER = 20
CHUNK = 100_000  # n-grams that are written at once
NOT_IN_WORDS = b"\0\r"  # beside what separates them


class _Order(NamedTuple):
    """The n-grams of one order in the file's sequence."""

    ids: np.ndarray  # (n, order) int32
    log10_probs: np.ndarray  # (n,) float32
    log10_backoffs: np.ndarray  # (n,) float32
    line: int  # of the first


def read_arpa(path: str | Path) -> tuple[NGram, list[str]]:
    """An ARPA file, also packed (gzip, bzip2, xz), -> the model and what was mended, a sentence each.

    Missing <unk>, </s>, <s> and contexts are added, <UNK> is <unk>. InputError with the line's number for a file that
    is no ARPA file, is incomplete or contradicts itself.
    """
    path = Path(path)
    with reading("the language model", path), open_file(path) as file:
        try:
            return _Reader(path, _Lines(path, file)).model()
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is cut short or damaged ({reason(error)}); make it again") from None


class _Lines:
    """A file's bytes in whole lines, unpacked."""

    def __init__(self, path: Path, file: BinaryIO):
        head = file.read(8)
        file.seek(0)
        unpack = next((unpack for magic, unpack in PACKED.items() if head.startswith(magic)), None)
        self.path, self.packed, self.is_packed = path, file, unpack is not None
        self.file = cast(BinaryIO, unpack(file)) if unpack else file
        self.data, self.at, self.size = b"", 0, 0
        self.number = 0  # of the last line that was given

    def _fill(self) -> None:
        """Have a whole line at hand."""
        while self.data.find(b"\n", self.at) < 0:
            rest = self.data[self.at :]
            if len(rest) > LONGEST_LINE:
                raise InputError(f"{self.path} has a line of over {LONGEST_LINE} bytes; it is no ARPA file")
            more = self.file.read(BLOCK)
            self.size += len(more)
            if self.is_packed and self.size > max(FREE_BYTES, MOST_EXPANSION * self.packed.tell()):
                raise InputError(f"{self.path} unpacks to over {MOST_EXPANSION} times its size; do not trust it")
            if not more and not rest:
                raise InputError(
                    f"{self.path} ends behind line {self.number}, without \\end\\; it is cut short, make it again"
                )
            self.data, self.at = rest + (more or b"\n"), 0

    def line(self) -> str:
        """The next line without its end. What is not UTF-8 is replaced: such a line is good for messages only."""
        self._fill()
        end = self.data.index(b"\n", self.at)
        line, self.at = self.data[self.at : end], end + 1
        self.number += 1
        return line.removesuffix(b"\r").decode("utf-8", "replace")

    def block(self, most: int) -> bytes:
        """Between 1 and `most` lines with their ends."""
        self._fill()
        ends = np.flatnonzero(np.frombuffer(self.data, np.uint8, offset=self.at) == 10)[:most]
        start, self.at = self.at, self.at + int(ends[-1]) + 1
        self.number += len(ends)
        return self.data[start : self.at]


class _Reader:
    def __init__(self, path: Path, lines: _Lines):
        self.path, self.lines = path, lines
        self.id_of: dict[str, int] = {}
        self.mended: list[str] = []

    def _wrong(self, what: str, remedy: str = "make it again", line: int | None = None) -> InputError:
        return InputError(f"{self.path} line {line or self.lines.number}: {what}; {remedy}")

    def model(self) -> tuple[NGram, list[str]]:
        counts = self._counts()
        orders = [self._section(order, count, len(counts)) for order, count in enumerate(counts, 1)]
        words, grams, probs, backoffs = self._arrays(orders)
        while len(grams) > 1 and not len(grams[-1]):
            for each in (grams, probs, backoffs):
                each.pop()
        try:
            return build(words, grams, probs, backoffs), self.mended
        except ValueError:  # a context is missing, or an n-gram is there twice
            self._add_contexts(words, grams, probs, backoffs, [order.line for order in orders])
        return build(words, grams, probs, backoffs), self.mended

    def _counts(self) -> list[int]:
        lines = self.lines
        try:
            first = lines.line().removeprefix("\ufeff")
            while first.strip() != "\\data\\":
                if lines.number > MOST_PREAMBLE:
                    raise self._wrong("\\data\\ should have come", "it is no ARPA file")
                first = lines.line()
        except InputError as error:
            if "without" in str(error):
                raise InputError(f"{self.path} has no line \\data\\; it is no ARPA file") from None
            raise
        counts: list[int] = []
        while line := lines.line().strip():
            name, _, count = line.removeprefix("ngram").partition("=")
            is_count = line.startswith("ngram") and count.strip().isascii() and count.strip().isdecimal()
            if not is_count or name.strip() != str(len(counts) + 1):
                raise self._wrong(f"should be ngram {len(counts) + 1}=COUNT, is {show(line)}")
            counts.append(int(count.strip()[:18]))
        if not 1 <= len(counts) <= MOST_ORDER:
            raise self._wrong(f"a model has orders from 1 to {MOST_ORDER}, this one has {len(counts)}")
        return counts

    def _section(self, order: int, count: int, orders: int) -> _Order:
        lines = self.lines
        while not (line := lines.line().strip()):
            pass
        if line != f"\\{order}-grams:":
            raise self._wrong(f"\\{order}-grams: should have come, found {show(line)}")
        start, left, parts = lines.number + 1, count, []
        while left:
            parts.append(self._rows(lines.block(left), order, count, start))
            left -= len(parts[-1][0])
        line = lines.line().strip()
        if line and line[0] != "\\":
            raise self._wrong(f"the header says {count} {order}-grams, more have come")
        while order == orders and not line:
            line = lines.line().strip()
        end = "\\end\\" if order == orders else ""
        if line != end:
            raise self._wrong(f"{end or 'an empty line'} should have come, found {show(line)}")
        parts.append((np.empty((0, order), np.int32), np.empty(0, np.float32), np.empty(0, np.float32)))
        ids, probs, backoffs = map(np.concatenate, zip(*parts, strict=True))
        return _Order(ids, probs, backoffs if order < orders else np.zeros_like(probs), start)

    def _rows(self, block: bytes, order: int, count: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lines of n-grams -> ids, log10 probabilities and back-offs."""
        block = block.replace(b"\r\n", b"\n").replace(b"\t", b" ")
        first = self.lines.number + 1 - block.count(b"\n")

        def wrong(i: int, what: str) -> InputError:
            line = block.split(b"\n", i + 1)[i].decode("utf-8", "replace")
            return self._wrong(f"{what}, is {show(line)}", line=first + i)

        characters = np.frombuffer(block, np.uint8)
        separators = characters[(characters == 32) | (characters == 10)]
        ends = np.flatnonzero(separators == 10)  # of lines: their last fields
        fields = np.diff(ends, prepend=-1)
        form = f"should be log10 p, {order} words, and log10 back-off or nothing, with a tab or a space between two"
        for i in np.flatnonzero((fields != order + 1) & (fields != order + 2))[:1].tolist():
            line = block.split(b"\n", i + 1)[i]
            if not line.strip() or line.startswith(b"\\"):
                has = first + i - start
                raise self._wrong(f"the header says {count} {order}-grams, there are {has}", line=first + i)
            raise wrong(i, form)
        if any(byte in block for byte in NOT_IN_WORDS):
            i = next(i for i, line in enumerate(block.split(b"\n")) if any(byte in line for byte in NOT_IN_WORDS))
            raise wrong(i, "a word must not hold NUL or a carriage return")
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as error:
            at = first + block.count(b"\n", 0, error.start)
            raise self._wrong("must be UTF-8, is not", "convert it", at) from None
        pieces = np.array(text.replace("\n", " ").split(" "), object)
        starts, has_backoff = ends - fields + 1, fields == order + 2
        probs, backoffs = _numbers(pieces[starts]), np.zeros(len(ends), np.float32)
        backoffs[has_backoff] = _numbers(pieces[ends[has_backoff]])
        for i in np.flatnonzero(~np.isfinite(probs) | ~np.isfinite(backoffs))[:1].tolist():
            raise wrong(i, form)
        for i in np.flatnonzero(probs > 0)[:1].tolist():
            raise wrong(i, "a log10 probability must be at most 0")
        words = pieces[starts[:, None] + np.arange(1, order + 1)].ravel().tolist()
        if order == 1:
            known = len(self.id_of)
            self.id_of.update((word, known + i) for i, word in enumerate(words) if word not in self.id_of)
            if len(self.id_of) < known + len(words) or "" in self.id_of:
                raise self._unigram(words, known, first)
            return np.arange(known, known + len(words), dtype=np.int32)[:, None], probs, backoffs
        try:
            ids = np.fromiter(map(self.id_of.__getitem__, words), np.int32, len(words))
        except KeyError as error:
            i = words.index(error.args[0]) // order
            raise self._wrong(
                f"a word must be among the 1-grams, {show(error.args[0])} is not", line=first + i
            ) from None
        return ids.reshape(-1, order), probs, backoffs

    def _unigram(self, words: list[str], known: int, first: int) -> InputError:
        """What is wrong with the words of a block: one is empty or comes twice."""
        for i, word in enumerate(words):
            if not word:
                return self._wrong("a word must have a character", line=first + i)
            if self.id_of[word] != known + i:
                return self._wrong(f"each word must come once, {show(word)} comes twice", line=first + i)
        raise AssertionError("all words are right")

    def _arrays(self, orders: list[_Order]) -> tuple[list[str], list, list, list]:
        """The words, <unk>, <s> and </s> first, and the n-grams of each order; the three are there, if need be new."""
        words, (_, log10, backoff, _) = list(self.id_of), orders[0]
        if "<unk>" not in self.id_of and "<UNK>" in self.id_of:
            words[self.id_of["<UNK>"]] = "<unk>"
            self.mended.append("<UNK> is taken as <unk>")
        ids = {word: i for i, word in enumerate(words)}
        usual = np.array([i for word, i in ids.items() if word not in SPECIAL], np.int64)
        had_unknown, added = "<unk>" in ids, []
        for word in SPECIAL:
            if word in ids:
                continue
            if word == "<unk>":
                p, why = UNKNOWN_LOG10, "as KenLM gives it"
            elif word == "<s>":
                p, why = START_LOG10, "it says nothing of how sentences begin"
            elif had_unknown:
                p, why = float(log10[ids["<unk>"]]), "that of <unk>"
            else:
                p, why = float(log10[usual].mean(dtype=np.float64)) if len(usual) else -1.0, "the mean of the words"
            ids[word] = len(words)
            words.append(word)
            added.append(p)
            self.mended.append(f"{word} is missing: it is added with log10 p = {p:.4g}, {why}")
        log10 = np.concatenate([log10, np.array(added, np.float32)])
        backoff = np.concatenate([backoff, np.zeros(len(added), np.float32)])
        special = [ids[word] for word in SPECIAL]
        sequence = np.concatenate([special, np.setdiff1d(np.arange(len(words)), special)])
        new_id = np.empty(len(words), np.int64)
        new_id[sequence] = np.arange(len(words))
        grams = [np.arange(len(words))[:, None], *(new_id[order.ids] for order in orders[1:])]
        probs = [log10[sequence], *(order.log10_probs for order in orders[1:])]
        backoffs = [backoff[sequence], *(order.log10_backoffs for order in orders[1:])]
        return [words[i] for i in sequence.tolist()], grams, probs, backoffs

    def _add_contexts(self, words: Sequence[str], grams: list, probs: list, backoffs: list, lines: list[int]) -> None:
        """Add n-grams that longer ones begin with, as pruned files of SRILM lack them, with the p they have anyway.

        KenLM does the same. InputError where an n-gram is there twice.
        """
        begins = [rows[:, 0] for rows in grams]  # of each order: the number of a row's beginning, so far one word
        missing = []
        for n in range(1, len(grams)):  # beginnings of n + 1 words
            keys = [begin * len(words) + rows[:, n] for begin, rows in zip(begins[n:], grams[n:], strict=True)]
            _, first, number = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
            own = len(keys[0])
            again = np.flatnonzero(first[number[:own]] != np.arange(own))
            if len(again):
                gram = " ".join(words[i] for i in grams[n][again[0]])
                what = f"each n-gram must come once, {show(gram)} comes twice"
                raise self._wrong(what, line=lines[n] + int(again[0]))
            begins[n:] = np.split(number, np.cumsum([len(each) for each in keys])[:-1])
            places, offset = first[first >= own], 0
            rows = []
            for order in grams[n:]:
                mine = places[(places >= offset) & (places < offset + len(order))] - offset
                rows.append(order[mine, : n + 1])
                offset += len(order)
            missing.append(np.concatenate(rows))
        for n, new in enumerate(missing, 1):
            if not len(new):
                continue
            shorter = build(words, grams[: n + 1], probs[: n + 1], backoffs[: n + 1])
            states = torch.zeros(len(new), dtype=torch.long)
            log10 = torch.zeros(len(new))
            for column in torch.from_numpy(new).T:
                log10, states = shorter.advance(states, column)
            grams[n] = np.concatenate([grams[n], new])
            probs[n] = np.concatenate([probs[n], log10.numpy()])
            backoffs[n] = np.concatenate([backoffs[n], np.zeros(len(new), np.float32)])
            self.mended.append(f"{len(new)} {n + 1}-grams are missing that longer ones begin with: they are added")


def _numbers(texts: np.ndarray) -> np.ndarray:
    """Numbers as float32; nan for what is none."""
    joined = " ".join(texts)
    try:
        if "_" in joined or not joined.isascii():  # Python takes 1_0 and other digits
            raise ValueError
        numbers = np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        numbers = np.array([_number(text) for text in texts])
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _number(text: str) -> float:
    try:
        return float(text) if text.isascii() and "_" not in text else float("nan")
    except ValueError:
        return float("nan")


def write_arpa(path: str | Path, lm: NGram) -> None:
    """Write a model as an ARPA file, packed where the name ends in .gz; reading it gives the same model.

    InputError for words that such a file cannot hold.
    """
    path, words = Path(path), list(lm.words)
    for word in words:
        if not word or any(char in word for char in " \t\n\r\0"):
            raise InputError(f"a word of an ARPA file must have no space or line end in it, got {show(word)}")

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as plain:
            # Without a name and a time the same model gives the same bytes.
            file = gzip.GzipFile("", "wb", fileobj=plain, mtime=0) if path.suffix.lower() == ".gz" else plain
            counts = "".join(f"ngram {order}={count}\n" for order, count in enumerate(lm.counts, 1))
            file.write(f"\\data\\\n{counts}".encode())
            for order in range(1, lm.order + 1):
                file.write(f"\n\\{order}-grams:\n".encode())
                for text in _texts(lm, words, order):
                    file.write(text.encode("utf-8"))
            file.write(b"\n\\end\\\n")
            if file is not plain:
                file.close()

    write_whole(path, write)


def _texts(lm: NGram, words: list[str], order: int) -> Iterator[str]:
    """The lines of an order, many at once."""
    first = 1 + sum(lm.counts[: order - 1])
    keys = lm.keys.cpu().numpy()
    for begin in range(first, first + lm.counts[order - 1], CHUNK):
        nodes = np.arange(begin, min(begin + CHUNK, first + lm.counts[order - 1]))
        probs, backoffs = lm.log10_probs[nodes].tolist(), lm.log10_backoffs[nodes].tolist()
        columns = []
        for _ in range(order):
            columns.append([words[i] for i in (keys[nodes - 1] % len(words)).tolist()])
            nodes = keys[nodes - 1] // len(words)
        grams = map(" ".join, zip(*reversed(columns), strict=True))
        # Nine digits tell all float32 apart.
        if order == lm.order:
            yield "".join([f"{p:.9g}\t{gram}\n" for p, gram in zip(probs, grams, strict=True)])
        else:
            yield "".join([f"{p:.9g}\t{gram}\t{b:.9g}\n" for p, gram, b in zip(probs, grams, backoffs, strict=True)])
