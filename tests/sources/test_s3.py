"""Shards in a bucket, read over the S3 protocol from a local server (moto)."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import server

from datamodules import Shards, VideoData
from datamodules.decoding.contract import DecodeError
from datamodules.sources.tars import write_index, write_shard
from tests.helpers import videos
from tests.helpers.recording import RecordingModule, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHARDS, EACH = 3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of four samples; the video of sample i has 8 + i frames."""
    folder = tmp_path_factory.mktemp("shards")
    data = [Path(videos.make(folder / "v.mp4", frames=8 + i)).read_bytes() for i in range(SHARDS * EACH)]
    (folder / "v.mp4").unlink()
    numbers = range(SHARDS * EACH)
    samples = [(f"{i:06d}", "mp4", data[i], {"text": f"text {i}", "label": i}) for i in numbers]
    rows = [write_shard(folder / f"s-{s}.tar", samples[s * EACH : (s + 1) * EACH]) for s in range(SHARDS)]
    write_index(folder, rows)
    return folder


@pytest.fixture(scope="module")
def options() -> Iterator[dict]:
    """s3fs's options for the server."""
    threaded = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    yield {"key": "a", "secret": "b", "endpoint_url": f"http://{host}:{port}"}
    threaded.stop()


@pytest.fixture(scope="module")
def address(folder: Path, options: dict) -> str:
    """The shards in a bucket."""
    import fsspec

    store = fsspec.filesystem("s3", skip_instance_cache=True, **options)
    store.mkdir("bucket")
    for file in folder.iterdir():
        store.pipe_file(f"bucket/sets/one/{file.name}", file.read_bytes())
    return "s3://bucket/sets/one"


def shards(address: str, options: dict, tmp_path: Path, **more: object) -> Shards:
    return Shards(address, cache=str(tmp_path / "cache"), retries=1, backoff=0.01, options=options, **more)


@pytest.mark.parametrize("whole", [False, True])
def test_samples_equal_those_of_the_local_folder(
    folder: Path, address: str, options: dict, tmp_path: Path, whole: bool
) -> None:
    local, source = Shards(str(folder)), shards(address, options, tmp_path, whole=whole)
    assert [source[i] for i in range(len(local))] == [local[i] for i in range(len(local))]
    assert (source.texts, source.labels, source.counts.tolist()) == (12, 12, [4, 4, 4])
    # Ranges are read if possible; then nothing is cached.
    assert os.path.exists(tmp_path / "cache") == whole
    assert pickle.loads(pickle.dumps(source))[7] == local[7]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_streams_from_a_bucket(folder: Path, address: str, options: dict, tmp_path: Path, workers: int) -> None:
    """Also in worker processes forked after this process has connected to the server."""

    def run(source: Shards, workers: int) -> tuple[list, VideoData]:
        toy = RecordingModule()
        small = {"global_batch": 4, "micro_batch": 2, "size": 16, "frames": 4, "workers": workers}
        data = VideoData(source, source, **small)
        trainer(max_steps=6, val_check_interval=12).fit(toy, datamodule=data)
        return toy.seen, data

    expected, _ = run(Shards(str(folder)), 0)
    seen, data = run(shards(address, options, tmp_path), workers)
    assert seen == expected and len(seen) == 12 and not data.failures.failed.get("train")


def test_a_tar_missing_from_the_bucket_is_named(folder: Path, address: str, options: dict, tmp_path: Path) -> None:
    import fsspec

    source = shards(address, options, tmp_path)
    store = fsspec.filesystem("s3", skip_instance_cache=True, **options)
    store.rm_file("bucket/sets/one/s-1.tar")
    try:
        with pytest.raises(DecodeError, match=r"s-1.tar/000004: not read from s3://bucket/sets/one in one attempt"):
            source[EACH]
        assert source[0].text == "text 0"
    finally:
        store.pipe_file("bucket/sets/one/s-1.tar", (folder / "s-1.tar").read_bytes())
    assert source[EACH].text == "text 4"
    with pytest.raises(
        FileNotFoundError, match=r"no index of the shards at s3://bucket/sets/two.*Is the address right"
    ):
        shards("s3://bucket/sets/two", options, tmp_path)
