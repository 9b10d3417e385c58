"""Reading files with errors that name the user's remedy; writing files that appear whole or not at all.

A file that cannot be read raises InputError. An OSError is left to mean that something could not be written.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from w2v.errors import InputError

TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)  # files: no file is to blame
DEEPEST = 100  # brackets in each other, in JSON
ALMOST_FULL = 1 << 20  # bytes free, after a write failed and its part file still lies there


@contextmanager
def reading(kind: str, path: str | Path, remedy: str = "mend that or give another") -> Iterator[None]:
    """Raise InputError in place of an OSError. kind: what the path is to the user, "the table"."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror or error}; {remedy}") from None


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file to read its bytes. OSError for a pipe, which could wait for ever, or a device."""
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # open() itself refuses a folder
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def read_bytes(kind: str, path: str | Path, remedy: str = "mend that or give another") -> bytes:
    with reading(kind, path, remedy), open_file(path) as file:
        return file.read()


def read_json(path: str | Path, what: str) -> dict:
    """The JSON object in a file of a model folder; InputError where it is missing or broken. what: for the message."""
    remedy = "use a complete model folder"
    data = read_bytes(what, path, remedy)
    try:
        text = data.decode("utf-8")
        value = json.loads(text)
        _check_depth(value)
        if "\\u" in text:  # half of a surrogate pair is no character: no file could hold it again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets in each other
        raise InputError(f"cannot read {what} {path} as JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(f"{what} {path} must hold a JSON object, got a {type(value).__name__}; {remedy}")
    return value


def _check_depth(value: object) -> None:
    """ValueError where objects and lists lie in each other deeper than a file can hold that is written again."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
        if (depth := depth + 1) > DEEPEST:
            raise ValueError(f"brackets deeper than {DEEPEST}")


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a neighbouring temporary file, then move it to `path`. Missing folders are made.

    The file is on the disk before it has its name: after a power cut there is the old file or the new one. Its mode is
    what the user's umask says.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)  # of a killed process that had this number
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # follows no link that lies there
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        with writing(path):
            write(temporary)
        temporary.chmod(mode)  # some writers make files that only their owner may read
        with writing(path), open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except Exception as error:
        # torch's and safetensors' writers report a full disk in words of their own, as other exceptions.
        if "No space left" in str(error) or shutil.disk_usage(path.parent).free < ALMOST_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if (number := _errno_behind(error)) is not None:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _errno_behind(error: BaseException | None) -> int | None:
    """torch's writer puts an error of its own over that of the file; safetensors' names the number in its words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if said := re.search(r"\(os error (\d+)\)", str(error)):
            return int(said[1])
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file in an OSError that does not: that of a write or a sync knows no name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system opens folders: Windows does not."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: str | Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: str | Path, value: object) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
