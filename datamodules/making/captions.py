"""Captions for the clips of a manifest: from a file, by name, or from a captioning model."""

import csv
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import PyAV
from datamodules.making.journal import Journal
from datamodules.making.manifest import Entry, Folder, read_manifest
from datamodules.sources.lists import check_size, json_lines
from datamodules.storage.json_text import is_utf8, json_text
from datamodules.storage.lock import lock_file
from datamodules.storage.whole_files import write_whole

Name = TypeVar("Name")
Content = TypeVar("Content", bound=np.ndarray | str)  # frames, or why there are none
_BATCH_BYTES = 2**28  # of the frames that a captioner gets at once


class Captioner(ABC):
    """Captions clips. Your own class is named by `package.module:Class`.

    `frames` of each clip are taken, from the middles of as many equal parts; by default the middle frame, as for
    InternVid's coarse captions.
    """

    frames: int = 1

    def picture(self, frames: np.ndarray) -> np.ndarray:
        """What the captioner needs of a clip's frames, uint8 [T, H, W, 3]; called for each as it is decoded.

        By default all of it. A captioner of many frames scales them here, since a clip of 4K has 25 MB a frame.
        """
        return frames

    @abstractmethod
    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        """A caption for each clip, uint8 RGB [frames, H, W, 3] as `picture` makes them; sizes may differ."""


class ImageToText(Captioner):
    """An image captioning model of transformers (BLIP, BLIP-2, GIT, ...) on the middle frame.

    Args:
        model: folder, or name on the Hugging Face hub.
        prompt: beginning of the text, which the model continues.
        tokens: most new tokens of a caption.
        device: "cuda", "cpu", ...; by default a GPU if there is one.
    """

    def __init__(
        self,
        model: str = "Salesforce/blip-image-captioning-base",
        prompt: str | None = None,
        tokens: int = 40,
        device: str | None = None,
    ) -> None:
        import torch

        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise ImportError("ImageToText needs transformers: pip install -e '.[hf]'") from error
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # Without the flag, transformers asks on a terminal whether to run code that comes with the model.
        self.processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        found = AutoModelForImageTextToText.from_pretrained(model, trust_remote_code=False)
        self.model = found.to(self.device).eval()
        self.prompt, self.tokens = prompt, tokens

    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        import torch

        text = {"text": [self.prompt] * len(clips)} if self.prompt else {}
        inputs = self.processor(images=[clip[0] for clip in clips], return_tensors="pt", **text).to(self.device)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=self.tokens)
        return [caption.strip() for caption in self.processor.batch_decode(ids, skip_special_tokens=True)]


def load_captioner(name: str, arguments: dict | None = None) -> Captioner:
    """An instance of the captioner class `package.module:Class`."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} is no captioner: write package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"there is no captioner {name}: {error}") from None
    return found(**(arguments or {}))


def write_captions(
    manifest: str,
    folder: str,
    out: str,
    captioner: Captioner,
    settings: dict | None = None,
    batch: int = 16,
    progress: bool = True,
) -> dict:
    """Writes the manifest with a `Caption` by `captioner` for each clip; a killed run continues where it stopped.

    Args:
        manifest: only captions are added to its lines; a line that has one stays unchanged.
        folder: of the videos.
        out: jsonl.
        captioner: captions the clips.
        settings: the captioner's name and arguments; a run with others does not continue this one.
        batch: clips per call of the captioner.
        progress: shows a progress bar.

    Returns:
        `captioned` and `kept` (had a caption) are counts; `failed` is the reason by clip that has none, and by line
        with invalid timestamps, which is left out.
    """
    videos = Folder(folder)
    refused: list[dict] = []
    entries = list(read_manifest(manifest, refused))
    with Journal(Path(out), {"manifest": manifest, "folder": folder, **(settings or {})}) as journal:
        open_entries = [e for e in entries if not e.text and e.name not in journal.records]
        bar = tqdm(total=len(entries), initial=len(entries) - len(open_entries), disable=not progress, unit="clip")
        with bar:
            for group in in_batches(_clips(open_entries, videos, captioner), batch):
                good = [(name, clip) for name, clip in group if not isinstance(clip, str)]
                captions = captioner([clip for _, clip in good]) if good else []
                for (name, _), caption in zip(good, captions, strict=True):
                    journal.add(name, {"caption": caption})
                for name, reason in group:
                    if isinstance(reason, str):
                        journal.add(name, {"failed": reason})
                bar.update(len(group))
                del group, good  # before the next clips are decoded
        new = {e.name: journal.records[e.name] for e in entries if not e.text}
        rows = [e.row if e.text else _captioned(e, new[e.name].get("caption")) for e in entries]
        journal.finish("".join(json_text(row) + "\n" for row in rows))
    failed = {name: record["failed"] for name, record in new.items() if "failed" in record}
    counts = {"captioned": len(new) - len(failed), "kept": len(entries) - len(new)}
    return {**counts, "failed": {**failed, **{each["name"]: each["reason"] for each in refused}}}


def in_batches(clips: Iterable[tuple[Name, Content]], most: int) -> Iterator[list[tuple[Name, Content]]]:
    """Groups of at most `most` clips with their names, whose frames exceed 256 MB by at most one clip."""
    group: list[tuple[Name, Content]] = []
    held = 0
    for name, clip in clips:
        group.append((name, clip))
        held += clip.nbytes if isinstance(clip, np.ndarray) else 0
        if len(group) == most or held >= _BATCH_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _clips(entries: list[Entry], videos: Folder, captioner: Captioner) -> Iterator[tuple[str, np.ndarray | str]]:
    """(name, uint8 [frames, H, W, 3] or the reason why not); consecutive clips of one video open it once."""
    path, video = None, None
    for entry in entries:
        try:
            found = videos.find(entry)
            if found is None:
                yield entry.name, "its video is missing"
                continue
            if found != path or video is None:
                if video is not None:
                    video.close()
                path, video = found, None
                video = PyAV().open(found)
            yield entry.name, scaled_frames(video, _middles(entry, video, captioner.frames), captioner.picture)
        except DecodeError as error:
            yield entry.name, error.reason
        except ValueError as error:  # several videos have its name
            yield entry.name, str(error)
    if video is not None:
        video.close()


def _middles(entry: Entry, video: Video, frames: int) -> np.ndarray:
    """Frame indices in the middles of `frames` equal parts of a clip."""
    first, last = 0, len(video)
    if entry.start > 0:
        first = int(video.frames_at([entry.start])[0])
    if entry.end < video.duration:
        last = max(int(video.frames_at([entry.end])[0]), first + 1)
    return (first + (last - first) * (np.arange(frames) + 0.5) / frames).astype(np.int64)


def join_captions(manifest: str, captions: str, out: str, refused: list[dict] | None = None) -> tuple[int, int]:
    """Writes the manifest with captions from a file; returns (clips with a caption, clips).

    Args:
        manifest: only captions are added to its lines, or replaced.
        captions: csv or jsonl with `name` (a clip's `VIDEO_START_END`, or a video, for all of its clips) and `caption`
            (or `text`).
        out: jsonl.
        refused: see `read_manifest`.
    """
    by_name = _read_captions(Path(captions))
    found, rows = 0, []
    for entry in read_manifest(manifest, refused):
        caption = by_name.get(entry.name, by_name.get(entry.video))
        found += caption is not None or entry.text is not None
        rows.append(entry.row if caption is None else _captioned(entry, caption))
    with lock_file(Path(out)):
        write_whole(out, "".join(json_text(row) + "\n" for row in rows))
    return found, len(rows)


def _read_captions(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"no captions at {path}")
    check_size(path, "list_bytes", None)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(file)
            try:
                rows = [(reader.line_num, row) for row in reader]
            except csv.Error as error:
                raise ValueError(f"{path}, after line {reader.line_num}: {error}") from None
        else:
            rows = list(json_lines(path, file))
    captions: dict[str, str] = {}
    for number, row in rows:
        name, caption = row.get("name"), row.get("caption", row.get("text"))
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ValueError(f"{path}, line {number}: a line needs a `name` and a `caption`, which are text")
        if not is_utf8(caption):
            raise ValueError(f"{path}, line {number}: the caption is not UTF-8 text")
        captions[name] = caption
    return captions


def _captioned(entry: Entry, caption: str | None) -> dict:
    """The line with a caption, in the caption column of its kind of manifest."""
    return entry.row if caption is None else {**entry.row, "name" if "videoid" in entry.row else "Caption": caption}
