"""The objects of one film: names, colours, locked frames and masks, and the spans between locked frames to track."""

from dataclasses import asdict
from typing import Any

import numpy as np

from pretrain.assistant.artefacts import Session
from pretrain.assistant.mask_file import MaskFile
from pretrain.assistant.prompts import COLOURS, Object

_NAME = 40  # characters of a name


class ObjectList:
    """Objects by id, each with its file of masks.

    Args:
        session: that keeps the files.
        film: the artefact that they are in.
        size: (height, width) of its frames.
    """

    def __init__(self, session: Session, film: str, size: tuple[int, int]) -> None:
        self.session, self.film, self.size = session, film, size
        self.objects: dict[str, Object] = {}
        self.masks: dict[str, MaskFile] = {}
        self.made = 0

    def new_id(self) -> str:
        """The id of the next object."""
        return f"obj{self.made + 1}"

    def add(self) -> Object:
        """A new object without masks."""
        name, colour = self.new_id(), COLOURS[self.made % len(COLOURS)]
        about = f"the masks of {name}"
        track = self.session.add(
            "track", ".sqlite", MaskFile.create, parents=(self.film,), tool="segment", about=about, object_id=name
        )
        self.made += 1
        self.objects[name] = Object(name, name, colour, track=track.id)
        self.masks[name] = MaskFile(track.path, self.size)
        return self.objects[name]

    def get(self, object_id: str) -> Object:
        """An object by its id. ValueError: there is none."""
        if object_id not in self.objects:
            known = ", ".join(self.objects) or "nothing yet"
            raise ValueError(f"there is no object {object_id!r}; pointed at: {known}")
        return self.objects[object_id]

    def lock(self, object_id: str, frame: int, mask: np.ndarray) -> None:
        """Keep a mask that the user gave for a frame; tracking does not change it."""
        each = self.get(object_id)
        with self.masks[object_id].change() as put:
            put(frame, mask)
        each.locked = tuple(sorted({*each.locked, frame}))

    def rename(self, object_id: str, name: str) -> None:
        """See `Assistant.rename`."""
        each, name = self.get(object_id), " ".join(name.split())
        if not 1 <= len(name) <= _NAME or not name.isprintable():
            raise ValueError(f"a name has 1 to {_NAME} printable characters")
        if any(name.lower() in (o.name.lower(), o.id) for o in self.objects.values() if o.id != object_id):
            raise ValueError(f"another object is called {name!r}: choose another name")
        each.name = name

    def delete(self, object_id: str) -> None:
        """Forget an object; its masks go too, unless something was made of them."""
        each = self.get(object_id)
        del self.objects[object_id], self.masks[object_id]
        used = any(each.track in other.parents for other in self.session.all())
        if each.track is not None and not used:
            self.session.delete(each.track)

    def spans(self, object_id: str, frames: int) -> list[tuple[int, int]]:
        """(first, stop) of what lies between locked frames: backwards from the first one, forwards from each."""
        locked = self.get(object_id).locked
        found = [(locked[0], -1)] if locked and locked[0] > 0 else []
        for first, stop in zip(locked, (*locked[1:], frames), strict=True):
            if stop > first + 1:
                found.append((first, stop))
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain values for `restore`."""
        return {"made": self.made, "objects": [asdict(each) for each in self.objects.values()]}

    def restore(self, values: dict[str, Any]) -> None:
        """Take up the objects that `as_json` wrote. ValueError: their masks are not there."""
        self.made = int(values["made"])
        for each in values["objects"]:
            red, green, blue = each["colour"]
            about = each["id"], each["name"], (red, green, blue), each["visible"], tuple(each["locked"])
            new = Object(*about, each["track"])
            self.masks[new.id] = MaskFile(self.session.get(each["track"], "track").path, self.size)
            self.objects[new.id] = new
