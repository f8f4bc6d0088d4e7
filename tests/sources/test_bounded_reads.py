"""A server or a command that never stops sending takes neither memory nor the run."""

import io
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.bounded_reads import command_to
from datamodules.sources.remote import store
from datamodules.sources.shards import Shards
from tests.helpers import hostile_files


class Endless(BaseHTTPRequestHandler):
    """Answers every request with bytes without an end, as the requested range or as a file of unknown length."""

    def do_GET(self) -> None:
        self.send_response(206 if self.headers.get("Range") else 200)
        self.end_headers()
        with suppress(OSError):  # the client has left
            while True:
                self.wfile.write(b"shard,samples,bytes,texts,labels\n" * 2000)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["http", "pipe", "file"])
def test_an_endless_list_is_refused(endless: str, tmp_path: Path, kind: str) -> None:
    (tmp_path / "shards.csv").write_bytes(b"a" * 10_000_000)
    folder = {"http": endless, "pipe": "pipe:yes {}", "file": f"file://{tmp_path}"}[kind]
    with pytest.raises(FileNotFoundError, match="more than 1000000 bytes, the limit index_bytes"):
        Shards(folder, limits=Limits(index_bytes=1_000_000), retries=3, backoff=60)  # and is not tried again


@pytest.mark.parametrize("kind", ["http", "pipe"])
def test_it_takes_little_memory(endless: str, kind: str) -> None:
    folder = {"http": endless, "pipe": "pipe:yes {}"}[kind]
    imports = "from datamodules.sources.shards import Shards\nimport fsspec, aiohttp, tempfile, csv"
    code = f"try:\n    Shards({folder!r}, retries=0)\nexcept FileNotFoundError as error:\n    print(error)"
    growth, error = hostile_files.peak_growth(imports, code)
    assert "index_bytes" in error and growth < 300  # of a limit of 64 MiB


def test_a_range_and_a_tar_end_where_they_should(endless: str) -> None:
    remote = store(endless, retries=0)
    assert not remote.supports_ranges("a.tar")
    with pytest.raises(DecodeError, match="of 100 bytes"):
        remote.read("a.tar", 0, 100, "a sample")
    for folder in (endless, "pipe:yes {}"):
        out = io.BytesIO()
        with pytest.raises(DecodeError, match="bytes, not 1000"):
            store(folder, retries=0).copy("a.tar", out, 1000, "a sample")
        assert len(out.getvalue()) < 1_000_000


def test_a_command_fails_or_is_late() -> None:
    out = io.BytesIO()
    assert command_to(out, "printf abc", 3, 10) == 3 and out.getvalue() == b"abc"
    with pytest.raises(OSError, match="exited with 3: no such key"):
        command_to(io.BytesIO(), "echo no such key >&2; exit 3", 10, 10)
    with pytest.raises(OSError, match=r"was not done after 0\.2 s"):
        command_to(io.BytesIO(), "sleep 60 | cat", 10, 0.2)
