"""Files appear whole or not at all, on the disk before they have their name, with the mode that the user wants.

Run: pytest tests/test_files.py
"""

import errno
import os
import stat

import pytest

from w2v.files import write_text, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="needs modes and links as POSIX has them")


def entries(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail(part):
        part.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_whole(tmp_path / "a", fail)
    assert entries(tmp_path) == {"a"} and (tmp_path / "a").read_text() == "old"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = os.fsync, os.replace

    def note_sync(number):
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else os.fstat(number).st_size)
        real_sync(number)

    def note_replace(*names):
        done.append("named")
        real_replace(*names)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "a", "four")
    assert done == [4, "named", "folder"] if os.name == "posix" else [4, "named"]


@posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "")
        write_whole(tmp_path / "b", lambda part: part.chmod(0o600))  # a writer with a mind of its own
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [mode, mode]


@posix
def test_a_link_in_the_part_files_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f"a.{os.getpid()}.part").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "precious").read_text() == "mine" and (tmp_path / "a").read_text() == "new"
    assert entries(tmp_path) == {"a", "precious"}


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_writer_with_errors_of_its_own_does_not_hide_what_the_system_said(tmp_path, by_torch):
    """torch raises another error over that of the file; safetensors, written in Rust, has the number in its words."""

    def write(temporary):
        if not by_torch:
            raise RuntimeError("Error while serializing: I/O error: File too large (os error 27)")
        try:
            raise OSError(errno.EFBIG, "File too large")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(OSError, match="File too large") as error:
        write_whole(tmp_path / "a", write)
    assert error.value.errno == errno.EFBIG and error.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())
