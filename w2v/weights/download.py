"""Published checkpoints over the network: files that arrive whole, or keep what came for the next call.

    folder = fetch_model("xlsr-53", Path("~/.cache/w2v/models/xlsr-53").expanduser(), log=print)
    sha256 = fetch("https://example.org/lm.arpa", Path("lm.arpa"))

A file under way has two neighbours: NAME.part, the bytes so far, and NAME.part.json, which version of the server's file
they come from. The next request asks for the rest of that version only; a server that has another one, or that cannot
send a part, sends the whole again. Connections that break are tried again; what does not mend itself is one InputError
that names the address to fetch by hand and the place to put it, where a later call will find it.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from w2v.errors import InputError
from w2v.files import write_json

try:
    import fcntl
except ImportError:  # Windows: two downloads of one file at once are then not kept apart
    fcntl = None

# Weights last: a folder holds a model only once everything else is there.
FILES = ("config.json", "preprocessor_config.json", "pytorch_model.bin")


def published_urls(repository: str) -> tuple[str, ...]:
    return tuple(f"https://huggingface.co/{repository}/resolve/main/{file}" for file in FILES)


PUBLISHED: dict[str, tuple[str, ...]] = {
    "xlsr-53": published_urls("facebook/wav2vec2-large-xlsr-53"),
    "xls-r-300m": published_urls("facebook/wav2vec2-xls-r-300m"),
    "xls-r-1b": published_urls("facebook/wav2vec2-xls-r-1b"),
    "xls-r-2b": published_urls("facebook/wav2vec2-xls-r-2b"),
    "base": published_urls("facebook/wav2vec2-base"),
    "large-lv60": published_urls("facebook/wav2vec2-large-lv60"),
}

TIMEOUT = 30  # seconds without a sign of life
BACK_OFF = (1, 2, 4, 8)  # seconds before each further try
# A try that brought this much does not count as a failure: 9 GB over a poor line break more often than five times.
WORTH_ANOTHER = 1 << 20  # bytes
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP statuses that another try may mend
CHUNK = 1 << 17  # bytes

Log = Callable[[str], None]


class _TransferError(Exception):
    """A transfer that broke off; another try may mend it."""


class _UnreachableError(_TransferError):
    """No connection. Hopeless at first, a moment's trouble once bytes have come."""


class _RefusedError(_TransferError):
    """The server's last word, which another try would not change."""


class _Version(NamedTuple):
    """What a .part holds the beginning of."""

    url: str
    validator: str  # strong ETag, else Last-Modified: what If-Range takes
    size: int | None  # bytes of the whole file, where the server said


def fetch_model(name: str, folder: Path, log: Log = lambda line: None) -> Path:
    """Bring the files of a published model into `folder` and log the SHA-256 of each. Files that are there stay.

    InputError for an unknown name, and where a file cannot be had: it then names everything still missing.
    """
    if name not in PUBLISHED:
        raise InputError(f"a published model is one of {', '.join(PUBLISHED)}, got {name}")
    folder = Path(folder)
    targets = {url: folder / url.rsplit("/", 1)[1] for url in PUBLISHED[name]}
    for url, target in targets.items():
        try:
            log(f"SHA-256 {fetch(url, target, log)} {target}")
        except InputError as error:
            others = [other for other, place in targets.items() if other != url and not place.is_file()]
            also = f"; {folder} also needs {' and '.join(others)}" if others else ""
            raise InputError(f"{error}{also}") from None
    return folder


def fetch(url: str, target: Path, log: Log = lambda line: None) -> str:
    """Bring `url` to `target`, unless a file is there already, and return the SHA-256 of what is there.

    log: receives a line when a transfer starts, goes on, starts anew or breaks. Raises InputError where the file cannot
    be had; `target` then does not exist, and what has come of it waits beside it.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"a download needs an http or https address, got {_one_line(url)}")
    target = Path(target)
    part = target.with_name(f"{target.name}.part")
    memory = target.with_name(f"{target.name}.part.json")
    try:
        if target.is_file():
            with suppress(OSError):  # left over where the file was fetched by hand; a read-only folder may keep them
                _remove(part, memory)
            return _sha256(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _sole_writer(part):
            try:
                if not target.is_file():  # another process may just have finished it
                    _complete(url, target, part, memory, log)
                    os.replace(part, target)
            finally:
                if target.is_file() or not (part.stat().st_size and memory.is_file()):  # nothing to go on from
                    _remove(part, memory)
        return _sha256(target)
    except OSError as error:  # the network's errors have become InputErrors by now
        raise InputError(
            f"cannot read or write {target} ({_reason(error)}); make room and its folder writable, or choose another"
        ) from None


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)


@contextmanager
def _sole_writer(part: Path) -> Iterator[None]:
    """Create `part` if need be and hold a lock on it, which ends with the process at the latest."""
    if fcntl is None:
        part.touch()
        yield
        return
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"a file is downloaded by one process at a time, another is writing {part}; wait for it, then run again"
            ) from None
        except OSError:
            pass  # some network file systems know no locks; a download without one is better than none
        yield


def _complete(url: str, target: Path, part: Path, memory: Path, log: Log) -> None:
    """Repeat requests until `part` holds the whole file. InputError where that is not to be."""
    log(f"fetching {url} to {target}")
    failures, connected = 0, False
    while True:
        before = part.stat().st_size
        try:
            return _transfer(url, target.name, part, memory, log)
        except _TransferError as error:
            have = part.stat().st_size
            connected = connected or have > before
            failures = 1 if have - before >= WORTH_ANOTHER else failures + 1
            hopeless = isinstance(error, _RefusedError) or (isinstance(error, _UnreachableError) and not connected)
            if hopeless or failures > len(BACK_OFF):
                later = f", or run this again to go on from {_megabytes(have)}" if have and memory.is_file() else ""
                raise InputError(
                    f"cannot fetch {_one_line(url)} ({error}); fetch it by hand and put it at {target}{later}"
                ) from None
            log(f"{target.name}: {error}; trying again in {BACK_OFF[failures - 1]} s")
            time.sleep(BACK_OFF[failures - 1])


def _transfer(url: str, name: str, part: Path, memory: Path, log: Log) -> None:
    """One request for what `part` lacks. _TransferError where the file is not whole afterwards."""
    version = _remembered(url, memory)
    have = part.stat().st_size if version else 0
    with _open(url, have, version) as response:
        start, size = _span(response)
        if response.status in (206, 416):
            # A server may ignore If-Range, or leave out its validator: whatever it does say has to agree.
            same = have and _validator(response.headers) in ("", version.validator)
            same = same and (size is None or version.size in (None, size))
            size = version.size if same and size is None else size
            if same and response.status == 416 and have == size:
                return  # nothing was missing but the rename
            if not same or start != have:
                _restart(part, memory)
                raise _TransferError("what is here does not fit the server's file, which may have changed")
            log(f"{name}: going on from {_megabytes(have)}")
        elif response.status == 200:
            if response.headers.get_content_type() == "text/html":
                raise _RefusedError("the answer is a web page, perhaps a login, in place of the file")
            if have:
                log(f"{name}: the server's file has changed, or it cannot send a part; starting again")
            _restart(part, memory)
            have = 0
            if validator := _validator(response.headers):  # before the first byte: bytes of unknown origin are lost
                write_json(memory, _Version(url, validator, size)._asdict())
        else:
            raise _RefusedError(f"HTTP {response.status}, which brings no file")
        if size is not None:
            _check_room(part, size - have)
        bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=f"fetching {name}")
        with open(part, "ab") as file, bar:
            for chunk in _chunks(response, None if size is None else size - have):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if size is not None and have != size:
        raise _TransferError(f"the connection ended after {have:,} of {size:,} bytes")


def _remembered(url: str, memory: Path) -> _Version | None:
    try:
        version = _Version(**json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == url else None


def _restart(part: Path, memory: Path) -> None:
    memory.unlink(missing_ok=True)  # first: it must never vouch for another version's bytes
    part.write_bytes(b"")


def _open(url: str, have: int, version: _Version | None):
    """The server's answer; 416 (nothing left to send) counts as one where the rest of a file was asked for."""
    headers = {"User-Agent": "w2v", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.validator}
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and have:
            return error
        error.close()
        raise (_TransferError if error.code in BUSY else _RefusedError)(_reason(error)) from None
    except URLError as error:
        reset = isinstance(error.reason, ConnectionResetError)
        raise (_TransferError if reset else _UnreachableError)(_reason(error)) from None
    except (InvalidURL, ValueError) as error:
        raise _RefusedError(_reason(error)) from None
    except (OSError, HTTPException) as error:
        raise _TransferError(_reason(error)) from None


def _span(response) -> tuple[int | None, int | None]:
    """Where the answer's bytes start in the file, and how long the file is; None where the server does not say."""
    if response.status == 200:
        return 0, response.length
    span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", "").strip())
    start, size = span.groups() if span else (None, None)
    return start and int(start), size and int(size)


def _validator(headers) -> str:
    """What names this version of the file in If-Range, which takes no weak ETags; "" where nothing does."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise InputError(
            f"the download needs {_megabytes(needed)} more, {part.parent} has {_megabytes(free)} free; "
            "free some space or choose another folder"
        )


def _chunks(response, wanted: int | None) -> Iterator[bytes]:
    """The body as it comes in: `wanted` bytes, or all until the server closes. May end early."""
    while wanted is None or wanted > 0:
        try:
            # read1, not read: a read that breaks off would throw away what it had gathered. Counted here, because
            # some versions of read1 do not, and a server that leaves the connection open would keep us waiting.
            chunk = response.read1(CHUNK if wanted is None else min(CHUNK, wanted))
        except (OSError, HTTPException) as error:
            raise _TransferError(_reason(error)) from None
        if not chunk:
            return
        if wanted is not None:
            wanted -= len(chunk)
        yield chunk


def _sha256(path: Path) -> str:
    """Of what lies on the disk, not of what came over the wire: parts of it may be from earlier calls."""
    digest = hashlib.sha256()
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"checking {path.name}", delay=1)
    with open(path, "rb") as file, bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return _one_line(f"HTTP {error.code} {error.reason}")
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT} s"
    return _one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
