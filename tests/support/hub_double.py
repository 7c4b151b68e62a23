"""A Hugging Face hub and the storage behind it, in this process, with the API of the real one.

huggingface_hub itself, with HF_ENDPOINT, is the client that proves it (`test_hub_double`). Large
files are where the real hub has them: behind a redirect to a second host, under a signed address
that takes no token. Files go in by `publish`, or by the library's own upload.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    # Sees each request first; True: it has been answered.
    Intercept = Callable[["Exchange"], bool]

_REPOSITORY = r"(?P<repository>[\w.-]+/[\w.-]+)"
_START = datetime(2025, 3, 1, 12, tzinfo=timezone.utc)
# The real hub has 1000 files on a page.
PAGE = 1000


@dataclass
class Commit:
    """One state of a repository."""

    id: str
    date: datetime
    files: dict[str, bytes]

    @property
    def stamp(self) -> str:
        return self.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class HubRepository:
    """A repository.

    Attributes:
        branches: Commits, oldest first, of each branch.
        lfs: Paths that are in large file storage, whatever their size.
        gated: Whether its terms must be accepted, which `readers` have done.
        private: Whether only `readers` see it.
        listing: Entries that its tree has in place of its own.
    """

    branches: dict[str, list[Commit]] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    gated: bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)
    listing: list[dict[str, Any]] | None = None

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit.id == revision), None)


@dataclass
class Seen:
    """A request that came."""

    host: str
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None


class HubDouble:
    """The hub.

    Attributes:
        repositories: By their names as they were made.
        objects: What is in large file storage, by sha256.
        tokens: Those that it knows; the values are who they belong to.
        intercept: Sees each request first.
        seen: The requests that came, oldest first.
        corrupt: Digests of objects that the storage serves with one byte changed.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, HubRepository] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {"hf_owner": "owner"}
        self.intercept: Intercept | None = None
        self.seen: list[Seen] = []
        self.corrupt: set[str] = set()
        self.hub_port = 0
        self.storage_port = 0
        self._clock = _START
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.hub_port}"

    @property
    def storage(self) -> str:
        """The second host: to a client another name is another host."""
        return f"http://localhost:{self.storage_port}"

    def publish(
        self,
        repository: str,
        files: Mapping[str, bytes],
        *,
        branch: str = "main",
        lfs: tuple[str, ...] = (".gguf", ".safetensors", ".dduf"),
    ) -> Commit:
        """Add a commit with these files, and what was there before."""
        found = self.repositories.setdefault(repository, HubRepository())
        commits = found.branches.setdefault(branch, [])
        before = commits[-1].files if commits else {}
        for path, data in files.items():
            if path.endswith(lfs):
                found.lfs.add(path)
                self.objects[hashlib.sha256(data).hexdigest()] = data
        return self.commit(found, branch, {**before, **files})

    def commit(self, found: HubRepository, branch: str, files: dict[str, bytes]) -> Commit:
        """Add a commit; each is an hour after the one before."""
        with self._lock:
            self._clock += timedelta(hours=1)
            text = f"{self._clock}{sorted(files)}".encode()
            made = Commit(hashlib.sha1(text).hexdigest(), self._clock, files)
            found.branches.setdefault(branch, []).append(made)
        return made

    def asked(self, pattern: str, *, host: str | None = None) -> list[Seen]:
        """The requests whose method and path fit."""
        return [
            one
            for one in self.seen
            if re.search(pattern, f"{one.method} {one.path}") and host in (None, one.host)
        ]

    def downloads(self) -> list[Seen]:
        """Requests for bytes of large files."""
        return self.asked("^GET /", host="storage")

    def served(self) -> int:
        """Bytes of large files that were asked for."""
        return sum(map(self._wanted, self.downloads()))

    def _wanted(self, seen: Seen) -> int:
        size = len(self.objects[seen.path.rpartition("/")[2]])
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("Range", ""))
        if not wanted:
            return size
        return max(0, min(size, int(wanted[2] or size) + 1) - int(wanted[1]))


class Exchange(BaseHTTPRequestHandler):
    """One connection to the hub or its storage."""

    protocol_version = "HTTP/1.1"
    double: HubDouble
    host: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.where = unquote(address.path)
        self.query = parse_qs(address.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        double = self.double
        headers = {name.title(): value for name, value in self.headers.items()}
        seen = Seen(self.host, self.command, self.where, self.query, headers)
        double.seen.append(seen)
        self.token = seen.token
        if double.intercept is not None and double.intercept(self):
            return
        routes = _HUB_ROUTES if self.host == "hub" else _STORAGE_ROUTES
        for method, pattern, handler in routes:
            match = re.fullmatch(pattern, self.where)
            if match and self.command in method:
                handler(self, **match.groupdict())
                return
        self.fail(404, "no such place")

    def send(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(
        self, content: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send(
            status,
            json.dumps(content).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )

    def fail(self, status: int, message: str, code: str = "", **headers: str) -> None:
        named = {"X-Error-Message": message, **headers}
        if code:
            named["X-Error-Code"] = code
        self.send_json({"error": message}, status, named)

    def repository(self, name: str, *, files: bool = False) -> HubRepository | None:
        """A repository that whoever asks may see; else the answer is given."""
        double = self.double
        if self.token is not None and self.token not in double.tokens:
            self.fail(401, "Invalid credentials in Authorization header")
            return None
        user = double.tokens.get(self.token or "", "")
        found = {key.lower(): one for key, one in double.repositories.items()}.get(name.lower())
        if found is None or (found.private and user not in found.readers):
            # Who does not log in is not told whether there is one.
            status = 404 if user else 401
            self.fail(status, "Repository not found", "RepoNotFound")
            return None
        if found.gated and files and user not in found.readers:
            text = f"Access to model {name} is restricted. You must have access to it."
            self.fail(403 if user else 401, text, "GatedRepo")
            return None
        return found

    def revision(
        self, name: str, revision: str, *, files: bool = False
    ) -> tuple[HubRepository, Commit] | None:
        found = self.repository(name, files=files)
        if found is None:
            return None
        commit = found.find(unquote(revision))
        if commit is None:
            self.fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return found, commit


def git_id(data: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def pointer(data: bytes) -> bytes:
    """What git keeps of a file in large file storage."""
    oid = hashlib.sha256(data).hexdigest()
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
    )


def _info(exchange: Exchange, repository: str, revision: str = "main") -> None:
    # The real hub shows who asks what is gated; only the files it keeps back.
    found = exchange.revision(repository, revision)
    if found is None:
        return
    repo, commit = found
    name = next(key for key in exchange.double.repositories if key.lower() == repository.lower())
    exchange.send_json(
        {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": commit.id,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            # The last commit of any branch, whichever is asked for.
            "lastModified": max(
                (branch[-1] for branch in repo.branches.values()), key=lambda one: one.date
            ).stamp,
            "createdAt": _START.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "tags": [],
            "siblings": [{"rfilename": path} for path in commit.files],
        }
    )


def _commits(exchange: Exchange, repository: str, revision: str) -> None:
    found = exchange.revision(repository, revision)
    if found is None:
        return
    repo, commit = found
    branch = next(branch for branch in repo.branches.values() if commit in branch)
    history = branch[: branch.index(commit) + 1]
    exchange.send_json(
        [
            {"id": one.id, "title": "a commit", "message": "", "authors": [], "date": one.stamp}
            for one in reversed(history)
        ]
    )


def _entries(repo: HubRepository, commit: Commit) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    folders = set()
    for path, data in sorted(commit.files.items()):
        parts = path.split("/")[:-1]
        folders |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        if path in repo.lfs:
            entry["oid"] = git_id(pointer(data))
            oid = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": len(pointer(data))}
        else:
            entry["oid"] = git_id(data)
        entries.append(entry)
    trees = [
        {"type": "directory", "oid": git_id(one.encode()), "size": 0, "path": one}
        for one in sorted(folders)
    ]
    return sorted([*entries, *trees], key=lambda entry: str(entry["path"]))


def _tree(exchange: Exchange, repository: str, revision: str) -> None:
    found = exchange.revision(repository, revision, files=True)
    if found is None:
        return
    repo, commit = found
    entries = repo.listing if repo.listing is not None else _entries(repo, commit)
    if exchange.query.get("recursive", ["false"])[0].lower() != "true":
        entries = [entry for entry in entries if "/" not in entry["path"]]
    start = int(exchange.query.get("cursor", ["0"])[0])
    headers = {}
    if start + PAGE < len(entries):
        where = f"{exchange.double.endpoint}{quote(exchange.where)}"
        following = f"{where}?recursive=True&cursor={start + PAGE}"
        headers["Link"] = f'<{following}>; rel="next"'
    exchange.send_json(entries[start : start + PAGE], headers=headers)


def _resolve(exchange: Exchange, repository: str, revision: str, path: str) -> None:
    found = exchange.revision(repository, revision, files=True)
    if found is None:
        return
    repo, commit = found
    data = commit.files.get(path)
    if data is None:
        exchange.fail(404, "Entry not found", "EntryNotFound")
        return
    headers = {"X-Repo-Commit": commit.id}
    if path not in repo.lfs:
        # On the same host, and relative.
        target = f"/api/resolve-cache/models/{repository}/{commit.id}/{quote(path, safe='')}"
        headers |= {"ETag": f'"{git_id(data)}"', "Location": target}
        exchange.send(307, headers=headers)
        return
    oid = hashlib.sha256(data).hexdigest()
    headers |= {
        "ETag": f'"{git_id(pointer(data))}"',
        "X-Linked-Etag": f'"{oid}"',
        "X-Linked-Size": str(len(data)),
        "Location": f"{exchange.double.storage}/objects/{oid}?signature=a%2Bb%3D",
    }
    exchange.send(302, headers=headers)


def _small(exchange: Exchange, repository: str, revision: str, path: str) -> None:
    found = exchange.revision(repository, revision, files=True)
    if found is None:
        return
    data = found[1].files[unquote(path)]
    exchange.send(200, data, {"ETag": f'"{git_id(data)}"', "X-Repo-Commit": found[1].id})


def _object(exchange: Exchange, oid: str) -> None:
    """A large file, or a part of it. A signature that was quoted anew is no signature."""
    if exchange.token is not None or "signature=a%2Bb%3D" not in exchange.path:
        exchange.fail(403, "the signature is wrong")
        return
    data = exchange.double.objects.get(oid)
    if data is None:
        exchange.fail(404, "no such object")
        return
    if oid in exchange.double.corrupt:
        middle = len(data) // 2
        data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.headers.get("Range", ""))
    if not wanted:
        exchange.send(200, data, {"Accept-Ranges": "bytes"})
        return
    start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
    if start >= len(data):
        exchange.send(416, headers={"Content-Range": f"bytes */{len(data)}"})
        return
    part = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    exchange.send(206, data[start : end + 1], part)


def _create(exchange: Exchange) -> None:
    user = exchange.double.tokens.get(exchange.token or "")
    if user is None:
        exchange.fail(401, "Invalid username or password.")
        return
    wanted = json.loads(exchange.body)
    owner = wanted.get("organization") or user
    name = f"{owner}/{wanted['name']}"
    if owner != user:
        exchange.fail(403, f"You don't have the rights to create a model under {owner}")
        return
    if name in exchange.double.repositories:
        exchange.fail(409, "You already created this model repo")
        return
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    made = HubRepository(private=private, readers={user})
    exchange.double.repositories[name] = made
    exchange.double.commit(made, "main", {".gitattributes": b"*.gguf filter=lfs\n"})
    exchange.send_json({"url": f"{exchange.double.endpoint}/{name}", "id": "2", "name": name})


def _writable(exchange: Exchange, repository: str) -> HubRepository | None:
    found = exchange.repository(repository)
    if found is None:
        return None
    user = exchange.double.tokens.get(exchange.token or "")
    if repository.partition("/")[0] != user:
        exchange.fail(403, "you must have write access to this repository")
        return None
    return found


def _preupload(exchange: Exchange, repository: str, revision: str) -> None:
    found = _writable(exchange, repository)
    if found is None:
        return
    commit = found.find(revision)
    answers = []
    for file in json.loads(exchange.body)["files"]:
        large = file["size"] > 10_000_000 or file["path"].endswith((".gguf", ".safetensors"))
        base64.b64decode(file["sample"], validate=True)
        present = commit.files.get(file["path"]) if commit else None
        answers.append(
            {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": None if present is None else _oid_of(present, large=large),
            }
        )
    exchange.send_json({"files": answers})


def _oid_of(data: bytes, *, large: bool) -> str:
    return hashlib.sha256(data).hexdigest() if large else git_id(data)


def _batch(exchange: Exchange, repository: str) -> None:
    if _writable(exchange, repository) is None:
        return
    objects: list[dict[str, Any]] = []
    for one in json.loads(exchange.body)["objects"]:
        answer = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] not in exchange.double.objects:
            endpoint = exchange.double.endpoint
            answer["actions"] = {
                "upload": {"href": f"{exchange.double.storage}/uploads/{one['oid']}?signature=u"},
                "verify": {"href": f"{endpoint}/{repository}.git/info/lfs/verify", "header": {}},
            }
        objects.append(answer)
    exchange.send_json({"transfer": "basic", "objects": objects})


def _upload(exchange: Exchange, oid: str) -> None:
    if exchange.token is not None:
        exchange.fail(403, "two ways to log in")
    elif hashlib.sha256(exchange.body).hexdigest() != oid:
        exchange.fail(400, "these are other bytes")
    else:
        exchange.double.objects[oid] = exchange.body
        exchange.send(200)


def _verify(exchange: Exchange, repository: str) -> None:
    if _writable(exchange, repository) is None:
        return
    wanted = json.loads(exchange.body)
    if len(exchange.double.objects.get(wanted["oid"], b"")) != wanted["size"]:
        exchange.fail(404, "it did not arrive")
    else:
        exchange.send_json({})


def _commit(exchange: Exchange, repository: str, revision: str) -> None:
    found = _writable(exchange, repository)
    if found is None:
        return
    head = found.find(revision)
    files = dict(head.files) if head else {}
    for line in exchange.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            data = exchange.double.objects.get(value["oid"])
            if data is None or len(data) != value["size"]:
                exchange.fail(400, f"{value['path']} is not in large file storage")
                return
            files[value["path"]] = data
            found.lfs.add(value["path"])
    made = exchange.double.commit(found, revision, files)
    where = f"{exchange.double.endpoint}/{repository}/commit/{made.id}"
    exchange.send_json({"success": True, "commitOid": made.id, "commitUrl": where})


def _validate(exchange: Exchange) -> None:
    exchange.send_json({"errors": [], "warnings": []})


_API = rf"/api/models/{_REPOSITORY}"
_HUB_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", r"/api/repos/create", _create),
    ("POST", r"/api/validate-yaml", _validate),
    ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", _preupload),
    ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", _commit),
    ("POST", rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", _batch),
    ("POST", rf"/{_REPOSITORY}\.git/info/lfs/verify", _verify),
    ("GET", rf"{_API}/tree/(?P<revision>.+)", _tree),
    ("GET", rf"{_API}/commits/(?P<revision>.+)", _commits),
    ("GET", rf"{_API}/revision/(?P<revision>.+)", _info),
    ("GET", _API, _info),
    (
        "GET HEAD",
        rf"/api/resolve-cache/models/{_REPOSITORY}/(?P<revision>[^/]+)/(?P<path>.+)",
        _small,
    ),
    ("GET HEAD", rf"/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _resolve),
)
_STORAGE_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET HEAD", r"/objects/(?P<oid>[0-9a-f]{64})", _object),
    ("PUT", r"/uploads/(?P<oid>[0-9a-f]{64})", _upload),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no news."""


@contextmanager
def hub_double() -> Iterator[HubDouble]:
    """Run one on ports of its own choice."""
    double = HubDouble()
    servers = []
    for host in ("hub", "storage"):
        handler = type("Bound", (Exchange,), {"double": double, "host": host})
        servers.append(_Server(("127.0.0.1", 0), handler))
    double.hub_port, double.storage_port = (server.server_address[1] for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield double
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
