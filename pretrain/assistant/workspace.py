"""The workspace of one session: its film, the objects that were pointed at, their masks, and tracking."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.decoding.reader import PyAV
from pretrain.assistant.artefacts import Artefact, Session
from pretrain.assistant.calls import Call
from pretrain.assistant.film import LIMITS, Film, about_film, decoded, load_film, open_film
from pretrain.assistant.object_list import ObjectList
from pretrain.assistant.object_lock import ObjectLock
from pretrain.assistant.prompts import Mask, Object, Points, Prompt, check
from pretrain.assistant.tracker import Cancelled, Progress, Stop, Tracker
from pretrain.assistant.watch import Watch, never, silent


class Workspace:
    """See the file's first line; the parameters are those of `Assistant`.

    Any thread may look. Pointing, loading and tracking while objects are tracked are refused with a ValueError.
    """

    def __init__(self, session: Session, tracker: Tracker, folders: Sequence[Path] = ()) -> None:
        self.session, self.tracker, self.folders = session, tracker, tuple(folders)
        self.decoder = PyAV(limits=LIMITS)
        self.film: Film | None = None
        self._list: ObjectList | None = None
        self._video: Video | None = None  # to look at
        self._tracked: Video | None = None  # the tracker's own
        self._told: set[tuple[str, int]] = set()  # objects and frames that the tracker knows
        self._looking, self._lock = threading.Lock(), ObjectLock()
        self.watch = Watch()

    # Films

    def load(self, path: str | Path, copy: bool = False) -> Film:
        """Open a film or a picture; the objects of the one before are forgotten, its artefacts stay.

        Args:
            copy: into the session, for a file that will not stay where it is (an upload).

        Raises:
            ValueError: it lies in no allowed folder, cannot be decoded, or is above a limit.
        """
        with self._lock.alone():
            film = self._open(load_film(path, self.session, self.folders, copy, self.decoder))
            self._keep()
            return film

    def show(self, artefact_id: str) -> Film:
        """Make a film or picture of the session (one that a tool made) the one that is pointed at."""
        with self._lock.alone():
            film = self._open(self._film_artefact(artefact_id))
            self._keep()
            return film

    def frame(self, index: int) -> np.ndarray:
        """One frame, exactly, as RGB uint8 `[H, W, 3]`. ValueError: no film, or no such frame."""
        film = self._loaded()
        if not 0 <= index < film.frames:
            raise ValueError(f"there is no frame {index}: {film.name} has frames 0 to {film.frames - 1}")
        with self._looking, decoded():
            assert self._video is not None
            return self._video.frames([index])[0]

    def open(self, artefact_id: str | None = None) -> Video:
        """A film or picture of the session to read from, by default the loaded one; close it."""
        return open_film(self._film_artefact(artefact_id or self._loaded().artefact).path, self.decoder)

    # Objects

    @property
    def objects(self) -> dict[str, Object]:
        """Objects by id."""
        return self._list.objects if self._list is not None else {}

    def point(self, prompt: Prompt, object_id: str | None = None) -> Object:
        """Point at an object, a new one without `object_id`; its mask at the frame is there at once, the frame locked.

        Raises:
            ValueError: no film; outside the picture; nothing is found there; no such object.
        """
        with self._lock.alone(), decoded():
            film, objects = self._loaded(), self._objects()
            check(prompt, film.frames, film.size)
            name = object_id or objects.new_id()
            negative = isinstance(prompt, Points) and not any(prompt.positive)
            if object_id is not None:
                objects.get(object_id)
                self._tell(object_id, prompt.frame)
            elif negative:
                raise ValueError("begin with a point on the object: negative points take away from one")
            mask = self.tracker.add(name, prompt)
            if not mask.any() and not (object_id is not None and negative):
                self.tracker.forget(name, prompt.frame if object_id is not None else None)
                self._told.discard((name, prompt.frame))
                where = f"frame {prompt.frame}"
                if isinstance(prompt, Points):
                    where = f"({prompt.xy[0][0]:.0f}, {prompt.xy[0][1]:.0f}) of {where}"
                raise ValueError(f"nothing stands out at {where}: point at something, or draw a box around it")
            each = objects.add() if object_id is None else objects.get(object_id)
            objects.lock(each.id, prompt.frame, mask)
            self._told.add((each.id, prompt.frame))
            self._keep()
            return each

    def track(
        self, object_ids: Sequence[str] | None = None, progress: Progress = silent, cancelled: Stop = never
    ) -> Call:
        """Follow objects (None: all) through the film: from each locked frame to the next, and back from the first.

        Raises:
            Cancelled: the masks are those from before the call.
            ValueError: no film, or no object.
        """
        with self._lock.alone(), self.watch(progress, cancelled):
            names = list(object_ids) if object_ids is not None else list(self.objects)
            count = self.track_objects(names)
            made = tuple(track for name in names if (track := self.objects[name].track) is not None)
            return Call("track", {"objects": names}, f"Followed {', '.join(names)} through {count} frames.", made)

    def refine(self, prompt: Prompt, object_id: str, progress: Progress = silent, cancelled: Stop = never) -> Call:
        """Correct an object at a frame, which becomes locked, and track on from there to the next locked frame.

        Raises:
            Cancelled: the corrected frame stays, later masks are those from before the call.
            ValueError: as `point`.
        """
        with self._lock.alone(), decoded(), self.watch(progress, cancelled):
            each = self.point(prompt, object_id)
            spans = self._objects().spans(object_id, self._loaded().frames)
            ahead = [span for span in spans if span[0] == prompt.frame and span[1] > span[0]]
            count = self._track({span: [object_id] for span in ahead})
            said = f"Corrected {each.name} at frame {prompt.frame}, and followed it through {count} more frames."
            return Call(
                "refine", {"object": object_id, "frame": prompt.frame}, said, (each.track,) if each.track else ()
            )

    def track_objects(self, object_ids: Sequence[str]) -> int:
        """As `track`, with the progress of the call that is under way; returns the number of frames."""
        with self._lock.alone(), decoded():
            film, objects, spans = self._loaded(), self._objects(), {}
            if not object_ids:
                raise ValueError("there is nothing to track: point at an object first")
            for name in object_ids:
                for span in objects.spans(name, film.frames):
                    spans.setdefault(span, []).append(name)
            return self._track(spans)

    def mask(self, object_id: str, frame: int) -> np.ndarray | None:
        """bool `[H, W]`; without True where the object is out of sight; None where it has not been looked for."""
        self._objects().get(object_id)
        return self._objects().masks[object_id].get(frame)

    def masks(self, frame: int) -> dict[str, np.ndarray]:
        """The known masks of visible objects at a frame, by id."""
        found = {name: self.mask(name, frame) for name, each in list(self.objects.items()) if each.visible}
        return {name: mask for name, mask in found.items() if mask is not None}

    def mask_frames(self, object_id: str) -> Iterator[tuple[int, np.ndarray]]:
        """The known masks of an object in the order of frames, one at a time in memory."""
        self._objects().get(object_id)
        return self._objects().masks[object_id].read()

    def rename(self, object_id: str, name: str) -> None:
        """Call an object by a name of 1 to 40 printable characters that no other has. ValueError otherwise."""
        self._objects().rename(object_id, name)
        self._keep()

    def hide(self, object_id: str, hidden: bool = True) -> None:
        """Hide an object's masks, or show them again."""
        self._objects().get(object_id).visible = not hidden
        self._keep()

    def delete(self, object_id: str) -> None:
        """Forget an object and its masks; its id is not used again."""
        with self._lock.alone():
            self._objects().delete(object_id)
            self.tracker.forget(object_id)
            self._told = {each for each in self._told if each[0] != object_id}
            self._keep()

    def artefact(self, artefact_id: str) -> Artefact:
        """What a call made. ValueError: this session has none of this id."""
        return self.session.get(artefact_id)

    def close(self) -> None:
        """Close the film and the session; both can be opened again."""
        with self._lock.alone():
            self._shut()
            self.session.close()

    def _track(self, spans: dict[tuple[int, int], list[str]]) -> int:
        """Follow objects through spans (first, stop); all masks are kept, or none."""
        total, done = sum(abs(stop - first) - 1 for first, stop in spans), 0
        objects = self._objects()
        for name in {name for names in spans.values() for name in names}:
            for frame in objects.get(name).locked:
                self._tell(name, frame)
        with self._lock.tracking(), ExitStack() as changes:
            put = {
                name: changes.enter_context(objects.masks[name].change())
                for name in {n for s in spans.values() for n in s}
            }
            self.watch.progress(0, total)
            for (first, stop), names in spans.items():
                for frame, masks in self.tracker.propagate(names, first, stop, self.watch.cancelled):
                    for name, mask in masks.items():
                        put[name](frame, mask)
                    done += 1
                    self.watch.progress(done, total)
                    if done % 256 == 0:
                        self.session.require_room()
            if self.watch.cancelled():  # at the last moment
                raise Cancelled("tracking was stopped")
        self._keep()
        return done

    def _tell(self, object_id: str, frame: int) -> None:
        """Let the tracker know an object's mask at a frame, as after a restart or before a correction."""
        if (object_id, frame) in self._told:
            return
        known = self.mask(object_id, frame)
        if known is not None:
            self.tracker.add(object_id, Mask(frame, known))
            self._told.add((object_id, frame))

    def _open(self, artefact: Artefact) -> Film:
        video = open_film(artefact.path, self.decoder)
        self._shut()
        self._video, self._tracked = video, open_film(artefact.path, self.decoder)
        self.film = about_film(artefact, video)
        self._list = ObjectList(self.session, artefact.id, self.film.size)
        self.tracker.start(self._tracked)
        return self.film

    def _shut(self) -> None:
        with self._looking:
            for video in (self._video, self._tracked):
                if video is not None:
                    video.close()
            self.film, self._list, self._video, self._tracked = None, None, None, None
            self._told = set()

    def _film_artefact(self, artefact_id: str) -> Artefact:
        found = self.session.get(artefact_id)
        if found.kind not in ("film", "picture"):
            raise ValueError(f"{artefact_id} is a {found.kind}, and a film or a picture is needed")
        return found

    def _loaded(self) -> Film:
        if self.film is None:
            raise ValueError("no film is loaded: load one first")
        return self.film

    def _objects(self) -> ObjectList:
        self._loaded()
        assert self._list is not None
        return self._list

    def _keep(self) -> None:
        """Write the film and the objects to the session."""
        film = {"film": self.film.artefact if self.film is not None else None}
        objects = {"objects": self._list.as_json() if self._list is not None else None}
        self.session.update_state({**film, **objects})

    def _resume(self) -> None:
        """Take up the film and the objects of the session. ValueError: they are damaged or not there any more."""
        state = self.session.read_state()
        try:
            if (film := state.get("film")) is not None:
                objects = state["objects"]
                self._open(self._film_artefact(film))
                self._objects().restore(objects)
        except (KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"the state of {self.session.folder} is damaged ({error})") from None
