"""Remote shards: by ranges or whole, through a cache shared by processes, from stores that fail."""

import pickle
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.order import Order
from datamodules.sources.remote import store
from datamodules.sources.shards import Shards
from datamodules.sources.tars import write_index, write_shard
from tests.helpers import videos

SHARDS, EACH = 6, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of four samples; sample i has text "text i"."""
    folder = tmp_path_factory.mktemp("shards")
    video = Path(videos.make(folder / "v.mp4", frames=12)).read_bytes()
    (folder / "v.mp4").unlink()
    rows = []
    for s in range(SHARDS):
        samples = [(f"{i:06d}", "mp4", video, {"text": f"text {i}"}) for i in range(s * EACH, (s + 1) * EACH)]
        rows.append(write_shard(folder / f"s-{s}.tar", samples))
    write_index(folder, rows)
    return folder


class Server(ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1, with or without `ranges`; `trouble(path)` is None, "error", "drop" or "missing"."""

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.trouble, self.asked = folder, ranges, lambda path: None, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file, part = self.server.folder / self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((file.name, part))
        trouble = self.server.trouble(file.name)
        if not file.is_file() or trouble == "missing":
            return self.answer(404, b"no such file")
        if trouble == "error":
            return self.answer(503, b"busy")
        data = file.read_bytes()
        if part and self.server.ranges:
            first, last = (int(x) for x in re.fullmatch(r"bytes=(\d+)-(\d+)", part).groups())
            return self.answer(206, data[first : last + 1], trouble == "drop")
        self.answer(200, data, trouble == "drop")

    do_HEAD = do_GET

    def answer(self, status: int, data: bytes, drop: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if drop else data)
        if drop:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.shutdown()


def shards(address: str, tmp_path: Path, **options: object) -> Shards:
    return Shards(address, **{"cache": str(tmp_path / "cache"), "backoff": 0.01, "retries": 2, **options})


def check(source: Shards, local: Shards) -> None:
    assert source.counts.tolist() == local.counts.tolist() and source.texts == local.texts
    for i in (23, 0, 4, 5, 11, 4):
        assert source[i] == local[i]


def addresses(folder: Path) -> dict[str, str]:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/shards", recursive=True)
    return {
        "file": f"file://{folder}",
        "memory": "memory://bucket/shards/",
        "pipe": f"pipe:cat '{folder}/'{{}}",
    }


@pytest.mark.parametrize("kind", ["file", "memory", "pipe"])
@pytest.mark.parametrize("whole", [False, True])
def test_samples_equal_those_of_the_local_folder(folder: Path, tmp_path: Path, kind: str, whole: bool) -> None:
    source = shards(addresses(folder)[kind], tmp_path, whole=whole)
    check(source, Shards(str(folder)))
    kept = len(list((tmp_path / "cache").glob("*.tar"))) if (tmp_path / "cache").exists() else 0
    assert kept == (4 if whole or kind == "pipe" else 0)
    assert pickle.loads(pickle.dumps(source))[7].text == "text 7"


def test_http_reads_ranges(folder: Path, tmp_path: Path, server: Server) -> None:
    source = shards(server.url, tmp_path)
    assert {name for name, _ in server.asked} == {"shards.csv"}  # nothing else is read at the start
    check(source, Shards(str(folder)))
    tars = [part for name, part in server.asked if name.endswith(".tar")]
    assert len(tars) == 6 and all(tars)  # one range request per sample
    assert not (tmp_path / "cache").exists()


def test_http_without_ranges_uses_the_cache(folder: Path, tmp_path: Path, server: Server) -> None:
    server.ranges = False
    source = shards(server.url, tmp_path)
    check(source, Shards(str(folder)))
    check(source, Shards(str(folder)))
    fetched = Counter(name for name, _ in server.asked if name.endswith(".tar"))
    assert len(fetched) == 4 and len(list((tmp_path / "cache").glob("*.tar"))) == 4


def test_local_and_remote_folders_join(folder: Path, tmp_path: Path, server: Server) -> None:
    source = shards([str(folder), server.url], tmp_path)
    assert len(source) == 48 and source[1] == source[25]


@pytest.mark.parametrize("trouble", ["error", "drop"])
@pytest.mark.parametrize("whole", [False, True])
def test_interrupted_reads_are_retried(folder: Path, tmp_path: Path, server: Server, trouble: str, whole: bool) -> None:
    failures = Counter()

    def twice(name: str) -> str | None:
        failures[name] += 1
        return trouble if failures[name] <= 2 else None

    server.trouble = twice
    check(shards(server.url, tmp_path, whole=whole, retries=4), Shards(str(folder)))


@pytest.mark.parametrize("what", [".tar", ".idx"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_persistent_failure_is_a_decode_error(tmp_path: Path, server: Server, what: str, whole: bool) -> None:
    source = shards(server.url, tmp_path, whole=whole)
    server.trouble = lambda name: "drop" if name == f"s-1{what}" else None
    with pytest.raises(DecodeError, match=r"s-1.tar.*in 3 attempts") as error:
        source[EACH]
    assert "127.0.0.1" in error.value.reason
    assert source[0].text == "text 0"
    server.trouble = lambda name: None
    assert source[EACH].text == f"text {EACH}"  # and nothing incomplete is kept


def test_failures_reach_the_batch_and_are_named(tmp_path: Path, server: Server) -> None:
    source = shards(server.url, tmp_path, retries=0)
    server.trouble = lambda name: "drop" if name == "s-2.tar" else None
    clip = Clip(4, 1, 16, 1, 0.0, Dense(), CentreCrop(), PyAV())
    batches = TrainBatches(source, Order(source.counts, lanes=2), clip, 0, GlobalBatch(0, 1, 6, 1))
    rows = [batches[k] for k in range(4)]
    skipped = [entry for batch in rows for entry in batch["skipped"]]
    assert len(skipped) >= EACH and {name.split("/")[0] for name, _ in skipped} == {"s-2.tar"}
    assert all(len(batch["name"]) == 6 for batch in rows)


def test_a_wrong_address_and_a_missing_package(tmp_path: Path, server: Server) -> None:
    with pytest.raises(FileNotFoundError, match=r"no index of the shards at .*nowhere.*Is the address right"):
        shards(f"{server.url}/nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no index.*false shards.csv. exited with 1"):
        shards("pipe:false {}", tmp_path)
    with pytest.raises(ValueError, match=r"has no \{\} in place of the file name"):
        shards("pipe:cat x", tmp_path)
    with pytest.raises((ImportError, FileNotFoundError), match=r"tubelet\[remote\]|no index of the shards"):
        shards("s3://no-such-bucket/folder", tmp_path, retries=0, options={"anon": True, "endpoint_url": server.url})


def test_an_index_of_another_tar_is_detected(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "s-0.tar").write_bytes((other / "s-1.tar").read_bytes()[512:] + bytes(512))
    with pytest.raises(ValueError, match=r"s-0.tar is not what its index describes.*prepare.py index"):
        shards(f"file://{other}", tmp_path)[0]


def test_excess_bytes_of_a_failed_attempt_are_removed(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    script = f"if [ -e {tmp_path}/first ]; then rm {tmp_path}/first; printf 123456789; else printf 1234; fi # {{}}"
    with open(tmp_path / "out", "wb") as out:
        store(f"pipe:{script}", backoff=0.01).copy("a", out, 4, "a")
    assert (tmp_path / "out").read_bytes() == b"1234"


def test_a_cache_smaller_than_a_shard_is_refused_at_the_start(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"largest shard at pipe:.*raise cache_bytes"):
        shards(f"pipe:cat '{folder}/'{{}}", tmp_path, cache_bytes=100)
