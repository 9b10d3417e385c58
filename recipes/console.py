"""What all commands share on the terminal: where messages go, and how a run ends.

People read stderr; stdout carries one JSON object as its last line. Exit code 0 = done, 2 = the user must change
something (one line says what), anything else is our bug and shows a traceback.
"""

import argparse
import errno
import json
import re
import sys
from collections.abc import Callable

from w2v.errors import InputError
from w2v.training.distributed import leave, rank


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


def run(main: Callable[[], dict]) -> None:
    """Run a command's main, print its summary, and turn the user's mistakes into one line and exit code 2."""
    try:
        summary = main()
    except InputError as error:
        print(f"error: {with_flags(str(error))}", file=sys.stderr, flush=True)  # whichever process met it
        sys.exit(2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            say(f"error: no space left on the disk while writing {error.filename or 'a file'}; free some and run again")
        elif isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
            say(f"error: cannot write {error.filename}: {error.strerror}; choose another --out or --cache")
        else:
            raise
        sys.exit(2)
    except KeyboardInterrupt:
        say("\nstopped; a training run goes on with --resume")
        sys.exit(130)
    if rank() == 0:
        print(json.dumps(summary, ensure_ascii=False), flush=True)
    leave()


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value


def beta(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value
