"""Makes shards of videos: checks every file by decoding, in parallel, continues after a kill, and writes a report.

Videos are assigned to shards by their position in the list, and a shard is done when its report is on disk (written
after its tar). A killed run continues with the first shard without a report, and loses or repeats nothing.
"""

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from datamodules.cores import usable_cores
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.decoding.reader import PyAV
from datamodules.making.contents import thumbnails
from datamodules.making.crew import LIMIT, Crew
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import Encoding
from datamodules.making.manifest import match
from datamodules.making.pieces import Cut, Lost, Piece
from datamodules.making.report import write_page
from datamodules.making.shard_progress import ShardProgress
from datamodules.sources.class_names import class_of_folder, is_class_name, number_rows
from datamodules.sources.files import find_videos
from datamodules.sources.lists import has_times, read_list
from datamodules.sources.shards import Shards
from datamodules.sources.tars import CLASSES, write_index, write_shard
from datamodules.storage.json_text import json_text, printable
from datamodules.storage.lock import lock_folder
from datamodules.storage.whole_files import write_whole

PARTS = ".prepare"  # folder of the settings and of a report per finished shard
REPORT = "report.json"
PAGE = "report.html"
MISSING = "missing.txt"
_LATER = ("deinterlace", "tone_map", "fps")  # settings that runs begun earlier have not written, and did not use
_NOT_TOLD = {"data", "ending", "meta", "shown"}  # of a `Piece`, in the json of its sample
_SHOWN = 24  # clips of which the page shows frames
_NUMBER = (int, float)
_REPORT = {  # of a shard, see `_make_shard`
    "kept": [
        {
            **{"name": str, "key": str, "bytes": int, "words": (int, type(None))},
            **{"frames": int, "seconds": _NUMBER, "width": int, "height": int},
        }
    ],
    "dropped": [{"name": str, "reason": str}],
}


def prepare(
    videos: str,
    out: str,
    encoding: Encoding | None = None,
    root: str | None = None,
    shard_samples: int = 256,
    workers: int | None = None,
    progress: bool = True,
    limit: float = LIMIT,
    part: tuple[int, int] = (1, 1),
    labels: str | None = None,
    limits: Limits | None = None,
) -> dict:
    """Makes shards, their index, `report.json` and `report.html` in `out`; returns the report.

    Args:
        videos: a folder, searched recursively, or a csv or jsonl list with a column `path`; its columns `start` and
            `end` (seconds, or HH:MM:SS.mmm) make each row a clip.
        out: folder for the shards; an interrupted run with the same settings is finished.
        encoding: how to process each video; by default it is only checked.
        root: folder for relative paths of a list; by default the list's folder.
        shard_samples: videos per shard.
        workers: processes; by default one per core.
        progress: shows a progress bar.
        limit: time limit in seconds for one video; 0 for no limit.
        part: (i, n): makes every n-th shard of the list, from the i-th on, so that n machines share the work, each with
            a folder of its own; see `parts.merge`.
        labels: "folders": in a folder, each video has the class of the folder under it that it lies in.
        limits: what a file may claim of its frames; by default those of `Limits`.

    Raises:
        FileNotFoundError: there is no video to prepare.
        ValueError: `out` was begun with other settings or another list, or another process writes it.
    """
    rows, missing, refused = inputs(videos, root, labels)
    options = encoding or Encoding(), shard_samples, workers, progress, limit
    return prepare_rows(rows, out, *options, missing, refused, part, limits)


def prepare_rows(
    rows: Sequence[dict],
    out: str,
    encoding: Encoding,
    shard_samples: int = 256,
    workers: int | None = None,
    progress: bool = True,
    limit: float = LIMIT,
    missing: Sequence[str] = (),
    refused: Sequence[dict] = (),
    part: tuple[int, int] = (1, 1),
    limits: Limits | None = None,
) -> dict:
    """As `prepare`, from rows with `path` (to open), `name` (to record), and further fields for the json of each clip.

    A row with `cuts` (dicts of `start` and `end` in seconds, `name`, and further fields for the json) gives those
    clips, any other row the whole video. `missing` are the names of requested clips without a video: they are counted,
    and listed in a file. `refused` have a `name` and a `reason`: they count as dropped. Names of classes become numbers
    in the order of the alphabet, which `classes.txt` lists.
    """
    folder = Path(out)
    rows, classes = _with_numbers(rows)
    with lock_folder(folder):
        shards = ShardProgress(folder, PARTS, _REPORT)
        shards.begin(_settings(rows, encoding, shard_samples, part, limits))
        began, workers = time.time(), workers or usable_cores()
        groups = _groups(rows, shard_samples)
        mine = range(part[0] - 1, len(groups), part[1])
        done = shards.finished(len(groups))
        open_shards = [s for s in mine if s not in done]
        moved: Counter[str] = Counter()
        waiting = [row for s in open_shards for row in groups[s]]
        total = sum(len(groups[s]) for s in mine)
        bar = tqdm(total=total, initial=total - len(waiting), disable=not progress, unit="video")
        with bar, Crew(partial(_work, encoding=encoding, limits=limits), workers, limit) as crew:
            results = crew.run(waiting)
            for s in open_shards:
                done[s] = _make_shard(folder, s, groups[s], results, bar, moved)
                shards.finish(s, done[s])
        if part[0] > 1:  # the first part counts them
            missing, refused = (), ()
        if classes:
            write_whole(folder / CLASSES, "".join(f"{name}\n" for name in classes))
        return _finish(folder, [done[s] for s in mine], encoding, time.time() - began, missing, refused, limits)


def _with_numbers(rows: Sequence[dict]) -> tuple[Sequence[dict], list[str] | None]:
    """The rows with numbers in the place of names of classes, and the names; None if there are none."""
    named = [each for row in rows for each in row.get("cuts", [row]) if _has_name(each)]
    if not named:
        return rows, None
    labelled = sum(each.get("label") not in (None, "") for row in rows for each in row.get("cuts", [row]))
    if labelled > len(named):
        raise ValueError(
            f"some classes are names, such as {named[0]['label']!r}, and others numbers: write names only, or numbers"
        )
    rows = [{**row, "cuts": [dict(cut) for cut in row["cuts"]]} if "cuts" in row else dict(row) for row in rows]
    copies = [each for row in rows for each in row.get("cuts", [row]) if _has_name(each)]
    return rows, number_rows(copies, "")


def _has_name(row: dict) -> bool:
    """Whether the label of a row or a cut is a name; in cuts, whose values are not read yet, numbers are text too."""
    label = row.get("label")
    return isinstance(label, str) and ("start" not in row or is_class_name(label))


def _groups(rows: Sequence[dict], shard_samples: int) -> list[list[dict]]:
    """Rows by shard: each has about `shard_samples` clips, counted by `cuts`."""
    groups: list[list[dict]] = []
    free = 0
    for row in rows:
        if free <= 0:
            groups.append([])
            free = shard_samples
        groups[-1].append(row)
        free -= len(row.get("cuts", [row]))
    return groups


def inputs(videos: str, root: str | None = None, labels: str | None = None) -> tuple[list[dict], list[str], list[dict]]:
    """Rows for `prepare_rows` in a fixed order, with the columns of a list; the names of clips without a video, and
    lines that are refused, as `match` gives them."""
    where = Path(videos)
    if not where.exists():
        raise FileNotFoundError(f"no folder or list of videos at {videos}")
    if where.is_dir():
        rows = [{"path": str(file), "name": file.relative_to(where).as_posix()} for file in find_videos(where)]
        if labels == "folders":
            rows = [{**row, "label": class_of_folder(Path(row["path"]), where)} for row in rows]
    else:
        base = Path(root) if root is not None else where.parent
        if has_times(where):
            return match(videos, str(base))
        rows = [{**row, "path": str(base / row["path"]), "name": row["path"]} for row in read_list(where)]
    if not rows:
        raise FileNotFoundError(f"no video in {videos}")
    return rows, [], []


def _settings(
    rows: Sequence[dict], encoding: Encoding, shard_samples: int, part: tuple[int, int], limits: Limits | None
) -> dict:
    """What decides the shards, for comparison with an interrupted run."""
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()
    given = {name: value for name, value in asdict(encoding).items() if name not in _LATER or value}
    raised = {"limits": asdict(limits)} if limits is not None and limits != Limits() else {}
    settings = {**given, **raised, "shard_samples": shard_samples, "videos": len(rows), "list": digest}
    return settings if part == (1, 1) else {**settings, "part": list(part)}


def _make_shard(folder: Path, number: int, rows: list[dict], results: Iterator, bar: tqdm, moved: Counter[str]) -> dict:
    """Makes a shard of the results of its rows; `moved` counts the bytes of videos, in and out, of all shards."""
    report: dict = {"kept": [], "dropped": []}

    def samples() -> Iterator[tuple[str, str, bytes, dict]]:
        for place, row in enumerate(rows):
            pieces = next(results)
            moved["in"] += _bytes(row["path"])
            bar.set_postfix_str(f"{moved['in'] / 1e6:.0f} MB in, {moved['out'] / 1e6:.0f} MB out", refresh=False)
            bar.update()
            if isinstance(pieces, str):
                pieces = [Lost(cut, pieces) for cut in row.get("cuts", [{}])]
            for i, piece in enumerate(pieces):
                name = piece.meta.get("name", row["name"])
                if isinstance(piece, Lost):
                    report["dropped"].append({"name": name, "reason": piece.reason})
                    if not bar.disable:
                        tqdm.write(printable(f"dropped {name}: {piece.reason}"))
                    continue
                key = f"{number:06d}{place:06d}" + (f"-{i:04d}" if len(pieces) > 1 else "")
                about = {k: v for k, v in vars(piece).items() if k not in _NOT_TOLD and v is not None}
                rest = {k: v for k, v in row.items() if k not in ("path", "name", "cuts")}
                meta = {**rest, "source": row["name"], **piece.meta, **about}
                words = len(_first(meta["text"]).split()) if meta.get("text") else None
                report["kept"].append({"name": name, "key": key, "bytes": len(piece.data), "words": words, **about})
                moved["out"] += len(piece.data)
                yield key, piece.ending, piece.data, meta

    report["row"] = write_shard(folder / f"shard-{number:06d}.tar", samples())
    return report


def _first(text: str | list[str]) -> str:
    return text if isinstance(text, str) else text[0]


def _bytes(path: str) -> int:
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):  # reported when it is opened
        return 0


def _finish(
    folder: Path,
    parts: list[dict],
    encoding: Encoding,
    elapsed: float,
    missing: Sequence[str],
    refused: Sequence[dict],
    limits: Limits | None,
) -> dict:
    write_index(folder, [part["row"] for part in parts])
    if missing:
        write_whole(folder / MISSING, "".join(f"{name}\n" for name in missing))
    kept = [k for part in parts for k in part["kept"]]
    dropped = [*(d for part in parts for d in part["dropped"]), *refused]
    report = {
        "kept": len(kept),
        "dropped": len(dropped),
        "missing": len(missing),
        "reasons": dict(Counter(d["reason"] for d in dropped).most_common()),
        "frames": sum(k["frames"] for k in kept),
        "seconds": round(sum(k["seconds"] for k in kept), 3),
        "bytes": sum(k["bytes"] for k in kept),
        "shards": len(parts),
        "marks": {mark: sum(bool(k.get(mark)) for k in kept) for mark in ("interlaced", "hdr")},
        "sizes": dict(Counter(f"{k['width']}x{k['height']}" for k in kept).most_common(20)),
        "settings": asdict(encoding),
        "elapsed": round(elapsed, 1),
        "dropped_files": dropped,
    }
    write_whole(folder / REPORT, json_text(report, indent=1))
    shown = thumbnails(Shards(str(folder)), _SHOWN, decoder=PyAV(limits=limits)) if kept else []
    write_page(folder / PAGE, report, kept, shown)
    return report


def _work(row: dict, encoding: Encoding, limits: Limits | None) -> list[Piece | Lost] | str:
    try:
        cuts = [Cut(cut["start"], cut.get("end", math.inf), cut) for cut in row["cuts"]] if "cuts" in row else None
        return prepare_video(row["path"], encoding, cuts, limits)
    except DecodeError as error:
        return error.reason
