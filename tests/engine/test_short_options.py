"""Short forms of a command: recipes by name, data and weights by path, from any folder."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.cli import main
from pretrain.engine import short_options
from pretrain.engine.short_options import is_place, recipe_path, run_name, source_of, with_places, written_out
from pretrain.engine.trainer_settings import complete
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT
from tests.helpers.videos import make


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a folder of videos and a folder of another project's models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "my/videos").mkdir(parents=True)
    make(tmp_path / "my/videos/one.mp4", frames=8)
    return tmp_path


def test_a_recipe_is_found_by_name_from_any_folder(elsewhere: Path) -> None:
    assert recipe_path("videomae_b") == recipe_path("recipes/videomae_b.yaml") == str(ROOT / "recipes/videomae_b.yaml")
    assert recipe_path("data/shards") == str(ROOT / "recipes/data/shards.yaml")
    Path("videomae_b").write_text("model: null")
    assert recipe_path("videomae_b") == "videomae_b"
    with pytest.raises(FileNotFoundError, match=r"no recipe viclip_bb: did you mean .*viclip_b"):
        recipe_path("viclip_bb")


def test_a_run_without_a_logger_has_the_name_of_its_recipe() -> None:
    assert run_name(["fit", "-c", "{a: 1}", "-c", "recipes/data/shards.yaml", "-c", "x"]) == "shards"
    assert run_name(["test", "-c", "runs/mine/config.yaml"]) == "mine" and run_name(["fit"]) == "run"


def test_recipes_of_an_installed_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_options, "ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(short_options.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(short_options.site, "getuserbase", lambda: str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="install the package again"):
        recipe_path("videomae_b")
    (tmp_path / "share/tubelet/recipes").mkdir(parents=True)
    (tmp_path / "share/tubelet/recipes/videomae_b.yaml").touch()
    assert recipe_path("videomae_b") == str(tmp_path / "share/tubelet/recipes/videomae_b.yaml")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("my/videos", "Files"),
        ("my/list.csv", "Files"),
        ("https://host/list.csv", "Files"),
        ("s3://bucket/shards", "Shards"),
        ("pipe:cat x/{}", "Shards"),
        ("tars", "Shards"),
        ("latents", "Latents"),
    ],
)
def test_a_path_gets_the_source_that_fits_it(elsewhere: Path, path: str, kind: str) -> None:
    for name in ("tars", "latents"):
        Path(name).mkdir()
        Path(name, "000.tar").touch()
    Path("latents/latents.json").touch()
    assert source_of(path) == kind


def test_the_long_form_stays_as_it_is(elsewhere: Path) -> None:
    words = ["fit", "-c", "{data: {class_path: VideoData}}", "--data", "VideoData", "--data.train=Synthetic"]
    words += ["--data.init_args.val.init_args.samples", "3", "--model.metrics+=KNN", "--print_config"]
    assert written_out(words) == words
    assert written_out(["export", "-c", "x"]) == ["export", "-c", "x"] and written_out([]) == []


def test_data_and_weights_by_path(elsewhere: Path) -> None:
    short = ["fit", "-c", "videomae_tiny", "--data", "my/videos", "--weights", "umt_b", "--trainer.max_steps", "-1"]
    assert written_out(short) == [
        *("fit", "-c", str(ROOT / "recipes/videomae_tiny.yaml"), "--model.weights", "umt_b"),
        *("--trainer.max_steps", "-1", "--data.train=Files", "--data.train.path=my/videos", "--data.val=null"),
    ]
    kept = written_out(["fit", "--data=my/videos", "--data.val", "my/videos"])
    assert kept[1:3] == ["--data.val=Files", "--data.val.path=my/videos"] and "--data.val=null" not in kept
    both = ["--data.val_sets.a", "my/videos", "--data.init_args.val_sets.b=my/videos", "--data.val_sets.c=Synthetic"]
    named = ["--data.val_sets.a=Files", "--data.val_sets.a.path=my/videos"]
    named += ["--data.val_sets.b=Files", "--data.val_sets.b.path=my/videos", "--data.val_sets.c=Synthetic"]
    sets = written_out(["fit", "--data", "my/videos", *both])
    assert sets == ["fit", *named, "--data.train=Files", "--data.train.path=my/videos", "--data.val=null"]
    found = written_out(["predict", "-c", "viclip_b", "my/videos", "--out", "my-index"])
    assert found[3:] == ["--features.folder", "my-index", "--data.predict=Files", "--data.predict.path=my/videos"]
    shown = written_out(["show", "-c", "videomae_tiny", "--step", "2", "--out", "page"])
    assert shown[2:] == [str(ROOT / "recipes/videomae_tiny.yaml"), "--step", "2", "--out", "page"]
    with pytest.raises(ValueError, match="predict takes one place of data, not my/videos and more"):
        written_out(["predict", "my/videos", "more"])


def test_a_short_command_is_read_as_the_long_one(elsewhere: Path, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", "umt2_tiny", "--data", "my/videos", "--data.val", "my/videos"])
    data = truth["data"]["init_args"]
    for source in (data["train"], data["val"]):
        assert source["class_path"] == "datamodules.Files" and source["init_args"]["path"] == "my/videos"
    assert "noise" not in data["train"]["init_args"]
    assert str(ROOT / "recipes/data/shapes_vocab.txt") in yaml.safe_dump(truth), "a file that the recipe names"
    sets = ["--data.val_sets.near", "my/videos", "--data.val_sets.far=my/videos", "--data.val_sets.far.pictures=true"]
    data = resolved(capsys, ["-c", "umt2_tiny", "--data", "my/videos", *sets])["data"]["init_args"]
    assert data["val"] is None, "the recipe's own is of other data"
    near, far = data["val_sets"]["near"]["init_args"], data["val_sets"]["far"]["init_args"]
    assert near["path"] == far["path"] == "my/videos" and far["pictures"] and not near["pictures"]


def test_a_recipe_may_name_plain_paths(elsewhere: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = {"data": {"class_path": "VideoData", "init_args": {"train": "my/videos", "val": None}}}
    source = {"class_path": "Files", "init_args": {"path": "my/videos"}}
    assert with_places(recipe)["data"]["init_args"] == {"train": source, "val": None}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    mixed = {"class_path": "Mixture", "init_args": {"sources": ["my/videos", source]}}
    watch = [{"class_path": "Watch", "init_args": {"source": "my/videos"}}]
    inner = {"data": {"init_args": {"train": mixed, "val_sets": {"own": "my/videos"}}}, "trainer": {"callbacks": watch}}
    found = with_places(inner)
    assert found["data"]["init_args"]["train"]["init_args"]["sources"] == [source, source]
    assert (
        found["data"]["init_args"]["val_sets"]["own"]
        == found["trainer"]["callbacks"][0]["init_args"]["source"]
        == source
    )
    truth = resolved(capsys, ["-c", "videomae_tiny", "-c", "mine.yaml"])
    assert truth["data"]["init_args"]["train"]["class_path"] == "datamodules.Files"


def test_options_are_not_abbreviated_and_settings_in_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no option --trainer\.max_step: did you mean --trainer\.max_steps"):
        main(["fit", "-c", "videomae_tiny", "--trainer.max_step=3", "--print_config"])
    left_out: dict[str, Any] = {"enable_progress_bar": False}
    complete(left_out, "validate", "mine")
    assert left_out["default_root_dir"] == "runs/mine", "nothing is written into the current folder"
    for refused, remedy in (
        ({"accumulate_grad_batches": 2}, r"set data\.micro_batch"),
        ({"val_check_interval": 0.5}, "every N-th"),
    ):
        with pytest.raises(MisconfigurationException, match=remedy):
            complete(refused, "fit", "run")


def test_weights_lists_the_releases(capsys: pytest.CaptureFixture) -> None:
    main(["weights"])
    listed = capsys.readouterr().out
    assert re.search(r"^clip_b16 +CLIP +B/16 .* MIT", listed, re.MULTILINE)
    assert "hf://OpenGVLab/VideoMAE2/distill/vit_b_k710_dl_from_giant.pth" in listed
    with pytest.raises(ValueError, match="no release clip_x"):
        main(["weights", "clip_x"])


def test_a_list_that_is_not_there_is_no_class() -> None:
    assert is_place("gone.csv") and is_place("gone.jsonl") and not is_place("mine.Source") and not is_place("Files")
