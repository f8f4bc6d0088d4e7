"""Sharded checkpoints: folders written by all ranks, complete or not at all, with a manifest that proves it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from models.convert.integrity import MANIFEST, crc32

T = TypeVar("T")


def save_sharded(path: Path, write: Callable[[Path], None]) -> None:
    """Let every rank `write` its part into a draft folder, then rename the draft to `path`.

    A kill at any moment leaves `path` and the checkpoints beside it intact. All ranks must share one file system.

    Raises:
        OSError: on all ranks, if one of them could not write; earlier checkpoints are unchanged.
    """
    draft = create_draft(path)
    complete_draft(path, lambda: write(draft))


def create_draft(path: Path, group: dist.ProcessGroup | None = None) -> Path:
    """An empty draft folder of the checkpoint `path`, for the files of all ranks.

    Args:
        group: of all ranks, by which they agree; None: the default one.

    Raises:
        OSError: on all ranks, if rank 0 could not create it.
    """
    draft = _draft(path)
    _run(path, lambda: _create_empty(draft), group)
    return draft


def complete_draft(path: Path, write: Callable[[], None], group: dist.ProcessGroup | None = None) -> None:
    """Let every rank `write` its part into the draft of `path`, then rename it: the second half of `save_sharded`.

    Args:
        group: as of `create_draft`. A thread needs a group of its own: the messages of two threads would mix.
    """
    draft = _draft(path)
    _run(path, write, group, all_ranks=True)
    entries = _run(path, lambda: _manifest_entries(draft), group, all_ranks=True)
    manifest = {name: entry for part in entries for name, entry in part.items()}
    _run(path, lambda: _publish(draft, path, manifest), group)


def write_error(path: Path, reason: object) -> OSError:
    """The error to raise if a checkpoint, a folder or a file, could not be written."""
    return OSError(
        f"could not write the checkpoint {path} ({reason}). Earlier checkpoints are whole; free some space and resume "
        "with --ckpt_path last"
    )


def remove_folder(path: Path) -> None:
    """Delete a checkpoint folder; it is renamed first, since a kill could leave a part of it under its name."""
    trash = _draft(path)
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.draft")


def _rank_and_world_size() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _run(path: Path, work: Callable[[], T], group: dist.ProcessGroup | None, all_ranks: bool = False) -> list[T]:
    """Run `work` on rank 0 or on all ranks; returns what it returned on those, or raises an OSError on all ranks."""
    rank, world_size = _rank_and_world_size()
    done: list[T] = []
    failure: str | None = None
    if all_ranks or rank == 0:
        try:
            done.append(work())
        except BaseException as error:
            parts = getattr(error, "failures", {})  # of torch's CheckpointException, which is not an Exception
            if not isinstance(error, Exception) and not parts:
                raise  # an interruption
            error = next((inner for inner, _ in parts.values()), error)
            failure = f"{type(error).__name__}: {error}"
    results = [(done, failure)]
    if world_size > 1:
        results *= world_size
        # pyrefly: ignore[bad-argument-type] torch declares the second parameter as None
        dist.all_gather_object(results, (done, failure), group)
    first_failure = next((failure for _, failure in results if failure is not None), None)
    if first_failure is None:
        return [value for done, _ in results for value in done]
    if rank == 0:
        shutil.rmtree(_draft(path), ignore_errors=True)
    raise write_error(path, first_failure)


def _create_empty(draft: Path) -> None:
    """Make an empty draft, and remove those that killed writers left behind."""
    for abandoned in draft.parent.glob(".*.draft"):
        if abandoned.is_dir():
            shutil.rmtree(abandoned)
    draft.mkdir(parents=True)


def _manifest_entries(draft: Path) -> dict[str, tuple[int, int]]:
    """Sizes and checksums of this rank's share of the files, after these are synced to the disk."""
    rank, world_size = _rank_and_world_size()
    files = sorted(file for file in draft.rglob("*") if file.is_file())[rank::world_size]
    entries = {}
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        entries[str(file.relative_to(draft))] = (file.stat().st_size, crc32(file))
    return entries


def _publish(draft: Path, path: Path, manifest: dict[str, tuple[int, int]]) -> None:
    with (draft / MANIFEST).open("w") as stream:
        json.dump(manifest, stream)
        stream.flush()
        os.fsync(stream.fileno())
    replaced = path.with_name(f".replaced.{path.name}")  # still found as a checkpoint if a kill falls between renames
    if path.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    elif path.exists():
        path.unlink()
    draft.rename(path)
    if replaced.exists():
        remove_folder(replaced)
