"""Exports: pycocotools decodes the masks, boxes are the masks' own, the film with marks shows them, nothing is half."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.reader import PyAV
from pretrain.assistant.artefacts import Limits, Session
from pretrain.assistant.calls import Answer, Call, Turn
from pretrain.assistant.export import FORMATS, Scene, export
from pretrain.assistant.film import Film
from pretrain.assistant.object_list import ObjectList
from pretrain.chat.rle import compressed
from tests.helpers.videos import make

SIZE = (48, 80)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Six frames with two objects: one moves and leaves at frame 4, one was looked for in frame 2 only."""
    session = Session(tmp_path / "session")
    loaded = session.refer("film", Path(make(tmp_path / "film.mp4", frames=6, height=SIZE[0], width=SIZE[1])))
    objects = ObjectList(session, loaded.id, SIZE)
    one, two = objects.add(), objects.add()
    for frame in range(6):
        objects.lock(one.id, frame, _square(5 + 10 * frame) if frame < 4 else np.zeros(SIZE, bool))
    objects.lock(two.id, 2, _square(30))
    objects.rename(two.id, "=the ball")
    answer = Answer("It leaves.", (Call("track", {"objects": [one.id]}, "Tracked.", (one.track or "",)),))
    turns = [Turn("What does obj1 do?", answer, ("obj1",), 3)]
    return Scene(session, Film(loaded.id, "film.mp4", 6, 24.0, SIZE), [one, two], turns)


def _square(left: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:22, left : left + 12] = True
    return mask


def test_pycocotools_decodes_the_masks(scene: Scene) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    content = json.loads(export("masks", scene).path.read_text())
    (video,) = content["videos"]
    assert (video["height"], video["width"], video["length"]) == (*SIZE, 6)
    one, two = content["annotations"]
    assert (one["object"], two["name"]) == ("obj1", "=the ball")
    assert [each is None for each in two["segmentations"]] == [True, True, False, True, True, True]
    for frame, mask in scene.masks(scene.objects[0]):
        found = one["segmentations"][frame]
        np.testing.assert_array_equal(coco.decode(found).astype(bool), mask)
        assert one["bboxes"][frame] == (coco.toBbox(found).astype(int).tolist())
    assert one["bboxes"][1] == [15, 10, 12, 12] and one["bboxes"][5] == [0, 0, 0, 0]


def test_run_lengths_are_the_letters_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    drawn = np.random.RandomState(0)
    masks = [drawn.rand(7, 9) < 0.5, np.zeros((4, 5), bool), np.ones((300, 500), bool), _square(0)]
    masks.append(np.kron(drawn.rand(9, 11) < 0.4, np.ones((40, 40), bool)).astype(bool))
    for mask in masks:
        assert compressed(mask) == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_pngs_hold_the_masks_by_object_and_frame(scene: Scene) -> None:
    with zipfile.ZipFile(export("pngs", scene).path) as archive:
        assert archive.namelist() == [*(f"obj1/{i:06d}.png" for i in range(6)), "obj2/000002.png"]
        found = np.array(Image.open(io.BytesIO(archive.read("obj1/000003.png"))))
    np.testing.assert_array_equal(found, _square(35))


def test_boxes_are_those_of_the_masks_and_no_name_is_a_formula(scene: Scene) -> None:
    rows = json.loads(export("boxes", scene).path.read_text())
    assert [(row["object"], row["frame"]) for row in rows] == [
        ("obj1", 0),
        ("obj1", 1),
        ("obj1", 2),
        ("obj1", 3),
        ("obj2", 2),
    ]
    about = {"left": 25, "top": 10, "right": 37, "bottom": 22, "pixels": 144}
    assert rows[2] == {"frame": 2, "seconds": 0.083333, "object": "obj1", "name": "obj1", **about}
    with open(export("csv", scene).path, newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["obj1"] * 4 + ["'=the ball"]
    assert {key: int(table[2][key]) for key in about} == about


def test_the_film_with_marks_has_the_colours_of_visible_objects_in_their_masks(scene: Scene) -> None:
    scene.objects[1].visible = False
    with (
        PyAV().open(str(export("film", scene).path)) as marked,
        PyAV().open(str(scene.session.get(scene.film.artefact).path)) as plain,
    ):
        assert len(marked) == 6 and marked.size == SIZE
        drawn, before = (film.frames(range(6)).astype(int) for film in (marked, plain))
    inside = _square(5)
    distances = [np.abs(frames[0][inside] - scene.objects[0].colour).mean() for frames in (drawn, before)]
    assert distances[0] < 0.8 * distances[1]
    change = np.abs(drawn - before)
    assert change[0][30:].mean() < 5, "outside the mask"
    assert change[2].mean() < 5 + change[1].mean(), "a hidden object is not drawn"
    assert change[5].mean() < 5, "out of sight"


def test_the_conversation_lists_what_ran_on_what(scene: Scene) -> None:
    content = json.loads(export("conversation", scene).path.read_text())
    (turn,) = content["turns"]
    assert turn["question"] == "What does obj1 do?" and turn["answer"]["calls"][0]["tool"] == "track"
    made = turn["answer"]["calls"][0]["made"][0]
    assert next(each for each in content["artefacts"] if each["id"] == made)["parents"] == [scene.film.artefact]


def test_exports_are_artefacts_of_the_film_and_its_masks(scene: Scene) -> None:
    made = export("csv", scene)
    assert made.tool == "export" and made.parents == (scene.film.artefact, *(each.track for each in scene.objects))


def test_what_cannot_be_exported_is_named_and_leaves_nothing(scene: Scene, tmp_path: Path) -> None:
    session, film = scene.session, scene.film
    with pytest.raises(ValueError, match="point at something first"):
        export("masks", Scene(session, film, [], scene.turns))
    with pytest.raises(ValueError, match="ask something first"):
        export("conversation", Scene(session, film, scene.objects))
    with pytest.raises(ValueError, match=r"'../x' is no format"):
        export("../x", scene)
    before = sorted(path.name for path in session.folder.iterdir())
    session.limits = Limits(bytes=session.used() + 10)
    for name in FORMATS:
        with pytest.raises(ValueError, match="MiB are allowed"):
            export(name, scene)
    assert sorted(path.name for path in session.folder.iterdir()) == before
