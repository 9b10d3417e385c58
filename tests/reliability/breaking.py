"""Ways to break what a command stands on: its steps, its files, its disks.

What is named `before` is for stage.Command: it is called in the command's process first.
"""

import builtins
import contextlib
import ctypes
import errno
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from w2v.training.step import TrainStep

SMALL_DISK = 100 << 20  # bytes: all that a run writes, and some more
NAMESPACE, USERS = 0x20000, 0x10000000  # of mounts and of users, for unshare()
CAPABILITIES, OVERRIDE = 0x20080522, 1  # the version of capset(); the capability to write whatever the mode says
READ_ONLY, REMOUNT, BIND, ALL_BELOW, PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18  # for mount()


def at_step(number: int, act: Callable[[], object]) -> Callable[[], None]:
    """before: act() within the update of a step, counted from 1 in this process."""

    def before() -> None:
        update, steps = TrainStep.update, []

        def told(step):
            steps.append(step)
            if len(steps) == number:
                act()
            return update(step)

        TrainStep.update = told  # type: ignore[method-assign]

    return before


def when_written(pattern: str, act: Callable[[], object]) -> Callable[[], None]:
    """before: act() when the process first opens a file of that name, a regular expression, for writing."""

    def before() -> None:
        seen: list[str] = []

        def look(event: str, args: tuple) -> None:
            writes = os.O_WRONLY | os.O_RDWR
            if event == "open" and not seen and args[2] & writes and re.search(pattern, str(args[0])):
                seen.append(str(args[0]))
                act()

        sys.addaudithook(look)

    return before


# --- files


def flip(file: Path, at: int, bit: int = 0x40) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= bit
    file.write_bytes(data)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_part(state: Path, which: int) -> None:
    """A bit in the middle of one of a state's tensors; they lie in the order model, optimiser."""
    with zipfile.ZipFile(state) as archive:
        tensors = [part for part in archive.infolist() if re.search(r"/data/\d+$", part.filename)]
        parts = [part for part in tensors if part.file_size > 999]
        part = sorted(parts, key=lambda part: part.header_offset)[which]
        behind = sorted(each.header_offset for each in archive.infolist() if each.header_offset > part.header_offset)
    end = behind[0] if behind else part.header_offset + part.file_size
    flip(state, (part.header_offset + end) // 2)


def breaks(pattern: str, mode: str, error: int = errno.EIO) -> Callable[[], None]:
    """before: files of that name cannot be opened to be read ("open"), read ("r"), written ("w"), synced ("sync")."""

    def before() -> None:
        opened = io.open

        class Broken(io.FileIO):
            def fail(self, *_):
                raise OSError(error, os.strerror(error))

            readinto = read = readall = fail  # type: ignore[assignment]
            write = fail  # type: ignore[assignment]

        def open_file(file, how="r", *arguments, **more):
            is_named = isinstance(file, (str, os.PathLike)) and re.search(pattern, os.fspath(file))
            if not is_named or (mode == "w") != any(letter in how for letter in "wax+"):
                return opened(file, how, *arguments, **more)
            if mode == "open":
                raise OSError(error, os.strerror(error), os.fspath(file))
            kind = io.BufferedWriter if mode == "w" else io.BufferedReader
            raw = kind(Broken(file, how.replace("b", "").replace("t", "").replace("+", "") or "r"))
            return raw if "b" in how else io.TextIOWrapper(raw, write_through=True)

        def fail_to_sync(number: int) -> None:
            if re.search(pattern, str(Path(f"/proc/self/fd/{number}").readlink())):
                raise OSError(error, os.strerror(error))
            sync(number)

        sync = os.fsync
        if mode == "sync":
            os.fsync = fail_to_sync
        else:
            io.open = builtins.open = open_file  # pathlib uses one, all others the other

    return before


# --- mounts, which only this process and its children see


def _libc(name: str, *arguments) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def have_own_mounts() -> None:
    user, group = os.geteuid(), os.getegid()
    _libc("unshare", NAMESPACE | (0 if user == 0 else USERS))
    if user != 0:  # root of a namespace of users may mount too
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    _libc("mount", b"none", b"/", None, ALL_BELOW | PRIVATE, None)


def small_disk(folder: Path, size: int = SMALL_DISK) -> Path:
    folder.mkdir()
    _libc("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode())
    return folder


def make_read_only(folder: Path) -> None:
    place = os.fsencode(folder)
    _libc("mount", place, place, None, BIND, None)
    _libc("mount", place, place, None, BIND | REMOUNT | READ_ONLY, None)


def obey_permissions() -> None:
    """before: root too may not write where the mode says so."""
    head, sets = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    _libc("capget", head, sets)
    sets[0] &= ~(1 << OVERRIDE)  # the effective ones
    _libc("capset", head, sets)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with open(disk / "filler", "ab", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
