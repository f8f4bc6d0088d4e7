"""The assistant of one session: load a film, point at things in it, track them, and ask about them."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pretrain.assistant.artefacts import Session
from pretrain.assistant.calls import Answer, Call, Turn
from pretrain.assistant.film import Film
from pretrain.assistant.planners.plan import NoPlan, Plan, Planner, Situation
from pretrain.assistant.planners.rules import RulePlanner
from pretrain.assistant.run_plan import run_plan
from pretrain.assistant.toolbox import toolbox
from pretrain.assistant.tools.tool import Tool
from pretrain.assistant.tracker import Progress, Stop, Tracker
from pretrain.assistant.watch import never, silent
from pretrain.assistant.workspace import Workspace

_LONGEST = 4000  # characters of a question
__all__ = ["Answer", "Assistant", "Call", "Film", "Turn"]


class Assistant(Workspace):
    """One user's film, objects and conversation.

    Any thread may look and ask. Pointing, loading and tracking while objects are tracked are refused with a ValueError.

    Args:
        session: where everything is kept; a film, objects and masks of an earlier process are there again.
        tracker: of objects; it is this assistant's alone.
        folders: that files may be loaded from.
        tools: by name; see `toolbox`. By default those that need no models.
        planner: asked first; where it has no plan, or what it planned goes wrong, rules decide.

    Attributes:
        film: that is loaded, or None.
        objects: by id, in order of their making.
        turns: the conversation so far.

    Raises:
        ValueError: the session's state is damaged, or its film is not there any more.
    """

    def __init__(
        self,
        session: Session,
        tracker: Tracker,
        folders: Sequence[Path] = (),
        tools: Mapping[str, Tool] | None = None,
        planner: Planner | None = None,
    ) -> None:
        super().__init__(session, tracker, folders)
        self.tools, self.rules = tools if tools is not None else toolbox(), RulePlanner()
        self.planner: Planner = planner or self.rules
        self._asking = threading.Lock()
        self.shown: int = 0
        self.chosen: tuple[str, ...] = ()
        try:
            self.turns = [Turn.from_json(each) for each in session.read_state().get("turns", [])]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the conversation of {session.folder} is damaged ({error})") from None
        self._resume()

    def ask(
        self,
        text: str,
        object_ids: Sequence[str] = (),
        frame: int = 0,
        progress: Progress = silent,
        cancelled: Stop = never,
    ) -> Answer:
        """Answer a question or carry out a wish, about the film or the objects pointed at.

        Args:
            text: may name objects by id or name.
            object_ids: those that are chosen on the page, in order.
            frame: that is shown.

        Returns:
            A tool that fails or is missing says so in the answer.

        Raises:
            ValueError: the question is empty or too long, or an object is not there.
            Cancelled: the conversation is as before.
        """
        if not text.strip() or len(text) > _LONGEST:
            raise ValueError(f"a question has 1 to {_LONGEST} characters")
        for name in object_ids:
            self._objects().get(name)
        with self._asking, self.watch(progress, cancelled):
            self.shown, self.chosen = frame, tuple(object_ids)
            turn = self._answer(text.strip())
            self.turns.append(turn)
            self._keep_turns()
            return turn.answer

    def _answer(self, text: str) -> Turn:
        notes: list[str] = []
        planners = [self.planner] if self.planner is self.rules else [self.planner, self.rules]
        answer = Answer("")
        for planner in planners:
            situation = self._situation()
            try:
                plan: Plan = planner.plan(text, situation)
            except NoPlan as error:
                notes += error.notes
                continue
            calls, faults = run_plan(plan, situation, self)
            said = [call.said for call in calls] or [plan.reply]
            answer = Answer("\n".join(said), calls, planner.name)
            if not faults:
                break
            notes += faults
        return Turn(text, answer, self.chosen, self.shown, notes)

    def _situation(self) -> Situation:
        whole = set()
        for name in self.objects:
            if self.film is not None and len(self._objects().masks[name].frames()) == self.film.frames:
                whole.add(name)
        objects = dict(self.objects)
        return Situation(self.film, objects, self.chosen, self.shown, frozenset(whole), self.tools, self.session)

    def _keep_turns(self) -> None:
        self.session.update_state({"turns": [turn.as_json() for turn in self.turns]})
