"""A hub for tests: answers as huggingface.co does, and records what was asked for.

    with serving(folder, {"owner/name": commit}) as hub:
        subprocess.run(command, env={**os.environ, "HF_ENDPOINT": hub.address})
    hub.fetched("owner/name")

A repository lies under folder/owner/name. Any other is answered 401, as one that is gone or
private. Large files are redirected to another address, with their sha256 as etag.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".bin", ".ckpt", ".h5", ".onnx", ".pth", ".safetensors")  # in Git LFS
STORE = "large-files"  # first part of the address of a large file


class Hub(ThreadingHTTPServer):
    """The server.

    requests: (repository, file, method, status) of each request so far. commits: the one commit
    of each repository.
    """

    daemon_threads = True

    def __init__(self, folder: Path, commits: dict[str, str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.commits = folder, commits
        self.requests: list[tuple[str, str, str, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository: str) -> dict[str, Path]:
        """Return the files of a repository by their names."""
        folder = self.folder / repository
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path for path in paths}

    def fetched(self, repository: str) -> set[str]:
        """Return the names of the files whose content was sent."""
        sent = set()
        for owner_name, file, method, status in self.requests:
            if (owner_name, method, status) == (repository, "GET", 200):
                sent.add(file)
        return sent


class Handler(BaseHTTPRequestHandler):
    """One request, of the hub's addresses that its Python client uses."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing on stderr."""

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._information("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        if parts[0] == STORE:
            repository, name = "/".join(parts[1:3]), "/".join(parts[3:])
            return self._content(repository, name, self.server.files(repository)[name])
        return self._refuse("", self.path, 404, "NotFound")

    do_HEAD = do_GET  # noqa: N815

    def _information(self, repository: str, rest: list[str]):
        """Answer what a repository holds: as a list of names, or as a tree with sizes."""
        question = "/".join(["api", *rest])
        revision = rest[1] if len(rest) > 1 else "main"
        if self._refused(repository, revision, question):
            return
        files = self.server.files(repository)
        if rest[:1] == ["tree"]:
            under = "/".join(rest[2:])
            content = [_entry(name, files[name]) for name in files if name.startswith(under)]
        else:
            names = [{"rfilename": name} for name in files]
            sha = self.server.commits[repository]
            flags = {"private": False, "gated": False, "disabled": False, "tags": []}
            content = {"id": repository, "sha": sha, "siblings": names, **flags}
        body = json.dumps(content).encode()
        self._answer(repository, question, 200, {"Content-Type": "application/json"}, body)

    def _file(self, repository: str, revision: str, name: str):
        """Answer with a small file, or with the address and sha256 of a large one."""
        if self._refused(repository, revision, name):
            return
        path = self.server.files(repository).get(name)
        if path is None:
            self._refuse(repository, name, 404, "EntryNotFound")
        elif path.suffix not in LARGE:
            self._content(repository, name, path)
        else:
            headers = {
                "Location": f"{self.server.address}/{STORE}/{repository}/{name}",
                "X-Linked-ETag": f'"{sha256(path)}"',
                "X-Linked-Size": str(path.stat().st_size),
            }
            self._answer(repository, name, 302, headers)

    def _content(self, repository: str, name: str, path: Path):
        tag = sha256(path) if path.suffix in LARGE else blob_hash(path)
        self._answer(repository, name, 200, {"ETag": f'"{tag}"'}, path.read_bytes())

    def _refused(self, repository: str, revision: str, name: str) -> bool:
        """Refuse a repository or a revision that is not there; return whether it was refused."""
        commit = self.server.commits.get(repository)
        if commit is None:
            self._refuse(repository, name, 401, "RepoNotFound")
        elif revision not in ("main", commit):
            self._refuse(repository, name, 404, "RevisionNotFound")
        else:
            return False
        return True

    def _refuse(self, repository: str, name: str, status: int, code: str):
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self._answer(repository, name, status, headers, json.dumps({"error": code}).encode())

    def _answer(self, repository: str, name: str, status: int, headers: dict, body: bytes = b""):
        self.server.requests.append((repository, name, self.command, status))
        self.send_response(status)
        if repository in self.server.commits:
            headers = {**headers, "X-Repo-Commit": self.server.commits[repository]}
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(folder: Path, commits: dict[str, str]) -> Iterator[Hub]:
    """Run a hub in a thread of its own."""
    hub = Hub(folder, commits)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def _entry(name: str, path: Path) -> dict:
    """Return a file as the tree of a repository names it."""
    size = path.stat().st_size
    entry = {"type": "file", "path": name, "size": size, "oid": blob_hash(path)}
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": sha256(path), "size": size, "pointerSize": 134}
    return entry


@cache
def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def blob_hash(path: Path) -> str:
    """Return Git's hash of a file, the etag of those that are not large."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
