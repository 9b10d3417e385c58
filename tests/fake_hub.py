"""A small Hugging Face Hub on 127.0.0.1: what huggingface_hub asks it for, up and down, and refusals."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


class FakeHub:
    """publish() repositories, then set `gated`, `cuts`, `status` ... as needed; `requests` says what was asked.

    Uploads need a token of `roles`, all of which are of the user "someone", a member of "lab".
    """

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> file name -> content
        self.gated: dict[str, str] = {}  # repository -> the token that opens it
        self.cuts: dict[str, int] = {}  # file name -> how many of its next answers end halfway
        self.status = 200  # another one answers every request
        self.page = b""  # answers every request, as the portal of a network does
        self.roles = {"hf_write": "write", "hf_read": "read"}  # by token
        self.private: set[str] = set()  # repositories
        self.refusals: dict[str, int] = {}  # part of a path -> the status that answers an upload; 0: no answer at all
        self.going = threading.Event()  # while it is cleared, uploads of contents wait
        self.going.set()
        self.objects: dict[str, bytes] = {}  # large files by SHA-256, before their commit
        self.received: list[bytes] = []  # every body of every POST and PUT
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

    def files(self, repository: str) -> dict[str, bytes]:
        """What its main branch holds."""
        return list(self.commits[repository].values())[-1]

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
        if self.command != "HEAD":
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
        if path == "/api/whoami-v2":
            return self.who(token)
        if commits is None or (repository in hub.private and token not in hub.roles):
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
            facts = {"id": repository, "sha": commit, "siblings": siblings, "private": repository in hub.private}
            return self.answer(json.dumps(facts).encode())
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

    def who(self, token: str) -> None:
        if token not in self.hub.roles:
            return self.refuse(401)
        role = {"accessToken": {"displayName": "t", "role": self.hub.roles[token]}}
        return self.reply({"type": "user", "name": "someone", "orgs": [{"name": "lab"}], "auth": role})

    def reply(self, value: dict, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.received.append(data)
        return data

    def do_PUT(self):
        self.do_POST()

    def do_POST(self):
        hub, path, data = self.hub, unquote(urlsplit(self.path).path), self.body()
        hub.requests.append(f"{self.command} {path}")
        for part, status in hub.refusals.items():
            if part in path:
                self.close_connection = not status
                return self.refuse(status) if status else None
        if path.startswith("/objects/"):  # storage: its addresses are their own keys
            hub.going.wait(20)
            hub.objects[path.removeprefix("/objects/")] = data
            return self.answer(b"")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path == "/api/validate-yaml":
            return self.validate(json.loads(data)["content"])
        if token not in hub.roles:
            return self.refuse(401)
        if path == "/api/repos/create":
            return self.create(json.loads(data), token)
        repository = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        if repository not in hub.commits:
            return self.refuse(404, "RepoNotFound")
        if hub.roles[token] == "read":
            return self.refuse(403)
        if "/preupload/" in path:
            files = json.loads(data)["files"]
            return self.reply({"files": [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".bin")) else "regular"}
                for f in files
            ]})  # fmt: skip
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(data)["objects"]
            return self.reply({"objects": [
                {**o, "actions": {"upload": {"href": f"{hub.url}/objects/{o['oid']}"}}} for o in wanted
            ]})  # fmt: skip
        if "/commit/" in path:
            return self.commit(repository, [json.loads(line) for line in data.splitlines()])
        return self.refuse(404)

    def create(self, asked: dict, token: str) -> None:
        hub, owner = self.hub, asked["organization"] or "someone"
        repository = f"{owner}/{asked['name']}"
        if hub.roles[token] == "read" or owner not in ("someone", "lab"):
            return self.refuse(403)
        known = repository in hub.commits
        if not known:
            hub.publish(repository, **{".gitattributes": b""})
            if asked.get("visibility") == "private":
                hub.private.add(repository)
        return self.reply({"url": f"{hub.url}/{repository}"}, 409 if known else 200)

    def validate(self, card: str) -> None:
        try:
            assert isinstance(yaml.safe_load(card.removeprefix("---\n").split("\n---\n")[0]), dict)
        except (AssertionError, yaml.YAMLError) as error:
            return self.reply({"errors": [{"message": str(error)}]}, 400)
        return self.reply({"errors": [], "warnings": []})

    def commit(self, repository: str, lines: list[dict]) -> None:
        files = dict(self.hub.files(repository))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.hub.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content
        oid = self.hub.publish(repository, **files)
        self.reply({"commitUrl": f"{self.hub.url}/{repository}/commit/{oid}", "commitOid": oid})
