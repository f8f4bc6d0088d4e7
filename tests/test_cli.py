"""The command line: validate, test, predict, export, and errors that name the cause and the remedy."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import models
from pretrain.cli import main, settings_of
from pretrain.engine.arguments import with_nulls, with_recipes
from pretrain.errors import reports_errors
from pretrain.export.load_run import load_objective
from pretrain.features.videos import read_features
from tests.helpers.methods import METHODS
from tests.helpers.runs import arguments, fit
from tests.helpers.videos import make

RECIPE = METHODS["videomae"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of six steps."""
    return fit(tmp_path_factory.mktemp("trained"), RECIPE)


def checkpoint(run: Path) -> str:
    return str(run / "checkpoints" / "step=0000006.ckpt")


def command(name: str, run: Path, *more: str) -> None:
    main([name, *arguments(run.parent, RECIPE, *more)[1:]])


def test_null_reaches_a_class_within_a_class() -> None:
    """jsonargparse alone would read it as the string "None"."""
    words = ["--model.init_args.teacher.init_args.weights=null", "--model.teacher.random", "3"]  # long and short
    words += ["--model.teacher.model.out", "null"]
    found = settings_of(["-c", "recipes/umt_b.yaml", *words])["model"]["init_args"]["teacher"]["init_args"]
    assert found["weights"] is None and found["random"] == 3 and found["model"]["init_args"]["out"] is None
    key = "--data.init_args.train.init_args.options.token"  # in a dict it is unchanged
    untouched = [f"{key}=null", "--data.train.options.token", "null", "--seed_everything"]
    assert with_nulls(untouched) == untouched


@pytest.mark.parametrize("name", ["validate", "test"])
def test_evaluation_of_a_checkpoint(trained: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    more = ["--data.init_args.test=Synthetic", "--data.init_args.test.init_args.samples=3"] if name == "test" else []
    command(name, trained, f"--ckpt_path={checkpoint(trained)}", *more)
    assert f"{'val' if name == 'validate' else 'test'}/loss" in capsys.readouterr().out


def test_features_of_ones_own_videos(trained: Path, tmp_path: Path) -> None:
    """A folder with a space and other scripts in its name, and a broken file that is named and left out."""
    folder = tmp_path / "my vidéos 影片"
    folder.mkdir()
    for name in ("a b.mp4", "ключ.mp4", "c.mp4"):
        make(folder / name)
    (folder / "text.mp4").write_text("not a video")
    source = ["--data.init_args.predict=Files", f"--data.init_args.predict.init_args.path={folder}"]
    command(
        "predict",
        trained,
        f"--ckpt_path={checkpoint(trained)}",
        *source,
        f"--features.folder={tmp_path / 'out'}",
        "--data.init_args.micro_batch=1",
    )
    # With one video per batch the broken one leaves an empty batch, which writes nothing.
    (file,) = (tmp_path / "out").glob("*.safetensors")
    names, tensors = read_features(file)
    assert sorted(Path(name).name for name in names) == sorted(["a b.mp4", "ключ.mp4", "c.mp4"])
    assert tensors["features"].shape == (3, 192)

    model, _ = load_objective(str(trained))
    from datamodules import Files, VideoData

    data = VideoData(predict=Files(str(folder)), global_batch=4, frames=8, size=32, workers=0)
    import lightning.pytorch as pl

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    for found, made in trainer.predict(model, data):
        for name, row in zip(found, made["features"], strict=True):
            torch.testing.assert_close(torch.from_numpy(tensors["features"][names.index(name)]), row)


@pytest.mark.parametrize("decoder", [True, False])
def test_export_to_transformers(trained: Path, tmp_path: Path, decoder: bool, capsys: pytest.CaptureFixture) -> None:
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "hf"
    main(["export", f"--ckpt={trained}", "--to=transformers", f"--out={out}", f"--decoder={str(decoder).lower()}"])
    assert "features equal to" in capsys.readouterr().out
    ours, _ = load_objective(str(trained))
    video = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        expected = ours.encoder(video)
        theirs = transformers.AutoModel.from_pretrained(out).eval()
        torch.testing.assert_close(theirs(video.transpose(1, 2)).last_hidden_state, expected, atol=1e-5, rtol=0)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(out)
    assert tuple(processor.image_mean) == ours.normalize.values[0] and processor.crop_size["height"] == 32
    card = (out / "README.md").read_text()
    assert "(VideoMAE; " in card and 'from_pretrained("hf"' in card and "PATH" not in card
    assert "global_batch: 4" in (out / "recipe.yaml").read_text() and "[recipe.yaml](recipe.yaml)" in card
    # A classifier that starts from it has to initialise its head only.
    _, info = transformers.VideoMAEForVideoClassification.from_pretrained(out, num_labels=3, output_loading_info=True)
    assert all(name.startswith(("classifier", "fc_norm")) for name in info["missing_keys"])
    # Our encoder loads it.
    report = models.load_weights(ours.encoder, out)
    assert not report.missing


@pytest.mark.parametrize("to", ["safetensors", "official"])
def test_export_and_back(trained: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / to
    main(["export", f"--ckpt={checkpoint(trained)}", f"--to={to}", f"--out={out}"])
    ours, _ = load_objective(str(trained))
    fresh = load_objective(str(trained))[0]
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    report = models.load_weights(fresh, out / "checkpoint.pth" if to == "official" else out)
    assert not report.unused and not report.missing
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), fresh.parameters(), strict=True))
    if to == "safetensors":
        assert json.loads((out / "config.json").read_text())["encoder"]["init_args"]["width"] == 192


def test_training_starts_from_exported_weights(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fit(tmp_path, RECIPE, f"--model.init_args.weights={checkpoint(trained)}", "--trainer.max_steps=1")
    assert "tensors loaded (tubelet layout)" in caplog.text


# Bad input


def fails(capsys: pytest.CaptureFixture, args: list[str]) -> str:
    """The message that the command exits with."""
    try:
        code = reports_errors(main)(args)
    except SystemExit as stop:  # of the parser
        code = stop.code
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--model.init_args.decoder_musk=1", "decoder_musk"),
        ("--trainer.max_stpes=3", "max_stpes"),
        ("--model.init_args.mask.init_args.ratio=high", "ratio"),
        ("--data.init_args.train.class_path=Shardz", "Shardz"),
        ("--model.class_path=VideoMEA", "VideoMEA"),
    ],
)
def test_a_misspelt_key_names_itself(option: str, word: str, capsys: pytest.CaptureFixture) -> None:
    assert word in fails(capsys, ["fit", *RECIPE, option])


def test_a_misspelt_key_in_a_recipe_names_itself(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("data:\n  init_args:\n    globl_batch: 4\n")
    assert "globl_batch" in fails(capsys, ["fit", *RECIPE, "-c", str(mine)])


def test_a_missing_recipe(capsys: pytest.CaptureFixture) -> None:
    assert "nowhere.yaml" in fails(capsys, ["fit", "-c", "nowhere.yaml"])


def test_a_recipe_that_is_nested_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"the recipe .*deep\.yaml is no YAML"):
        with_recipes(["plan", "-c", str(tmp_path / "deep.yaml")], {})


def test_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?s)none-here.*"):
        fit(
            tmp_path,
            RECIPE,
            "--data.init_args.train.class_path=Shards",
            f"--data.init_args.train.init_args.path={tmp_path}/none-here",
        )


def test_a_run_without_a_length(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"One pass over 10 videos is 3 steps of 4"):
        fit(tmp_path, RECIPE, "--trainer.max_steps=-1")


def test_a_batch_that_the_devices_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="global_batch 4 is no multiple of 1 devices x micro_batch 3"):
        fit(tmp_path, RECIPE, "--data.init_args.micro_batch=3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.init_args.size=40"], "^image size 40 is not a multiple of the patch 16"),
        (["--data.init_args.frames=7"], "^7 frames are not a multiple of the tubelet 2"),
        (["--model.init_args.encoder.init_args.frames=16"], "^encoder and decoder differ"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, options: list[str], words: str) -> None:
    """Only the error of the object is raised, without the parser's message."""
    with pytest.raises(MisconfigurationException, match=words):
        fit(tmp_path, RECIPE, *options)


def test_a_grid_that_the_decoder_s_mask_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even grid"):
        fit(tmp_path, RECIPE, "--data.init_args.size=48")


def test_a_folder_that_holds_a_run(trained: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"already holds a run .*--ckpt_path last"):
        fit(trained.parent, RECIPE)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"nothing to resume.*--ckpt_path auto"):
        fit(tmp_path, RECIPE, "--ckpt_path=last")


def test_resuming_with_other_data(trained: Path) -> None:
    with pytest.raises(MisconfigurationException, match="global_batch 4, now 2"):
        fit(trained.parent, RECIPE, "--ckpt_path=last", "--data.init_args.global_batch=2", "--trainer.max_steps=8")


def test_a_checkpoint_of_another_architecture(trained: Path, tmp_path: Path) -> None:
    wide = ["--model.init_args.encoder.init_args.width=96", "--model.init_args.decoder.init_args.encoder_width=96"]
    with pytest.raises(ValueError, match=r"another architecture: encoder.*\(96"):
        fit(tmp_path, RECIPE, *wide, f"--model.init_args.weights={checkpoint(trained)}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.ckpt", "no checkpoint at"),
        (lambda folder: _write(folder / "cut.ckpt", b"PK\3\4 and then nothing"), "cut"),
        (lambda folder: _save(folder / "other.ckpt", {"state_dict": {}}), "carries no recipe"),
    ],
)
def test_export_of_what_is_no_checkpoint(make, words: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = fails(capsys, ["export", f"--ckpt={make(tmp_path)}", "--to=official", f"--out={tmp_path / 'out'}"])
    assert words in said
    assert not (tmp_path / "out").exists()


def test_export_does_not_overwrite(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    said = fails(capsys, ["export", f"--ckpt={trained}", "--to=official", f"--out={tmp_path}"])
    assert "is not an empty folder" in said and (tmp_path / "mine.txt").read_text() == "precious"


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _save(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


def test_the_run_sets_the_precision_of_float32_products(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        fit(tmp_path, RECIPE, "--trainer.max_steps=1", "--float32_matmul_precision=high")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
