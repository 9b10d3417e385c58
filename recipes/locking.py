"""One writer for each run folder: a file says which process writes there, while it does.

A process that was killed leaves its file behind. On the same machine it is known by the process, which is gone or was
started at another time; of another machine nothing can be known, and the user is asked.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from w2v.errors import InputError, show
from w2v.files import read_json
from w2v.training.distributed import by_first, rank

FILE = "run.lock"


def check_free(out: Path) -> None:
    """InputError where another process writes in a run folder."""
    if not (out / FILE).exists():
        return
    try:
        holder = read_json(out / FILE, "the lock")
    except InputError:  # killed while it was written
        return
    host, process = holder.get("host"), holder.get("process")
    if type(process) is not int or not isinstance(host, str):
        return
    if host != platform.node():
        raise InputError(
            f"--out {out} is in use by process {process} on {show(host)}; wait for it, or delete {out / FILE} where "
            "that process is gone"
        )
    started = _started(process)
    if process != os.getpid() and started is not None and started in (holder.get("started"), ""):
        raise InputError(f"--out {out} is in use by process {process}; wait for it, stop it, or choose another folder")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """While it is open this process, the first of a launch, is the folder's writer. InputError where another one is.

    A missing folder is made.
    """
    _take(out)
    try:
        yield
    finally:
        if rank() == 0:
            (out / FILE).unlink(missing_ok=True)


@by_first
def _take(out: Path) -> None:
    check_free(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).unlink(missing_ok=True)  # of a process that is gone
    holder = {"host": platform.node(), "process": os.getpid(), "started": _started(os.getpid())}
    try:
        with open(out / FILE, "x", encoding="utf-8") as file:
            json.dump(holder, file)
    except FileExistsError:
        raise InputError(f"--out {out} was taken by another process just now; choose another folder") from None


def _started(process: int) -> str | None:
    """When a process was started, in the system's own terms. None: it is gone. "": it is there, and no more is known.

    Without /proc a process is found by a signal that does nothing, where there are such signals.
    """
    if Path("/proc/self/stat").exists():
        try:
            return (
                Path(f"/proc/{process}/stat")
                .read_text(encoding="utf-8", errors="replace")
                .rpartition(")")[2]
                .split()[19]
            )
        except (OSError, IndexError):
            return None
    if os.name != "posix":
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
