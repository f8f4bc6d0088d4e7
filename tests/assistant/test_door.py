"""A chat model behind the server of OpenAI's protocol: what it is shown of pointed objects, and its plans."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.clips.chat_sampling import demo_centres
from pretrain.assistant.artefacts import Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.door import Door, NoAnswer
from pretrain.assistant.film import Film
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.movement import path_of
from pretrain.assistant.planners.language import LanguagePlanner
from pretrain.assistant.point_text import point_error, read_points, track_text
from pretrain.assistant.prompts import Object
from pretrain.assistant.region_tokens import region_question
from pretrain.assistant.toolbox import toolbox
from pretrain.assistant.tools import describing
from pretrain.chat.answerer import Request, Writing, Written
from pretrain.chat.server.app import ChatServer, serve
from tests.helpers.chat import Known
from tests.helpers.scenes import click, crossing, write_scene

LENGTH = 6


class Listens(Known):
    """Remembers what it is asked, and says what it is told to."""

    def __init__(self) -> None:
        super().__init__(frames=4, size=64)
        self.requests: list[Request] = []
        self.writings: list[Writing] = []
        self.says = "It waits."

    def stream(self, request: Request, writing: Writing, write: Callable[[str], bool]) -> Written:
        self.requests.append(request)
        self.writings.append(writing)
        write(self.says)
        return Written(self.says, 1, 1, True)


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[Listens, str]]:
    """The answerer and the address of its server, which runs in a thread."""
    answerer, up, port, loop = Listens(), threading.Event(), [0], asyncio.new_event_loop()

    def ready(number: int) -> None:
        port[0] = number
        up.set()

    tasks = []

    async def run() -> None:
        tasks.append(asyncio.ensure_future(serve(ChatServer(answerer, "listens"), "127.0.0.1", 0, ready)))
        await asyncio.wait(tasks)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert up.wait(20)
    yield answerer, f"http://127.0.0.1:{port[0]}/v1"
    loop.call_soon_threadsafe(tasks[0].cancel)
    thread.join(20)
    loop.close()


@pytest.fixture
def assistant(tmp_path: Path, listener: tuple[Listens, str]) -> Iterator[Assistant]:
    tools = toolbox(describing.tools(Door(listener[1])))
    made = Assistant(Session(tmp_path / "session"), FlowTracker(), [tmp_path], tools)
    made.load(write_scene(tmp_path / "film.mp4", crossing(LENGTH)))
    yield made
    made.close()


def test_a_question_shows_marks_a_crop_and_the_track_in_words(
    assistant: Assistant, listener: tuple[Listens, str]
) -> None:
    answerer = listener[0]
    assistant.point(click(crossing(LENGTH), 0))
    assistant.track()
    answerer.requests.clear()
    answer = assistant.ask("why is obj1 so round?", frame=2)
    assert answer.text == "It waits." and answer.calls[0].tool == "answer_question"
    (request,) = answerer.requests
    crop, film = (clip for clip in request.clips)
    assert (crop.shape[1], film.shape[1]) == (1, 4), "a picture and a film"
    red = (crop[0].float() - crop[1].float() > 100).float().mean()
    assert red > 0.15, "the crop is of the object, which covers 3 % of a frame"
    instruction = request.conversation.instruction
    assert "outlined in the frames" in instruction
    assert assistant.film is not None
    told = read_points(instruction, assistant.film)
    assert [name for name, _, _ in told] == ["obj1"] * LENGTH
    assert all(np.hypot(x - 20.5 - 2 * frame, y - 30.5) < 1 for frame, (_, _, (x, y)) in enumerate(told)), told
    plain = film.float().clone()
    assistant.ask("why is it so quiet?")
    unmarked = answerer.requests[1].clips[0].float()
    assert (plain - unmarked).abs().amax() > 60, "the marks are drawn in the frames"
    assert answerer.requests[1].conversation.instruction == ""


def test_region_tokens_are_asked_for_by_masks_and_places(
    tmp_path: Path, listener: tuple[Listens, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer, scene = listener[0], crossing(LENGTH)
    assistant = Assistant(
        Session(tmp_path / "session"),
        FlowTracker(),
        [tmp_path],
        toolbox(describing.tools(Door(listener[1]), pointing=("regions",))),
    )
    assistant.load(write_scene(tmp_path / "film.mp4", scene))
    for number in range(2):
        assistant.point(click(scene, number))
    assistant.track()
    answerer.requests.clear()
    assert "was not trained with regions" in assistant.ask("why is obj1 so round?").text
    monkeypatch.setattr(answerer, "regions", True)
    assert assistant.ask("why is obj2 so unlike obj1?", ["obj2"]).text == "It waits."
    (request,) = answerer.requests
    assert request.conversation.turns[0].question == "why is <obj1> so unlike <obj2>?", "in the order of choice"
    assert request.conversation.instruction == "" and len(request.clips) == 1, "neither marks nor text"
    (covers,) = request.regions
    assert covers is not None and covers.shape == (2, 4, 64, 64)
    left = (scene.size[1] - scene.size[0]) // 2
    for region, number in zip(covers, (1, 0), strict=True):
        masks = [scene.masks(int(frame))[number][:, left : left + scene.size[0]] for frame in demo_centres(LENGTH, 4)]
        true = F.adaptive_avg_pool2d(torch.from_numpy(np.stack(masks)).float(), 64) > 0.5
        assert ((region > 0.5) & true).sum() > 0.8 * ((region > 0.5) | true).sum() > 0
    assistant.close()


def test_places_stand_for_names_and_what_is_not_named_comes_first() -> None:
    objects = [Object("obj2", "the dog", (255, 0, 0)), Object("obj1", "obj1", (0, 0, 255))]
    assert region_question("Does The Dog see obj1, or obj12?", objects) == "Does <obj1> see <obj2>, or obj12?"
    assert region_question("What is it?", objects) == "About <obj1>, <obj2>: What is it?"


def test_a_region_is_described_by_a_marked_picture_and_its_crop(
    assistant: Assistant, listener: tuple[Listens, str]
) -> None:
    assistant.point(click(crossing(LENGTH), 0))
    listener[0].requests.clear()
    assert assistant.ask("what does it look like?", ["obj1"]).text == "It waits."
    assert len(listener[0].requests[0].clips) == 2
    listener[0].says = "A red ball."
    text = assistant.ask("describe the film").text
    assert text == "Second 0 to 0.8, caption: A red ball."
    listener[0].says = "It waits."


def test_a_model_plans_through_the_server(
    assistant: Assistant, listener: tuple[Listens, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps to the schema where the server can, and is asked without where it cannot."""
    assistant.point(click(crossing(LENGTH), 0))
    assistant.planner = LanguagePlanner(Door(listener[1]))
    listener[0].says = json.dumps({"calls": [{"tool": "track", "arguments": {"objects": ["obj1"]}}]})
    answer = assistant.ask("go after it", ["obj1"])
    assert answer.planner == "listens" and answer.calls[0].made == ("track1",)
    schema = json.loads(listener[0].writings[-1].schema or "")
    assert "track" in [each["properties"]["tool"]["const"] for each in schema["properties"]["calls"]["items"]["anyOf"]]

    def refuse(schema: str) -> str:
        raise ImportError("answers of a JSON schema need llguidance")

    monkeypatch.setattr("pretrain.chat.server.messages.grammar_of", refuse)
    listener[0].says = "no plan"
    answer = assistant.ask("track it", ["obj1"])
    assert answer.planner == "rules" and len(assistant.turns[-1].notes) == 3
    assert listener[0].writings[-1].schema is None
    listener[0].says = "It waits."


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(NoAnswer, match=r"The server at http://127.0.0.1:9/v1 names no model"):
        Door("http://127.0.0.1:9/v1", seconds=2).ask("hello")
    with pytest.raises(NoAnswer, match="did not answer"):
        Door("http://127.0.0.1:9/v1", model="x", seconds=2).ask("hello")


def test_points_as_text_come_back_as_pixels() -> None:
    scene = crossing(LENGTH)
    film = Film("film1", "f", LENGTH, 8.0, scene.size)
    paths = {
        name: path_of((index, scene.masks(index)[number]) for index in range(LENGTH))
        for number, name in enumerate(("obj1", "obj2"))
    }
    found = read_points(track_text(paths, film, most=3), film)
    assert [name for name, _, _ in found] == ["obj1"] * 3 + ["obj2"] * 3
    assert [second for _, second, _ in found[:3]] == [0.0, 0.2, 0.6]
    places = [place for name, _, place in found if name == "obj1"]
    indices = [0, 2, 5]
    true = [tuple(paths["obj1"].middles[index]) for index in indices]
    assert point_error(places, true, film) < 0.002
    assert point_error([(x + 16.0, y) for x, y in true], true, film) == pytest.approx(0.1)
    assert read_points("obj1 at 0 s: (101, 50); nonsense", film) == []
    with pytest.raises(ValueError, match="as many of both"):
        point_error([], [], film)
