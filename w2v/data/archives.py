"""Archives, read in place: a pass over a .tar.gz gives its files one by one, and its tables are kept for later runs."""

import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from w2v.audio import LARGEST_BYTES, seconds_of
from w2v.data.tables import SURROGATES
from w2v.errors import InputError, listed, show
from w2v.files import open_file, read_bytes, reading, write_json

ARCHIVES = (".tar.gz", ".tgz", ".tar")
CACHE_REMEDY = "mend that or choose another `cache`"
# gzip makes tables a tenth as large and clips hardly smaller. A file that unpacks to more than this is an attack.
MOST_EXPANSION = 50
FREE_BYTES = 16 << 20  # that any archive may unpack to
ENDS = 100  # times that tarfile may ask for more behind the end; a header can make it ask for ever
# What tarfile raises for headers that make no sense, beside its own errors.
HEADER_ERRORS = (ValueError, ArithmeticError, LookupError, RecursionError)
AUDIO_FOLDERS = ("clips", "audios")  # of Scripted and of Spontaneous Speech
AUDIO_FILES = (".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a")


@dataclass
class Survey:
    """What one pass over an archive found: its tables, the folders of its audio, the lengths that headers state."""

    tables: dict[str, dict[str, bytes]] = field(default_factory=dict)  # folder -> name without .tsv -> contents
    audio: dict[str, dict[str, float]] = field(default_factory=dict)  # folder -> name -> seconds

    def audio_folder(self, folder: str, name: str) -> str:
        """Where the clips of a folder's tables lie: in the folder of that name, beside the tables, or in the only
        folder that holds audio."""
        inside = str(PurePosixPath(folder, name))
        if inside in self.audio or len(self.audio) != 1:
            return inside
        return folder if folder in self.audio else next(iter(self.audio))


def first_of_each(folders: list[Path]) -> list[Path]:
    """Without links to a folder that is there: a link to a release, such as `latest`, is not a second release."""
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def survey(path: Path, cache: Path, is_table: Callable[[str, bytes], bool]) -> Survey:
    """Read an archive's tables in one pass, or from the copy that an earlier pass stored in the cache.

    is_table: whether a .tsv is wanted, by its name without .tsv and its header. Raises what archive_members raises.
    """
    with reading("the archive", path):
        status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:16]
    index = cache / "archives" / key / "survey.json"
    with reading("the cache", index, CACHE_REMEDY):
        known = index.exists() or index.is_symlink()  # what is no file is refused before the archive is read
    saved = _saved(read_bytes("the cache", index, CACHE_REMEDY)) if known else None
    if saved is not None:
        return saved
    found = _scan(path, is_table)
    if found.tables:
        # JSON holds text: latin-1 has a character for every byte.
        texts = {
            folder: {stem: data.decode("latin-1") for stem, data in tables.items()}
            for folder, tables in found.tables.items()
        }
        write_json(index, {"tables": texts, "audio": found.audio, "checksum": _checksum(found)})
    return found


def _saved(data: bytes) -> Survey | None:
    """What an earlier pass stored; None where the copy is damaged."""
    try:
        saved = json.loads(data)
        tables = {
            folder: {stem: text.encode("latin-1") for stem, text in texts.items()}
            for folder, texts in saved["tables"].items()
        }
        found = Survey(tables, saved["audio"])
        return found if saved["checksum"] == _checksum(found) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checksum(found: Survey) -> str:
    digest = hashlib.sha256(json.dumps(found.audio).encode())
    for folder, tables in found.tables.items():
        for stem, data in tables.items():
            digest.update(f"\0{folder}\0{stem}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def _scan(path: Path, is_table: Callable[[str, bytes], bool]) -> Survey:
    found = Survey()
    for name, data in archive_members(path, "reading the tables of"):
        where = PurePosixPath(name)
        folder = str(where.parent)  # "." at the top of the archive
        if SURROGATES.search(name):  # no table can name it, and no file of the cache can hold it
            continue
        if where.suffix == ".tsv" and is_table(where.stem, data.split(b"\n", 1)[0]):
            found.tables.setdefault(folder, {})[where.stem] = data
        elif where.parent.name in AUDIO_FOLDERS or where.suffix.lower() in AUDIO_FILES:
            clips = found.audio.setdefault(folder, {})
            if (seconds := seconds_of(data)) is not None:
                clips[where.name] = seconds
    for folder in found.audio:  # lengths that a table states are not kept twice
        tables = found.tables.get(str(PurePosixPath(folder).parent), {})
        if any(b"duration" in data.split(b"\n", 1)[0] for data in tables.values()):
            found.audio[folder] = {}
    return found


def archive_members(path: Path, doing: str) -> Iterator[tuple[str, bytes]]:
    """(name, contents) of an archive's regular files, in its order, with a progress bar over the packed bytes.

    Raises InputError where the archive cannot be read, is cut short or damaged, or holds a name that is absolute or
    contains `..`. tarfile reads a cut or damaged member header as the end of the archive. Such damage is found only
    after everything has been read.

    Memory is bounded by the archive's size: one that unpacks to more than 50 times its size and 16 MiB is refused, and
    so are sparse files. Of a file that is no table only the first GiB and a byte are read: read_audio refuses it.
    """
    with (
        reading("the archive", path),
        open_file(path) as packed,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"{doing} {path.name}", disable=None) as bar,
    ):
        try:
            is_gzip = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            unpacked = _Bounded(gzip.GzipFile(fileobj=packed) if is_gzip else packed, packed, path)
            with unpacked.file, tarfile.open(fileobj=unpacked, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    archive.members.clear()  # or it keeps all of them: a gigabyte for a million clips
                    where = PurePosixPath(member.name)
                    if where.is_absolute() or ".." in where.parts:
                        raise InputError(f"{path} holds {show(member.name)}, outside its own folder; do not trust it")
                    if member.issparse():
                        raise InputError(f"{path} holds {show(member.name)} as a sparse file; pack it without --sparse")
                    if member.isfile():
                        contents = archive.extractfile(member)
                        assert contents is not None  # it is a file
                        yield str(where), contents.read(-1 if where.suffix == ".tsv" else LARGEST_BYTES + 1)
                    bar.update(packed.tell() - bar.n)
                _check_end(archive, is_gzip)
                bar.update(packed.tell() - bar.n)
        except InputError:
            raise
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, *HEADER_ERRORS) as error:
            what = "unreadable member header" if isinstance(error, HEADER_ERRORS) else listed([str(error)])
            raise InputError(f"{path} is cut short or damaged ({what}); download it again") from None


class _Bounded:
    """The unpacked bytes of an archive, for tarfile."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, packed: BinaryIO, path: Path):
        self.file, self.packed, self.path = file, packed, path
        self.size = self.ends = 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.size += len(data)
        if self.size > FREE_BYTES + MOST_EXPANSION * self.packed.tell():
            raise InputError(f"{self.path} unpacks to over {MOST_EXPANSION} times its size; do not trust it")
        self.ends += not data
        if self.ends > ENDS:
            raise EOFError("it ends inside a member")
        return data


def _check_end(archive: tarfile.TarFile, is_gzip: bool) -> None:
    """Read what follows the last member. gzip checks length and checksum at its end; a plain tar has only zeros."""
    size = 0
    while rest := archive.fileobj.read(1 << 20):
        size += len(rest)
        if not is_gzip and any(rest):
            raise tarfile.ReadError("unreadable member header")
    # An archive ends with two blocks of zeros; tarfile has read the first of them.
    if not is_gzip and not size:
        raise tarfile.ReadError("no end-of-archive block")
