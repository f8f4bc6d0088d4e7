"""Checks of plans before they run, and of what came of them: the auxiliary control of InternChat (arXiv 2305.05662)."""

import re
from typing import Any

from pretrain.assistant.artefacts import Artefact
from pretrain.assistant.planners.plan import Plan, Situation, Step
from pretrain.assistant.tools.tool import Tool

MOST_STEPS = 6
_LATER = re.compile(r"@([1-9])")


def faults_of(plan: Plan, situation: Situation) -> list[str]:
    """What is wrong with a plan, a sentence each; empty if it can run.

    A plan is wrong if a tool or an argument is not there or of another type, if an object or a film is not in the
    session, or if it acts on objects and leaves out those that the user points at.
    """
    if not plan.steps:
        return [] if plan.reply.strip() else ["The plan has neither a step nor a reply."]
    if len(plan.steps) > MOST_STEPS:
        return [f"The plan has {len(plan.steps)} steps, and {MOST_STEPS} are allowed."]
    faults = []
    for number, step in enumerate(plan.steps, 1):
        faults += [f"Step {number}: {fault}" for fault in _faults_of_step(step, number, plan, situation)]
    named = {name for step in plan.steps for name in objects_in(step.arguments)}
    acts = {name for name in named if not _LATER.fullmatch(name)}
    forgotten = [name for name in situation.chosen if name not in acts]
    if acts and len(forgotten) == len(situation.chosen) and forgotten:
        faults.append(f"The user points at {', '.join(forgotten)}, and the plan acts on {', '.join(sorted(acts))}.")
    return faults


def _faults_of_step(step: Step, number: int, plan: Plan, situation: Situation) -> list[str]:
    tool = situation.tools.get(step.tool)
    if tool is None:
        return [f"there is no tool {step.tool!r}; there are {', '.join(situation.tools)}."]
    try:
        tool.read(step.arguments)
    except ValueError as error:
        return [f"{error}."]
    faults = []
    for name in objects_in(step.arguments):
        if (later := _LATER.fullmatch(name)) is not None:
            faults += _later(int(later[1]), number, plan, situation, ("mask", "track"))
        elif name not in situation.objects:
            faults.append(f"there is no object {name!r}; there are {', '.join(situation.objects) or 'none'}.")
    film = step.arguments.get("film")
    if isinstance(film, str):
        if (later := _LATER.fullmatch(film)) is not None:
            faults += _later(int(later[1]), number, plan, situation, ("film", "picture"))
        else:
            try:
                found = situation.session.get(film)
                if found.kind not in ("film", "picture"):
                    faults.append(f"{film} is a {found.kind}, and a film is needed.")
            except ValueError as error:
                faults.append(f"{error}.")
    return faults


def _later(of: int, number: int, plan: Plan, situation: Situation, kinds: tuple[str, ...]) -> list[str]:
    """What is wrong with a step's use of what an earlier one makes."""
    if of >= number:
        return [f"@{of} is not made before step {number}."]
    tool = situation.tools.get(plan.steps[of - 1].tool)
    if tool is not None and not set(tool.makes) & set(kinds):
        return [f"@{of} is of {tool.name}, which makes no {' or '.join(kinds)}."]
    return []


def objects_in(arguments: dict[str, Any]) -> list[str]:
    """The objects that arguments name."""
    many = arguments.get("objects", [])
    single = [arguments.get(key) for key in ("object", "after")]
    return [name for name in [*single, *(many if isinstance(many, list) else [])] if isinstance(name, str)]


def resolve(arguments: dict[str, Any], made: list[tuple[Artefact, ...]]) -> dict[str, Any]:
    """Arguments with what earlier steps made in the place of `@n`. ValueError: that step made nothing of the kind."""

    def of(value: str, key: str) -> str:
        later = _LATER.fullmatch(value)
        if later is None:
            return value
        artefacts = made[int(later[1]) - 1] if int(later[1]) <= len(made) else ()
        if key == "film":
            found = [each.id for each in artefacts if each.kind in ("film", "picture")]
        else:
            found = [each.object_id for each in artefacts if each.object_id is not None]
        if not found:
            raise ValueError(f"step {later[1]} made nothing that {key} could be")
        return found[0]

    done: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in ("object", "after", "film") and isinstance(value, str):
            done[key] = of(value, key)
        elif key == "objects" and isinstance(value, list):
            done[key] = [of(each, key) for each in value]
        else:
            done[key] = value
    return done


def faults_of_result(tool: Tool, arguments: dict[str, Any], made: tuple[Artefact, ...]) -> list[str]:
    """What is wrong with what a call made: its files, their kinds, and the object that they are of."""
    faults = []
    wanted = set(objects_in(arguments))
    for each in made:
        if not each.path.is_file() or not each.path.stat().st_size:
            faults.append(f"{tool.name} made {each.id}, whose file is not there.")
        if each.kind not in tool.makes:
            faults.append(f"{tool.name} made {each.id}, a {each.kind}, and should make {' or '.join(tool.makes)}.")
        if wanted and each.object_id is not None and each.object_id not in wanted:
            faults.append(f"{each.id} is of {each.object_id}, and {', '.join(sorted(wanted))} was meant.")
    return faults
