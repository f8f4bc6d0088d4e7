"""What was asked, which tools ran for it, and what came of it: plain records that the session keeps."""

from dataclasses import asdict, dataclass, field
from typing import Any


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
    """A question and its answer.

    objects: ids that were pointed at with it. frame: that was shown.
    notes: what went wrong before the answer, such as plans of a model that were refused.
    """

    question: str
    answer: Answer
    objects: tuple[str, ...] = ()
    frame: int = 0
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same turn."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Turn":
        """The turn that `as_json` wrote. KeyError or TypeError: it is none."""
        answer = values["answer"]
        calls = tuple(
            Call(c["tool"], c["arguments"], c["said"], tuple(c["made"]), c["failed"]) for c in answer["calls"]
        )
        about = values["question"], Answer(answer["text"], calls, answer["planner"])
        return Turn(*about, tuple(values["objects"]), values["frame"], list(values["notes"]))
