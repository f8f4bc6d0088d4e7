"""Carries out a plan: calls in order, each checked before and after; the first that fails is the last."""

from pretrain.assistant.artefacts import Artefact
from pretrain.assistant.calls import Call
from pretrain.assistant.film import decoded
from pretrain.assistant.planners.check import faults_of_result, resolve
from pretrain.assistant.planners.plan import Plan, Situation
from pretrain.assistant.tools.tool import CannotDo, Context


def run_plan(plan: Plan, situation: Situation, context: Context) -> tuple[tuple[Call, ...], list[str]]:
    """The calls that were made, and what is wrong with what they made.

    What a tool cannot do is said in its call. Errors that are not expected, which are mistakes of ours, pass through.

    Raises:
        Cancelled: the user stopped it; earlier calls have been made.
    """
    calls: list[Call] = []
    made: list[tuple[Artefact, ...]] = []
    for step in plan.steps:
        tool = situation.tools[step.tool]
        if tool.missing:
            calls.append(Call(tool.name, step.arguments, tool.missing, failed=True))
            break
        arguments = step.arguments
        try:
            arguments = resolve(step.arguments, made)
            with decoded():
                done = tool.run(context, tool.read(arguments))
        except (CannotDo, ValueError) as error:
            text = str(error)
            calls.append(Call(tool.name, arguments, text[:1].upper() + text[1:], failed=True))
            break
        made.append(done.artefacts)
        calls.append(Call(tool.name, arguments, done.said, tuple(each.id for each in done.artefacts)))
        if faults := faults_of_result(tool, arguments, done.artefacts):
            return tuple(calls), faults
    return tuple(calls), []
