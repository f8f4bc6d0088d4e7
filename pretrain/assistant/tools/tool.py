"""What a tool is: a name, a sentence, a schema of its arguments, and a function; and what it may work with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from datamodules.decoding.contract import Video
from pretrain.assistant.artefacts import Artefact, Kind, Session
from pretrain.assistant.film import Film
from pretrain.assistant.prompts import Object, Prompt
from pretrain.assistant.tracker import Cancelled
from pretrain.assistant.watch import Watch


class Context(Protocol):
    """What a tool works with.

    shown: the frame that the user sees. chosen: ids of the objects that are pointed at with the question.
    """

    session: Session
    shown: int
    chosen: tuple[str, ...]
    watch: Watch

    @property
    def film(self) -> Film | None: ...

    @property
    def objects(self) -> dict[str, Object]: ...

    def open(self, artefact_id: str | None = None) -> Video:
        """A film or picture of the session to read from, by default the loaded one; close it."""
        ...

    def mask(self, object_id: str, frame: int) -> np.ndarray | None: ...

    def mask_frames(self, object_id: str) -> Iterator[tuple[int, np.ndarray]]:
        """The known masks of an object, in order."""
        ...

    def point(self, prompt: Prompt, object_id: str | None = None) -> Object: ...

    def track_objects(self, object_ids: Sequence[str]) -> int:
        """Track, and return how many frames were followed."""
        ...


class Arguments(BaseModel):
    """Arguments of a tool: each by its name and of its type, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Made:
    """What a tool did: sentences for the user, and new artefacts."""

    said: str
    artefacts: tuple[Artefact, ...] = ()


class CannotDo(Exception):
    """A tool cannot do what it is asked; the message is a sentence for the user."""


@dataclass(frozen=True)
class Tool:
    """One tool.

    about: one sentence for planners: what it does, and when it is the right one.
    run: gets the context and checked arguments. It raises CannotDo or ValueError, and Cancelled.
    makes: kinds of the artefacts that it makes.
    missing: why it cannot run here, as a sentence; empty if it can.
    """

    name: str
    about: str
    arguments: type[Arguments]
    run: Callable[[Any, Any], Made]
    makes: tuple[Kind, ...] = ()
    missing: str = ""

    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        return self.arguments.model_json_schema()

    def read(self, arguments: dict[str, Any]) -> Arguments:
        """Checked arguments. ValueError: they do not follow the schema; the message says where."""
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as error:
            parts = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()[:4]]
            raise ValueError(f"{self.name}: {'; '.join(parts)}") from None


def film_of(context: Context) -> Film:
    """The loaded film. CannotDo: there is none."""
    if context.film is None:
        raise CannotDo("No film is loaded: load one first.")
    return context.film


def object_of(context: Context, object_id: str) -> Object:
    """An object. CannotDo: there is none of this id."""
    if object_id not in context.objects:
        known = ", ".join(context.objects) or "nothing yet"
        raise CannotDo(f"There is no object {object_id!r}; pointed at: {known}.")
    return context.objects[object_id]


def track_id(context: Context, object_id: str) -> str:
    """The artefact of an object's masks."""
    track = object_of(context, object_id).track
    assert track is not None
    return track


def mask_at(context: Context, object_id: str, frame: int) -> np.ndarray:
    """An object's mask at a frame. CannotDo: it was not looked for there, or is out of sight."""
    mask = context.mask(object_id, frame)
    if mask is None:
        raise CannotDo(f"{object_id} was not looked for at frame {frame}: track it first, or point at it there.")
    if not mask.any():
        raise CannotDo(f"{object_id} is out of sight at frame {frame}.")
    return mask


def step(context: Context, done: int, total: int) -> None:
    """Report progress, and stop if the user wants it."""
    context.watch.progress(done, total)
    if context.watch.cancelled():
        raise Cancelled(f"stopped after {done} of {total} frames")
