"""A small server on loopback that speaks the Hugging Face hub's protocol, and serves plain files with ranges."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `files`, by "OWNER/NAME/FILE" or by a plain path.

    `gated` repositories answer as those that ask for an agreement. `cut`: bytes after which each of the next answers
    breaks off, one number an answer. `wrong`: files whose stated SHA-256 is another's. `requests` are kept.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files, self.gated, self.wrong = files, set[str](), set[str]()
        self.cut: list[int] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Answer(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            return self._repository(parts[2:])
        if len(parts) > 4 and parts[2] == "resolve":
            repository, file = "/".join(parts[:2]), "/".join(parts[4:])
            if repository in self.hub.gated:
                return self._error(403, "GatedRepo")
            if not any(name.startswith(f"{repository}/") for name in self.hub.files):
                return self._error(404, "RepoNotFound")
            if f"{repository}/{file}" not in self.hub.files:
                return self._error(404, "EntryNotFound")
            return self._file(f"{repository}/{file}", body)
        if path in self.hub.files:
            return self._file(path, body)
        self._error(404, "EntryNotFound")

    def _repository(self, parts: list[str]) -> None:
        """Facts of a repository, or with `tree` the list of its files."""
        repository = "/".join(parts[:2])
        files = {
            n.removeprefix(f"{repository}/"): c for n, c in self.hub.files.items() if n.startswith(f"{repository}/")
        }
        if not files:
            return self._error(404, "RepoNotFound")
        if "tree" in parts:
            facts: object = [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in files.items()]
        else:
            siblings = [{"rfilename": name} for name in files]
            facts = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        text = json.dumps(facts).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(text))})
        self.wfile.write(text)

    def _file(self, name: str, body: bool) -> None:
        content = self.hub.files[name]
        digest = hashlib.sha256(content + (b"!" if name in self.hub.wrong else b"")).hexdigest()
        begin, status = 0, 200
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range", f'"{digest}"') == f'"{digest}"':
            begin, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
        rest = content[begin:]
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        headers |= {"X-Repo-Commit": COMMIT, "Content-Length": str(len(rest)), "Accept-Ranges": "bytes"}
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._head(status, headers)
        if body:
            self.wfile.write(rest[: self.hub.cut.pop(0)] if self.hub.cut else rest)

    def _error(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
