"""Tools that point: segment what is at a place, track objects, and find things by words on a plain background."""

from pydantic import Field

from pretrain.assistant.appearance import describe_shape, fitting, parts_of
from pretrain.assistant.pictures import write_mask
from pretrain.assistant.prompts import Box, Mask, Points
from pretrain.assistant.tools.tool import Arguments, CannotDo, Context, Made, Tool, film_of, object_of, track_id


class SegmentArguments(Arguments):
    """A place in a frame: a point or a box, in pixels of the source."""

    frame: int = Field(ge=0, description="index of the frame, from 0")
    point: tuple[float, float] | None = Field(None, description="x and y of a point on the object", strict=False)
    box: tuple[float, float, float, float] | None = Field(
        None, description="left, top, right, bottom around the object", strict=False
    )
    object: str | None = Field(None, description="id of an object to correct; leave it out for a new one")


def segment(context: Context, a: SegmentArguments) -> Made:
    """A mask of what is at a place."""
    film_of(context)
    if (a.point is None) == (a.box is None):
        raise CannotDo("Segmenting needs either a point or a box.")
    prompt = Points(a.frame, (a.point,), (True,)) if a.point is not None else Box(a.frame, *a.box)  # pyrefly: ignore
    each = context.point(prompt, a.object)
    mask = context.mask(each.id, a.frame)
    assert mask is not None
    made = context.session.add(
        "mask",
        ".png",
        lambda path: write_mask(path, mask),
        parents=(track_id(context, each.id),),
        tool="segment",
        about=f"{each.name} at frame {a.frame}",
        object_id=each.id,
    )
    return Made(f"{each.name} covers {int(mask.sum())} pixels at frame {a.frame}.", (made,))


class TrackArguments(Arguments):
    """Objects to follow."""

    objects: list[str] = Field(min_length=1, description="ids of objects")


def track(context: Context, a: TrackArguments) -> Made:
    """Masks of objects in all frames."""
    film = film_of(context)
    for name in a.objects:
        object_of(context, name)
    context.track_objects(a.objects)
    said = []
    for name in a.objects:
        seen = sum(1 for _, mask in context.mask_frames(name) if mask.any())
        said.append(f"{context.objects[name].name} is in sight in {seen} of {film.frames} frames.")
    return Made(" ".join(said), tuple(context.session.get(track_id(context, name)) for name in a.objects))


class FindArguments(Arguments):
    """Words that tell what is meant."""

    words: str = Field(min_length=1, max_length=200, description="such as: the red circle")
    frame: int | None = Field(None, ge=0, description="frame to look in; the one that is shown if left out")


def find(context: Context, a: FindArguments) -> Made:
    """Point at the thing that words describe; nothing if they fit none or several."""
    film = film_of(context)
    frame = context.shown if a.frame is None else a.frame
    with context.open() as video:
        if frame >= len(video):
            raise CannotDo(f"There is no frame {frame}: the film has frames 0 to {len(video) - 1}.")
        rgb = video.frames([frame])[0]
    parts = parts_of(rgb)
    seen = [describe_shape(rgb, part) for part in parts]
    numbers = fitting(a.words, seen)
    if not numbers:
        known = ", ".join(sorted({f"{each.colour} {each.shape}" for each in seen})) or "nothing"
        raise CannotDo(f"Nothing at frame {frame} fits {a.words!r} (found: {known}): point at it.")
    if len(numbers) > 1:
        raise CannotDo(f"{len(numbers)} things at frame {frame} fit {a.words!r}: point at the one that is meant.")
    (number,) = numbers
    each = context.point(Mask(frame, parts[number]))
    made = context.session.get(track_id(context, each.id))
    return Made(f"{each.name} is the {seen[number].colour} {seen[number].shape} of {film.name}.", (made,))


TOOLS = (
    Tool("segment", "Marks the object at a point or in a box of one frame.", SegmentArguments, segment, ("mask",)),
    Tool("track", "Follows objects that are pointed at through the film.", TrackArguments, track, ("track",)),
    Tool(
        "find",
        "Points at a thing that words describe (colour, form, side), where the background is plain.",
        FindArguments,
        find,
        ("track",),
    ),
)
