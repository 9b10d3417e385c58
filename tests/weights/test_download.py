"""Downloads from a local server: whole, interrupted, changed midway, refused.

Run: pytest tests/weights/test_download.py
"""

import errno
import hashlib
import os
import random
import shutil
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib import request
from urllib.error import URLError

import pytest
import tqdm

from w2v.errors import InputError
from w2v.models.wav2vec2_config import CONFIGS
from w2v.weights import download
from w2v.weights.download import PUBLISHED, fetch, fetch_model
from w2v.weights.hf import locate

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)  # as long: only the ETag tells


class Files(BaseHTTPRequestHandler):
    """GET with Range and If-Range, and the faults that the server's attributes ask for."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if self.path.startswith("/moved/"):
            return self.answer(302, {"Location": self.path.removeprefix("/moved")})
        if self.path == "/loop":
            return self.answer(302, {"Location": "/loop"})
        if self.path in server.statuses:
            return self.answer(server.statuses[self.path], {})
        if server.stalls:
            server.stalls -= 1
            return server.closing.wait(5)
        content, start, status = server.content, 0, 200
        headers = dict(server.headers)
        fresh = self.headers.get("If-Range") in (None, headers.get("ETag"), headers.get("Last-Modified"))
        if asked and server.ranges and (fresh or not server.heeds_if_range):
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            size = "*" if server.vague else len(content)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{size}"
            if start >= len(content):
                return self.answer(416, headers | {"Content-Range": f"bytes */{size}"})
        if server.chunked:
            headers["Transfer-Encoding"] = "chunked"
            parts = content[start : start + 70_000], content[start + 70_000 :], b""
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        else:
            body = content[start:]
            headers["Content-Length"] = str(len(body) + server.promises_too_many)
        cut = server.cuts and len(body) > server.cut_after
        if cut:
            server.cuts -= 1
            body = body[: server.cut_after]
        self.answer(status, headers, body)
        if cut and server.resets:  # wait until the client has read, as a reset throws away what it has not
            time.sleep(0.1)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if cut:
            server.on_cut()
        if server.lingers:
            server.closing.wait(5)

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.server.served += len(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Files)
        self.content, self.headers, self.statuses = CONTENT, {"ETag": '"one"'}, {}
        self.ranges, self.heeds_if_range, self.chunked, self.resets = True, True, False, False
        self.cuts, self.cut_after, self.promises_too_many, self.stalls = 0, 100_000, 0, 0
        self.lingers, self.vague = False, False
        self.on_cut = lambda: None
        self.served, self.asked, self.closing = 0, [], threading.Event()

    def url(self, name="m.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def change(self):
        self.content, self.headers = OTHER, {"ETag": '"two"'}

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is what some tests are about


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "BACK_OFF", (0, 0, 0, 0))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "models" / "m.bin"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def assert_whole(target: Path, digest: str, content: bytes = CONTENT) -> None:
    assert target.read_bytes() == content
    assert digest == sha256(content)
    assert names(target.parent) == [target.name]


def assert_refused(url: str, target: Path, *words: str) -> str:
    with pytest.raises(InputError) as error:
        fetch(url, target)
    line = str(error.value)
    assert "\n" not in line
    for word in (url, str(target), *words):
        assert word in line
    assert not target.exists()
    return line


def interrupted(server, target) -> None:
    """Leave the first 100,000 bytes of a transfer beside `target`, as an earlier call would."""
    cuts, server.cuts, server.ranges = server.cuts, 1, True
    server.on_cut = lambda: server.statuses.update({"/m.bin": 404})
    assert_refused(server.url(), target)
    assert target.with_name("m.bin.part").read_bytes() == CONTENT[:100_000]
    server.statuses.clear()
    server.cuts, server.on_cut = cuts, lambda: None
    server.served, server.asked = 0, []


def test_a_file_arrives_whole_with_its_digest_and_a_progress_bar(server, target, capsys):
    lines = []
    assert_whole(target, fetch(server.url(), target, lines.append))
    assert server.asked == [None]
    assert lines == [f"fetching {server.url()} to {target}"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "fetching m.bin" in printed.err
    assert "300k/300k" in printed.err


def test_what_is_there_is_not_fetched_again(server, target):
    target.parent.mkdir()
    target.write_bytes(b"by hand")
    target.with_name("m.bin.part").write_bytes(b"an earlier try")
    assert_whole(target, fetch(server.url(), target), b"by hand")
    assert server.asked == []


@pytest.mark.parametrize("resets", [False, True])
def test_a_broken_connection_is_mended_within_the_call(server, target, resets):
    server.cuts, server.resets = 2, resets
    lines = []
    assert_whole(target, fetch(server.url(), target, lines.append))
    assert sum("trying again" in line for line in lines) == 2
    if resets:  # bytes on their way may be lost with the connection
        assert sum("reset" in line for line in lines) == 2
    else:
        assert server.asked == [None, "bytes=100000-", "bytes=200000-"]
        assert server.served == len(CONTENT)


def test_an_interrupted_transfer_goes_on_in_the_next_call(server, target, monkeypatch, capsys):
    class Bar(tqdm.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n >= 50_000:
                raise KeyboardInterrupt

    monkeypatch.setattr(download, "CHUNK", 10_000)
    monkeypatch.setattr(download, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url(), target)
    have = target.with_name("m.bin.part").read_bytes()
    assert have == CONTENT[: len(have)]
    assert 50_000 <= len(have) < 70_000
    assert not target.exists()
    monkeypatch.undo()
    server.served, server.asked = 0, []
    lines = []
    capsys.readouterr()
    assert_whole(target, fetch(server.url(), target, lines.append))
    assert server.asked == [f"bytes={len(have)}-"]
    assert server.served == len(CONTENT) - len(have)
    assert any("going on from 0.1 MB" in line for line in lines)
    assert f"{len(have) / 1e3:.1f}k/300k" in capsys.readouterr().err, "the bar starts where the file does"


def test_last_modified_serves_where_there_is_no_strong_etag(server, target):
    server.headers = {"ETag": 'W/"weak"', "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
    server.cuts = 1
    assert_whole(target, fetch(server.url(), target))
    assert server.served == len(CONTENT)


def test_a_version_that_nothing_names_starts_anew(server, target):
    server.headers = {"ETag": 'W/"weak"'}
    server.cuts = 1
    assert_whole(target, fetch(server.url(), target))
    assert server.asked == [None, None]
    server.cuts = 99
    target.unlink()
    assert "run this again" not in assert_refused(server.url(), target)
    assert names(target.parent) == []


def test_a_server_that_does_not_repeat_the_length(server, target):
    server.vague, server.cuts = True, 2
    assert_whole(target, fetch(server.url(), target))
    assert server.served == len(CONTENT)


def test_redirections_keep_the_range(server, target):
    server.cuts = 1
    assert_whole(target, fetch(server.url("moved/m.bin"), target))
    assert server.asked == [None, None, "bytes=100000-", "bytes=100000-"]
    target.unlink()
    assert_refused(server.url("loop"), target, "HTTP 302", "infinite loop")


def test_chunked_transfers_without_a_length(server, target):
    server.chunked = True
    server.cuts = 1
    assert_whole(target, fetch(server.url(), target))
    assert len(server.asked) == 2
    target.unlink()
    server.cuts, server.ranges, server.asked = 99, False, []
    assert_refused(server.url(), target)
    assert len(server.asked) == 5, "an end without a last chunk is not the end of the file"


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("between", ["tries", "calls"])
def test_a_changed_file_starts_anew(server, target, heeds_if_range, between):
    server.heeds_if_range = heeds_if_range
    if between == "calls":
        interrupted(server, target)
        server.change()
    else:
        server.cuts, server.on_cut = 1, server.change
    lines = []
    assert_whole(target, fetch(server.url(), target, lines.append), OTHER)
    assert server.asked[-1] == (None if not heeds_if_range else "bytes=100000-")
    assert any("changed" in line for line in lines)


def test_a_change_that_only_the_length_betrays_starts_anew(server, target):
    interrupted(server, target)
    server.content = OTHER[:250_000]
    assert_whole(target, fetch(server.url(), target), OTHER[:250_000])


def test_another_address_does_not_go_on_from_this_ones_bytes(server, target):
    interrupted(server, target)
    assert_whole(target, fetch(server.url("other.bin"), target))
    assert server.asked == [None]


def test_a_server_without_ranges_sends_the_whole_again(server, target):
    interrupted(server, target)
    server.ranges = False
    assert_whole(target, fetch(server.url(), target))
    assert server.asked == ["bytes=100000-"]
    assert server.served == len(CONTENT)


@pytest.mark.parametrize(
    ("tail", "content", "served"),
    [(CONTENT[100_000:], CONTENT, 0), (CONTENT[100_000:] + b"+", CONTENT, len(CONTENT)), (b"", OTHER[:99], 99)],
    ids=["whole", "too long", "shrunk on the server"],
)
@pytest.mark.parametrize("vague", [False, True])
def test_a_part_with_nothing_left_to_ask_for(server, target, tail, content, served, vague):
    """416: the whole is here and only wants its name, or what is here fits nothing."""
    interrupted(server, target)
    with open(target.with_name("m.bin.part"), "ab") as part:
        part.write(tail)
    server.content, server.heeds_if_range, server.vague = content, False, vague
    assert_whole(target, fetch(server.url(), target), content)
    assert server.served == served


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"url": 1}', b"\xff"])
def test_a_damaged_memory_starts_anew(server, target, damage):
    interrupted(server, target)
    target.with_name("m.bin.part.json").write_bytes(damage)
    assert_whole(target, fetch(server.url(), target))
    assert server.asked == [None]


def test_a_connection_that_always_breaks_is_an_error_that_keeps_what_came(server, target, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "BACK_OFF", (1, 2, 4, 8))
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append))
    server.cuts, server.cut_after = 99, 1000
    line = assert_refused(server.url(), target, "by hand", "run this again to go on from 0.0 MB")
    assert "the connection ended after 5,000 of 300,000 bytes" in line
    assert pauses == [1, 2, 4, 8]
    assert names(target.parent) == ["m.bin.part", "m.bin.part.json"]
    assert target.with_name("m.bin.part").read_bytes() == CONTENT[:5000]
    server.cuts = 0
    assert_whole(target, fetch(server.url(), target))
    assert server.served == len(CONTENT)


def test_tries_that_bring_enough_do_not_count(server, target, monkeypatch):
    monkeypatch.setattr(download, "WORTH_ANOTHER", 10_000)
    server.cuts, server.cut_after = 99, 20_000
    assert_whole(target, fetch(server.url(), target))
    assert len(server.asked) == 15


def test_a_length_that_is_not_kept_is_an_error(server, target):
    server.promises_too_many = 10
    assert_refused(server.url(), target)
    assert len(server.asked) == 5


def test_a_connection_that_stays_open_is_not_waited_for(server, target, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server.lingers = True
    assert_whole(target, fetch(server.url(), target))
    assert server.asked == [None]


def test_a_silent_server_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.stalls = 1
    assert_whole(target, fetch(server.url(), target))
    target.unlink()
    server.stalls = 99
    begun = time.monotonic()
    assert_refused(server.url(), target, "no answer within 0.1 s")
    assert time.monotonic() - begun < 4
    assert names(target.parent) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (401, 1), (204, 1), (416, 1), (503, 5)])
def test_refusals_by_status(server, target, status, tries):
    server.statuses["/m.bin"] = status
    assert_refused(server.url(), target, f"HTTP {status}", "by hand")
    assert len(server.asked) == tries
    assert names(target.parent) == []


def test_a_web_page_is_not_the_file(server, target):
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    assert_refused(server.url(), target, "web page")
    assert names(target.parent) == []


def test_refused_connections_and_bad_addresses_fail_at_once(server, target, monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", (None, None))  # a pause would be an error
    with socket.socket() as closed:  # bound, so that nobody else takes the port, but not listening
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/m.bin"
        assert_refused(url, target, os.strerror(errno.ECONNREFUSED), "by hand")
    for url in ("http://127.0.0.1:port/m.bin", "http:///m.bin", "http://[::1/m.bin", f"http://{'x' * 99}.org/m.bin"):
        assert_refused(url, target)

    def offline(*args, **kwargs):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    assert_refused("https://example.org/m.bin", target, "Temporary failure in name resolution", "by hand")
    assert names(target.parent) == []


@pytest.mark.parametrize(
    ("when", "error"),
    [(1, ConnectionResetError(errno.ECONNRESET, "reset")), (2, socket.gaierror(socket.EAI_AGAIN, "no name server"))],
    ids=["reset while asking", "offline for a moment"],
)
def test_a_connection_that_fails_for_a_moment_is_tried_again(server, target, monkeypatch, when, error):
    tries = []

    def urlopen(*args, **kwargs):
        tries.append(args)
        if len(tries) == when:
            raise URLError(error)
        return request.urlopen(*args, **kwargs)

    monkeypatch.setattr(download, "urlopen", urlopen)
    server.cuts = 1
    assert_whole(target, fetch(server.url(), target))
    assert len(tries) == 3


def test_only_the_web_is_fetched_from(tmp_path, target):
    secret = tmp_path / "secret"
    secret.write_text("")
    for url in (secret.as_uri(), "ftp://127.0.0.1/m.bin", str(secret), "data:,m"):
        with pytest.raises(InputError, match="http or https"):
            fetch(url, target)
    assert names(tmp_path) == ["secret"]


def test_no_room_is_said_before_anything_is_written(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(InputError, match=r"needs 0\.3 MB more, .*models has 0\.0 MB free"):
        fetch(server.url(), target)
    assert names(target.parent) == []


def test_a_place_that_cannot_be_written_is_one_line(server, tmp_path, target, monkeypatch):
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot read or write .*m\.bin"):
        fetch(server.url(), target)
    (tmp_path / "models").unlink()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        fetch(server.url(), target)
    assert not target.exists()


@pytest.mark.skipif(download.fcntl is None, reason="needs file locks")
def test_two_downloads_of_one_file_do_not_mix(server, target):
    target.parent.mkdir()
    with download._sole_writer(target.with_name("m.bin.part")), pytest.raises(InputError, match="another is writing"):
        fetch(server.url(), target)
    assert server.asked == []
    assert_whole(target, fetch(server.url(), target))
    with download._sole_writer(target.with_name("m.bin.part")):
        assert fetch(server.url(), target) == sha256(CONTENT), "what is there needs no lock"


@pytest.fixture
def published(server, monkeypatch):
    """xlsr-53 with its files on the local server."""
    urls = tuple(server.url(url.rsplit("/", 1)[1]) for url in PUBLISHED["xlsr-53"])
    monkeypatch.setitem(PUBLISHED, "xlsr-53", urls)
    return urls


def test_a_model_is_all_its_files(server, published, tmp_path):
    lines = []
    folder = fetch_model("xlsr-53", tmp_path / "cache" / "xlsr-53", lines.append)
    assert folder == tmp_path / "cache" / "xlsr-53"
    assert names(folder) == ["config.json", "preprocessor_config.json", "pytorch_model.bin"]
    for name in names(folder):
        assert f"SHA-256 {sha256(CONTENT)} {folder / name}" in lines
    assert locate(folder) == (folder / "pytorch_model.bin", folder / "config.json")
    server.asked = []
    assert fetch_model("xlsr-53", folder) == folder
    assert server.asked == []


def test_a_model_is_usable_only_when_complete(server, published, tmp_path):
    server.statuses["/preprocessor_config.json"] = 404
    with pytest.raises(InputError) as error:
        fetch_model("xlsr-53", tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert f"cannot fetch {published[1]} (HTTP 404" in line
    assert f"put it at {tmp_path / 'preprocessor_config.json'}" in line
    assert line.endswith(f"; {tmp_path} also needs {published[2]}"), "what else to fetch by hand, but not what is here"
    assert names(tmp_path) == ["config.json"]
    with pytest.raises(InputError, match="holds no"):
        locate(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")  # by hand
    fetch_model("xlsr-53", tmp_path)
    assert (tmp_path / "pytorch_model.bin").read_bytes() == CONTENT
    assert (tmp_path / "preprocessor_config.json").read_text() == "{}"


def test_published_names_are_those_of_the_configs(tmp_path):
    assert list(PUBLISHED) == [name for name in CONFIGS if name != "tiny"]
    base = "https://huggingface.co/facebook/wav2vec2-large-xlsr-53/resolve/main/"
    assert PUBLISHED["xlsr-53"] == tuple(
        base + file for file in ("config.json", "preprocessor_config.json", "pytorch_model.bin")
    )
    for urls in PUBLISHED.values():
        assert [url.rsplit("/", 1)[1] for url in urls] == list(download.FILES)
    with pytest.raises(InputError, match=r"a published model is one of xlsr-53, .* got tiny"):
        fetch_model("tiny", tmp_path)
