"""The copy of one film for playing: found in the session, being made in the background, ready, or impossible."""

import threading
from pathlib import Path

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from pretrain.assistant.artefacts import Artefact, Session
from pretrain.assistant.browser_copy import write_browser_copy
from pretrain.assistant.film import LIMITS, Film, open_film
from pretrain.assistant.tracker import Cancelled

TOOL = "browser_copy"  # its name in the lineage


class Playback:
    """The copy of a film; made at once, in a thread of its own, if the session has none.

    Attributes:
        done: share of the copy that is made, 0 to 1; below 1 until it is ready.
        copy: the copy, once it is ready.
        failure: why there will be none, or "".
    """

    def __init__(self, session: Session, film: Film) -> None:
        self.session, self.film = session, film
        self.done, self.failure, self._stop = 0.0, "", threading.Event()
        self._worker: threading.Thread | None = None
        made = [each for each in session.all() if each.tool == TOOL and each.parents == (film.artefact,)]
        self.copy: Artefact | None = made[-1] if made and made[-1].path.is_file() else None
        if self.copy is not None or film.frames < 2:
            self.done = 1.0
            return
        self._worker = threading.Thread(target=self._run, name="tubelet-playback", daemon=True)
        self._worker.start()

    def need(self) -> Artefact:
        """The copy. ValueError: it is not ready."""
        if self.copy is None:
            raise ValueError(self.failure or "the copy for playing is not ready yet")
        return self.copy

    def stop(self, wait: bool = False) -> None:
        """Give up a copy that is not ready. wait: until it has been given up."""
        self._stop.set()
        if wait and self._worker is not None:
            self._worker.join()

    def _run(self) -> None:
        parents, about = (self.film.artefact,), f"{self.film.name} for playing"
        try:
            self.copy = self.session.add("film", ".mp4", self._write, parents=parents, tool=TOOL, about=about)
            self.done = 1.0
        except Cancelled:
            pass
        except (ValueError, DecodeError, OSError) as error:
            self.failure = f"no playback: {error}"

    def _write(self, path: Path) -> None:
        def progress(done: int, total: int) -> None:
            self.done = 0.99 * done / total

        source = self.session.get(self.film.artefact).path
        with open_film(source, PyAV(keep=0, limits=LIMITS)) as video:  # a long film is read again, not kept
            write_browser_copy(path, video, progress, self._stop.is_set)
