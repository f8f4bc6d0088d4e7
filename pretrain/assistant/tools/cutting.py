"""Tools that cut: an object out of its film, an object away, and a film to a moment."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from datamodules.decoding.contract import Video
from pretrain.assistant.artefacts import Artefact
from pretrain.assistant.film import Film
from pretrain.assistant.inpainting import without_object
from pretrain.assistant.pictures import with_transparency, write_picture
from pretrain.assistant.tools.tool import (
    Arguments,
    CannotDo,
    Context,
    Made,
    Tool,
    film_of,
    mask_at,
    object_of,
    step,
    track_id,
)
from pretrain.generation.film_file import write_film

_WHITE = 255


def even(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames with even sides, which H.264 needs: the last row or column is repeated where a side is odd."""
    for frame in frames:
        yield np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")


def write_frames(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: float) -> None:
    """Write an mp4 of frames uint8 `[H, W, 3]`."""
    write_film(path, even(frames), (size[0] + size[0] % 2, size[1] + size[1] % 2), fps or 25.0)


def known_masks(context: Context, film: Film, object_id: str) -> None:
    """CannotDo if an object was not looked for in all frames of the film."""
    each = object_of(context, object_id)
    found = sum(1 for _ in context.mask_frames(object_id))
    if found < film.frames:
        raise CannotDo(f"{each.name} was looked for in {found} of {film.frames} frames only: track it first.")


class ObjectArguments(Arguments):
    """One object."""

    object: str = Field(description="id of the object")


class CutOutArguments(ObjectArguments):
    """One object, in one frame or in all."""

    frame: int | None = Field(None, ge=0, description="one frame, as a picture; the whole film if left out")


def cut_out(context: Context, a: CutOutArguments) -> Made:
    """An object alone: a picture with transparency of one frame, or a film before white."""
    film, each = film_of(context), object_of(context, a.object)
    about = {"parents": (film.artefact, track_id(context, a.object)), "tool": "cut_out", "object_id": a.object}
    if a.frame is not None or film.frames == 1:
        frame = a.frame or 0
        mask = mask_at(context, a.object, frame)
        with context.open() as video:
            picture = with_transparency(video.frames([frame])[0], mask)
        made = _picture(context, picture, about, f"{each.name} cut out of frame {frame}")
        return Made(f"{each.name} was cut out of frame {frame}.", (made,))
    known_masks(context, film, a.object)

    def alone(video: Video) -> Iterator[np.ndarray]:
        masks = context.mask_frames(a.object)
        for index, get in enumerate(video.stream()):
            step(context, index, film.frames)
            frame, (_, mask) = get().copy(), next(masks)
            frame[~mask] = _WHITE
            yield frame

    return _film(context, alone, film, about, f"{each.name} alone before white")


def remove(context: Context, a: ObjectArguments) -> Made:
    """The film without an object."""
    film, each = film_of(context), object_of(context, a.object)
    known_masks(context, film, a.object)
    about = {"parents": (film.artefact, track_id(context, a.object)), "tool": "remove", "object_id": a.object}

    def mask(frame: int) -> np.ndarray:
        found = context.mask(a.object, frame)
        assert found is not None
        return found

    def filled(video: Video) -> Iterator[np.ndarray]:
        for index, frame in enumerate(without_object(video, mask)):
            step(context, index, film.frames)
            yield frame

    if film.frames == 1:
        with context.open() as video:
            (picture,) = without_object(video, mask)
        made = _picture(context, picture, about, f"{film.name} without {each.name}")
        return Made(f"{each.name} was removed; what it hid was filled from around it.", (made,))
    return _film(context, filled, film, about, f"{film.name} without {each.name}")


def _picture(context: Context, picture: np.ndarray, about: dict, text: str) -> Artefact:
    return context.session.add("picture", ".png", lambda path: write_picture(path, picture), about=text, **about)


def _film(context: Context, frames_of, film: Film, about: dict, text: str) -> Made:
    def write(path: Path) -> None:
        with context.open() as video:
            write_frames(path, frames_of(video), film.size, film.fps)

    made = context.session.add("film", ".mp4", write, about=text, **about)
    return Made(f"Made {made.id}: {text}.", (made,))


class CropArguments(Arguments):
    """A part of a film."""

    start: float = Field(ge=0, description="seconds from the beginning", strict=False)
    end: float = Field(gt=0, description="seconds from the beginning, exclusive", strict=False)
    film: str | None = Field(None, description="artefact; the loaded film if left out")


def crop_film(context: Context, a: CropArguments) -> Made:
    """The frames between two moments as a film of their own."""
    source = a.film or film_of(context).artefact
    with context.open(source) as video:
        fps = video.fps or 25.0
        lasts = video.duration if video.duration > 0 else len(video) / fps
        if a.start >= lasts or a.end <= a.start:
            raise CannotDo(f"From {a.start:g} s to {a.end:g} s there is no frame: the film lasts {lasts:.1f} s.")
        times = np.append(video.seconds(np.arange(len(video))), lasts) if video.fps else np.arange(len(video) + 1) / fps
        first, stop = (int(np.abs(times - second).argmin()) for second in (a.start, a.end))  # the nearest ones
        first, stop = min(first, len(video) - 1), max(stop, first + 1)

        def part() -> Iterator[np.ndarray]:
            stream = video.stream(first)
            for index in range(first, stop):
                step(context, index - first, stop - first)
                yield next(stream)()

        text = f"{a.start:g} s to {times[stop]:g} s"
        made = context.session.add(
            "film",
            ".mp4",
            lambda path: write_frames(path, part(), video.size, fps),
            parents=(source,),
            tool="crop_film",
            about=text,
        )
    return Made(f"Made {made.id} of the {stop - first} frames from {text}.", (made,))


TOOLS = (
    Tool("cut_out", "Cuts an object out: what is around it goes.", CutOutArguments, cut_out, ("picture", "film")),
    Tool(
        "remove",
        "Removes an object from the film and fills what it hid.",
        ObjectArguments,
        remove,
        ("film", "picture"),
    ),
    Tool("crop_film", "Cuts a film to the part between two moments.", CropArguments, crop_film, ("film",)),
)
