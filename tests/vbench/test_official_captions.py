"""The adapters of GRiT and Tag2Text, over modules that answer as the official ones do."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.metrics.vbench.prompts import FILE
from pretrain.vbench.builder import Builder
from pretrain.vbench.official_captions import GRiT, Tag2Text
from tests.helpers.paths import ROOT
from tests.helpers.vbench import moving_frames


class DenseCaptioning:
    """The part of `vbench.third_party.grit_model` that is called; a dog and a red cat in each frame."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.begun = device, ""

    def initialize_model(self, model_weight: str) -> None:
        self.begun = f"captions of {model_weight}"

    def initialize_model_det(self, model_weight: str) -> None:
        self.begun = f"names of {model_weight}"

    def run_caption_tensor(self, image: Any) -> tuple[list, None]:
        assert image.shape[2] == 3
        if image.mean() < 1:
            return [], None
        texts = ["a brown dog", "a red cat"] if self.begun.startswith("captions") else ["dog", "cat"]
        return [(text, [0, i, 4, i + 4], ["dog", "cat"]) for i, text in enumerate(texts)], None


class Captioner(torch.nn.Module):
    """The part of Tag2Text that is called."""

    def generate(self, images: torch.Tensor, tag_input: None, return_tag_predict: bool) -> tuple[list, list]:
        assert images.shape[1:] == (3, 384, 384) and images.abs().max() < 3 and return_tag_predict
        return ["a ball pit"] * len(images), [""] * len(images)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `vbench` whose official modules are those above, and files of weights in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("grit.pth", "tag2text.pth"):
        torch.save({"model": {"weight": torch.ones(1)}}, name)
    (tmp_path / "vbench").mkdir()
    (tmp_path / "vbench" / FILE).write_text("[]")
    (tmp_path / "vbench/__init__.py").write_text("raise ImportError('not meant to be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    grit, tag2text = types.ModuleType("grit"), types.ModuleType("tag2text")
    grit.DenseCaptioning = DenseCaptioning  # pyrefly: ignore
    tag2text.tag2text_caption = lambda pretrained, image_size, vit: Captioner()  # pyrefly: ignore
    for name in ("third_party", "third_party.tag2Text"):
        monkeypatch.setitem(sys.modules, f"vbench.{name}", types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vbench.third_party.grit_model", grit)
    monkeypatch.setitem(sys.modules, "vbench.third_party.tag2Text.tag2text", tag2text)


def test_grit_gives_names_or_captions(package: None) -> None:
    frames = moving_frames(4).transpose(0, 1).clone()
    frames[1] = 0
    names = GRiT("grit.pth")(frames)
    assert [frame.names for frame in names] == [["dog", "cat"], [], ["dog", "cat"], ["dog", "cat"]]
    assert names[0].captions == names[0].names and names[0].boxes.tolist() == [[0, 0, 4, 4], [0, 1, 4, 5]]
    assert names[1].boxes.shape == (0, 4)
    captions = GRiT("grit.pth", captions=True)(frames)[0]
    assert captions.captions == ["a brown dog", "a red cat"]
    assert captions.names == ["dog", "dog"]  # VBench's: the first object of the frame


def test_tag2text_captions_frames_of_its_size(package: None) -> None:
    assert Tag2Text("tag2text.pth")(moving_frames(3).transpose(0, 1)) == ["a ball pit"] * 3


@pytest.mark.parametrize("kind", [GRiT, Tag2Text])
def test_weights_run_nothing_in_the_official_readers(kind: Any, package: None, tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ValueError, match=r"evil\.pkl cannot be read as weights only"):
        kind("evil.pkl")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at none\.pth"):
        kind("none.pth")
    assert not (tmp_path / "ran").exists()


def test_they_are_no_stand_ins(tmp_path: Path) -> None:
    builder = Builder(("color", "scene"), tmp_path, detector="grit", captioner="tag2text")
    assert builder.stand_ins() == {} and {"color", "scene"} <= set(builder.possible())
    assert [builder.needs(name) for name in builder.dimensions] == [["grit"], ["tag2text"]]
    with pytest.raises(FileNotFoundError, match="the weights grit are not at"):
        builder(0)


def test_what_the_official_code_lacks_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vbench/third_party").mkdir(parents=True)
    (tmp_path / "vbench" / FILE).write_text("[]")
    (tmp_path / "vbench/__init__.py").write_text("")
    (tmp_path / "vbench/third_party/grit_model.py").write_text("import detectron2")
    monkeypatch.syspath_prepend(str(tmp_path))
    # The command's own folder comes first on the path, and its name is that of the package.
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    with pytest.raises(ModuleNotFoundError, match=r"third_party.grit_model needs detectron2.*No module named"):
        GRiT("grit.pth")
