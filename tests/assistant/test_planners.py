"""Planners: the rules' choices, a language model's plans checked, repaired and given up, and what came of a call."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.assistant.artefacts import Artefact, Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.door import NoAnswer, read_object
from pretrain.assistant.film import Film
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.planners.check import faults_of, faults_of_result
from pretrain.assistant.planners.language import LanguagePlanner, instructions, plan_schema, read_plan
from pretrain.assistant.planners.plan import NoPlan, Plan, Situation, Step
from pretrain.assistant.planners.rules import POINT, RulePlanner
from pretrain.assistant.prompts import Object
from pretrain.assistant.toolbox import toolbox
from tests.helpers.scenes import click, crossing, write_scene


@pytest.fixture
def situation(tmp_path: Path) -> Situation:
    session = Session(tmp_path / "session")
    session.refer("film", Path(__file__))
    objects = {name: Object(name, called, (1, 2, 3)) for name, called in (("obj1", "the ball"), ("obj2", "obj2"))}
    film = Film("film1", "film.mp4", 20, 8.0, (96, 128))
    yield Situation(film, objects, (), 4, frozenset({"obj2"}), toolbox(), session)
    session.close()


def chosen(situation: Situation, *names: str) -> Situation:
    return Situation(situation.film, situation.objects, names, 4, situation.tracked, situation.tools, situation.session)


@pytest.mark.parametrize(
    ("question", "pointed", "steps"),
    [
        ("Track the ball", (), [("track", {"objects": ["obj1"]})]),
        ("please follow everything", (), [("track", {"objects": ["obj1", "obj2"]})]),
        ("remove obj2", (), [("remove", {"object": "obj2"})]),
        ("Could you remove this?", ("obj1",), [("track", {"objects": ["obj1"]}), ("remove", {"object": "obj1"})]),
        ("who removed the hat?", (), [("answer_question", {"question": "who removed the hat?", "objects": []})]),
        ("cut out obj2", (), [("cut_out", {"object": "obj2"})]),
        ("cut from 0.5 to 2 s", (), [("crop_film", {"start": 0.5, "end": 2.0})]),
        ("crop the film from 0:01 to 1:02.5", (), [("crop_film", {"start": 1.0, "end": 62.5})]),
        ("what colour is it?", ("obj2",), [("describe_region", {"object": "obj2"})]),
        ("which way does obj2 move?", (), [("movement", {"objects": ["obj2"]})]),
        (
            "what does obj2 do after it passes the ball?",
            (),
            [("track", {"objects": ["obj1"]}), ("movement", {"objects": ["obj2"], "after": "obj1"})],
        ),
        (
            "where does the red circle go?",
            (),
            [
                ("find", {"words": "where does the red circle go?", "frame": 4}),
                ("track", {"objects": ["@1"]}),
                ("movement", {"objects": ["@1"]}),
            ],
        ),
        ("find the red circle", (), [("find", {"words": "the red circle", "frame": 4})]),
        ("what does the sign say?", (), [("read_text", {})]),
        ("read it", ("obj1",), [("read_text", {"object": "obj1"})]),
        ("describe the film second by second", (), [("describe_film", {})]),
        ("describe the ball", (), [("describe_region", {"object": "obj1"})]),
        ("generate a film of a teddy bear", (), [("generate_film", {"prompt": "a teddy bear"})]),
        ("make the film look like winter", (), [("edit", {"prompt": "winter"})]),
        ("replace obj2 by a green apple", (), [("replace", {"object": "obj2", "prompt": "a green apple"})]),
        ("search my videos for a dog", (), [("search_videos", {"words": "a dog"})]),
        ("recognise the action", (), [("recognise_action", {})]),
        (
            "why is the man happy?",
            ("obj1",),
            [("answer_question", {"question": "why is the man happy?", "objects": ["obj1"]})],
        ),
    ],
)
def test_rules_choose_tools(situation: Situation, question: str, pointed: tuple[str, ...], steps: list) -> None:
    plan = RulePlanner().plan(question, chosen(situation, *pointed))
    assert [(step.tool, step.arguments) for step in plan.steps] == steps
    assert faults_of(plan, chosen(situation, *pointed)) == []


def test_rules_ask_to_point_where_nothing_is_meant(situation: Situation) -> None:
    for question in ("remove it", "cut it out", "what colour is it?", "where does it move?"):
        assert RulePlanner().plan(question, situation) == Plan(reply=POINT)


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        (Plan(), "neither a step nor a reply"),
        (Plan((Step("explode"),)), "Step 1: there is no tool 'explode'"),
        (Plan((Step("remove", {"object": "obj9"}),)), "there is no object 'obj9'; there are obj1, obj2"),
        (Plan((Step("remove", {"thing": "obj1"}),)), "object: Field required"),
        (Plan((Step("crop_film", {"start": "zero", "end": 2}),)), "start: "),
        (Plan((Step("crop_film", {"start": 0, "end": 2, "film": "film9"}),)), "this session has no 'film9'"),
        (Plan((Step("crop_film", {"start": 0, "end": 2, "film": "@2"}),)), "@2 is not made before step 1"),
        (
            Plan((Step("track", {"objects": ["obj1"]}), Step("crop_film", {"start": 0, "end": 1, "film": "@1"}))),
            "@1 is of track, which makes no film or picture",
        ),
        (Plan((Step("read_text"),) * 7), "7 steps, and 6 are allowed"),
        (Plan((Step("remove", {"object": "obj2"}),)), "points at obj1, and the plan acts on obj2"),
    ],
)
def test_wrong_plans_are_named(situation: Situation, plan: Plan, fault: str) -> None:
    assert any(fault in found for found in faults_of(plan, chosen(situation, "obj1")))


def test_a_film_of_another_kind_is_refused(situation: Situation) -> None:
    situation.session.add("text", ".txt", lambda path: path.write_text("x"), tool="read_text")
    plan = Plan((Step("crop_film", {"start": 0, "end": 2, "film": "text1"}),))
    assert faults_of(plan, situation) == ["Step 1: text1 is a text, and a film is needed."]


def test_every_tool_has_a_schema_and_a_sentence(situation: Situation) -> None:
    for tool in situation.tools.values():
        schema = tool.schema()
        assert schema["type"] == "object" and schema["additionalProperties"] is False
        assert tool.about.endswith(".") and (not tool.missing or tool.missing.endswith("."))
    text = instructions(situation)
    assert "obj1, called 'the ball', not tracked yet" in text and "generate_film" not in text, "its weights are missing"
    calls = plan_schema(situation)["properties"]["calls"]["items"]["anyOf"]
    assert {call["properties"]["tool"]["const"] for call in calls} == {
        name for name, tool in situation.tools.items() if not tool.missing
    }


class Says:
    """A door that says these answers one after another."""

    named = "parrot"

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def ask(self, question: str, instruction: str = "", **more: Any) -> str:
        self.asked.append((question, more))
        if not self.answers:
            raise NoAnswer("The language model is gone.")
        return self.answers.pop(0)


def call(tool: str, **arguments: Any) -> str:
    return json.dumps({"calls": [{"tool": tool, "arguments": arguments}]})


def test_a_plan_is_read_with_words_around_it(situation: Situation) -> None:
    door = Says('Sure!\n```json\n{"calls": [{"tool": "track", "arguments": {"objects": ["obj1"]}}]}\n```')
    planner = LanguagePlanner(door)  # pyrefly: ignore
    assert planner.plan("follow it", situation) == Plan((Step("track", {"objects": ["obj1"]}),))
    assert (planner.asked, planner.valid) == (1, 1)
    assert door.asked[0][1]["schema"] == plan_schema(situation)
    assert read_plan('{"reply": "No."}') == Plan(reply="No.")
    for text, fault in (("no", "no JSON object"), ('{"calls": 3}', "calls"), ("{", "no JSON"), ('{"x": 1}', "x: ")):
        with pytest.raises(ValueError, match=fault):
            read_plan(text)
    assert read_object('x {"a": {"b": 1}} y') == {"a": {"b": 1}}


def test_a_wrong_plan_is_repaired(situation: Situation) -> None:
    door = Says(call("remove", object="obj7"), call("remove", object="obj2"))
    planner = LanguagePlanner(door)  # pyrefly: ignore
    assert planner.plan("remove that", chosen(situation, "obj2")).steps[0].arguments == {"object": "obj2"}
    told, more = door.asked[1]
    assert "there is no object 'obj7'" in told and more["earlier"][0][0] == "remove that"
    assert (planner.asked, planner.valid) == (2, 1)


def test_nonsense_three_times_is_no_plan(situation: Situation) -> None:
    planner = LanguagePlanner(Says("bla", "{}", call("explode"), call("read_text")))  # pyrefly: ignore
    with pytest.raises(NoPlan) as failed:
        planner.plan("what is that?", situation)
    assert [note.split(":")[0] for note in failed.value.notes] == ["attempt 1", "attempt 2", "attempt 3"]


def test_the_assistant_falls_back_to_rules(tmp_path: Path) -> None:
    scene = crossing(6)
    film = write_scene(tmp_path / "film.mp4", scene)
    door = Says("bla", "bla", "bla")
    planner = LanguagePlanner(door)  # pyrefly: ignore
    assistant = Assistant(Session(tmp_path / "session"), FlowTracker(), [tmp_path], planner=planner)
    assistant.load(film)
    assistant.point(click(scene, 0))
    answer = assistant.ask("what colour is it?", ["obj1"])
    assert answer.planner == "rules" and "red" in answer.text and len(assistant.turns[0].notes) == 3
    again = assistant.ask("what colour is it?", ["obj1"])  # the door is gone
    assert again.planner == "rules" and assistant.turns[1].notes == ["The language model is gone."]
    door.answers = [call("describe_region", object="obj1", frame=2)]
    by_model = assistant.ask("what colour is it?", ["obj1"])
    assert by_model.planner == "parrot" and by_model.calls[0].arguments == {"object": "obj1", "frame": 2}
    assistant.close()


def test_what_a_call_made_is_checked(tmp_path: Path) -> None:
    tool = SimpleNamespace(name="cut_out", makes=("picture", "film"))
    (tmp_path / "a.png").write_text("x")
    right = Artefact("picture1", "picture", tmp_path / "a.png", object_id="obj1")
    assert faults_of_result(tool, {"object": "obj1"}, (right,)) == []  # pyrefly: ignore
    wrong = Artefact("mask1", "mask", tmp_path / "none.png", object_id="obj2")
    faults = faults_of_result(tool, {"object": "obj1"}, (wrong,))  # pyrefly: ignore
    assert [word in fault for word, fault in zip(("not there", "should make", "was meant"), faults, strict=True)] == [
        True
    ] * 3
