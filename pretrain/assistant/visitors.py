"""The browsers of a server: each has a session of its own, which nobody finds without its name."""

import logging
import threading
from collections.abc import Callable

from pretrain.assistant.artefacts import Session, Sessions
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.visitor import Visitor

log = logging.getLogger(__name__)


class Visitors:
    """Visitors by the names of their sessions.

    Args:
        sessions: on the disk.
        assistant: makes the assistant of a session.
    """

    def __init__(self, sessions: Sessions, assistant: Callable[[Session], Assistant]) -> None:
        self.sessions, self.assistant = sessions, assistant
        self._open: dict[str, Visitor] = {}
        self._pages: dict[str, str] = {}  # names of sessions by page
        self._turn = threading.RLock()

    def enter(self, page: str, name: str) -> str:
        """A page has opened.

        Args:
            page: its own name.
            name: of the session that it had before it was loaded again; "" if it had none.

        Returns:
            The name of its session: that one if it is there, else a new one.
        """
        with self._turn:
            try:
                self.get(name)
            except ValueError as error:
                if name:
                    log.warning("a session is not taken up again: %s", error)
                name, session = self.sessions.new()
                self._open[name] = Visitor(session, self.assistant(session))
            self._pages[page] = name
            return name

    def get(self, name: str) -> Visitor:
        """The visitor of a session. ValueError: there is no such session."""
        with self._turn:
            if name not in self._open:
                session = self.sessions.open(name)
                try:
                    self._open[name] = Visitor(session, self.assistant(session))
                except BaseException:
                    self.sessions.close(name)  # another attempt must find it free
                    raise
            return self._open[name]

    def leave(self, page: str) -> None:
        """A page has closed. Its session ends with its last page, and is deleted if it never held anything."""
        with self._turn:
            name = self._pages.pop(page, None)
            if name is None or name in self._pages.values() or name not in self._open:
                return
            visitor = self._open.pop(name)
            empty = not visitor.session.all()
            visitor.close()
            self.sessions.close(name)
            if empty:
                self.sessions.delete(name)

    def close(self) -> None:
        """End all sessions; they stay on the disk."""
        with self._turn:
            for page in list(self._pages):
                self.leave(page)
            for name in list(self._open):
                self._open.pop(name).close()
                self.sessions.close(name)
