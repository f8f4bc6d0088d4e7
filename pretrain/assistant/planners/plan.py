"""A plan: the calls that a question needs, and the situation that it is made in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pretrain.assistant.artefacts import Session
from pretrain.assistant.film import Film
from pretrain.assistant.prompts import Object
from pretrain.assistant.tools.tool import Tool


@dataclass(frozen=True)
class Step:
    """A call that is to be made.

    arguments: by name. `@1` in the place of an object or a film means what the plan's first step will have made.
    """

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Steps in order, or without any a reply in words."""

    steps: tuple[Step, ...] = ()
    reply: str = ""


@dataclass(frozen=True)
class Situation:
    """What a planner knows.

    objects: by id. chosen: ids of those that are pointed at with the question. shown: the frame on the page.
    tracked: ids of those that were followed through the whole film. tools: by name.
    """

    film: Film | None
    objects: Mapping[str, Object]
    chosen: tuple[str, ...]
    shown: int
    tracked: frozenset[str]
    tools: Mapping[str, Tool]
    session: Session


class NoPlan(Exception):
    """A planner has no plan that can be carried out; `notes` say what was tried."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__("; ".join(notes))
        self.notes = notes


class Planner(Protocol):
    """Makes plans. name: for the answer."""

    @property
    def name(self) -> str: ...

    def plan(self, question: str, situation: Situation) -> Plan:
        """The plan of a question. NoPlan: there is none."""
        ...
