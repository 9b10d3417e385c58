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
from typing import IO, Any, BinaryIO, cast

import torch

from w2v.errors import InputError, named, reason, show
from w2v.files import open_file

REMEDY = "use another checkpoint"
# Parts of objects that may be hashed or printed, each time they are put into another: a second's work. The state of a
# model with a billion weights and its optimiser comes to a tenth of that.
FREE_WORK = 10_000_000
WORK_PER_OPCODE = 20  # besides: a longer file may cost more
TEXT_PER_PART = 8  # characters: what is made of a text takes memory by its length
# Parts of what is called, by its name. torch searches its refusal of a longer one in time by the square of its length.
LONGEST_NAME = 100
MOST_PICKLES = 5  # that torch wrote one after the other into a file before it wrote zip archives
UPDATES = {"APPEND": 1, "SETITEM": 2, "APPENDS": None, "SETITEMS": None, "ADDITEMS": None}  # None: all after the mark
CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")
# What torch would call and no weights file needs: it makes as much memory or work as the file says, or calls more.
NEEDLESS = re.compile(
    r"(builtins|__builtin__) bytearray|collections Counter|torch\.sparse .*|torch(\.cuda)? (Tensor|\w+Tensor)"
    r"|torch\.storage (Typed|Untyped)Storage|torch._tensor _rebuild_from_type_v2"
    r"|torch._utils _rebuild_(qtensor|sparse_tensor|meta_tensor\w*|nested_tensor|wrapper_subclass|device_tensor\w*)"
)
ITERATING = re.compile(r"(builtins|__builtin__) (set|frozenset|list|tuple|dict)|collections OrderedDict|torch Size")
SLOW_CODECS = ("punycode", "idna")  # for _codecs.encode: minutes for 20 kB
# Larger numbers can be chosen to have one hash: a dict of them takes time by the square of its size. torch's own magic
# number is the one exception.
MOST_BITS, MAGIC_NUMBER = 64, 0x1950A86A20F9469CFC6C
MOST_DIMENSIONS = 8  # sums over more take time by their square
NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
           torch.int8, torch.uint8, torch.bool)  # fmt: skip


def check(path: Path) -> None:
    """InputError for a checkpoint whose objects cost far more time or memory than its size warrants.

    A damaged file raises whatever a pickle's or archive's reader raises.
    """
    if is_archive(path):
        _check_archive(path)
        return
    with open_file(path) as file:
        for _ in range(MOST_PICKLES):
            count_work(file, path)
            if not file.read(1):
                return
            file.seek(-1, 1)


def is_archive(path: Path) -> bool:
    """Whether torch reads a file as a zip archive: by its beginning, whereas Python would find one at its end too."""
    with open_file(path) as file:
        return file.read(4) == b"PK\x03\x04"


def refusal(path: Path, error: Exception, what: str, remedy: str) -> InputError:
    """The error for a file that torch's restricted unpickler, or anything else, failed to read as `what`.

    Without torch's advice to read the file in a manner that runs its code.
    """
    if asked := re.search(r"GLOBAL (\S+)", str(error)):
        why = f"it asks for {named(asked[1].removesuffix('.'))}; nothing was run"
    else:
        found = re.search(r"WeightsUnpickler error: (.+)", str(error))
        why = reason(ValueError(found[1])) if found else reason(error)
    return InputError(f"cannot {what.format(path)} ({why}); {remedy}")


def plain_tensors(tensors: Any, path: Path) -> dict[str, torch.Tensor]:
    """What a file holds as a dict of plain tensors by name. ValueError where it is none, or is larger than the file."""
    # dict's own methods: the file may have put others into an OrderedDict.
    found: dict[str, Any] = dict(dict.items(tensors)) if isinstance(tensors, dict) else {"": None}
    if not all(isinstance(name, str) and is_plain(tensor) for name, tensor in found.items()):
        raise ValueError("it holds more than plain tensors by name")
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found.values()}
    # A few may share a storage.
    if max(sum(storages.values()), sum(t.nbytes for t in found.values()) / 2) > path.stat().st_size:
        raise ValueError("its tensors are larger than the file")
    seen = set()
    for name, tensor in found.items():
        place = tensor.untyped_storage().data_ptr()
        # Two names for one place in memory would change together. detach: without what a file may hang on a parameter.
        found[name] = tensor.detach().clone() if place in seen else tensor.detach()
        seen.add(place)
    return found


def is_plain(tensor: Any) -> bool:
    """Whether it is a dense tensor that has its elements in the file: one of stride 0 stands for any number of them."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in NUMBERS
        and tensor.ndim <= MOST_DIMENSIONS
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


class _Bounded:
    """A file that is never asked for more bytes than it holds: Python would make room for them first."""

    def __init__(self, file: BinaryIO):
        self.file, self.readline = file, file.readline
        here = file.tell()
        self.size = file.seek(0, 2)
        file.seek(here)

    def read(self, size: int) -> bytes:
        if size > self.size:
            raise ValueError("a length beyond the end of the file")
        return self.file.read(size)


class _Object:
    """What is known of an object that a pickle makes."""

    __slots__ = ("holds_made", "is_made", "iterates", "size")

    def __init__(self, size: int):
        self.size = size  # the number of its parts; grows
        self.is_made = False  # by a call: perhaps a tensor, with any number of elements
        self.holds_made = False  # as a tuple
        self.iterates = False  # as a function: goes through all elements of what it is given


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
    stack: list[_Object | None] = []  # None: a mark
    memo: dict[int, _Object | None] = {}
    work = 0
    for count, (opcode, arg, _) in enumerate(pickletools.genops(cast(IO[bytes], _Bounded(file))), 1):
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
            container.size += sum(part.size for part in parts)
            work += sum(part.size for part in parts)
        elif name == "BUILD":
            work += _pop(stack, 1)[0].size  # an object's state is neither hashed nor printed with it
        else:
            if _is_needless(arg):
                raise InputError(f"a checkpoint holds tensors and settings, {path} asks for {show(arg)}; {REMEDY}")
            has_mark = any(item is pickletools.markobject for item in opcode.stack_before)
            below = [item for item in opcode.stack_before if item is not pickletools.stackslice]
            parts = _pop(stack, None if has_mark else len(below))
            size = sum(part.size for part in parts)
            work += size
            called = len(str(arg)) // TEXT_PER_PART if name in ("GLOBAL", "INST") else 0
            called = size if name == "STACK_GLOBAL" else called
            if max(called, parts[0].size if name in CALLS and parts else 0) > LONGEST_NAME:
                raise InputError(f"a checkpoint holds tensors and settings, {path} calls no function; {REMEDY}")
            if name in CALLS and any(part.iterates for part in parts) and any(part.holds_made for part in parts):
                raise InputError(f"a checkpoint holds tensors and settings, {path} asks for a tensor's parts; {REMEDY}")
            if opcode.stack_after:
                made = _Object(1 + size + (len(arg) // TEXT_PER_PART if isinstance(arg, (str, bytes)) else 0))
                made.is_made = name in CALLS
                made.holds_made = "TUPLE" in name and any(part.is_made for part in parts)
                made.iterates = name == "GLOBAL" and bool(ITERATING.fullmatch(str(arg)))
                stack.append(made)
        if work > FREE_WORK + WORK_PER_OPCODE * count:
            raise InputError(
                f"a checkpoint's objects may hold each other a few times, those of {path} do so without end; {REMEDY}"
            )
    return work


def _is_needless(arg: Any) -> bool:
    if isinstance(arg, str):
        return bool(NEEDLESS.fullmatch(arg)) or _codec(arg[:100]) in SLOW_CODECS
    return isinstance(arg, int) and arg.bit_length() > MOST_BITS and arg != MAGIC_NUMBER


def _codec(name: str) -> str:
    """A codec's name as Python finds it: whatever the case and the marks in it."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _pop(stack: list[_Object | None], number: int | None) -> list[_Object]:
    """The last `number` objects, or all after the last mark, which goes too."""
    objects: list[_Object] = []
    while number is None or len(objects) < number:
        item = stack.pop()
        if item is None:
            if number is None:
                break
            raise ValueError("a mark where an object should be")
        objects.append(item)
    return objects[::-1]
