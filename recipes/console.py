"""What all commands share on the terminal: where messages go, and how a run ends.

People read stderr; stdout carries one JSON object as its last line. Exit code 0 = done, 2 = the user must change
something (one line says what), anything else is our bug and shows a traceback.
"""

import argparse
import errno
import json
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from w2v.errors import InputError, reason, show
from w2v.training.distributed import RefusedByFirstError, is_peer_gone, leave, rank

PEER_ENDS_FIRST = 2.0  # seconds: torchrun reports the process that it sees ending first, and then stops the others
CANNOT_WRITE = (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError)
# Allocators of torch, oneDNN and C++ in their own words; what reads too much from a file says so itself.
NO_MEMORY = re.compile(r"can't allocate memory|could not create a primitive|out of memory|bad_alloc|start new thread")
LARGEST = 2**53  # the largest whole number that JSON keeps everywhere
TAG = re.compile(r"\w[\w.:+/ -]{0,63}")  # of a model card


class Unbroken:
    """A text stream that goes on without a word when its reader is gone: `... 2>&1 | head` must not end a training."""

    def __init__(self, stream: TextIO):
        self.stream, self.is_open = stream, True

    def write(self, text: str) -> int:
        return self._try(self.stream.write, text) or len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, call: Callable, *args: str) -> Any:
        try:
            return call(*args) if self.is_open else None
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: what Windows says of a pipe without a reader
                raise
            self.is_open = False
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def use_utf8() -> None:
    """UTF-8 on stdout and stderr whatever the locale says: code pages of 256 characters spell few languages."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a notebook or a test put its own stream
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def say(text: str = "") -> None:
    """To stderr, by the first of several processes."""
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


_flags: dict[str, str] = {}  # of the command that runs: argument -> --argument


class Parser(argparse.ArgumentParser):
    """argparse with our manner of refusing: one line instead of the whole usage."""

    def parse_args(self, *args, **kwargs):
        parsed = super().parse_args(*args, **kwargs)
        _flags.update({name: f"--{name.replace('_', '-')}" for name in vars(parsed)})
        return parsed

    def error(self, message: str):
        say(f"error: {message} (see --help)")
        sys.exit(2)


def with_flags(message: str) -> str:
    """The library writes arguments as `batch_seconds`; for people at a command line that is --batch-seconds."""
    return re.sub(r"`(\w+)`", lambda found: _flags.get(found[1], found[0]), message)


def run(main: Callable[[], dict], if_stopped: str = "") -> None:
    """Run a command's main, print its summary, and turn the user's mistakes into one line and exit code 2.

    if_stopped: how the command goes on after Ctrl-C, for the user.
    """
    for name in ("stdout", "stderr"):  # closed by who started it: no file may take its place
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open to the end
    use_utf8()
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)
    try:
        summary = main()
    except RefusedByFirstError:  # the first process says why
        leave()
        sys.exit(2)
    except KeyboardInterrupt as error:
        by, remedy = f" by {error}" if str(error) else "", getattr(error, "remedy", if_stopped)
        say(f"\nstopped{by}" + (f"; {remedy}" if remedy else ""))
        leave()
        sys.exit(130 if getattr(error, "number", signal.SIGINT) == signal.SIGINT else 143)
    except Exception as error:
        if is_peer_gone(error):  # whose own error is what people should see
            print(f"process {rank()} ends: another one of this launch is gone", file=sys.stderr, flush=True)
            time.sleep(PEER_ENDS_FIRST)
            os._exit(1)  # the group is broken: to leave it could wait for ever
        line = explained(error)
        tell_launcher(line or traceback.format_exc())
        if line is None:
            raise
        print(line, file=sys.stderr, flush=True)  # whichever process met it
        leave()  # a group that is open when the interpreter ends can abort it
        sys.exit(2)
    if rank() == 0:
        print(json.dumps(summary, ensure_ascii=False), flush=True)
    leave()


def explained(error: Exception) -> str | None:
    """The line for what the user can mend; None for a fault of ours."""
    if isinstance(error, InputError):
        return f"error: {with_flags(str(error))}"
    if isinstance(error, OSError):
        what = error.filename or "a file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"error: no space left on the disk while writing {what}; free some and run again"
        if isinstance(error, CANNOT_WRITE) or error.errno in (errno.EROFS, errno.EIO, errno.EFBIG):
            return f"error: cannot write {what}: {error.strerror}; mend that or choose another --out or --cache"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        return f"error: not enough memory ({reason(error)}); free some, or lower --batch-seconds or --batch-clips"
    return None


def tell_launcher(text: str) -> None:
    """Let torchrun end its report with this error, where it started this process: it names a file for that."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError):  # the report is not worth a second error
            Path(file).write_text(json.dumps({"message": {"message": text, "extraInfo": extra}}), encoding="utf-8")


def positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be at least 1 and at most {LARGEST}, got {value}")
    return value


def count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must not be negative, and at most {LARGEST}, got {value}")
    return value


def beta(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must not be negative, nor infinite, got {text}")
    return value


def probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def tag(text: str) -> str:
    if not TAG.fullmatch(text):
        raise argparse.ArgumentTypeError(f"takes up to 64 letters, digits, spaces and . : + / _ -, got {show(text)}")
    return text
