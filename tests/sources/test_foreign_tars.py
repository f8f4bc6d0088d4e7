"""Tars of webdataset, img2dataset and video2dataset: nothing vanishes in silence, and a null takes no batch's texts."""

import gzip
import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.shard_index import parse_entries
from datamodules.sources.shards import Shards
from datamodules.sources.tar_index import checksum
from datamodules.sources.tars import CLASSES, index_folder
from tools.prepare import main

VIDEO = b"\0\0\0\x14ftypisom" + bytes(100)  # tars are indexed without looking into videos


def write(tar: Path, members: dict[str, bytes | str] | list[tuple[str, bytes | str]]) -> None:
    with tarfile.open(tar, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_captions_and_classes_in_files_of_their_own(tmp_path: Path) -> None:
    """As webdataset writes them; a json beside them may have what they lack."""
    write(
        tmp_path / "s.tar",
        {
            **{"0.mp4": VIDEO, "0.txt": "a dog\n", "0.cls": "3"},
            **{"1.cls": "4", "1.mp4": VIDEO, "1.txt": b"\xef\xbb\xbfcaf\xc3\xa9"},
            **{"2.mp4": VIDEO, "2.json": '{"caption": null, "label": 5}', "2.txt": "from the file"},
            **{"3.mp4": VIDEO, "3.json": '{"caption": "from the json"}', "3.txt": "not this", "3.cls": "6"},
        },
    )
    assert [index_folder(tmp_path).rows[0][what] for what in ("samples", "texts", "labels")] == [4, 4, 4]
    found = [(sample.text, sample.label, sample.content) for sample in Shards(str(tmp_path))]
    assert [text for text, _, _ in found] == ["a dog", "café", "from the file", "from the json"]
    assert [label for _, label, _ in found] == [3, 4, 5, 6] and all(content == VIDEO for *_, content in found)


def test_names_of_classes_become_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "a.tar", {"0.mp4": VIDEO, "0.cls": "zebra", "1.mp4": VIDEO, "1.json": '{"label": "ape"}'})
    write(tmp_path / "b.tar", {"0.mp4": VIDEO, "0.cls": "cat\n", "1.mp4": VIDEO, "1.cls": "ape"})
    assert main(["index", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert (
        "indexed 4 samples in 2 shards: 0 with a text, 4 with a label" in printed and "3 classes have names" in printed
    )
    assert (tmp_path / CLASSES).read_text() == "ape\ncat\nzebra\n"
    source = Shards(str(tmp_path))
    assert [sample.label for sample in source] == [2, 0, 1, 0] and source.labels == 4
    write(tmp_path / "c.tar", {"0.mp4": VIDEO, "0.cls": "7"})
    with pytest.raises(ValueError, match="numbers in some samples and names in others"):
        index_folder(tmp_path)


def test_names_with_dots_and_several_videos(tmp_path: Path) -> None:
    write(
        tmp_path / "s.tar",
        {
            **{"cam.left.mp4": VIDEO, "cam.right.mp4": VIDEO + b"r", "cam.json": '{"text": "both"}'},
            **{"v1.0 a.mp4": VIDEO, "v1.0 a.txt": "a", "v1.0 b.mp4": VIDEO, "v1.0 b.txt": "b"},
            **{"one.video.mp4": VIDEO, "one.meta.json": '{"text": "one"}'},
            **{"d/x.MP4": VIDEO, "e/x.mp4": VIDEO},
        },
    )
    index_folder(tmp_path)
    found = {sample.name.removeprefix("s.tar/"): sample.text for sample in Shards(str(tmp_path))}
    pairs = {"cam.left": "both", "cam.right": "both", "v1.0 a": "a", "v1.0 b": "b", "one": "one"}
    assert found == {**pairs, "d/x": None, "e/x": None}


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    members = [
        ("0.mp4", VIDEO),
        ("0.json", '{"text": "a"}'),
        ("0.mp4", VIDEO),
        ("0.m4a", b"sound"),
        ("0.jpg", b"thumb"),
    ]
    members += [
        ("1.json", "{}"),
        ("1.txt", "no video"),
        ("._0.mp4", b"mac"),
        ("__MACOSX/0.mp4", b"mac"),
        ("LICENSE", ""),
    ]
    write(tmp_path / "s.tar", members)
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress((tmp_path / "s.tar").read_bytes()))
    (tmp_path / "u.tar").write_bytes(gzip.compress((tmp_path / "s.tar").read_bytes()))
    (tmp_path / "._s.tar").write_bytes(b"mac")
    assert main(["index", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "indexed 1 sample in 2 shards: 1 with a text, 0 with a label" in printed.out
    for line in (
        *("2 files of a sample without a video", "2 hidden files", "1 further files of the same name"),
        *("1 images beside a video", "1 files that are not read (.m4a)", "1 files without an ending"),
        "1 tars that are compressed: unpack them",
    ):
        assert f"left out {line}" in printed.out
    assert "u.tar is compressed (gzip)" in printed.err
    assert len(Shards(str(tmp_path))) == 1


def test_no_sample_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "s.tar", {"0.txt": "a", "0.m4a": b"sound"})
    assert main(["index", str(tmp_path)]) == 2
    assert "holds a sample (2 files of a sample without a video)" in capsys.readouterr().err
    (tmp_path / "s.tar").rename(tmp_path / "s.tar.gz")
    with pytest.raises(FileNotFoundError, match=r"s\.tar\.gz, which is compressed"):
        index_folder(tmp_path)


CAPTIONS = ['"one"', "null", '""', "3", '"two"', "[]", "NaN"]


def test_samples_without_a_text_are_left_out_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for tar in ("a", "b"):
        members = {}
        for i, caption in enumerate(CAPTIONS if tar == "a" else ['"x"', '"y"']):
            members |= {f"{i}.mp4": VIDEO, f"{i}.json": f'{{"caption": {caption}}}'}
        write(tmp_path / f"{tar}.tar", members)
    index_folder(tmp_path)
    source = Shards(str(tmp_path))
    assert len(source) == 9 and source.texts < 9 and source[1].text is None
    with caplog.at_level(logging.WARNING):
        source = Shards(str(tmp_path), require=["text"])
    assert "5 of 9 samples have no ['text'] and are left out" in caplog.text
    assert [sample.text for sample in source] == ["one", "two", "x", "y"] and source.texts == len(source) == 4
    with pytest.raises(ValueError, match=r"no sample in .* has a label"):
        Shards(str(tmp_path), require=["label"])


def test_the_index_of_another_tool_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", {"0.mp4": VIDEO})
    (tmp_path / "s.idx").write_text("v1.2 1\nmp4 512 112 0.mp4\n")
    index_folder(tmp_path)
    assert (tmp_path / "s.idx").read_text().startswith("v1.2") and Shards(str(tmp_path))[0].content == VIDEO


def test_an_older_index_is_read(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", {"0.mp4": VIDEO, "0.json": json.dumps({"text": "a", "label": 2})})
    index_folder(tmp_path)
    new = np.load(tmp_path / "s.idx")
    fields = ["key", "video", "video_size", "video_sum", "meta", "meta_size"]
    old = np.zeros(1, [(name, new.dtype[name]) for name in fields])
    for name in fields:
        old[name] = new[name]
    np.save(tmp_path / "old.npy", old)
    (tmp_path / "old.npy").rename(tmp_path / "s.idx")
    sample = Shards(str(tmp_path))[0]
    assert (sample.text, sample.label, sample.content) == ("a", 2, VIDEO)
    found = parse_entries((tmp_path / "s.idx").read_bytes(), "s.idx", 1, (tmp_path / "s.tar").stat().st_size, Limits())
    assert found["label"] == -1 and checksum((tmp_path / "s.tar").read_bytes()[:512]) == found["video_sum"]


def test_a_wrong_caption_file_costs_its_sample(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", {"0.mp4": VIDEO, "0.txt": b"\xff\xfe\xfa", "1.mp4": VIDEO, "1.txt": "a"})
    index_folder(tmp_path)
    source = Shards(str(tmp_path))
    assert source.texts == 2 and source[1].text == "a"
    with pytest.raises(DecodeError, match=r"^s\.tar/0: its text is not UTF-8"):
        source[0]
