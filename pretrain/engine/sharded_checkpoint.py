"""A checkpoint that is a folder: written by all processes, whole or not at all, with a list that tells if it is."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

MANIFEST = "whole.json"  # size and checksum of every file; written last


def save_together(path: Path, write: Callable[[Path], None]) -> None:
    """Have every process `write` its part into a draft folder, then give the folder its name.

    A kill at any moment leaves what stood at `path` and beside it whole. All processes must see the same file system.

    Raises:
        OSError: in all processes, if one of them could not write; earlier checkpoints are as they were.
    """
    draft = path.with_name(f".{path.name}.draft")
    _agree(path, draft, lambda: _clear(draft))
    _agree(path, draft, lambda: write(draft), everyone=True)
    listed = _agree(path, draft, lambda: _checked(draft), everyone=True)
    _agree(path, draft, lambda: _publish(draft, path, {name: fact for part in listed for name, fact in part.items()}))


def not_written(path: Path, why: object) -> OSError:
    """What to tell where a checkpoint, a folder or a file, could not be written."""
    return OSError(
        f"could not write the checkpoint {path} ({why}). Earlier checkpoints are whole; free some space and resume "
        "with --ckpt_path last"
    )


def whole_folder(path: Path) -> bool:
    """Whether all that was written is there, as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        return all(
            (path / name).stat().st_size == size and _checksum(path / name) == check
            for name, (size, check) in manifest.items()
        )
    except (OSError, ValueError):
        return False


def remove_folder(path: Path) -> None:
    """Delete a checkpoint folder, so that a kill on the way leaves none that could be taken for a whole one."""
    doomed = path.with_name(f".{path.name}.draft")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _rank_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _agree(path: Path, draft: Path, work: Callable[[], object], everyone: bool = False) -> list:
    """Do `work` in the first process, or in every one; what came of it in each, or an OSError in all of them."""
    rank, world = _rank_world()
    done, failure = None, None
    if everyone or rank == 0:
        try:
            done = work()
        except BaseException as error:
            parts = getattr(error, "failures", {})  # of torch's CheckpointException, which is no Exception
            if not isinstance(error, Exception) and not parts:
                raise  # an interruption
            error = next((inner for inner, _ in parts.values()), error)
            failure = f"{type(error).__name__}: {error}"
    results = [(done, failure)]
    if world > 1:
        results = [None] * world
        dist.all_gather_object(results, (done, failure))
    told = next((failure for _, failure in results if failure is not None), None)
    if told is None:
        return [done for done, _ in results]
    if rank == 0:
        shutil.rmtree(draft, ignore_errors=True)
    raise not_written(path, told)


def _clear(draft: Path) -> None:
    """An empty draft, and none that a kill left behind."""
    for left in draft.parent.glob(".*.draft"):
        if left.is_dir():
            shutil.rmtree(left)
    draft.mkdir(parents=True)


def _checked(draft: Path) -> dict[str, tuple[int, int]]:
    """Sizes and checksums of this process's share of the files, which are on the disk by then."""
    rank, world = _rank_world()
    files = sorted(file for file in draft.rglob("*") if file.is_file())[rank::world]
    facts = {}
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        facts[str(file.relative_to(draft))] = (file.stat().st_size, _checksum(file))
    return facts


def _checksum(file: Path) -> int:
    check = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            check = zlib.crc32(block, check)
    return check


def _publish(draft: Path, path: Path, facts: dict[str, tuple[int, int]]) -> None:
    with (draft / MANIFEST).open("w") as stream:
        json.dump(facts, stream)
        stream.flush()
        os.fsync(stream.fileno())
    replaced = path.with_name(f".replaced.{path.name}")  # whole, and found as such if a kill falls between the two
    if path.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    elif path.exists():
        path.unlink()
    draft.rename(path)
    if replaced.exists():
        remove_folder(replaced)
