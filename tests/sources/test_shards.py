"""Shards: samples are read as written, and errors name the wrong index, tar or folder and the remedy."""

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.sources.shards import Shards
from datamodules.sources.tars import index_folder, write_index, write_shard
from tests.helpers import videos


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Path(videos.make(tmp_path_factory.mktemp("video") / "v.mp4", frames=12)).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, video: bytes) -> Path:
    """Three shards of 4, 3 and 2 samples; sample i has text "text i" and label i."""
    rows, i = [], 0
    for shard, count in enumerate((4, 3, 2)):
        samples = [(f"{j:06d}", "mp4", video, {"text": f"text {j} ü", "label": j}) for j in range(i, i + count)]
        rows.append(write_shard(tmp_path / f"s-{shard}.tar", samples))
        i += count
    write_index(tmp_path, rows)
    return tmp_path


def rewrite(tar: Path, video: bytes, keys: list[str]) -> None:
    """Replaces the samples of a tar without updating its index."""
    kept = tar.with_suffix(".idx").read_bytes()
    write_shard(tar, [(key, "mp4", video, {}) for key in keys])
    tar.with_suffix(".idx").write_bytes(kept)
    os.utime(tar.with_suffix(".idx"), (1, 1))


def test_samples_are_read_as_written(folder: Path, video: bytes) -> None:
    source = Shards(str(folder))
    assert source.counts.tolist() == [4, 3, 2] and len(source) == source.texts == source.labels == 9
    for i in (8, 0, 4, 3, 5):
        sample = source[i]
        assert (sample.text, sample.label, sample.content) == (f"text {i} ü", i, video)
        assert sample.name == f"s-{0 if i < 4 else 1 if i < 7 else 2}.tar/{i:06d}"
    with source[2].open(PyAV()) as opened:
        assert videos.number(opened.frames([7])[0]) == 7
    with pytest.raises(IndexError):
        source[9]


def test_webdataset_reads_our_tars(folder: Path, video: bytes) -> None:
    import webdataset

    samples = list(webdataset.WebDataset(str(folder / "s-1.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["000004", "000005", "000006"]
    assert samples[0]["mp4"] == video and json.loads(samples[0]["json"])["label"] == 4


def test_tars_from_elsewhere_are_indexed(tmp_path: Path, video: bytes) -> None:
    """Other headers (pax), subfolders, other suffixes, captions under another name, members that are not samples."""
    import io

    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        long = "x" * 120 + "é"
        for name, data in {
            f"a/{long}.mp4": video,
            f"a/{long}.json": b'{"caption": "long"}',
            "a/2.webm": video,
            "a/3.json": b"{}",
            "readme.txt": b"hello",
            "a/4.mp4": video,
            "a/4.json": b"no json",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = index_folder(tmp_path)
    assert found.rows[0]["samples"] == 3 and not found.wrong
    assert found.rows[0]["texts"] == 2  # the sample with the broken json has what others have, until it is read
    source = Shards(str(tmp_path))
    assert source[0].text == "long" and source[0].name.endswith("é") and source[1].content == video
    with pytest.raises(DecodeError, match="json"):
        source[2]


def test_folders_join(folder: Path, tmp_path_factory: pytest.TempPathFactory, video: bytes) -> None:
    other = tmp_path_factory.mktemp("other")
    write_index(other, [write_shard(other / "s-0.tar", [("k", "mp4", video, {})])])
    source = Shards([str(folder), str(other)])
    assert len(source) == 10 and source.texts == 9 and source[9].text is None


def test_a_source_is_pickled_without_its_open_files(folder: Path) -> None:
    source = Shards(str(folder))
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._shards and copy[5].label == 5
    assert len(pickle.dumps(source)) < 4000


def test_few_files_are_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.sources.shards._OPEN", 2)
    source = Shards(str(folder))
    before = len(os.listdir("/proc/self/fd"))
    for i in (0, 4, 8, 1, 5, 7):
        assert source[i].label == i
    assert len(os.listdir("/proc/self/fd")) - before <= 2


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no shards at .*nowhere.*tools/prepare.py VIDEOS"):
        Shards(str(tmp_path / "nowhere"))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no shards at .*no \.tar in this folder.*tools/prepare.py VIDEOS"):
        Shards(str(tmp_path))


def test_tars_without_an_index(folder: Path) -> None:
    (folder / "shards.csv").unlink()
    with pytest.raises(FileNotFoundError, match=rf"3 tars but no shards.csv.*tools/prepare.py index {folder}"):
        Shards(str(folder))
    index_folder(folder)
    assert len(Shards(str(folder))) == 9
    (folder / "s-1.idx").unlink()
    with pytest.raises(FileNotFoundError, match=r"s-1.tar has no index.*prepare.py index"):
        Shards(str(folder))


def test_a_tar_missing_from_the_index_or_the_folder(folder: Path) -> None:
    shutil.copy(folder / "s-0.tar", folder / "s-9.tar")
    with pytest.raises(ValueError, match=r"older than 1 tars \(s-9.tar.*prepare.py index"):
        Shards(str(folder))
    (folder / "s-9.tar").unlink()
    (folder / "s-0.tar").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"s-0.tar is in the index but not in its folder.*index the folder again"
    ):
        Shards(str(folder))


def test_an_index_older_than_its_tar(folder: Path, video: bytes) -> None:
    rewrite(folder / "s-0.tar", video, ["1", "2", "3", "4", "5", "6", "7", "8"])  # another size
    with pytest.raises(ValueError, match=r"index is older than .*s-0.tar.*prepare.py index"):
        Shards(str(folder))
    index_folder(folder)
    assert len(Shards(str(folder))) == 13


def test_other_contents_of_the_same_size(folder: Path, video: bytes) -> None:
    tar = folder / "s-2.tar"
    size = tar.stat().st_size
    rewrite(tar, video, ["a", "b"])
    assert tar.stat().st_size == size  # tars are padded: the size alone proves nothing
    with pytest.raises(ValueError, match=r"index is older than .*s-2.tar"):
        Shards(str(folder))
    os.utime(tar.with_suffix(".idx"))  # nor does the date
    with pytest.raises(ValueError, match=r"s-2.tar is not what its index describes.*prepare.py index"):
        Shards(str(folder))[7]


def test_a_copy_with_other_dates_is_accepted(folder: Path) -> None:
    os.utime(folder / "s-0.idx", (1, 1))
    assert Shards(str(folder))[0].label == 0


def test_a_tar_cut_in_the_middle(folder: Path) -> None:
    tar = folder / "s-0.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"s-0.tar is cut off: \d+ bytes of \d+.*prepare.py index"):
        Shards(str(folder))
    found = index_folder(folder)
    assert "cut off" in found.wrong["s-0.tar"]
    assert 0 < found.rows[0]["samples"] < 4 and [r["samples"] for r in found.rows[1:]] == [3, 2]
    assert Shards(str(folder))[0].label == 0


def test_a_failed_write_leaves_no_file(tmp_path: Path, video: bytes) -> None:
    def samples():
        yield "a", "mp4", video, {}
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "s.tar", samples())
    assert not (tmp_path / "s.tar").exists() and not (tmp_path / "s.idx").exists()


def test_shards_without_samples_are_refused(tmp_path: Path) -> None:
    write_index(tmp_path, [write_shard(tmp_path / "s.tar", [])])
    with pytest.raises(ValueError, match="hold no sample"):
        Shards(str(tmp_path))
