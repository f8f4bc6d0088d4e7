"""Files and folders are written whole or not at all, with the permissions of the umask, by drafts of unique names."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datamodules.storage.json_text import Damaged, json_text, printable, read_json
from datamodules.storage.whole_files import remove_drafts, whole_file, whole_folder, whole_path, write_whole
from tests.helpers.paths import ROOT


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """safetensors and mkstemp create files for their owner only."""
    write_whole(tmp_path / "in" / "bytes", b"a\r\n")
    assert (tmp_path / "in" / "bytes").read_bytes() == b"a\r\n"
    write_whole(tmp_path / "in" / "text", "a")
    with whole_path(tmp_path / "model.safetensors") as draft:
        save_file({"a": torch.ones(3)}, draft)
    with whole_folder(tmp_path / "export") as draft:
        (draft / "sub").mkdir()
        save_file({"a": torch.ones(3)}, draft / "sub" / "model.safetensors")
    for name in ("in/text", "model.safetensors", "export/sub/model.safetensors"):
        assert permissions(tmp_path / name) == 0o666 & ~umask
    assert permissions(tmp_path / "export") == permissions(tmp_path / "in") == 0o777 & ~umask


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "before")
    for write in (whole_file, whole_path, whole_folder):
        with pytest.raises(ZeroDivisionError), write(tmp_path / ("b" if write is whole_folder else "a")):
            raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "before"


def test_a_folder_replaces_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("a")
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "out") as draft:
        (draft / "b").write_text("b")
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "a"]


KILLED = """
import os, sys
from datamodules.storage.whole_files import whole_file
with whole_file(sys.argv[1]) as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_a_kill_leaves_what_was_there_and_a_draft_that_the_next_writer_removes(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "before")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], cwd=ROOT, check=False, timeout=60)
    assert (tmp_path / "a").read_text() == "before" and len(list(tmp_path.iterdir())) == 3  # no two drafts share a name
    remove_drafts(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "a"


def test_a_device_is_written_and_not_replaced() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from datamodules.storage.whole_files import *; write_whole('/dev/stdout', 'a')"],
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "text": True, "check": True, "timeout": 60},
    )
    assert done.stdout == "a"
    write_whole("/dev/null", "a")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_long_names_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    for name in ("x" * 255, "\udcff" * 255, "é" * 127):
        write_whole(tmp_path / name, f"{name}\n")
        assert (tmp_path / name).read_bytes() == os.fsencode(name) + b"\n"


def test_json_holds_any_file_name(tmp_path: Path) -> None:
    for content in ({"name": "видео \udcff"}, {"name": "видео"}):
        write_whole(tmp_path / "a.json", json_text(content))
        assert read_json(tmp_path / "a.json") == content
    assert "видео" in (tmp_path / "a.json").read_text()  # readable where it can be
    assert printable("a\udcff é") == "a\\xff é"
    (tmp_path / "a.json").write_text('{"name": ')
    with pytest.raises(Damaged, match=r"a\.json is cut off or damaged"):
        read_json(tmp_path / "a.json")
