"""Tools by questions and wishes: what they say, which files they make, and what is said where a model is missing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.reader import PyAV
from datamodules.making.captions import Captioner
from datamodules.sources.shape_scenes import MovingShape, Scene
from datamodules.sources.synthetic import COLOURS
from pretrain.assistant.appearance import describe_shape, fitting, parts_of
from pretrain.assistant.artefacts import Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.prompts import Points
from pretrain.assistant.toolbox import toolbox
from pretrain.assistant.tools import describing, generating, reading, recognising
from pretrain.assistant.tracker import Cancelled
from tests.helpers import videos
from tests.helpers.scenes import click, crossing, write_scene

LENGTH = 10


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("films") / "film.mp4", crossing(LENGTH))


def open_assistant(folder: Path, film: Path, *tools) -> Assistant:
    made = Assistant(Session(folder / "session"), FlowTracker(), [film.parent], toolbox(*tools))
    made.load(film)
    return made


@pytest.fixture
def assistant(tmp_path: Path, film: Path) -> Iterator[Assistant]:
    made = open_assistant(tmp_path, film)
    yield made
    made.close()


def test_removing_fills_what_was_behind(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0))
    answer = assistant.ask("remove it", ["obj1"])
    assert [call.tool for call in answer.calls] == ["track", "remove"], answer.text
    made = assistant.artefact(answer.calls[1].made[0])
    assert made.kind == "film" and made.object_id == "obj1" and made.parents == ("film1", "track1")
    without = Scene(scene.shapes[1:], LENGTH)
    with PyAV().open(str(made.path)) as video:
        assert len(video) == LENGTH and video.fps == scene.fps
        frames = video.frames(range(LENGTH)).astype(int)
    for index in range(LENGTH):
        hole = scene.masks(index)[0]
        assert np.abs(frames[index][hole] - without.frames([index])[0][hole].astype(int)).mean() < 4
    behind = frames[:, 20:40, 10:50]
    assert np.abs(np.diff(behind, axis=0)).mean() < 2, "it is steady in time"


def test_cutting_out_gives_a_picture_or_a_film(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0))
    tool = assistant.tools["cut_out"]
    made = tool.run(assistant, tool.read({"object": "obj1", "frame": 0})).artefacts[0]
    with Image.open(made.path) as picture:
        pixels = np.array(picture)
    assert picture.mode == "RGBA" and abs(int((pixels[..., 3] > 0).sum()) - int(scene.masks(0)[0].sum())) < 30
    answer = assistant.ask("cut it out", ["obj1"])
    with PyAV().open(str(assistant.artefact(answer.calls[-1].made[0]).path)) as video:
        frame = video.frames([5])[0]
    assert frame[80, 100].min() > 240 and np.abs(frame[30, 30].astype(int) - COLOURS["red"]).max() < 25


def test_a_film_is_cropped_and_shown(assistant: Assistant) -> None:
    answer = assistant.ask("crop from 0.25 to 0.75 s")
    made = assistant.artefact(answer.calls[0].made[0])
    film = assistant.show(made.id)
    assert film.frames == 4 and np.abs(assistant.frame(0).astype(int) - crossing(LENGTH).frames([2])[0]).mean() < 3
    assert "there is no frame: the film lasts" in assistant.ask("crop from 100 to 200 s").text
    assert assistant.artefact(made.id).parents == ("film1",)


def test_films_of_two_rates_are_cropped_by_time(tmp_path: Path) -> None:
    path, times = videos.two_rates(tmp_path / "v.mkv")
    made = open_assistant(tmp_path, Path(path))
    assert made.film is not None and made.film.seconds(60) == pytest.approx(times[60], abs=2e-3)
    answer = made.ask("crop from 2 to 6 s")
    with PyAV().open(str(made.artefact(answer.calls[0].made[0]).path)) as video:
        assert [videos.number(frame) for frame in video.frames(range(len(video)))] == list(range(48, 60))
    made.close()


def test_movement_is_told_from_tracks(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    for number in range(2):
        assistant.point(click(scene, number))
    assert "obj1 moves right from 0.0 s to 1.1 s, 16 pixels a second" in assistant.ask("where does obj1 go?").text
    text = assistant.ask("what does obj2 do after it passes obj1?").text
    assert "obj2 passes obj1" in text or "obj2 never comes near obj1" in text
    assert "obj2 moves up" in assistant.ask("which way does it move?", ["obj2"]).text


def test_passing_is_seen(tmp_path: Path) -> None:
    shapes = (
        MovingShape("circle", "red", 9.0, (20.0, 40.0), (5.0, 0.0)),
        MovingShape("square", "blue", 9.0, (64.0, 58.0), (0.0, 0.0)),
    )
    assistant = open_assistant(tmp_path, write_scene(tmp_path / "pass.mp4", Scene(shapes, 18)))
    for number in range(2):
        assistant.point(click(Scene(shapes, 18), number))
    text = assistant.ask("what does obj1 do after it passes obj2?").text
    assert "obj1 passes obj2 at 1.1 s (frame 9)" in text and "obj1 moves right from 1.1 s to 2.1 s" in text
    assert "obj2 stays where it is" in assistant.ask("where does obj2 go?").text
    assistant.close()


def test_things_are_found_by_words_and_described(assistant: Assistant) -> None:
    answer = assistant.ask("what shape is the red one?")
    assert [call.tool for call in answer.calls] == ["find", "describe_region"]
    assert "circle, mostly red" in answer.text and answer.calls[1].arguments["object"] == "obj1"
    assert "obj2 moves up" in assistant.ask("where does the blue square go?").text
    none = assistant.ask("find the green triangle")
    assert none.calls[0].failed and "found: blue square, red circle" in none.text


def test_forms_and_colours_of_shapes_are_named() -> None:
    seen = []
    for form in ("circle", "square", "triangle", "cross"):
        for number, colour in enumerate(COLOURS):
            for radius in (9.0, 13.5):
                scene = Scene((MovingShape(form, colour, radius, (60.3, 48.6), (0, 0)),), 1, noise=4, seed=number)
                rgb = scene.frames([0])[0]
                (part,) = parts_of(rgb)
                about = describe_shape(rgb, part)
                seen.append((about.shape, about.colour) == (form, colour))
    assert np.mean(seen) == 1.0
    shapes = [
        MovingShape("circle", colour, 9.0, (x, 50.0), (0, 0)) for colour, x in (("red", 20), ("red", 60), ("blue", 100))
    ]
    rgb = Scene(tuple(shapes), 1).frames([0])[0]
    seen = [describe_shape(rgb, part) for part in parts_of(rgb)]
    assert [len(fitting(words, seen)) for words in ("red circle", "blue", "circle", "the thing", "green")] == [
        2,
        1,
        3,
        0,
        0,
    ]
    (left,) = fitting("the red circle on the right", seen)
    assert 55 < seen[left].middle[0] < 65


def test_missing_models_are_said_in_a_sentence(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0))
    for wish, words in (
        ("generate a film of a cat", "no weights that generate films"),
        ("replace it by a cat", "no weights that change pictures"),
        ("make the film look like winter", "no weights that change pictures"),
        ("describe the film", "no model that captions pictures"),
        ("recognise the action", "no classifier of actions"),
        ("search my videos for cats", "no index of your videos"),
        ("why is it red?", "no language model to answer"),
    ):
        answer = assistant.ask(wish, ["obj1"] if " it " in wish else [])
        assert words in answer.text and answer.calls[-1].failed and not answer.calls[-1].made, wish


class Paints:
    """An editor that paints."""

    def replace(self, rgb: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
        return np.where(mask[..., None], np.uint8(0), rgb)

    def edit(self, rgb: np.ndarray, prompt: str) -> np.ndarray:
        return 255 - rgb


class Generates:
    """A cascade that writes a film."""

    def film(self, request, path: Path) -> bool:
        self.request = request
        write_scene(path, crossing(4))
        return True


class Captions(Captioner):
    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        return ["red" if clip[0, 30, :40, 0].max() > 180 else "grey" for clip in clips]


def read_two(rgb: np.ndarray) -> list[reading.Line]:
    square = np.array([[0, 0], [10, 0], [10, 5], [0, 5]], float)
    return [reading.Line("below", 0.9, square + np.array([15, 28])), reading.Line("above", 0.9, square)]


def test_tools_with_models_work_on_the_film(tmp_path: Path, film: Path) -> None:
    cascade = Generates()
    models = (
        generating.tools(cascade, {"stages": ("base",)}, Paints()),  # pyrefly: ignore
        describing.tools(None, Captions()),
        reading.tools(read_two),
        recognising.tools(None, lambda words, most: [(0.5, f'a "{words}".mp4')][:most]),
    )
    assistant = open_assistant(tmp_path, film, *models)
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0))
    answer = assistant.ask("replace it by a hole", ["obj1"])
    with PyAV().open(str(assistant.artefact(answer.calls[-1].made[0]).path)) as video:
        assert video.frames([3])[0][scene.masks(3)[0]].mean() < 20
    answer = assistant.ask("edit the film to negative")
    assert answer.calls[0].arguments == {"prompt": "negative"} and not answer.calls[0].failed
    answer = assistant.ask("generate a film of a cat")
    assert cascade.request.prompt == "a cat" and assistant.show(answer.calls[0].made[0]).frames == 4
    assistant.show("film1")
    answer = assistant.ask("describe the film")
    assert answer.text == "Second 0 to 1.2, caption: red"
    assert assistant.artefact(answer.calls[0].made[0]).path.read_text() == answer.text + "\n"
    assert assistant.ask("read the text").text == "The text at frame 0: above\nbelow"
    tool = assistant.tools["read_text"]
    assert tool.run(assistant, tool.read({"point": [17, 30]})).said == "The text at frame 0 there: below"
    assert tool.run(assistant, tool.read({"point": [90.0, 90.0]})).said == "No text was found at frame 0 there."
    assert "There is no object" not in assistant.ask("search my videos for cats").text
    table = next(each for each in assistant.session.all() if each.kind == "table")
    assert table.path.read_text() == 'score,video\n0.5000,"a ""cats"".mp4"\n'
    assistant.close()


def test_text_on_an_object_is_read(tmp_path: Path, film: Path) -> None:
    assistant = open_assistant(tmp_path, film, reading.tools(read_two))
    assistant.point(click(crossing(LENGTH), 0))
    assert assistant.ask("read it", ["obj1"]).text == "The text at frame 0 there: below"
    assistant.close()


def test_a_long_tool_is_cancelled_and_leaves_nothing(assistant: Assistant) -> None:
    assistant.point(click(crossing(LENGTH), 0))
    assistant.track()
    made = len(assistant.session.all())
    steps: list[int] = []
    with pytest.raises(Cancelled):
        assistant.ask("remove it", ["obj1"], progress=lambda d, t: steps.append(d), cancelled=lambda: len(steps) > 4)
    assert len(assistant.session.all()) == made and not list(assistant.session.folder.glob("*.mp4"))
    assert assistant.turns == []


def test_questions_are_checked(assistant: Assistant) -> None:
    for wrong in ("", "  ", "x" * 4001):
        with pytest.raises(ValueError, match="1 to 4000 characters"):
            assistant.ask(wrong)
    with pytest.raises(ValueError, match="no object 'obj3'"):
        assistant.ask("what is it?", ["obj3"])
    with pytest.raises(ValueError, match="outside"):
        assistant.point(Points(0, ((500.0, 1.0),), (True,)))
    tool = assistant.tools["segment"]
    with pytest.raises(ValueError, match=r"segment: frame: .*greater than or equal to 0"):
        tool.read({"frame": -1, "point": [1, 2]})
    assert "covers" in tool.run(assistant, tool.read({"frame": 0, "point": [20.0, 30.0]})).said
