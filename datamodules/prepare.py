"""From videos to shards: every file checked by decoding, in parallel, resumable after a kill, with a report.

Inputs are assigned to shards by their place in the list, and a shard counts as done when its report is on disk (written
after its tar): a run that was killed goes on with the first shard that lacks one, and loses or doubles nothing.
"""

import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from datamodules.decode import DecodeError
from datamodules.encode import Piece, Recipe, prepare_video
from datamodules.files import find_videos, read_list
from datamodules.tars import write_index, write_shard

PARTS = ".prepare"  # folder for the settings and a report for each finished shard
REPORT = "report.json"


def prepare(
    videos: str,
    out: str,
    recipe: Recipe | None = None,
    root: str | None = None,
    shard_samples: int = 256,
    workers: int | None = None,
    progress: bool = True,
) -> dict:
    """Makes shards, their index and `report.json` in `out`; gives the report.

    Args:
        videos: a folder that is searched through all its depths, or a csv or jsonl list with a column `path`.
        out: folder for the shards; where an interrupted run with the same settings is found, it is finished.
        recipe: what is done to each video; by default it is only checked.
        root: what relative paths of a list start from; the list's folder by default.
        shard_samples: videos to a shard.
        workers: processes; as many as there are cores by default.
        progress: shows a bar.

    Raises:
        FileNotFoundError: no video to prepare.
        ValueError: `out` was begun with other settings or another list.
    """
    recipe = recipe or Recipe()
    rows, folder = inputs(videos, root), Path(out)
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    _claim(parts, rows, recipe, shard_samples)
    began, workers = time.time(), workers or os.cpu_count() or 1
    shards = range(-(-len(rows) // shard_samples))
    open_shards = [s for s in shards if not (parts / f"{s:06d}.json").exists()]
    waiting = [row for s in open_shards for row in rows[s * shard_samples : (s + 1) * shard_samples]]
    bar = tqdm(total=len(rows), initial=len(rows) - len(waiting), disable=not progress, unit="video")
    with bar, Crew(recipe, workers) as crew:
        results = crew.run(waiting)
        for s in open_shards:
            _make_shard(folder, s, rows[s * shard_samples : (s + 1) * shard_samples], results, bar)
    return _finish(folder, [_read(parts / f"{s:06d}.json") for s in shards], recipe, time.time() - began)


def inputs(videos: str, root: str | None = None) -> list[dict]:
    """Rows of `path` (to open), `name` (to keep), and whatever columns a list has, in a fixed order."""
    where = Path(videos)
    if not where.exists():
        raise FileNotFoundError(f"no folder or list of videos at {videos}")
    if where.is_dir():
        rows = [{"path": str(file), "name": file.relative_to(where).as_posix()} for file in find_videos(where)]
    else:
        base = Path(root) if root is not None else where.parent
        rows = [{**row, "path": str(base / row["path"]), "name": row["path"]} for row in read_list(where)]
    if not rows:
        raise FileNotFoundError(f"no video in {videos}")
    return rows


def _claim(parts: Path, rows: list[dict], recipe: Recipe, shard_samples: int) -> None:
    """Notes the settings of this run, or makes sure that they are those of the run that is to be finished."""
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()
    settings = {**asdict(recipe), "shard_samples": shard_samples, "videos": len(rows), "list": digest}
    file = parts / "settings.json"
    before = _read(file) if file.exists() else settings
    if changed := [key for key in settings if before.get(key) != settings[key]]:
        raise ValueError(
            f"{parts.parent} was begun with another {', '.join(changed)}: "
            + ", ".join(f"{key} {before.get(key)} then, {settings[key]} now" for key in changed)
            + ". Repeat the settings to finish it, or choose another folder."
        )
    _write(file, settings)


def _make_shard(folder: Path, number: int, rows: list[dict], results: Iterator, bar: tqdm) -> None:
    report: dict = {"kept": [], "dropped": []}

    def samples() -> Iterator[tuple[str, str, bytes, dict]]:
        for place, row in enumerate(rows):
            pieces = next(results)
            bar.update()
            if isinstance(pieces, str):
                report["dropped"].append({"name": row["name"], "reason": pieces})
                tqdm.write(f"dropped {row['name']}: {pieces}") if not bar.disable else None
                continue
            for i, piece in enumerate(pieces):
                key = f"{number:06d}{place:06d}" + (f"-{i:04d}" if len(pieces) > 1 else "")
                about = {k: v for k, v in vars(piece).items() if k not in ("data", "ending")}
                report["kept"].append({"name": row["name"], "key": key, "bytes": len(piece.data), **about})
                rest = {k: v for k, v in row.items() if k not in ("path", "name")}
                yield key, piece.ending, piece.data, {**rest, "source": row["name"], **about}

    row = write_shard(folder / f"shard-{number:06d}.tar", samples())
    report["row"] = row
    _write(folder / PARTS / f"{number:06d}.json", report)


def _finish(folder: Path, parts: list[dict], recipe: Recipe, elapsed: float) -> dict:
    write_index(folder, [part["row"] for part in parts])
    kept = [k for part in parts for k in part["kept"]]
    dropped = [d for part in parts for d in part["dropped"]]
    report = {
        "kept": len(kept),
        "dropped": len(dropped),
        "reasons": dict(Counter(d["reason"] for d in dropped).most_common()),
        "frames": sum(k["frames"] for k in kept),
        "seconds": round(sum(k["seconds"] for k in kept), 3),
        "bytes": sum(k["bytes"] for k in kept),
        "shards": len(parts),
        "sizes": dict(Counter(f"{k['width']}x{k['height']}" for k in kept).most_common(20)),
        "settings": asdict(recipe),
        "elapsed": round(elapsed, 1),
        "dropped_files": dropped,
    }
    _write(folder / REPORT, report)
    return report


class Crew:
    """Processes that prepare videos; what a video breaks, the next one does not notice."""

    def __init__(self, recipe: Recipe, workers: int) -> None:
        self.recipe, self.workers = recipe, workers
        self.pool = ProcessPoolExecutor(workers)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def run(self, rows: list[dict]) -> Iterator[list[Piece] | str]:
        """For each row in turn its pieces, or the reason why there are none; works a few videos ahead."""
        ahead: deque[tuple[dict, Future]] = deque()
        rest = iter(rows)
        for row in rest:
            ahead.append((row, self._submit(row)))
            if len(ahead) >= 4 * self.workers:
                yield self._result(*ahead.popleft())
        while ahead:
            yield self._result(*ahead.popleft())

    def _submit(self, row: dict) -> Future:
        try:
            return self.pool.submit(_work, row["path"], self.recipe)
        except BrokenProcessPool:
            self.pool = ProcessPoolExecutor(self.workers)
            return self.pool.submit(_work, row["path"], self.recipe)

    def _result(self, row: dict, future: Future) -> list[Piece] | str:
        try:
            return future.result()
        except (
            BrokenProcessPool
        ):  # a decoder took its process down, perhaps on another video: this one alone, once more
            try:
                with ProcessPoolExecutor(1) as alone:
                    return alone.submit(_work, row["path"], self.recipe).result()
            except BrokenProcessPool:
                return "it crashes the decoder"


def _work(path: str, recipe: Recipe) -> list[Piece] | str:
    try:
        return prepare_video(path, recipe)
    except DecodeError as error:
        return error.reason


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, content: dict) -> None:
    partial = file.with_name(f".{file.name}.partial")
    with open(partial, "w", encoding="utf-8", errors="surrogateescape") as stream:
        json.dump(content, stream, ensure_ascii=False, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)
