"""A failed write leaves earlier checkpoints unchanged; a damaged checkpoint is detected, whichever bit it is."""

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from pretrain.engine.checkpoint import AtomicCheckpointIO, is_complete, newest_checkpoint
from pretrain.engine.resume import remove_drafts
from pretrain.engine.sharded_checkpoint import save_sharded

SAVED = {"state_dict": {"a": torch.arange(300.0), "b": torch.ones(5, dtype=torch.int64)}, "global_step": 3}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk of its own needs root and mount: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_full_disk_is_an_error_and_earlier_checkpoints_stay(disk: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(SAVED, disk / "checkpoints/step=1.ckpt")
    before = files(disk / "checkpoints")
    large = {"state_dict": {"a": torch.ones(500_000)}}
    for name in ("step=2.ckpt", "step=1.ckpt"):  # a new checkpoint, and overwriting one
        with pytest.raises(OSError, match=r"could not write the checkpoint .*Earlier checkpoints are whole"):
            AtomicCheckpointIO().save_checkpoint(large, disk / "checkpoints" / name)
        assert files(disk / "checkpoints") == before
    AtomicCheckpointIO().save_checkpoint(SAVED, disk / "checkpoints/step=2.ckpt")  # a small one fits again
    assert newest_checkpoint(disk).name == "step=2.ckpt"


def test_a_disk_that_fills_while_a_folder_is_written_is_an_error(disk: Path) -> None:
    """With torch's writer of sharded checkpoints, whose error is not an Exception."""
    folder = disk / "checkpoints/step=1.ckpt"
    save_sharded(folder, lambda draft: _save_shards({"a": torch.ones(1000)}, draft))
    before = files(folder)
    for name in ("step=2.ckpt", "step=1.ckpt"):
        with pytest.raises(OSError, match=r"could not write the checkpoint .*Earlier checkpoints are whole"):
            save_sharded(disk / "checkpoints" / name, lambda draft: _save_shards({"a": torch.ones(500_000)}, draft))
        assert files(folder) == before and [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert newest_checkpoint(disk) == folder


def _save_shards(state: dict, draft: Path) -> None:
    dcp.save(state, storage_writer=dcp.FileSystemWriter(draft, single_file_per_rank=True), no_dist=True)


def test_a_read_only_disk_is_an_error(disk: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(SAVED, disk / "checkpoints/step=1.ckpt")
    before = files(disk / "checkpoints")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for folder in ("checkpoints", "others"):
        with pytest.raises(OSError, match=r"could not write the checkpoint .*Read-only file system"):
            AtomicCheckpointIO().save_checkpoint(SAVED, disk / folder / "step=2.ckpt")
    assert files(disk / "checkpoints") == before and newest_checkpoint(disk).name == "step=1.ckpt"


def test_each_flipped_bit_is_detected_or_harmless(tmp_path: Path) -> None:
    """A bit of every third byte of tensors and pickle, and of every byte of the archive's table.

    torch alone loads most of these files without an error, one of them as a tensor of zeros.
    """
    path = tmp_path / "step=1.ckpt"
    AtomicCheckpointIO().save_checkpoint(SAVED, path)
    good, found, tensors = path.read_bytes(), 0, 0
    table = good.index(b"PK\x01\x02")
    flips = [(position, 1 << position % 8) for position in (*range(0, table, 3), *range(table, len(good)))]
    with zipfile.ZipFile(path) as archive:
        records = [good.index(name.encode(), table) for name in archive.namelist()]
    for position, bit in (*flips, *((name - 8, 0x10) for name in records)):  # the last bit makes a record a folder
        bad = bytearray(good)
        bad[position] ^= bit
        path.write_bytes(bad)
        if is_complete(path):
            loaded = torch.load(path, weights_only=True)
            assert loaded["global_step"] == 3 and not loaded.keys() - SAVED.keys()
            assert all(torch.equal(tensor, loaded["state_dict"][name]) for name, tensor in SAVED["state_dict"].items())
        else:
            found += 1
            tensors += good.find(SAVED["state_dict"]["a"].numpy().tobytes()) <= position < table
    assert found > 700 and tensors > 400


def test_the_one_before_a_damaged_one_is_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        AtomicCheckpointIO().save_checkpoint(SAVED, folder / f"step={step}.ckpt")
        os.utime(folder / f"step={step}.ckpt", (step, step))
    bad = bytearray((folder / "step=3.ckpt").read_bytes())
    bad[bad.find(SAVED["state_dict"]["a"].numpy().tobytes()) + 500] ^= 4
    (folder / "step=3.ckpt").write_bytes(bad)
    (folder / "step=2.ckpt").write_bytes((folder / "step=2.ckpt").read_bytes()[:-100])
    for step in (2, 3):
        os.utime(folder / f"step={step}.ckpt", (step, step))
    assert newest_checkpoint(tmp_path).name == "step=1.ckpt"
    assert "step=3.ckpt is cut or damaged" in caplog.text and "step=2.ckpt is cut or damaged" in caplog.text


def test_drafts_of_killed_writers_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    AtomicCheckpointIO().save_checkpoint(SAVED, folder / "step=1.ckpt")
    (folder / ".step=2.ckpt.77.draft").write_bytes(b"half")
    (folder / ".step=3.ckpt.draft").mkdir()
    assert newest_checkpoint(tmp_path).name == "step=1.ckpt"
    remove_drafts(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["step=1.ckpt"] and "step=2.ckpt.77.draft" in caplog.text
