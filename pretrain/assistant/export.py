"""Exports of a session: masks in COCO's run lengths and as PNG, boxes, the film with marks, and the conversation."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.storage.json_text import json_text
from datamodules.storage.whole_files import whole_file, write_whole
from pretrain.assistant.artefacts import Artefact, Kind, Session
from pretrain.assistant.calls import Turn
from pretrain.assistant.film import Film, open_film
from pretrain.assistant.marks import draw_marks
from pretrain.assistant.mask_file import MaskFile
from pretrain.assistant.prompts import Object
from pretrain.assistant.tools.cutting import write_frames
from pretrain.chat.rle import box_of, compressed

_COLUMNS = ("frame", "seconds", "object", "name", "left", "top", "right", "bottom", "pixels")
_FILL = 0.4  # of an object's colour over its mask


@dataclass(frozen=True)
class Scene:
    """What is exported: a film of a session, the objects in it, and what was said about them."""

    session: Session
    film: Film
    objects: Sequence[Object]
    turns: Sequence[Turn] = ()

    def masks(self, each: Object) -> Iterator[tuple[int, np.ndarray]]:
        """(frame, bool [H, W]) of an object where it was looked for, in order, one at a time in memory."""
        if each.track is not None:
            yield from MaskFile(self.session.get(each.track).path, self.film.size).read(0, self.film.frames)


def write_masks(path: Path, scene: Scene) -> None:
    """COCO's json for videos (YouTube-VIS): an annotation an object, its `segmentations` one a frame.

    A segmentation is pycocotools' form; null where the object was not looked for, without pixels where it is out of
    sight.
    """
    film, (height, width) = scene.film, scene.film.size
    video = {"id": 1, "file_name": film.name, "height": height, "width": width, "length": film.frames, "fps": film.fps}
    head = {
        "info": {"description": "null: not looked for; no pixels: out of sight"},
        "videos": [video],
        "categories": [{"id": 1, "name": "object"}],
    }
    with whole_file(path) as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number, each in enumerate(scene.objects, 1):
            about = {"id": number, "video_id": 1, "category_id": 1, "iscrowd": 0, "object": each.id, "name": each.name}
            about |= {"height": height, "width": width, "length": film.frames}
            file.write((",\n" if number > 1 else "\n") + json.dumps(about)[:-1] + ', "segmentations": [')
            boxes: list[list[int] | None] = []
            for frame, mask in _all_frames(scene, each):
                boxes.append(None if mask is None else _xywh(mask))
                found = None if mask is None else {"size": [height, width], "counts": compressed(mask)}
                file.write((",\n" if frame else "\n") + json.dumps(found))
            file.write('], "bboxes": ' + json.dumps(boxes) + "}")
        file.write("]}\n")


def write_pngs(path: Path, scene: Scene) -> None:
    """A zip of `OBJECT/FRAME.png`: white is the object, black is not; a file for each frame that was looked at."""
    from PIL import Image

    with whole_file(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for each in scene.objects:
            for frame, mask in scene.masks(each):
                picture = io.BytesIO()
                Image.fromarray(mask).save(picture, "PNG")
                archive.writestr(f"{each.id}/{frame:06d}.png", picture.getvalue())


def boxes(scene: Scene) -> Iterator[dict[str, Any]]:
    """A row for each object and frame where it is in sight; pixels of the source, right and bottom exclusive."""
    for each in scene.objects:
        for frame, mask in scene.masks(each):
            if (box := box_of(mask)) is not None:
                values = (frame, round(scene.film.seconds(frame), 6), each.id, each.name, *box, int(mask.sum()))
                yield dict(zip(_COLUMNS, values, strict=True))


def write_boxes_json(path: Path, scene: Scene) -> None:
    """The rows of `boxes` as a list."""
    with whole_file(path) as file:
        file.write("[")
        for number, row in enumerate(boxes(scene)):
            file.write((",\n" if number else "\n") + json.dumps(row))
        file.write("\n]\n")


def write_boxes_csv(path: Path, scene: Scene) -> None:
    """The rows of `boxes`, with a header; a name that a spreadsheet would take for a formula begins with an
    apostrophe."""
    with whole_file(path, newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for row in boxes(scene):
            name = row["name"]
            writer.writerow(row | {"name": f"'{name}" if name[:1] in "=+-@" else name})


def write_marked_film(path: Path, scene: Scene) -> None:
    """The film with the visible objects' masks and names, in H.264; one frame at a time is in memory."""
    # OpenCV writes plain letters only.
    shown = {each.name if each.name.isascii() else each.id: each for each in scene.objects if each.visible}

    def frames() -> Iterator[np.ndarray]:
        masks = {name: _all_frames(scene, each) for name, each in shown.items()}
        for get in video.stream():
            here = {name: next(rest)[1] for name, rest in masks.items()}
            yield draw_marks(get(), {name: mask for name, mask in here.items() if mask is not None}, shown, _FILL)

    with open_film(scene.session.get(scene.film.artefact).path) as video:
        write_frames(path, frames(), scene.film.size, scene.film.fps)


def write_conversation(path: Path, scene: Scene) -> None:
    """Questions, answers, the tools that ran, and the artefacts with what they were made of."""
    artefacts = [
        {
            "id": a.id,
            "kind": a.kind,
            "tool": a.tool,
            "about": a.about,
            "object": a.object_id,
            "parents": list(a.parents),
        }
        for a in scene.session.all()
    ]
    content = {"film": scene.film.name, "turns": [turn.as_json() for turn in scene.turns], "artefacts": artefacts}
    write_whole(path, json_text(content, indent=1))


@dataclass(frozen=True)
class Format:
    """A kind of export: what the page calls it, its artefact, and its writer."""

    about: str
    kind: Kind
    suffix: str
    write: Callable[[Path, Scene], None]


FORMATS: dict[str, Format] = {
    "masks": Format("masks, COCO run lengths (json)", "mask", ".json", write_masks),
    "pngs": Format("masks, PNG files (zip)", "mask", ".zip", write_pngs),
    "boxes": Format("boxes (json)", "table", ".json", write_boxes_json),
    "csv": Format("boxes (csv)", "table", ".csv", write_boxes_csv),
    "film": Format("film with marks (mp4)", "film", ".mp4", write_marked_film),
    "conversation": Format("conversation (json)", "text", ".json", write_conversation),
}


def export(name: str, scene: Scene) -> Artefact:
    """Write an export into the session.

    Raises:
        ValueError: no such format, nothing to export, or the session is full; nothing is left of it.
    """
    if name not in FORMATS:
        raise ValueError(f"{name!r} is no format: choose one of {', '.join(FORMATS)}")
    how = FORMATS[name]
    if name == "conversation" and not scene.turns:
        raise ValueError("there is no conversation yet: ask something first")
    if name != "conversation" and not scene.objects:
        raise ValueError(f"{how.about}: there are no objects yet: point at something first")
    parents = (scene.film.artefact, *(each.track for each in scene.objects if each.track))
    about = f"{how.about} of {scene.film.name}"
    return scene.session.add(
        how.kind, how.suffix, lambda path: how.write(path, scene), parents=parents, tool="export", about=about
    )


def _all_frames(scene: Scene, each: Object) -> Iterator[tuple[int, np.ndarray | None]]:
    """(frame, mask) of every frame of the film; None where the object was not looked for."""
    known = scene.masks(each)
    following = next(known, None)
    for frame in range(scene.film.frames):
        if following is not None and following[0] == frame:
            yield following
            following = next(known, None)
        else:
            yield frame, None


def _xywh(mask: np.ndarray) -> list[int]:
    """COCO's box: left, top, width, height; zeros of an empty mask."""
    left, top, right, bottom = box_of(mask) or (0, 0, 0, 0)
    return [left, top, right - left, bottom - top]
