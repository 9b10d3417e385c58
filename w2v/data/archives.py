"""Archives, read in place: a pass over a .tar.gz gives its files one by one."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from w2v.errors import InputError
from w2v.files import open_file, reading

ARCHIVES = (".tar.gz", ".tgz", ".tar")
CACHE_REMEDY = "mend that or choose another `cache`"


def archive_members(path: Path, doing: str) -> Iterator[tuple[str, bytes]]:
    """(name, contents) of an archive's regular files, in its order, with a progress bar over the packed bytes.

    Raises InputError where the archive cannot be read, is cut short or damaged, or holds a name that is absolute or
    contains `..`. tarfile reads a cut or damaged member header as the end of the archive. Such damage is found only
    after everything has been read.
    """
    with (
        reading("the archive", path),
        open_file(path) as packed,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"{doing} {path.name}") as bar,
    ):
        try:
            is_gzip = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            unpacked = gzip.GzipFile(fileobj=packed) if is_gzip else packed
            with unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
                for member in archive:
                    where = PurePosixPath(member.name)
                    if where.is_absolute() or ".." in where.parts:
                        raise InputError(f"{path} holds {member.name!r}, outside its own folder; do not trust it")
                    if member.isfile():
                        contents = archive.extractfile(member)
                        assert contents is not None  # it is a file
                        yield str(where), contents.read()
                    bar.update(packed.tell() - bar.n)
                _check_end(archive, is_gzip)
                bar.update(packed.tell() - bar.n)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is cut short or damaged ({error}); download it again") from None


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
