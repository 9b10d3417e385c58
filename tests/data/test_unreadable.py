"""Archives, tables, folders and stores that cannot be read: InputError with the path and the reason, and no waiting.

Run: pytest tests/data/test_unreadable.py
"""

import errno
import os
import shutil
import signal
import tarfile
from pathlib import Path

import pytest
from conftest import SAMPLE

from w2v.audio import UnusableAudioError, read_audio, seconds_of
from w2v.data.corpus import read_corpus
from w2v.data.manifest import read_manifest
from w2v.data.store import build_store, store_folder
from w2v.errors import InputError

NO_MEMORY_AT_0 = Path("/proc/self/mem")  # a regular file whose first byte gives an input/output error, to root as well


@pytest.fixture
def release(tmp_path):
    """A locale folder of three real clips."""
    root = tmp_path / "cv" / "tr"
    (root / "clips").mkdir(parents=True)
    files = sorted((SAMPLE / "clips").glob("*.mp3"))[:3]
    for file in files:
        shutil.copy(file, root / "clips")
    (root / "train.tsv").write_text("path\tsentence\n" + "".join(f"{file.name}\tBir\n" for file in files))
    return root


@pytest.fixture
def archive(release, tmp_path):
    with tarfile.open(tmp_path / "tr.tar", "w") as tar:
        tar.add(release.parent, arcname="cv")
    return tmp_path / "tr.tar"


@pytest.fixture(autouse=True)
def ten_seconds():
    """A test that waits for a pipe fails in place of waiting for ever."""

    def give_up(*_):
        raise AssertionError("it waits")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    yield
    signal.alarm(0)


@pytest.fixture
def deny(monkeypatch):
    """deny(path): opening it, or listing it, is refused, as to a user without permission."""

    def call(denied: Path):
        def refuse(function):
            def checked(path, *args, **kwargs):
                if Path(path) == denied or denied in Path(path).parents:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return function(path, *args, **kwargs)

            return checked

        monkeypatch.setattr("builtins.open", refuse(open))
        monkeypatch.setattr(Path, "iterdir", refuse(Path.iterdir))

    return call


def replace(path: Path, kind: str) -> Path:
    """Put something there that is no readable file. -> the path, to be read"""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "nothing":
        path.symlink_to("nowhere")
    else:
        path.symlink_to(NO_MEMORY_AT_0)
    return path


REASONS = {
    "pipe": "not a regular file",
    "folder": "Is a directory",
    "nothing": "No such file or directory",
    "bad disk": "Input/output error",
}
needs_linux = pytest.mark.skipif(not NO_MEMORY_AT_0.exists(), reason="needs Linux's /proc")


@needs_linux
@pytest.mark.parametrize("kind", REASONS)
def test_table(release, tmp_path, kind):
    table = replace(release / "train.tsv", kind)
    for path in (release, release.parent):
        with pytest.raises(InputError, match=rf"^cannot read the table {table}: {REASONS[kind]}; mend that or"):
            read_corpus([path], "tr", tmp_path / "cache")
    with pytest.raises(InputError, match=rf"^cannot read the table {table}: {REASONS[kind]}; mend that or"):
        read_manifest(table)


@needs_linux
@pytest.mark.parametrize("kind", ["pipe", "bad disk"])
@pytest.mark.parametrize("name", ["tr.tar", "tr.tar.gz"])
def test_archive(tmp_path, kind, name):
    path = replace(tmp_path / name, kind)
    with pytest.raises(InputError, match=rf"^cannot read the archive {path}: {REASONS[kind]}; mend that or"):
        read_corpus([path], "tr", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@needs_linux
@pytest.mark.parametrize("kind", REASONS)
def test_archive_that_has_become_unreadable_since_its_tables_were_read(archive, tmp_path, kind):
    clips = read_corpus([archive], "tr", tmp_path / "cache").tables["train"]
    replace(archive, kind)
    with pytest.raises(InputError, match=rf"^cannot read the archive {archive}: {REASONS[kind]}; mend that or"):
        build_store(clips, tmp_path / "cache", 1)


@needs_linux
@pytest.mark.parametrize("kind", REASONS)
def test_the_copy_of_an_archives_tables(archive, tmp_path, kind):
    read_corpus([archive], "tr", tmp_path / "cache")
    (copy,) = (tmp_path / "cache").rglob("survey.json")
    replace(copy, kind)
    with pytest.raises(InputError, match=rf"^cannot read the cache {copy}: {REASONS[kind]}; mend that or choose"):
        read_corpus([archive], "tr", tmp_path / "cache")


def test_a_file_in_the_place_of_a_store(release, tmp_path):
    clips = read_corpus([release], "tr", tmp_path / "cache").tables["train"]
    place = store_folder(tmp_path / "cache", clips[0].source)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    with pytest.raises(InputError, match=rf"^cannot read the store {place}: Not a directory; mend that or choose"):
        build_store(clips, tmp_path / "cache", 1)


def test_permission_is_denied(release, archive, tmp_path, deny):
    clips = read_corpus([archive], "tr", tmp_path / "cache").tables["train"]
    deny(tmp_path)
    for path, what in ((release, "folder"), (release.parent, "folder"), (archive, "archive")):
        with pytest.raises(InputError, match=rf"^cannot read the {what} {path}: Permission denied; mend that or give"):
            read_corpus([path], "tr", Path("elsewhere"))
    with pytest.raises(InputError, match=rf"^cannot read the table {release}/train.tsv: Permission denied; "):
        read_manifest(release / "train.tsv")
    with pytest.raises(
        InputError, match=rf"^cannot read the cache {tmp_path}/.*: Permission denied; .* another `cache`"
    ):
        read_corpus([archive], "tr", tmp_path / "cache")
    build_folder = tmp_path / "cache" / "audio" / clips[0].source.fingerprint
    build_folder.mkdir(parents=True)
    with pytest.raises(
        InputError, match=rf"^cannot read the store {build_folder}: Permission denied; .* another `cache`"
    ):
        build_store(clips, tmp_path / "cache", 1)


@pytest.mark.parametrize(("kind", "reason"), [("nothing", "No such file or directory"), ("file", "Not a directory")])
def test_folder_of_clips(release, tmp_path, kind, reason):
    """Without this check every single clip would be skipped as missing."""
    shutil.rmtree(release / "clips")
    replace(release / "clips", "nothing") if kind == "nothing" else (release / "clips").write_text("")
    with pytest.raises(InputError, match=rf"^cannot read the folder {release}/clips: {reason}; mend that or"):
        read_corpus([release], "tr", tmp_path / "cache")


@needs_linux
@pytest.mark.parametrize(
    ("pattern", "kind"),
    [*(("index-*.tsv", kind) for kind in REASONS), ("audio-*.i16", "folder"), ("audio-*.i16", "nothing")],
)
def test_store(release, tmp_path, pattern, kind):
    clips = read_corpus([release], "tr", tmp_path / "cache").tables["train"]
    build_store(clips, tmp_path / "cache", 1)
    file = replace(next((tmp_path / "cache").rglob(pattern)), kind)
    with pytest.raises(InputError, match=rf"^cannot read the store {file}: {REASONS[kind]}; .* another `cache`"):
        build_store(clips, tmp_path / "cache", 1)


def test_paths_that_no_file_can_have(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read the data .*: File name too long"):
        read_corpus([tmp_path / ("x" * 300)], "tr", tmp_path / "cache")
    with pytest.raises(InputError, match="`data` must exist, found nothing at"):
        (tmp_path / "file").write_text("")
        read_corpus([tmp_path / "file" / "below"], "tr", tmp_path / "cache")
    table = tmp_path / "m.tsv"
    names = ["a\0b.mp3", "x" * 300]
    table.write_text("path\tsentence\n" + "".join(f"{name}\tBir\n" for name in names))
    clips, skipped = read_manifest(table)
    assert [(skip.name, skip.reason) for skip in skipped] == [("m.tsv:2", "null character in its path")]
    reasons = build_store(clips, tmp_path / "cache", 1).skipped.values()
    assert list(reasons) == ["unreadable: File name too long"]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_clip(tmp_path, kind):
    path = replace(tmp_path / "a.mp3", kind)
    with pytest.raises(UnusableAudioError, match=f"^unreadable: {REASONS[kind]}"):
        read_audio(path)
    assert seconds_of(path) is None


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/tty", "/dev/null"])
def test_clip_that_is_a_device(tmp_path, device):
    if not Path(device).exists():
        pytest.skip(f"needs {device}")
    (tmp_path / "a.mp3").symlink_to(device)
    for path in (device, tmp_path / "a.mp3"):
        with pytest.raises(UnusableAudioError, match=r"^unreadable: not a regular file$"):
            read_audio(path)
        assert seconds_of(path) is None


def test_pipe_among_the_clips_and_among_other_tables(release, tmp_path):
    first = sorted((release / "clips").iterdir())[0]
    replace(first, "pipe")
    replace(release / "notes.tsv", "pipe")
    corpus = read_corpus([release], "tr", tmp_path / "cache")
    assert list(corpus.tables) == ["train"]
    skipped = build_store(corpus.tables["train"], tmp_path / "cache", 1).skipped
    assert {clip.name: reason for clip, reason in skipped.items()} == {first.name: "unreadable: not a regular file"}
