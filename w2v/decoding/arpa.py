"""ARPA files, the text form of n-gram models: read with what they lack mended and said, written as lmplz does.

    \\data\\                      then "ngram N=COUNT" for each order, and an empty line
    \\1-grams:                   sections in order, an empty line between them
    LOG10 P <tab> w1 w2 <tab> LOG10 BACK-OFF
    \\end\\

Shapes: n n-grams of an order.
"""

import bz2
import gzip
import io
import lzma
import math
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from w2v.data.archives import FREE_BYTES, MOST_EXPANSION
from w2v.decoding.ngram import SPECIAL, NGram, build
from w2v.errors import InputError, show
from w2v.files import open_file, reading, write_whole

PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
UNKNOWN_LOG10 = -100.0  # of <unk> where a file has none: KenLM's
START_LOG10 = -99.0  # of <s>, which is never asked for: SRILM's
LONGEST_LINE = 1 << 20  # characters
MOST_PREAMBLE = 1000  # lines before \data\; SRILM allows comments there
MOST_ORDER = 20
CHUNK = 100_000  # n-grams that are written at once


@dataclass
class _Order:
    """The n-grams of one order in the file's sequence."""

    ids: array = field(default_factory=lambda: array("i"))  # n x order
    log10_probs: array = field(default_factory=lambda: array("f"))
    log10_backoffs: array = field(default_factory=lambda: array("f"))


def read_arpa(path: str | Path) -> tuple[NGram, list[str]]:
    """An ARPA file, also packed (.gz, .bz2, .xz), -> the model and what was mended, a sentence each.

    Missing <unk>, </s>, <s> and contexts are added. InputError with the line's number for a file that is none, is
    incomplete or contradicts itself.
    """
    path = Path(path)
    with reading("the language model", path):
        try:
            with _Lines(path) as lines:
                return _Reader(path, lines).model()
        except UnicodeDecodeError:
            raise InputError(f"{path} must be UTF-8, some of it is not; convert it") from None
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is cut short or damaged ({error}); make it again") from None


class _Lines:
    """The lines of a file that may be packed, by line feed only: a word may hold other line ends."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Iterator[str]:
        self.packed = open_file(self.path)
        unpack = PACKED.get(self.path.suffix.lower())
        self.file = cast(BinaryIO, unpack(self.packed)) if unpack else self.packed
        self.text = io.TextIOWrapper(self.file, encoding="utf-8-sig", newline="\n")
        return self._lines(unpack is not None)

    def _lines(self, is_packed: bool) -> Iterator[str]:
        size = 0
        while line := self.text.readline(LONGEST_LINE):
            size += len(line)
            if len(line) >= LONGEST_LINE:
                raise InputError(f"{self.path} has a line of over {LONGEST_LINE} characters; it is no ARPA file")
            if is_packed and size > FREE_BYTES and size > MOST_EXPANSION * self.packed.tell():
                raise InputError(f"{self.path} unpacks to over {MOST_EXPANSION} times its size; do not trust it")
            yield line

    def __exit__(self, *_) -> None:
        self.text.close()
        self.packed.close()


class _Reader:
    def __init__(self, path: Path, lines: Iterator[str]):
        self.path, self.lines, self.number = path, lines, 0
        self.id_of: dict[str, int] = {}
        self.mended: list[str] = []

    def _next(self) -> str:
        self.number += 1
        line = next(self.lines, None)
        if line is None:
            raise InputError(f"{self.path} ends before \\end\\, in line {self.number}; it is cut short, make it again")
        return line.rstrip("\r\n")

    def _wrong(self, what: str, remedy: str = "make it again") -> InputError:
        return InputError(f"{self.path} line {self.number}: {what}; {remedy}")

    def model(self) -> tuple[NGram, list[str]]:
        counts = self._counts()
        orders = [self._section(order, count, len(counts)) for order, count in enumerate(counts, 1)]
        words, grams, probs, backoffs = self._arrays(orders)
        while len(grams) > 1 and not len(grams[-1]):
            for each in (grams, probs, backoffs):
                each.pop()
        self._add_contexts(words, grams, probs, backoffs)
        try:
            return build(words, grams, probs, backoffs), self.mended
        except ValueError:
            raise InputError(f"{self.path} must hold each n-gram once, it has some twice; make it again") from None

    def _counts(self) -> list[int]:
        try:
            while self._next().strip() != "\\data\\":
                if self.number > MOST_PREAMBLE:
                    raise self._wrong("\\data\\ should have come", "it is no ARPA file")
        except InputError as error:
            if "ends before" in str(error):
                raise InputError(f"{self.path} has no line \\data\\; it is no ARPA file") from None
            raise
        counts: list[int] = []
        while line := self._next().strip():
            name, _, count = line.removeprefix("ngram").partition("=")
            is_count = line.startswith("ngram") and count.strip().isascii() and count.strip().isdecimal()
            if not is_count or name.strip() != str(len(counts) + 1):
                raise self._wrong(f"should be ngram {len(counts) + 1}=COUNT, is {show(line)}")
            counts.append(int(count[:18]))
        if not counts or len(counts) > MOST_ORDER:
            raise self._wrong(f"a model has orders from 1 to {MOST_ORDER}, this one has {len(counts)}")
        return counts

    def _section(self, order: int, count: int, orders: int) -> _Order:
        while not (line := self._next().strip()):
            pass
        if line != f"\\{order}-grams:":
            raise self._wrong(f"\\{order}-grams: should have come, found {show(line)}")
        found, id_of, last = _Order(), self.id_of, order == orders
        ids, probs, backoffs = found.ids, found.log10_probs, found.log10_backoffs
        while line := self._next():
            if line[0] == "\\":
                break
            prob, tab, rest = line.partition("\t")
            gram, _, backoff = rest.partition("\t")
            words = gram.split(" ")
            try:
                p, b = float(prob), float(backoff) if backoff else 0.0
            except ValueError:
                p = b = math.nan
            if not tab or len(words) != order or "" in words or math.isnan(p) or math.isnan(b):
                raise self._wrong(
                    f"should be log10 p, a tab, {order} words, and a tab and log10 back-off or nothing, is {show(line)}"
                )
            if p > 0 or math.isinf(p) or math.isinf(b):
                raise self._wrong(f"a log10 probability is a number up to 0, got {show(line)}")
            if order == 1:
                if words[0] in id_of:
                    raise self._wrong(f"{show(words[0])} comes twice")
                id_of[words[0]] = len(id_of)
            try:
                ids.extend([id_of[word] for word in words])
            except KeyError as error:
                raise self._wrong(f"a word must be among the 1-grams, {show(error.args[0])} is not") from None
            probs.append(p)
            backoffs.append(0.0 if last else b)
        if len(probs) != count:
            raise self._wrong(f"the header says {count} {order}-grams, there are {len(probs)}")
        if last and line != "\\end\\":
            while not line:
                line = self._next().strip()
            if line != "\\end\\":
                raise self._wrong(f"\\end\\ should have come, found {show(line)}")
        elif line:
            raise self._wrong(f"an empty line should have come, found {show(line)}")
        return found

    def _arrays(self, orders: list[_Order]) -> tuple[list[str], list, list, list]:
        """The words, <unk>, <s> and </s> first, and the n-grams of each order; the three are there, if need be new."""
        words = list(self.id_of)
        if "<unk>" not in self.id_of and "<UNK>" in self.id_of:
            words[self.id_of["<UNK>"]] = "<unk>"
        ids = {word: i for i, word in enumerate(words)}
        log10 = np.frombuffer(orders[0].log10_probs, np.float32)
        usual = [p for word, p in zip(words, log10.tolist(), strict=True) if word != "<s>"]
        had_unknown = "<unk>" in ids
        for word in SPECIAL:
            if word in ids:
                continue
            if word == "<unk>":
                p, why = UNKNOWN_LOG10, f"it gets log10 p = {UNKNOWN_LOG10:g}, as KenLM gives it"
            elif word == "<s>":
                p, why = START_LOG10, "no words are known to begin a sentence"
            else:
                p = float(log10[ids["<unk>"]]) if had_unknown else float(np.mean(usual)) if usual else -1.0
                why = f"it gets log10 p = {p:.3g}, {'that of <unk>' if had_unknown else 'the mean of the words'}"
            ids[word] = len(words)
            words.append(word)
            self.mended.append(f"{word} is missing: {why}")
            orders[0].ids.append(ids[word])
            orders[0].log10_probs.append(p)
            orders[0].log10_backoffs.append(0.0)
        first = [ids[word] for word in SPECIAL]
        sequence = first + [i for i in range(len(words)) if i not in set(first)]
        new_id = np.empty(len(words), np.int64)
        new_id[sequence] = np.arange(len(words))
        grams = [new_id[np.frombuffer(o.ids, np.int32)].reshape(-1, n) for n, o in enumerate(orders, 1)]
        probs = [np.frombuffer(o.log10_probs, np.float32) for o in orders]
        backoffs = [np.frombuffer(o.log10_backoffs, np.float32) for o in orders]
        grams[0], probs[0], backoffs[0] = np.arange(len(words))[:, None], probs[0][sequence], backoffs[0][sequence]
        return [words[i] for i in sequence], grams, probs, backoffs

    def _add_contexts(self, words: list[str], grams: list, probs: list, backoffs: list) -> None:
        """n-grams whose beginning is no n-gram, as in pruned files of SRILM: it is added with the p it has anyway."""
        added: list[np.ndarray] = [np.empty((0, n), np.int64) for n in range(1, len(grams) + 1)]
        for n in range(len(grams) - 1, 1, -1):
            wanted = np.unique(np.concatenate([grams[n][:, :-1], added[n][:, :-1]]), axis=0)
            have = {row.tobytes() for row in np.ascontiguousarray(grams[n - 1])}
            added[n - 1] = np.array([row for row in wanted if row.tobytes() not in have], np.int64).reshape(-1, n)
        for n, rows in enumerate(added):
            if not len(rows):
                continue
            lower = build(words, grams[:n], probs[:n], backoffs[:n])
            states = torch.zeros(len(rows), dtype=torch.long)
            for column in torch.from_numpy(rows).T:
                log10, states = lower.advance(states, column)
            grams[n] = np.concatenate([grams[n], rows])
            probs[n] = np.concatenate([probs[n], log10.numpy()])
            backoffs[n] = np.concatenate([backoffs[n], np.zeros(len(rows), np.float32)])
            self.mended.append(f"{len(rows)} {n + 1}-grams are missing that longer ones begin with: they are added")


def write_arpa(path: str | Path, lm: NGram) -> None:
    """Write a model as an ARPA file, packed where the name ends in .gz."""
    path = Path(path)

    def write(temporary: Path) -> None:
        opener = gzip.open if path.suffix == ".gz" else open
        with cast(io.TextIOBase, opener(temporary, "wt", encoding="utf-8", newline="\n")) as file:
            file.write("\\data\\\n")
            file.writelines(f"ngram {order}={count}\n" for order, count in enumerate(lm.counts, 1))
            for order in range(1, lm.order + 1):
                file.write(f"\n\\{order}-grams:\n")
                file.writelines(_lines(lm, order))
            file.write("\n\\end\\\n")

    write_whole(path, write)


def _lines(lm: NGram, order: int) -> Iterator[str]:
    words, size = list(lm.words), len(lm.words)
    first = 1 + sum(lm.counts[: order - 1])
    keys = lm.keys.numpy()
    for begin in range(first, first + lm.counts[order - 1], CHUNK):
        nodes = np.arange(begin, min(begin + CHUNK, first + lm.counts[order - 1]))
        probs, backoffs = lm.log10_probs[nodes].tolist(), lm.log10_backoffs[nodes].tolist()
        columns = []
        for _ in range(order):
            columns.append([words[i] for i in (keys[nodes - 1] % size).tolist()])
            nodes = keys[nodes - 1] // size
        grams = map(" ".join, zip(*reversed(columns), strict=True))
        if order == lm.order:
            yield from (f"{p:.9g}\t{gram}\n" for p, gram in zip(probs, grams, strict=True))
        else:
            yield from (f"{p:.9g}\t{gram}\t{b:.9g}\n" for p, gram, b in zip(probs, grams, backoffs, strict=True))
