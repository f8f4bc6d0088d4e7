"""The session store: what was loaded and made, by id, with its lineage, in a folder that outlives the process."""

import os
import re
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.storage.append_lines import AppendedLines
from datamodules.storage.json_text import json_text, read_json
from datamodules.storage.lock import Lock
from datamodules.storage.whole_files import DRAFTS, write_whole

Kind = Literal["film", "picture", "mask", "track", "text", "table"]
_STATE = "state.json"


@dataclass(frozen=True)
class Limits:
    """How much a session may hold. bytes: of its own files. artefacts: their number. sessions: of a server."""

    bytes: int = 4 * 2**30
    artefacts: int = 1000
    sessions: int = 100

    def __post_init__(self) -> None:
        if min(self.bytes, self.artefacts, self.sessions) < 1:
            raise ValueError(f"limits of a session are 1 or more, not {self}")


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
        folder: made if needed; what it holds already is read again.
        limits: what it may hold.

    Raises:
        InUse: another process holds the folder, or another part of this one.
        ValueError: its list of artefacts is damaged.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.limits = Path(os.path.realpath(folder)), limits or Limits()
        self.lock = Lock(self.folder / "session.lock", f"the session {folder}")
        self._turn = threading.RLock()
        self._rows = AppendedLines(self.folder / "artefacts.jsonl")
        self._artefacts: dict[str, Artefact] = {}
        self._made: Counter[str] = Counter()
        try:
            for change in self._rows.read(self._understand):
                self._apply(change)
            for draft in self.folder.glob(DRAFTS):  # of a process that was killed
                draft.unlink()
        except BaseException:
            self.lock.release()
            raise

    def add(
        self,
        kind: Kind,
        suffix: str,
        write: Callable[[Path], object],
        *,
        parents: tuple[str, ...] = (),
        tool: str,
        about: str = "",
        object_id: str | None = None,
    ) -> Artefact:
        """Write a file of the session and name it.

        Args:
            suffix: of the file, as `.png`.
            write: makes the file at a path that does not exist; nothing is kept if it raises.

        Raises:
            ValueError: above a limit (nothing is left of it), or a parent that the session does not have.
        """
        if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) is None:
            raise ValueError(f"a suffix is a dot and up to 8 letters, not {suffix!r}")
        with self._turn:
            new = self._new(kind, parents, tool, about, object_id, lambda name: self.folder / f"{name}{suffix}")
        new.path.unlink(missing_ok=True)  # of a process that was killed before it had named it
        try:
            write(new.path)
            if not new.path.is_file():
                raise ValueError(f"the tool {tool} has written no file")
            self.require_room()
        except BaseException:
            new.path.unlink(missing_ok=True)
            raise
        with self._turn:
            self._keep(new)
        return new

    def refer(self, kind: Kind, path: Path, tool: str = "load", about: str = "") -> Artefact:
        """Name a file that stays where it is, and outlives the artefact. ValueError: there is no such file."""
        if not path.is_file():
            raise ValueError(f"{path} is no file")
        with self._turn:
            new = self._new(kind, (), tool, about, None, lambda name: Path(os.path.realpath(path)))
            self._keep(new)
            return new

    def get(self, artefact_id: str, kind: Kind | None = None) -> Artefact:
        """An artefact. ValueError: this session has none of this id, or it is of another kind."""
        with self._turn:
            found = self._artefacts.get(artefact_id)
        if found is None:
            raise ValueError(f"this session has no {artefact_id!r}")
        if kind is not None and found.kind != kind:
            raise ValueError(f"{artefact_id} is a {found.kind}, and a {kind} is needed")
        return found

    def all(self) -> tuple[Artefact, ...]:
        """All artefacts, oldest first."""
        with self._turn:
            return tuple(self._artefacts.values())

    def lineage(self, artefact_id: str) -> tuple[Artefact, ...]:
        """What an artefact was made of, oldest first, itself last."""
        with self._turn:
            wanted, waiting = set(), [artefact_id]
            while waiting:
                each = self.get(waiting.pop())
                if each.id not in wanted:
                    wanted.add(each.id)
                    waiting += each.parents
            return tuple(each for each in self._artefacts.values() if each.id in wanted)

    def delete(self, artefact_id: str) -> None:
        """Delete an artefact and its file. ValueError: there is none, or others were made of it; they go first."""
        with self._turn:
            gone = self.get(artefact_id)
            if children := [each.id for each in self._artefacts.values() if artefact_id in each.parents]:
                raise ValueError(f"{', '.join(children)} came of {artefact_id}: delete them first")
            self._rows.add({"delete": artefact_id})
            del self._artefacts[artefact_id]
            if gone.path.parent == self.folder:
                for path in (gone.path, *self.folder.glob(f"{gone.path.name}-*")):  # SQLite has files beside its own
                    path.unlink(missing_ok=True)

    def used(self) -> int:
        """Bytes of the session's files."""
        total = 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # SQLite removes files of its own at any time
                total += file.stat().st_size if file.is_file() else 0
        return total

    def require_room(self) -> None:
        """ValueError if the session's files are above the limit."""
        if (used := self.used()) > self.limits.bytes:
            raise ValueError(
                f"the session's files would take {used / 2**20:.0f} MiB, and {self.limits.bytes / 2**20:.0f} MiB are "
                "allowed: delete what is not needed any more, or start a new session"
            )

    def read_state(self) -> dict[str, Any]:
        """What `update_state` wrote; empty if nothing."""
        file = self.folder / _STATE
        state = read_json(file) if file.exists() else {}
        if not isinstance(state, dict):
            raise ValueError(f"{file} is damaged: it holds no object")
        return state

    def update_state(self, values: dict[str, Any]) -> None:
        """Keep plain values by their names, beside those of other names; whole or not at all."""
        with self._turn:
            write_whole(self.folder / _STATE, json_text({**self.read_state(), **values}))

    def close(self) -> None:
        """Let another process have the folder."""
        self.lock.release()

    def _new(
        self,
        kind: Kind,
        parents: tuple[str, ...],
        tool: str,
        about: str,
        object_id: str | None,
        place: Callable[[str], Path],
    ) -> Artefact:
        if len(self._artefacts) >= self.limits.artefacts:
            raise ValueError(
                f"the session holds {len(self._artefacts)} artefacts, as many as allowed: delete what is not needed "
                "any more, or start a new session"
            )
        for parent in parents:
            self.get(parent)
        self._made[kind] += 1
        name = f"{kind}{self._made[kind]}"
        return Artefact(name, kind, place(name), tuple(parents), tool, about, object_id)

    def _keep(self, new: Artefact) -> None:
        own = new.path.parent == self.folder
        row = {
            "id": new.id,
            "kind": new.kind,
            "path": new.path.name if own else str(new.path),
            "parents": list(new.parents),
            "tool": new.tool,
            "about": new.about,
            "object": new.object_id,
        }
        self._rows.add({"add": row})
        self._apply(new)

    def _understand(self, row: Any) -> Artefact | str:
        """A row of the list: what was added, or the id of what was deleted."""
        if "delete" in row:
            return str(row["delete"])
        a = row["add"]
        if a["kind"] not in get_args(Kind) or re.fullmatch(rf"{a['kind']}[1-9]\d*", a["id"]) is None:
            raise ValueError(a["id"])
        path = self.folder / a["path"]  # an absolute path stays what it is
        return Artefact(a["id"], a["kind"], path, tuple(a["parents"]), a["tool"], a["about"], a["object"])

    def _apply(self, change: Artefact | str) -> None:
        if isinstance(change, str):
            self._artefacts.pop(change, None)
            return
        self._artefacts[change.id] = change
        self._made[change.kind] = max(self._made[change.kind], int(change.id.removeprefix(change.kind)))


class Sessions:
    """The sessions of a server, each in a folder of its own.

    Args:
        folder: of all sessions; made if needed.
        limits: of each, and of their number.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.limits = Path(folder), limits or Limits()
        self._open: dict[str, Session] = {}
        self._turn = threading.Lock()

    def new(self) -> tuple[str, Session]:
        """A new session and its name, which cannot be guessed. ValueError: there are as many as allowed."""
        with self._turn:
            self.folder.mkdir(parents=True, exist_ok=True)
            count = sum(1 for each in self.folder.iterdir() if each.is_dir())
            if count >= self.limits.sessions:
                raise ValueError(
                    f"{self.folder} holds {count} sessions, as many as allowed: delete those that are not needed "
                    "any more"
                )
            name = secrets.token_urlsafe(24)
            self._open[name] = Session(self.folder / name, self.limits)
            return name, self._open[name]

    def open(self, name: str) -> Session:
        """A session by its name, resumed if this process has not opened it yet. ValueError: there is none."""
        with self._turn:
            if name not in self._open:
                known = re.fullmatch(r"[A-Za-z0-9_-]{32}", name) is not None and (self.folder / name).is_dir()
                if not known:
                    raise ValueError("there is no such session: start a new one")
                self._open[name] = Session(self.folder / name, self.limits)
            return self._open[name]

    def close(self, name: str) -> None:
        """Let another process have a session; it stays on disk."""
        with self._turn:
            if name in self._open:
                self._open.pop(name).close()

    def delete(self, name: str) -> None:
        """Close a session and delete its folder. ValueError: there is none."""
        session = self.open(name)
        self.close(name)
        shutil.rmtree(session.folder)
