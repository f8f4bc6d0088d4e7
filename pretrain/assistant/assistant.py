"""The assistant of one session: load a film, point at things in it, track them, and ask about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.assistant.artefacts import Artefact, Session
from pretrain.assistant.prompts import Object, Prompt
from pretrain.assistant.tracker import Progress, Stop, Tracker


@dataclass(frozen=True)
class Film:
    """What was loaded. frames: 1 for a picture; fps: 0 if unknown; size: (height, width) in pixels."""

    artefact: str
    name: str
    frames: int
    fps: float
    size: tuple[int, int]


@dataclass(frozen=True)
class Call:
    """A tool that ran: on what, and what came of it.

    arguments: by name; artefacts and objects by id. said: one or more sentences. made: ids of new artefacts.
    failed: it could not be done, and `said` tells why.
    """

    tool: str
    arguments: dict[str, Any]
    said: str
    made: tuple[str, ...] = ()
    failed: bool = False


@dataclass(frozen=True)
class Answer:
    """What a user reads. calls: the tools that ran, in order. planner: `rules`, or the model that chose the calls."""

    text: str
    calls: tuple[Call, ...] = ()
    planner: str = "rules"


@dataclass
class Turn:
    """A question and its answer. objects: ids that were pointed at with it; frame: that was shown."""

    question: str
    answer: Answer
    objects: tuple[str, ...] = ()
    frame: int = 0
    notes: list[str] = field(default_factory=list)


class Assistant:
    """One user's film, objects and conversation. Calls of several threads take turns; `track` alone can be cancelled.

    Args:
        session: where everything is kept; a film, objects and masks of an earlier process are there again.
        tracker: of objects.
        folders: that files may be loaded from.

    Attributes:
        film: that is loaded, or None.
        objects: by id, in order of their making.
        turns: the conversation so far.
    """

    film: Film | None
    objects: dict[str, Object]
    turns: list[Turn]

    def __init__(self, session: Session, tracker: Tracker, folders: Sequence[Path] = ()) -> None:
        raise NotImplementedError

    def load(self, path: str | Path, copy: bool = False) -> Film:
        """Open a film or a picture; the objects of the one before are forgotten, its artefacts stay.

        Args:
            copy: into the session, for a file that will not stay where it is (an upload).

        Raises:
            ValueError: it lies in no allowed folder, cannot be decoded, or is above a limit.
        """
        raise NotImplementedError

    def show(self, artefact_id: str) -> Film:
        """Make a film or picture of the session (one that a tool made) the one that is pointed at."""
        raise NotImplementedError

    def frame(self, index: int) -> np.ndarray:
        """One frame, exactly, as RGB uint8 `[H, W, 3]`. ValueError: no film, or no such frame."""
        raise NotImplementedError

    def point(self, prompt: Prompt, object_id: str | None = None) -> Object:
        """Point at an object, a new one without `object_id`; its mask at the frame is there at once, the frame locked.

        Raises:
            ValueError: no film; outside the picture; nothing is found there; no such object.
        """
        raise NotImplementedError

    def track(
        self,
        object_ids: Sequence[str] | None = None,
        progress: Progress = lambda done, total: None,
        cancelled: Stop = lambda: False,
    ) -> Call:
        """Follow objects (None: all) through the film: from each locked frame to the next, and back from the first.

        Raises:
            Cancelled: the masks are those from before the call.
            ValueError: no film, or no object.
        """
        raise NotImplementedError

    def refine(
        self,
        prompt: Prompt,
        object_id: str,
        progress: Progress = lambda done, total: None,
        cancelled: Stop = lambda: False,
    ) -> Call:
        """Correct an object at a frame, which becomes locked, and track on from there to the next locked frame.

        Raises:
            Cancelled: the corrected frame stays, later masks are those from before the call.
            ValueError: as `point`.
        """
        raise NotImplementedError

    def mask(self, object_id: str, frame: int) -> np.ndarray | None:
        """bool `[H, W]`; without True where the object is out of sight; None where it has not been looked for."""
        raise NotImplementedError

    def masks(self, frame: int) -> dict[str, np.ndarray]:
        """The known masks of visible objects at a frame, by id."""
        raise NotImplementedError

    def rename(self, object_id: str, name: str) -> None:
        """Call an object by a name of 1 to 40 printable characters that no other has. ValueError otherwise."""
        raise NotImplementedError

    def hide(self, object_id: str, hidden: bool = True) -> None:
        """Hide an object's masks, or show them again."""
        raise NotImplementedError

    def delete(self, object_id: str) -> None:
        """Forget an object and its masks; its id is not used again."""
        raise NotImplementedError

    def ask(self, text: str, object_ids: Sequence[str] = (), frame: int = 0) -> Answer:
        """Answer a question or carry out a wish, about the film or the objects pointed at.

        Args:
            text: may name objects by id or name.
            object_ids: those that are chosen on the page, in order.
            frame: that is shown.

        Returns:
            A tool that fails or is missing says so in the answer. ValueError only for an empty question.
        """
        raise NotImplementedError

    def artefact(self, artefact_id: str) -> Artefact:
        """What a call made. ValueError: this session has none of this id."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the film and the session; both can be opened again."""
        raise NotImplementedError
