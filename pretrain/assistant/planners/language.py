"""The planner by a language model: it must answer in JSON of the tools' schema, and is told what is wrong with it.

What is left after the last attempt is no plan: the assistant then falls back to rules.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pretrain.assistant.door import Door, NoAnswer, read_object
from pretrain.assistant.planners.check import MOST_STEPS, faults_of
from pretrain.assistant.planners.plan import NoPlan, Plan, Situation, Step


class _Call(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class _Written(BaseModel):
    """What the model writes."""

    model_config = ConfigDict(extra="forbid")
    calls: list[_Call] = Field(default_factory=list)
    reply: str = ""


class LanguagePlanner:
    """A model behind a door of OpenAI's protocol.

    Args:
        door: to the model.
        attempts: answers that it may give before it has failed.

    Attributes:
        asked, valid: answers so far, and those that were plans that could run.
    """

    def __init__(self, door: Door, attempts: int = 3) -> None:
        if attempts < 1:
            raise ValueError(f"a planner has one attempt or more, not {attempts}")
        self.door, self.attempts = door, attempts
        self.asked = self.valid = 0

    @property
    def name(self) -> str:
        return self.door.named or "language model"

    def plan(self, question: str, situation: Situation) -> Plan:
        """The model's plan. NoPlan: it cannot be reached, or each of its answers was wrong."""
        instruction, schema = instructions(situation), plan_schema(situation)
        earlier: list[tuple[str, str]] = []
        notes: list[str] = []
        told = question
        for attempt in range(1, self.attempts + 1):
            try:
                text = self.door.ask(told, instruction, earlier=earlier, schema=schema)
            except NoAnswer as error:
                raise NoPlan([*notes, str(error)]) from None
            self.asked += 1
            try:
                plan = read_plan(text)
                faults = faults_of(plan, situation)
            except ValueError as error:
                plan, faults = Plan(), [f"{error}."]
            if not faults:
                self.valid += 1
                return plan
            notes.append(f"attempt {attempt}: {' '.join(faults)}")
            earlier.append((told, text[:2000]))
            told = f"That cannot be carried out. {' '.join(faults)} Answer again, with JSON only."
        raise NoPlan(notes)


def read_plan(text: str) -> Plan:
    """The plan in a model's answer. ValueError: there is none, or of another form."""
    try:
        written = _Written.model_validate(read_object(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}") from None
    return Plan(tuple(Step(call.tool, call.arguments) for call in written.calls), written.reply)


def plan_schema(situation: Situation) -> dict[str, Any]:
    """The JSON schema of a plan with the tools that can run here."""
    calls = [
        {
            "type": "object",
            "properties": {"tool": {"const": tool.name}, "arguments": tool.schema()},
            "required": ["tool", "arguments"],
            "additionalProperties": False,
        }
        for tool in situation.tools.values()
        if not tool.missing
    ]
    return {
        "type": "object",
        "properties": {
            "calls": {"type": "array", "maxItems": MOST_STEPS, "items": {"anyOf": calls}},
            "reply": {"type": "string"},
        },
        "additionalProperties": False,
    }


def instructions(situation: Situation) -> str:
    """What the model is told: its task, the tools with their schemas, and the situation."""
    film = situation.film
    about = f"{film.name}: {film.frames} frames, {film.size[1]} x {film.size[0]} pixels" if film else "none"
    objects = "\n".join(
        f"- {each.id}, called {each.name!r}, {'tracked' if each.id in situation.tracked else 'not tracked yet'}"
        for each in situation.objects.values()
    )
    tools = "\n".join(
        f"- {tool.name}: {tool.about} Arguments: {json.dumps(tool.schema()['properties'])}"
        for tool in situation.tools.values()
        if not tool.missing
    )
    return (
        "You choose tools for a user who points at things in a film. Answer with one JSON object and nothing else: "
        '{"calls": [{"tool": NAME, "arguments": {...}}, ...], "reply": ""}. Calls run in order. "@1" in the place of '
        "an object or a film means what the first call makes. Objects have to be tracked before their movement is "
        "told, and before they are removed, cut out of the film or replaced. If no tool suits, give no calls, and a "
        f"reply.\nTools:\n{tools}\nFilm: {about}. Frame on the screen: {situation.shown}.\n"
        f"Objects:\n{objects or '- none'}\nThe user points at: {', '.join(situation.chosen) or 'nothing'}."
    )
