"""A small Hugging Face Hub on 127.0.0.1: what huggingface_hub asks for while it downloads, and the Hub's refusals."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeHub:
    """publish() repositories, then set `gated`, `cuts` and `status` as needed; `requests` says what was asked."""

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> file name -> content
        self.gated: dict[str, str] = {}  # repository -> the token that opens it
        self.cuts: dict[str, int] = {}  # file name -> how many of its next answers end halfway
        self.status = 200  # another one answers every request
        self.page = b""  # answers every request, as the portal of a network does
        self.requests: list[str] = []  # "GET /owner/name/resolve/..."
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def publish(self, repository: str, **files: bytes) -> str:
        """A new commit of a repository, its main from now on."""
        commits = self.commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        return commit

    def fetched(self) -> list[str]:
        """The names of the files that were sent so far."""
        gets = [line for line in self.requests if line.startswith("GET") and "/resolve/" in line]
        return sorted(line.rsplit("/", 1)[1] for line in gets)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def refuse(self, status: int, code: str = "") -> None:
        self.answer(b"", status, {"X-Error-Code": code} if code else {})

    def answer(self, body: bytes, status: int = 200, headers: dict | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        path = path.replace("/api/datasets/", "/api/models/").removeprefix(
            "/datasets"
        )  # both kinds have one name space
        parts = path.removeprefix("/api/models").strip("/").split("/")  # owner, name, what, revision, file
        repository, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
        commits = hub.commits.get(repository)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if hub.page:
            return self.answer(hub.page, headers={"Content-Type": "text/html"})
        if hub.status != 200:
            return self.refuse(hub.status)
        if commits is None:
            return self.refuse(404, "RepoNotFound") if token else self.refuse(401)  # the Hub's manner
        if revision != "main" and revision not in commits:
            return self.refuse(404, "RevisionNotFound")
        commit = list(commits)[-1] if revision == "main" else revision
        files = commits[commit]
        if path.startswith("/api/") and parts[2:3] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self.answer(json.dumps(tree).encode())
        if path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in files]
            return self.answer(json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode())
        if token != hub.gated.get(repository, token):
            return self.refuse(403 if token else 401, "GatedRepo")
        name = "/".join(parts[4:])
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        headers = {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": commit}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(files[name]) - 1}/{len(files[name])}"
        cut = self.command == "GET" and hub.cuts.get(name, 0) > 0
        hub.cuts[name] = hub.cuts.get(name, 0) - cut
        return self.answer(files[name][start:], 206 if start else 200, headers, cut)
