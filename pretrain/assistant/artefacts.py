"""The session store: what was loaded and made, by id, with its lineage, in a folder that outlives the process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["film", "picture", "mask", "track", "text", "table"]


@dataclass(frozen=True)
class Limits:
    """How much a session may hold. bytes: of its own files. artefacts: their number. sessions: at once."""

    bytes: int = 4 * 2**30
    artefacts: int = 1000
    sessions: int = 100


@dataclass(frozen=True)
class Artefact:
    """Something loaded or made.

    id: as `film1`, `mask3`; unique in the session and never used again.
    path: of its file; in the session's folder, or elsewhere for a film that was loaded in place.
    parents: ids of what it was made of. tool: what made it. about: one line for the user.
    object_id: of the object that it shows (`obj1`); None: of the whole film.
    """

    id: str
    kind: Kind
    path: Path
    parents: tuple[str, ...] = ()
    tool: str = "load"
    about: str = ""
    object_id: str | None = None


class Session:
    """The artefacts of one user.

    Args:
        folder: made if needed; what it holds already is read again. One process at a time may hold it.
        limits: what it may hold.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        raise NotImplementedError

    def add(
        self,
        kind: Kind,
        suffix: str,
        write: Callable[[Path], None],
        *,
        parents: tuple[str, ...] = (),
        tool: str,
        about: str = "",
        object_id: str | None = None,
    ) -> Artefact:
        """Write a file of the session and name it. suffix: of the file, as `.png`; write: makes the file at a path.

        Raises:
            ValueError: above a limit (nothing is left of it), or a parent that the session does not have.
        """
        raise NotImplementedError

    def get(self, artefact_id: str, kind: Kind | None = None) -> Artefact:
        """An artefact. ValueError: this session has none of this id, or it is of another kind."""
        raise NotImplementedError

    def all(self) -> tuple[Artefact, ...]:
        """All artefacts, oldest first."""
        raise NotImplementedError

    def lineage(self, artefact_id: str) -> tuple[Artefact, ...]:
        """What an artefact was made of, oldest first, itself last."""
        raise NotImplementedError

    def delete(self, artefact_id: str) -> None:
        """Delete an artefact and its file. ValueError: others were made of it; they go first."""
        raise NotImplementedError

    def close(self) -> None:
        """Let another process have the folder."""
        raise NotImplementedError


class Sessions:
    """The sessions of a server, each in a folder of its own under `folder`; their names cannot be guessed."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        raise NotImplementedError

    def new(self) -> tuple[str, Session]:
        """A new session and its name. ValueError: there are as many as allowed."""
        raise NotImplementedError

    def open(self, name: str) -> Session:
        """A session by its name, resumed if this process has not opened it yet. ValueError: there is none."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Close a session and delete its folder."""
        raise NotImplementedError
