"""Tars are indexed where they lie: by few ranges of a server, in parallel, and an interrupted run goes on."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.sources.remote import store
from datamodules.sources.remote_index import DONE, index_remote, split_address
from datamodules.sources.shards import Shards
from datamodules.sources.tars import index_folder
from tests.sources.test_remote import Server
from tools.prepare import main

TARS, SAMPLES, VIDEO = 5, 6, 300_000  # bytes of a video: several times what is read at once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars as video2dataset writes them, with names of classes, beside the index of another tool."""
    folder = tmp_path_factory.mktemp("tars")
    for t in range(TARS):
        with tarfile.open(folder / f"{t:05d}.tar", "w") as tar:
            for i in range(SAMPLES):
                members = {"mp4": bytes([i]) * VIDEO, "txt": f"text {t} {i}".encode(), "json": b'{"key": 1}'}
                members["cls"] = b"cat" if i % 2 else b"dog"
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{t:05d}{i:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        (folder / f"{t:05d}.idx").write_text("v1.2 6\n")
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.shutdown()


def same(source: Shards, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "local", ignore=shutil.ignore_patterns("*.idx"))
    index_folder(tmp_path / "local")
    local = Shards(str(tmp_path / "local"))
    assert source.counts.tolist() == local.counts.tolist() == [SAMPLES] * TARS
    assert [source[i] for i in range(0, len(local), 7)] == [local[i] for i in range(0, len(local), 7)]
    assert (source.texts, source.labels) == (TARS * SAMPLES, TARS * SAMPLES) and local[0].label == 1


def test_tars_of_a_server_by_their_names(folder: Path, server: Server, tmp_path: Path, capsys) -> None:
    address = f"{server.url}/{{00000..{TARS - 1:05d}}}.tar"
    assert main(["index", address, str(tmp_path / "index")]) == 0
    assert "indexed 30 samples in 5 shards: 30 with a text, 30 with a label" in capsys.readouterr().out
    parts = [part for name, part in server.asked if part]
    assert len(parts) <= TARS * (SAMPLES + 3) and all(name.endswith(".tar") for name, _ in server.asked)
    same(Shards(server.url, index=str(tmp_path / "index"), cache=str(tmp_path / "cache")), folder, tmp_path)
    assert not (tmp_path / "cache").exists() and (folder / "00000.idx").read_text() == "v1.2 6\n"


def test_a_store_that_lists_its_files(folder: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/foreign", recursive=True)
    found = index_remote("memory://bucket/foreign/", tmp_path / "index", progress=False)
    assert len(found.rows) == TARS and found.classes == ["cat", "dog"]
    same(Shards("memory://bucket/foreign", index=str(tmp_path / "index")), folder, tmp_path)


def test_an_interrupted_run_goes_on(folder: Path, server: Server, tmp_path: Path) -> None:
    address, options = f"{server.url}/{{00000..{TARS - 1:05d}}}.tar", {"progress": False, "backoff": 0.01, "workers": 1}
    server.trouble = lambda name: "missing" if name == "00003.tar" else None
    with pytest.raises(DecodeError, match=r"00003\.tar: not read from .* in one attempt"):
        index_remote(address, tmp_path / "index", **options)
    assert (tmp_path / "index" / DONE).is_file() and not (tmp_path / "index" / "shards.csv").exists()
    server.trouble, before = lambda name: None, len(server.asked)
    index_remote(address, tmp_path / "index", **options)
    again = {name for name, _ in server.asked[before:]}
    assert "00003.tar" in again and len(again) < TARS and not (tmp_path / "index" / DONE).exists()
    same(Shards(server.url, index=str(tmp_path / "index")), folder, tmp_path)


def test_an_answer_that_will_not_change_is_not_asked_for_again(server: Server) -> None:
    for trouble, tries in (("missing", 1), ("error", 3)):
        server.trouble, before = lambda name, trouble=trouble: trouble, len(server.asked)
        with pytest.raises(DecodeError):
            store(server.url, retries=2, backoff=0.01).read("00000.tar", 0, 512, "x")
        assert len(server.asked) - before == tries


def test_addresses(tmp_path: Path, server: Server) -> None:
    assert split_address("s3://bucket/set/") == ("s3://bucket/set", [])
    assert split_address("https://h/s/a-{01..03}.tar") == ("https://h/s", ["a-01.tar", "a-02.tar", "a-03.tar"])
    assert main(["index", "s3://bucket/set"]) == 2
    server.ranges = False
    with pytest.raises(ValueError, match="cannot be read in ranges"):
        index_remote(f"{server.url}/00000.tar", tmp_path / "x", progress=False)
