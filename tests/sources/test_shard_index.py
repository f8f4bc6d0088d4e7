"""An index that names other files, or claims what its tar cannot hold, is refused with the name of its file."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.shard_index import parse_entries, parse_remote_index
from datamodules.sources.shards import Shards
from datamodules.sources.tars import index_folder, write_index, write_shard
from tests.helpers import hostile_files, videos

HEADER = "shard,samples,bytes,texts,labels\n"
NAMES = [
    *("../other.tar", "/tmp/other.tar", "a/b.tar", "..\\b.tar", "..", ".hidden.tar", "-o.tar", "s.idx", "", "s\n.tar"),
    "s\0.tar",
]
IN_A_COMMAND = ["a b.tar", "$(id).tar", "`id`.tar", "a;id;.tar", "a|id.tar", "a'b.tar", 'a".tar', "a&b.tar", "%2e.tar"]
IN_AN_ADDRESS = ["a?b.tar", "a#b.tar", "a:b.tar", "ü.tar", "*.tar", "~.tar"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    video = Path(videos.make(tmp_path / "v.mp4", frames=4)).read_bytes()
    (tmp_path / "v.mp4").unlink()
    samples = [(f"{i}", "mp4", video, {"text": "a"}) for i in range(3)]
    write_index(tmp_path, [write_shard(tmp_path / "s.tar", samples)])
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_a_file(folder: Path, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    row = f"{quoted},1,9999,0,0\n"
    with (folder / "shards.csv").open("a", newline="") as file:
        file.write(row)
    with pytest.raises(ValueError, match=r"shards.csv, line \d: (.* is not the plain name of a tar|line contains NUL)"):
        Shards(str(folder))
    with pytest.raises(ValueError, match=r"shards.csv, line \d: "):
        parse_remote_index((HEADER + row).encode(), "https://host", Limits())


@pytest.mark.parametrize("name", [*IN_A_COMMAND, *IN_AN_ADDRESS])
def test_a_remote_name_has_no_letter_that_means_something(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    with pytest.raises(ValueError, match=r"https://host/shards.csv, line 2: .* is not the plain name of a tar"):
        parse_remote_index(f"{HEADER}{quoted},1,9999,0,0\n".encode(), "https://host", Limits())


@pytest.mark.parametrize("quotes", ["{}", '"{}"', "'{}'"])
def test_no_name_runs_a_command(folder: Path, tmp_path: Path, quotes: str) -> None:
    """Whatever quotes the user's own command has around the file."""
    for i, name in enumerate(IN_A_COMMAND):
        touched = folder / f"touched{i}"
        for body in (f"$(touch {touched}).tar", f"';touch {touched};'.tar", f'";touch {touched};".tar', name):
            quoted = '"' + body.replace('"', '""') + '"'
            (folder / "shards.csv").write_text(f"{HEADER}{quoted},1,9999,0,0\n")
            with pytest.raises(ValueError, match="is not the plain name of a tar"):
                Shards(f"pipe:cat {folder}/{quotes}", cache=str(folder / "cache"), retries=0)
        assert not touched.exists()
    index_folder(folder)
    assert Shards(f"pipe:cat {folder}/{quotes}", cache=str(folder / "cache"), retries=0)[2].text == "a"


@pytest.mark.parametrize(
    "row",
    [
        "s.tar,-1,9999,0,0",
        "s.tar,1,-9999,0,0",
        "s.tar,1000000000000,9999,0,0",  # more samples than headers fit into the tar
        "s.tar,99999999999999999999999,99999999999999999999999999999,0,0",
        "s.tar,1,9999,2,0",
        "s.tar,1,9999,0,-1",
        "s.tar,1,many,0,0",
        "s.tar,1," + "9" * 5000 + ",0,0",
        "s.tar,1",
        '"s.tar' + "," * 200_000,
    ],
)
def test_numbers_that_cannot_be(row: str) -> None:
    with pytest.raises(ValueError, match=r"https://host/shards.csv, line \d"):
        parse_remote_index(f"{HEADER}{row}\n".encode(), "https://host", Limits())


def test_bytes_that_are_not_a_list() -> None:
    for data in (b"\xff\xfe\0\0", b"", b"\0" * 100, bytes(range(256))):
        with pytest.raises(ValueError, match=r"shards\.csv"):
            parse_remote_index(data, "https://host", Limits())
    with pytest.raises(ValueError, match="above the limit index_bytes of 10"):
        parse_remote_index(HEADER.encode(), "https://host", Limits(index_bytes=10))


def changed(entries: np.ndarray, field: str, value: int) -> bytes:
    entries = entries.copy()
    entries[field][1] = value
    return saved(entries)


def saved(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def with_header(text: str) -> bytes:
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


WRONG: dict[str, Callable[[np.ndarray], bytes]] = {
    "empty": lambda e: b"",
    "text": lambda e: b"no array",
    "cut": lambda e: saved(e)[:-5],
    "longer": lambda e: saved(e) + b"more",
    "fewer": lambda e: saved(e[:2]),
    "two dimensions": lambda e: saved(e[:, None]),
    "plain numbers": lambda e: saved(np.arange(3)),
    "floats": lambda e: saved(e.astype([(n, "f8" if n == "video" else e.dtype[n]) for n in e.dtype.names])),
    "objects": lambda e: with_header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"),
    "huge": lambda e: with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "wide": lambda e: with_header("{'descr': '|S2000000000', 'fortran_order': False, 'shape': (3,), }"),
    "no dictionary": lambda e: with_header("[" * 100),
    "version": lambda e: b"\x93NUMPY\x09\x00" + saved(e)[8:],
    "before the tar": lambda e: changed(e, "video", 0),
    "negative": lambda e: changed(e, "video", -(2**40)),
    "negative size": lambda e: changed(e, "video_size", -1),
    "behind the tar": lambda e: changed(e, "video", 2**40),
    "too long": lambda e: changed(e, "video_size", 2**40),
    "overflow": lambda e: changed(e, "video_size", 2**63 - 1),
    "json behind the tar": lambda e: changed(e, "meta", 2**62),
    "json too long": lambda e: changed(e, "meta_size", 2**40),
    "json negative": lambda e: changed(e, "meta", -512),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_index_is_named(folder: Path, kind: str) -> None:
    index = folder / "s.idx"
    index.write_bytes(WRONG[kind](np.load(index)))
    with pytest.raises(ValueError, match=r"s\.idx.*Index it again: python tools/prepare.py index"):
        Shards(str(folder))[0]
    remote = Shards(f"file://{folder}", retries=0)
    with pytest.raises(DecodeError, match=r"s\.tar \(its index\): "):  # of a store: perhaps it fails only now
        remote[0]
    index_folder(folder)
    assert Shards(str(folder))[2].text == "a"


@pytest.mark.parametrize("kind", ["huge", "wide"])
def test_an_index_takes_no_more_memory_than_its_bytes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "s.idx").write_bytes(WRONG[kind](np.empty(0)) + bytes(10_000))
    imports = "from datamodules.sources.shard_index import read_entries\nfrom datamodules.decoding.limits import Limits"
    code = f"""
try:
    read_entries({str(tmp_path / "s.idx")!r}, 3, 10**15, Limits())
except ValueError as error:
    print(error)"""
    growth, error = hostile_files.peak_growth(imports, code)
    assert "s.idx" in error and growth < 50


def test_limits_of_a_sample_cost_that_sample(folder: Path) -> None:
    entries = np.load(folder / "s.idx")
    for name, field in (("sample_bytes", "video_size"), ("meta_bytes", "meta_size")):
        most = int(entries[field].max())
        assert Shards(str(folder), limits=Limits(**{name: most}))[0].text == "a"
        with pytest.raises(DecodeError, match=rf"s\.tar/0: .* above the limit {name} of"):
            Shards(str(folder), limits=Limits(**{name: most - 1}))[0]
    with pytest.raises(ValueError, match=r"s\.idx: .*index_bytes"):
        parse_entries(bytes(11), "s.idx", 3, 100, Limits(index_bytes=10))


def test_a_tar_has_limits(folder: Path) -> None:
    assert index_folder(folder, Limits(tar_members=6)).rows[0]["samples"] == 3
    with pytest.raises(ValueError, match=r"s\.tar: .* above the limit tar_members of 5"):
        index_folder(folder, Limits(tar_members=5))


def test_an_extended_header_takes_no_memory(folder: Path) -> None:
    """A header of a long name may claim gigabytes, which a sparse file has."""
    import tarfile

    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**30
    with (folder / "s.tar").open("r+b") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**31)
    imports = "from pathlib import Path\nfrom datamodules.sources.tars import index_shard\nimport tarfile"
    growth, printed = hostile_files.peak_growth(imports, f"print(index_shard(Path({str(folder / 's.tar')!r})))")
    assert "cut off" in printed and growth < 50


def test_keys_need_not_be_valid_text(folder: Path) -> None:
    import tarfile

    video = Path(videos.make(folder / "v.mp4", frames=4)).read_bytes()
    name = os.fsdecode(b"caf\xe9")
    shutil.rmtree(folder / "other", ignore_errors=True)
    (folder / "other").mkdir()
    with tarfile.open(folder / "other" / "s.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(f"{name}.mp4")
        member.size = len(video)
        tar.addfile(member, io.BytesIO(video))
    index_folder(folder / "other")
    assert Shards(str(folder / "other"))[0].name == f"s.tar/{name}"
