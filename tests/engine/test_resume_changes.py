"""A resumed run says what is other than before: settings, videos by name, and a model of another depth."""

import logging
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import VideoData
from datamodules.loading.sample_names import changed_names, joined_names
from datamodules.sources.files import Files
from pretrain.cli import main
from pretrain.engine.resume_changes import changes
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


def test_a_resumed_run_says_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in "abcd":
        make(videos / f"{name}.mp4", frames=8, width=32)
    data = ["--data.train=Files", f"--data.train.path={videos}", "--data.val=null", "--trainer.max_steps=1"]
    words = arguments(tmp_path, RECIPE, *data)
    main(words)
    with pytest.raises(RuntimeError, match=r"another model: encoder\.blocks has 4 there and 3 here\. Take"):
        main([*words, "--ckpt_path=last", "--model.encoder.depth=3"])
    (videos / "b.mp4").rename(videos / "e.mp4")
    main([*words, "--ckpt_path=last", "--trainer.max_steps=2", "--model.optim.base_lr=1e-3"])
    assert "which take the places of the old: not there any more: b.mp4; new: e.mp4" in caplog.text
    said = next(r.message for r in caplog.records if r.message.startswith("resumed at step 1 with other settings"))
    assert "\n  trainer.max_steps: 1, now 2" in said and "\n  model.optim.base_lr: 0.064, now 0.001" in said
    assert len(said.splitlines()) == 3
