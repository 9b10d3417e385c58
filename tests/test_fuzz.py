"""The fuzzer finds readers that answer wrongly, and none of the product's own does.

Run: pytest tests/test_fuzz.py
"""

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from fuzz.harness import Limits, Reader, by_name, fuzz, kinds, make_input
from fuzz.mutators import mutate_bytes, mutate_json, mutate_jsonl, mutate_ogg, mutate_text

from w2v.errors import InputError

INPUTS = 6
LIMITS = Limits(cpu_s=0.2, wall_s=60, mb=100)


def raises(error: BaseException):
    def read(folder: Path):
        raise error

    return read


def never_ends(folder: Path):
    while True:
        pass


def recurses(folder: Path):
    recurses(folder)


def prints_a_traceback(folder: Path):
    print("Traceback (most recent call last):\n  ...\nValueError: in a callback", file=sys.stderr)


def hides_what_it_did(folder: Path):
    with contextlib.suppress(Exception):
        (folder.parent / "outside").write_text("x")


PLANTED = [  # the kind of finding, and what a reader does with one input in three
    ("KeyError", raises(KeyError("path"))),
    ("SystemExit", raises(SystemExit(2))),
    ("RecursionError", recurses),
    ("not one printable line of 600 characters", raises(InputError("two\nlines"))),
    ("memory", lambda folder: len(bytearray(150_000_000))),
    ("process ended", never_ends),
    ("process ended", lambda folder: os._exit(0)),
    ("traceback on stderr", prints_a_traceback),
    ("wrong value", lambda folder: "wrong"),
    ("forbidden", hides_what_it_did),
    ("forbidden", lambda folder: (folder.parent / "link").symlink_to("/")),
    ("forbidden", lambda folder: folder.rename(folder.parent / "elsewhere")),
    ("forbidden", lambda folder: subprocess.run(["true"])),
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    return b"%d" % rng.randrange(3)


def planted(fault) -> Reader:
    def read(folder: Path, data: bytes) -> object:
        (folder / "file").write_bytes(data)  # inside: allowed
        if data == b"0":
            return fault(folder)
        if data == b"1":
            raise InputError("a refusal")
        return "right"

    return Reader("planted", lambda folder: [b""], read, mutate, lambda value: value != "wrong")


@pytest.mark.parametrize(("kind", "fault"), PLANTED)
def test_a_planted_fault_is_found_where_it_is_and_nowhere_else(tmp_path, kind, fault):
    reader = planted(fault)
    inputs = [make_input(reader, [b""], 0, number) for number in range(INPUTS)]
    assert set(inputs) == {b"0", b"1", b"2"}, "all three answers"
    # On a busy machine 150 MB take more than the CPU seconds that are enough for the fault without end.
    limits = LIMITS if fault is never_ends else replace(LIMITS, cpu_s=10)
    (result,) = fuzz([reader], INPUTS, keep=tmp_path, jobs=1, limits=limits)
    wrong = [number for number, data in enumerate(inputs) if data == b"0"]
    assert [finding.number for finding in result.findings] == wrong
    assert {finding.kind for finding in result.findings} == {kind}
    assert (result.values, result.refusals) == (inputs.count(b"2"), inputs.count(b"1"))
    assert len(kinds(result.findings)) == 1 and result.findings[0].line().isprintable()
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"0"}, "only findings are kept"


def test_an_input_that_takes_too_long_once_is_read_again():
    """As on a virtual machine that stood still: the first answer counts for nothing, the second counts."""
    calls = multiprocessing.RawValue("i", 0)

    def read(folder: Path, data: bytes) -> object:
        calls.value += 1
        if calls.value == 1:
            never_ends(folder)
        return "right"

    (result,) = fuzz([Reader("once", lambda folder: [b""], read, mutate)], 3, jobs=1, limits=replace(LIMITS, mb=2048))
    assert (result.values, result.findings) == (3, [])


@pytest.mark.slow
def test_an_input_that_waits_for_ever_is_a_finding():
    def read(folder: Path, data: bytes) -> object:
        return time.sleep(600) if data == b"0" else None

    reader = Reader("pipe", lambda folder: [b""], read, mutate)
    (result,) = fuzz([reader], 3, jobs=1, limits=Limits(wall_s=2))
    assert [finding.kind for finding in result.findings] == ["process ended"] * len(result.findings)
    assert result.findings and result.inputs == 3


def test_a_fault_of_a_mutator_is_no_finding():
    reader = Reader("broken", lambda folder: [b""], lambda folder, data: None, lambda rng, data: data[9])
    with pytest.raises(RuntimeError, match="IndexError"):
        fuzz([reader], 2, jobs=1)


def test_no_two_readers_have_one_name():
    first, second, other = planted(None), planted(recurses), replace(planted(None), name="other")
    assert by_name([first, other]) == {"planted": first, "other": other}
    with pytest.raises(ValueError, match="two readers are named planted; rename one"):
        by_name([first, other, second])


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_text(b"\t"), mutate_json, mutate_jsonl, mutate_ogg])
@pytest.mark.parametrize(
    "seed", [b"", b"\0", b'{"a": [1, {"b": null}]}', b"path\tsentence\na.mp3\tHello.\n", b"OggS" + bytes(40)]
)
def test_mutators_take_any_bytes_and_repeat_themselves(mutate, seed):
    first, second = ([mutate(random.Random(i), seed) for i in range(100)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [60, pytest.param(100, marks=pytest.mark.long)])
def test_no_reader_gives_an_answer_that_no_document_mentions(tmp_path, inputs):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--inputs", str(inputs), "--keep", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
