"""Tools that describe: a region, how objects move, the film second by second; and questions to a chat model."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from datamodules.making.captions import Captioner
from pretrain.assistant.appearance import describe_shape
from pretrain.assistant.door import Door, NoAnswer
from pretrain.assistant.marks import crop_around, draw_marks
from pretrain.assistant.movement import passing, path_of, sentence
from pretrain.assistant.point_text import track_text
from pretrain.assistant.region_tokens import region_masks, region_question, small_mask
from pretrain.assistant.tools.cutting import ObjectArguments, write_frames
from pretrain.assistant.tools.tool import Arguments, CannotDo, Context, Made, Tool, film_of, mask_at, object_of
from pretrain.chat.describe import Tool as Teller
from pretrain.chat.describe import as_text, describe

_FRAMES = 16  # of a film that a model is shown
_SIDE = 448  # pixels, at most, of their longer side
POINTING = ("marks", "regions", "text")  # ways to tell a model which objects are meant
TOLD = ("marks", "text")  # those that are used by default
_MARKED = (
    "The objects that the user points at are outlined in the frames and bear their names. The last picture shows the "
    "first of them alone."
)
_PLACED = "Where the objects that the user points at are, in percent of the width and height:"


class RegionArguments(ObjectArguments):
    """One object in one frame."""

    frame: int | None = Field(None, ge=0, description="the frame that is shown if left out")


def region(context: Context, a: RegionArguments, chat: Door | None) -> Made:
    """What an object looks like: by a chat model, or its colour, form, size and place."""
    film_of(context)
    each, frame = object_of(context, a.object), context.shown if a.frame is None else a.frame
    mask = mask_at(context, a.object, frame)
    with context.open() as video:
        rgb = video.frames([frame])[0]
    if chat is not None and chat.sees:
        pictures = [draw_marks(rgb, {a.object: mask}, context.objects), crop_around(rgb, mask)]
        asked = f"Describe {a.object}, which is outlined in the first picture and shown alone in the second."
        return Made(_answer(chat, asked, pictures=[small(picture) for picture in pictures]))
    about = describe_shape(rgb, mask)
    share = 100 * about.area / mask.size
    x, y = about.middle
    form = "a region" if about.shape == "region" else f"a {about.shape}"
    return Made(
        f"{each.name} at frame {frame} is {form}, mostly {about.colour}, of {about.area} pixels ({share:.1f} % of the "
        f"picture) around ({x:.0f}, {y:.0f})."
    )


class MovementArguments(Arguments):
    """Objects whose way is told."""

    objects: list[str] = Field(min_length=1, description="ids of objects; the first one is told about")
    after: str | None = Field(None, description="id of an object: tell only what happens after the first passes it")


def movement(context: Context, a: MovementArguments) -> Made:
    """Where objects go, and when they pass each other, from their tracks."""
    film = film_of(context)
    names = [*a.objects, *([a.after] if a.after is not None else [])]
    paths = {}
    for name in names:
        paths[name] = path_of(context.mask_frames(object_of(context, name).id))
        if len(paths[name].looked) < film.frames and film.frames > 1:
            told = context.objects[name].name
            raise CannotDo(
                f"{told} was followed in {len(paths[name].looked)} of {film.frames} frames only: track it first."
            )
    said, first = [], 0
    if a.after is not None:
        mine, other = (context.objects[name].name for name in (a.objects[0], a.after))
        met = passing(paths[a.objects[0]], paths[a.after])
        if met is None:
            return Made(f"{mine} never comes near {other}.")
        said, first = [f"{mine} passes {other} at {film.seconds(met):.1f} s (frame {met})."], met
    said += [sentence(context.objects[name].name, paths[name], film, first) for name in a.objects]
    return Made(" ".join(said))


class FilmArguments(Arguments):
    """A film, and how finely it is described."""

    every: float = Field(1.0, gt=0, description="seconds", strict=False)
    film: str | None = Field(None, description="artefact; the loaded film if left out")


def film_by_second(context: Context, a: FilmArguments, captioner: Captioner) -> Made:
    """A caption of each second of a film, as a text."""
    source = a.film or film_of(context).artefact
    with context.open(source) as video:
        found = as_text(describe(video, [Teller("caption", captioner, a.every)]))
    made = context.session.add(
        "text",
        ".txt",
        lambda path: path.write_text(found + "\n", encoding="utf-8"),
        parents=(source,),
        tool="describe_film",
        about=f"every {a.every:g} s of {source}",
    )
    return Made(found, (made,))


class QuestionArguments(Arguments):
    """A question about the film."""

    question: str = Field(min_length=1, max_length=2000)
    objects: list[str] = Field(default_factory=list, description="ids of the objects that it is about")


def question(context: Context, a: QuestionArguments, chat: Door, pointing: Sequence[str]) -> Made:
    """A chat model's answer; it is shown the film, and told of the objects in the ways of `pointing`."""
    film = film_of(context)
    for name in a.objects:
        object_of(context, name)
    indices = np.unique(np.linspace(0, film.frames - 1, min(_FRAMES, film.frames)).round().astype(int)).tolist()
    told, asked = [], a.question
    marked = bool(a.objects) and chat.sees and "marks" in pointing
    regions = bool(a.objects) and chat.sees and "regions" in pointing
    if marked:
        told.append(_MARKED)
    if a.objects and ("text" in pointing or not chat.sees):
        paths = {name: path_of(context.mask_frames(name)) for name in a.objects}
        told.append(f"{_PLACED}\n{track_text(paths, film)}")
    if not chat.sees:
        return Made(_answer(chat, asked, "\n".join(told)))
    if regions:
        _check_regions(chat)
        asked = region_question(asked, [context.objects[name] for name in a.objects])
    frames, masks, pictures = [], [], []
    with context.open() as video:
        for index in indices:
            found = {name: mask for name in a.objects if (mask := context.mask(name, index)) is not None}
            rgb = video.frames([index])[0]
            frames.append(small(draw_marks(rgb, found, context.objects) if marked else rgb))
            masks.append([small_mask(found.get(name), frames[0].shape[:2]) for name in a.objects if regions])
        shown = next((i for i in (context.shown, *indices) if marked and _in_sight(context, a.objects[:1], i)), None)
        if shown is not None:
            mask = context.mask(a.objects[0], shown)
            assert mask is not None
            pictures.append(small(crop_around(video.frames([shown])[0], mask)))
    places = region_masks(masks)
    if film.frames == 1:
        return Made(_answer(chat, asked, "\n".join(told), [*frames, *pictures], regions=places))
    with tempfile.TemporaryDirectory() as folder:
        seconds = film.seconds(film.frames) or 1.0
        write_frames(Path(folder) / "film.mp4", frames, frames[0].shape[:2], len(frames) / seconds)
        return Made(_answer(chat, asked, "\n".join(told), pictures, [Path(folder) / "film.mp4"], places))


def _check_regions(chat: Door) -> None:
    try:
        takes = chat.regions
    except NoAnswer as error:
        raise CannotDo(str(error)) from None
    if not takes:
        raise CannotDo("The chat model was not trained with regions: start the assistant with --pointing marks text.")


def _in_sight(context: Context, names: Sequence[str], frame: int) -> bool:
    masks = [context.mask(name, frame) for name in names]
    return bool(masks) and masks[0] is not None and bool(masks[0].any())


def _answer(
    chat: Door,
    question: str,
    instruction: str = "",
    pictures: Sequence[np.ndarray] = (),
    films: Sequence[Path] = (),
    regions: Sequence[dict[str, Any]] = (),
) -> str:
    try:
        return chat.ask(question, instruction, pictures, films, regions) or "The model said nothing."
    except NoAnswer as error:
        raise CannotDo(str(error)) from None


def small(rgb: np.ndarray) -> np.ndarray:
    """A picture of at most `_SIDE` pixels a side."""
    import cv2

    height, width = rgb.shape[:2]
    scale = _SIDE / max(height, width)
    if scale >= 1:
        return rgb
    return cv2.resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)


class ByDoor(Captioner):
    """Captions by a chat model that sees."""

    def __init__(self, chat: Door) -> None:
        self.chat = chat

    def picture(self, frames: np.ndarray) -> np.ndarray:
        return np.stack([small(frame) for frame in frames])

    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        return [_answer(self.chat, "Describe this picture in one short sentence.", "", [clip[0]]) for clip in clips]


def tools(
    chat: Door | None = None, captioner: Captioner | None = None, pointing: Sequence[str] = TOLD
) -> tuple[Tool, ...]:
    """The tools of this file.

    Args:
        chat: a chat model for questions, and for regions if it sees.
        captioner: of single frames; None: the chat model, if it sees.
        pointing: how the chat model is told of objects, some of `POINTING`.
    """
    teller = captioner or (ByDoor(chat) if chat is not None and chat.sees else None)
    blind = "There is no model that captions pictures: start the assistant with a captioner or a chat model that sees."
    mute = (
        "There is no language model to answer questions in words: start the assistant with one. Without it, ask where "
        "a tracked object goes or what it looks like."
    )
    return (
        Tool(
            "describe_region",
            "Describes what one object looks like.",
            RegionArguments,
            lambda context, a: region(context, a, chat),
        ),
        Tool(
            "movement",
            "Tells where tracked objects go, how fast, when they are out of sight, and when one passes another.",
            MovementArguments,
            movement,
        ),
        Tool(
            "describe_film",
            "Describes the film second by second.",
            FilmArguments,
            lambda context, a: film_by_second(context, a, teller),  # pyrefly: ignore
            ("text",),
            "" if teller is not None else blind,
        ),
        Tool(
            "answer_question",
            "Answers any other question about the film or objects in it.",
            QuestionArguments,
            lambda context, a: question(context, a, chat, pointing),  # pyrefly: ignore
            (),
            "" if chat is not None else mute,
        ),
    )
