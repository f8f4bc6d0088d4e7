"""A resumed run says what is other than before: settings, videos by name, and a model of another depth."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import VideoData
from datamodules.loading.sample_names import changed_names, joined_names
from datamodules.sources.files import Files
from models import PixelDecoder, VideoViT
from pretrain.cli import main
from pretrain.engine.resume_changes import changes
from pretrain.learning.masking import RunningCell, Tube
from pretrain.objectives import VideoMAE
from tests.helpers.methods import METHODS
from tests.helpers.runs import arguments
from tests.helpers.videos import make

RECIPE = METHODS["videomae"]


def test_changes_of_nested_settings() -> None:
    before = {
        "model": {
            "class_path": "A",
            "init_args": {"lr": 0.1, "mask": {"class_path": "M", "init_args": {"ratio": 0.9}}},
        },
        "trainer": {"max_steps": 4, "callbacks": [{"init_args": {"every": 1}}], "enable_progress_bar": True},
        "old": 1,
    }
    now = {
        "model": {
            "class_path": "A",
            "init_args": {"lr": 0.2, "mask": {"class_path": "N", "init_args": {"ratio": 0.5}}},
        },
        "trainer": {"max_steps": 4, "callbacks": [{"init_args": {"every": 2}}], "enable_progress_bar": False},
        "new": 1,
    }
    assert list(changes(before, before)) == []
    assert list(changes(before, now)) == [
        "  model.lr: 0.1, now 0.2",
        "  model.mask.class_path: M, now N",
        "  trainer.callbacks[0].every: 1, now 2",
    ]


def test_videos_are_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    before = joined_names(Files(str(tmp_path)))
    assert changed_names(before, joined_names(Files(str(tmp_path)))) == ""
    (tmp_path / "b.mp4").rename(tmp_path / "c.mp4")
    now = joined_names(Files(str(tmp_path)))
    assert changed_names(before, now) == "not there any more: b.mp4; new: c.mp4"
    assert changed_names(None, now) == "", "a checkpoint of before names none"


def test_the_error_of_fewer_videos_names_those_that_are_gone(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    before = VideoData(Files(str(tmp_path)), global_batch=1, frames=8, size=32).state_dict()
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(MisconfigurationException, match=r"samples 2, now 1 \(not there any more: a\.mp4\)"):
        VideoData(Files(str(tmp_path)), global_batch=1, frames=8, size=32).load_state_dict(before)


def vit(depth: int = 2, width: int = 48) -> VideoMAE:
    decoder = PixelDecoder(width, 32, 1, 2, 64, 8, 2, 4, 32)
    return VideoMAE(VideoViT(width, depth, 3, 96, 8, 2, 4, 32), decoder, Tube(), RunningCell())


def test_a_checkpoint_of_another_model_is_one_sentence() -> None:
    saved = vit().state_dict()
    with pytest.raises(
        RuntimeError, match=r"another model: encoder\.blocks has 2 there and 3 here\. Take the settings"
    ):
        vit(depth=3).load_state_dict(saved)
    with pytest.raises(
        RuntimeError, match=r"is \(48, 3, 2, 8, 8\) there and \(96, 3, 2, 8, 8\) here .*\(\d+ such differences"
    ):
        vit(width=96).load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"another model: more is only there\."):
        vit().load_state_dict({**saved, "more": torch.zeros(1)})
    vit().load_state_dict(saved)


def test_a_resumed_run_says_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in "abcd":
        make(videos / f"{name}.mp4", frames=8, width=32)
    data = ["--data.train=Files", f"--data.train.path={videos}", "--data.val=null", "--trainer.max_steps=1"]
    words = arguments(tmp_path, RECIPE, *data)
    main(words)
    (videos / "b.mp4").rename(videos / "e.mp4")
    main([*words, "--ckpt_path=last", "--trainer.max_steps=2", "--model.optim.base_lr=1e-3"])
    assert "which take the places of the old: not there any more: b.mp4; new: e.mp4" in caplog.text
    said = next(r.message for r in caplog.records if r.message.startswith("resumed at step 1 with other settings"))
    assert "\n  trainer.max_steps: 1, now 2" in said and "\n  model.optim.base_lr: 0.064, now 0.001" in said
    assert len(said.splitlines()) == 3
