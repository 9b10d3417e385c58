"""Odd layouts of a release's folder: a JSON list of [path, kind, contents]."""

import json
import random

from .mutators import mutate_text

KINDS = ("file", "folder", "pipe", "socket", "link")
TARGETS = (
    "/dev/zero",
    "/dev/null",
    "/dev/full",
    "/nowhere",
    ".",
    "..",
    "../..",
    "validated.tsv",
    "train.tsv",
    "clips",
    "/",
)
NAMES = (
    "train.tsv", "test.tsv", "other.tsv", "notes.tsv", "._train.tsv", ".tsv", "a\nb.tsv", "\x1b[31m.tsv", "\udcff.tsv",
    "\u202e.tsv", "x" * 250 + ".tsv", "tr", "clips", "clips/a.wav", "clips/b.wav", "tr/tr", "de/validated.tsv",
    "\udcff", "cache", "validated.tsv/validated.tsv",
)  # fmt: skip


def mutate_layout(rng: random.Random, data: bytes) -> bytes:
    try:
        entries = [(path, kind, text) for path, kind, text in json.loads(data)]
    except ValueError:  # two seeds in one
        entries = []
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(entries)) if entries else 0
        how = rng.randrange(6)
        if not entries or how == 0:
            kind = rng.choice(KINDS)
            entries.insert(at, (_place(rng, entries), kind, rng.choice(TARGETS)))
        elif how == 1:
            kind = rng.choice(KINDS)
            entries[at] = (entries[at][0], kind, rng.choice(TARGETS) if kind == "link" else entries[at][2])
        elif how == 2:
            del entries[at]
        elif how == 3:
            path, kind, text = entries[at]
            entries.append((_place(rng, entries), kind, text))
        else:
            path, kind, text = entries[at]
            if kind == "file":
                damaged = mutate_text(b"\t")(rng, text.encode("utf-8", "surrogateescape"))
                entries[at] = (path, kind, damaged.decode("utf-8", "surrogateescape"))
    return json.dumps(entries).encode()


def _place(rng: random.Random, entries: list) -> str:
    beside = rng.choice(entries)[0].rpartition("/")[0] if entries else ""
    name = rng.choice(NAMES)
    return f"{beside}/{name}" if beside and rng.random() < 0.7 else name
