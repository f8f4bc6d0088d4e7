"""What a page is to one browser: its assistant, what plays its film, and the job that runs."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.decoding.contract import DecodeError
from pretrain.assistant.artefacts import Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.browser_copy import copy_rate
from pretrain.assistant.calls import Answer
from pretrain.assistant.film import Film
from pretrain.assistant.mask_file import MaskFile
from pretrain.assistant.playback import Playback
from pretrain.assistant.prompts import Object
from pretrain.assistant.tracker import Cancelled, Progress, Stop
from pretrain.assistant.wishes import read_prompt
from pretrain.chat.rle import counts

MASK_FRAMES = 64  # frames whose masks one answer holds


@dataclass
class Job:
    """Something that takes long. stop: set to cancel it."""

    what: str
    done: int = 0
    total: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def note(self, done: int, total: int) -> None:
        """Progress: frames done, of so many."""
        self.done, self.total = done, total


class Visitor:
    """One browser's session. Methods may be called from several threads.

    Args:
        session, assistant: of this browser alone.

    Attributes:
        frame: that the player shows. chosen: id of the object that is chosen there, or None.
        job: what runs in the background, or None. playback: of the film, or None.
    """

    frame: int
    chosen: str | None
    job: Job | None
    playback: Playback | None

    def __init__(self, session: Session, assistant: Assistant) -> None:
        self.session, self.assistant = session, assistant
        self.frame, self.chosen = 0, None
        self.job, self.playback = None, None
        self._turn = threading.RLock()
        self._worker: threading.Thread | None = None
        self._marks: dict[str, list[dict[str, Any]]] = {}
        self._masks = self._news = 0  # numbers of changes
        self._text, self._wrong = "", False
        self._ranges: dict[tuple[str, int], list[list[int]]] = {}
        self._play()

    def state(self) -> dict[str, Any]:
        """What the player shows, as plain values."""
        with self._turn:
            film, job = self.assistant.film, self.job
            return {
                "film": film and self._film(film),
                "objects": [self._object(each) for each in list(self.assistant.objects.values())] if film else [],
                "masks": self._masks,
                "job": job and {"what": job.what, "done": job.done, "total": job.total},
                "news": {"number": self._news, "text": self._text, "wrong": self._wrong},
            }

    def open(self, path: Path, copy: bool = False) -> None:
        """Load a film or a picture. ValueError: it cannot be loaded, or tracking is still running."""
        with self._turn:
            self._idle()
            film = self.assistant.load(path, copy)
            self._shown(f"{film.name}: {film.frames} frames of {film.size[1]} x {film.size[0]} pixels")

    def show(self, artefact_id: str) -> None:
        """Point at a film or picture that a tool made. ValueError: as `open`."""
        with self._turn:
            self._idle()
            film = self.assistant.show(artefact_id)
            self._shown(f"{artefact_id}: {film.frames} frames")

    def point(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Point at something: `kind`, `frame`, `path` in pixels of the source, and `object`, an id or None.

        An object that was tracked is corrected, and tracked on from there in the background.

        Returns:
            The new state, with `made`, the object's id.
        """
        with self._turn:
            self._idle()
            prompt, object_id = read_prompt(wish, self._need_film()), wish.get("object")
            if object_id is not None and not self._knows(object_id):
                raise ValueError("there is no such object any more: choose another")
            mark = {"kind": wish["kind"], "frame": prompt.frame, "path": wish["path"]}
            if object_id is not None and self._is_tracked(self.assistant.objects[object_id]):
                self._marks.setdefault(object_id, []).append(mark)
                known = str(object_id)

                def correct(note: Progress, stop: Stop) -> str:
                    try:
                        return self.assistant.refine(prompt, known, note, stop).said
                    except ValueError:
                        self._marks[known].remove(mark)
                        raise

                self._start("correcting", correct)
            else:
                object_id = self.assistant.point(prompt, object_id).id
                self._marks.setdefault(object_id, []).append(mark)
                self._changed(f"{self.assistant.objects[object_id].name} at frame {prompt.frame}")
            self.chosen = object_id
            return self.state() | {"made": object_id}

    def track(self) -> None:
        """Follow all objects through the film, in the background. ValueError: nothing to track, or it is running."""
        with self._turn:
            self._idle()
            if not self.assistant.objects:
                raise ValueError("there is nothing to track: point at something first")
            self._start("tracking", lambda note, stop: self.assistant.track(None, note, stop).said)

    def cancel(self) -> None:
        """Stop what runs in the background; without effect if nothing does."""
        if job := self.job:
            job.stop.set()

    def look(self, frame: int, object_id: object) -> None:
        """Note which frame the player shows and which object is chosen there, for questions about them."""
        with self._turn:
            self.frame = max(0, min(frame, self._need_film().frames - 1))
            self.chosen = str(object_id) if self._knows(object_id) else None

    def rename(self, object_id: str, name: str) -> None:
        """See `Assistant.rename`."""
        with self._turn:
            self.assistant.rename(object_id, name)

    def hide(self, object_id: str, hidden: bool) -> None:
        """See `Assistant.hide`."""
        with self._turn:
            self.assistant.hide(object_id, hidden)

    def delete(self, object_id: str) -> None:
        """Forget an object. ValueError: there is none, or tracking is still running."""
        with self._turn:
            self._idle()
            self.assistant.delete(object_id)
            self._marks.pop(object_id, None)
            self.chosen = None if self.chosen == object_id else self.chosen
            self._changed("")

    def ask(self, text: str) -> Answer:
        """Answer a question about the film, the chosen object and the shown frame.

        Raises:
            Cancelled: as `cancel` said.
            ValueError: an empty question, or something else is running.
        """
        with self._turn:
            self._idle()
            job = self.job = Job("answering")
            chosen = (self.chosen,) if self.chosen is not None and self._knows(self.chosen) else ()
            frame = self.frame
        try:
            return self.assistant.ask(text, chosen, frame, job.note, job.stop.is_set)
        finally:
            self._end("")

    def masks(self, first: int, stop: int) -> dict[int, dict[str, list[int]]]:
        """Run lengths, column by column, by frame and object; at most `MASK_FRAMES` frames."""
        found: dict[int, dict[str, list[int]]] = {}
        for each in list(self.assistant.objects.values()):
            if (file := self._mask_file(each)) is not None:
                for frame, mask in file.read(first, min(stop, first + MASK_FRAMES)):
                    found.setdefault(frame, {})[each.id] = counts(mask).tolist()
        return found

    def close(self) -> None:
        """Stop what runs and wait for its end; the session can be opened again."""
        self.cancel()
        if self._worker is not None:
            self._worker.join()
        if self.playback is not None:
            self.playback.stop(wait=True)
        self.assistant.close()

    def _need_film(self) -> Film:
        if self.assistant.film is None:
            raise ValueError("there is no film: choose one first")
        return self.assistant.film

    def _knows(self, object_id: object) -> bool:
        return isinstance(object_id, str) and object_id in self.assistant.objects

    def _idle(self) -> None:
        if self.job is not None:
            raise ValueError(f"{self.job.what} is still running: wait for its end, or cancel it")

    def _changed(self, text: str, wrong: bool = False) -> None:
        self._masks += 1
        self._ranges = {}
        if text:
            self._news, self._text, self._wrong = self._news + 1, text, wrong

    def _shown(self, text: str) -> None:
        """Another film is the one that is pointed at."""
        self.frame, self.chosen, self._marks = 0, None, {}
        self._changed(text)
        self._play()

    def _start(self, what: str, work: Callable[[Progress, Stop], str]) -> None:
        job = self.job = Job(what)

        def run() -> None:
            text, wrong = "", False
            try:
                text = work(job.note, job.stop.is_set)
            except Cancelled:
                text = f"{what} was cancelled"
            except (ValueError, DecodeError) as error:
                text, wrong = str(error), True
            except Exception:  # the page must not wait for ever; the terminal gets the traceback
                text, wrong = f"{what} failed: the terminal of the server says why", True
                raise
            finally:
                self._end(text, wrong)

        self._worker = threading.Thread(target=run, name=f"tubelet-{what}", daemon=True)
        self._worker.start()

    def _end(self, text: str, wrong: bool = False) -> None:
        """The job has ended."""
        with self._turn:
            self.job = None
            self._changed(text, wrong)

    def _play(self) -> None:
        if self.playback is not None:
            self.playback.stop()
        film = self.assistant.film
        self.playback = None if film is None else Playback(self.session, film)

    def _film(self, film: Film) -> dict[str, Any]:
        height, width = film.size
        playback = self.playback
        return {
            "id": film.artefact,
            **{"name": film.name, "frames": film.frames, "fps": film.fps, "width": width, "height": height},
            **{"playable": playback.done if playback else 0, "unplayable": playback.failure if playback else ""},
            "copyRate": copy_rate(film.fps),
        }

    def _object(self, each: Object) -> dict[str, Any]:
        return {
            **{"id": each.id, "name": each.name, "colour": list(each.colour), "visible": each.visible},
            **{"locked": list(each.locked), "ranges": self._known(each), "marks": self._marks.get(each.id, [])},
        }

    def _mask_file(self, each: Object) -> MaskFile | None:
        if each.track is None:
            return None
        return MaskFile(self.session.get(each.track).path, self._need_film().size)

    def _known(self, each: Object) -> list[list[int]]:
        """[first, stop) of the frames that have a mask, in order."""
        key = each.id, self._masks
        if key not in self._ranges:
            file = self._mask_file(each)
            self._ranges[key] = ranges(file.frames()) if file else []
        return self._ranges[key]

    def _is_tracked(self, each: Object) -> bool:
        return sum(stop - first for first, stop in self._known(each)) > len(each.locked)


def ranges(frames: list[int]) -> list[list[int]]:
    """[first, stop) of the runs of increasing numbers."""
    found: list[list[int]] = []
    for frame in frames:
        if found and found[-1][1] == frame:
            found[-1][1] += 1
        else:
            found.append([frame, frame + 1])
    return found
