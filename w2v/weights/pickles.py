"""Looks at a pickled checkpoint before anything unpickles it: a few bytes can stand for endless work or memory.

    check(path)     # InputError for a file that costs more than it holds

torch's restricted unpickler runs no code from a file. It still computes what the file asks for: to hash or print a
tuple that holds another twice, which holds another twice, and so on 200 times, takes for ever. What follows walks
through the opcodes without building anything, and counts what each object would cost.
"""

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from w2v.errors import InputError, show
from w2v.files import open_file

REMEDY = "use another checkpoint"
# Parts of objects that may be hashed or printed, each time they are put into another: a second's work. The state of a
# model with a billion weights and its optimiser comes to a tenth of that.
FREE_WORK = 10_000_000
WORK_PER_OPCODE = 20  # besides: a longer file may cost more
MOST_PICKLES = 5  # that torch wrote one after the other into a file before it wrote zip archives
UPDATES = {"APPEND": 1, "SETITEM": 2, "APPENDS": None, "SETITEMS": None, "ADDITEMS": None}  # None: all after the mark
NEEDLESS = ("builtins bytearray", "__builtin__ bytearray")  # makes as much memory as the file says
SLOW_CODECS = ("punycode", "idna")  # for _codecs.encode: minutes for 20 kB


def check(path: Path) -> None:
    """InputError for a checkpoint whose objects cost far more time or memory than its size warrants.

    A damaged file raises whatever a pickle's or archive's reader raises.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path)
        return
    with open_file(path) as file:
        for _ in range(MOST_PICKLES):
            count_work(file, path)
            if not file.read(1):
                return
            file.seek(-1, 1)


def is_plain(tensor) -> bool:
    """Whether it is a dense tensor that has its elements in the file: one of stride 0 stands for any number of them."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > path.stat().st_size:  # torch compresses nothing
            raise InputError(f"a checkpoint must not be compressed, {path} unpacks to {unpacked} bytes; {REMEDY}")
        for member in members:
            if member.filename.lower().endswith(".pkl"):  # torch looks for data.pkl without regard to case
                count_work(io.BytesIO(archive.read(member)), path)


def count_work(file: BinaryIO, path: Path) -> int:
    """What the next pickle in a file costs, up to its end. InputError where that is too much."""
    stack: list[list[int] | None] = []  # of each object the number of its parts, in a list that grows; None: a mark
    memo: dict[int, list[int] | None] = {}
    work = 0
    for count, (opcode, arg, _) in enumerate(pickletools.genops(file), 1):
        name = opcode.name
        if "PUT" in name:
            # The unpickler keeps a table as long as the largest number says.
            if not isinstance(arg, int) or arg > count:
                raise InputError(f"a pickle's memo must be numbered in order, {path} has number {show(arg)}; {REMEDY}")
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif "GET" in name and isinstance(arg, int):
            stack.append(memo[arg])
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name in UPDATES:
            parts = _pop(stack, UPDATES[name])
            if (container := stack[-1]) is None:
                raise ValueError("a mark where a container should be")
            container[0] += sum(parts)
            work += sum(parts)
        elif name == "BUILD":
            work += _pop(stack, 1)[0]  # an object's state is neither hashed nor printed with it
        else:
            if arg in NEEDLESS or (isinstance(arg, str) and _codec(arg) in SLOW_CODECS):
                raise InputError(f"a checkpoint holds tensors and settings, {path} asks for {show(arg)}; {REMEDY}")
            has_mark = any(item is pickletools.markobject for item in opcode.stack_before)
            below = [item for item in opcode.stack_before if item is not pickletools.stackslice]
            parts = _pop(stack, None if has_mark else len(below))
            work += sum(parts)
            if opcode.stack_after:
                stack.append([1 + sum(parts)])
        if work > FREE_WORK + WORK_PER_OPCODE * count:
            raise InputError(
                f"a checkpoint's objects may hold each other a few times, those of {path} do so without end; {REMEDY}"
            )
    return work


def _codec(name: str) -> str:
    """A codec's name as Python finds it: whatever the case and the marks in it."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _pop(stack: list[list[int] | None], number: int | None) -> list[int]:
    """The sizes of the last `number` objects, or of all after the last mark, which goes too."""
    sizes: list[int] = []
    while number is None or len(sizes) < number:
        item = stack.pop()
        if item is None:
            if number is None:
                break
            raise ValueError("a mark where an object should be")
        sizes.append(item[0])
    return sizes[::-1]
