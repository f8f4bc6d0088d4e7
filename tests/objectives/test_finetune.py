"""Fine-tuning from the user's side: it starts from weights of any method, and its model round-trips."""

from pathlib import Path

import pytest
import torch

import models
from pretrain.cli import main
from pretrain.export.load_run import load_objective
from tests.helpers import videos
from tests.helpers.runs import ROOT, arguments, fit, losses

RECIPE = ["-c", str(ROOT / "recipes/finetune_tiny.yaml")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("tuned"), RECIPE, "--trainer.max_steps=1")


def test_to_transformers_with_the_names_of_classes(trained: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    main(["export", f"--ckpt={trained}", "--to=transformers", f"--out={tmp_path / 'hf'}"])
    theirs = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.id2label == {0: "left", 1: "right", 2: "up", 3: "down"}
    ours, _ = load_objective(str(trained))
    video = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(video.transpose(1, 2)).logits, ours.model(video), atol=1e-5, rtol=0)
    _comes_back(ours.model, tmp_path / "hf")
    assert "VideoMAEForVideoClassification" in (tmp_path / "hf/README.md").read_text()


@pytest.mark.parametrize("to", ["official", "safetensors"])
def test_out_and_back(trained: Path, tmp_path: Path, to: str) -> None:
    main(["export", f"--ckpt={trained}", f"--to={to}", f"--out={tmp_path / to}"])
    ours, _ = load_objective(str(trained))
    if to == "official":
        saved = torch.load(tmp_path / to / "checkpoint.pth", weights_only=True)["model"]
        assert {"patch_embed.proj.weight", "fc_norm.weight", "head.weight"} <= saved.keys()
    _comes_back(ours.model, tmp_path / to / ("checkpoint.pth" if to == "official" else ""))


def _comes_back(model: models.VideoClassifier, path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    report = models.load_weights(model, path)
    assert not report.unused and not report.missing
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_videos_of_several_classes(tmp_path: Path) -> None:
    """From a list with `labels` to the mean average precision of the classes."""
    for i, labels in enumerate(("0 2", "1", "", "3 0")):
        videos.make(tmp_path / f"{i}.mp4", frames=20)
        with open(tmp_path / "list.csv", "a") as file:
            file.write(("path,labels\n" if i == 0 else "") + f"{i}.mp4,{labels}\n")
    listed = [
        f"--data.init_args.{part}={{class_path: Files, init_args: {{path: {tmp_path / 'list.csv'}}}}}"
        for part in ("train", "val")
    ]
    several = [
        "--model.init_args.multi_label=true",
        "--model.init_args.smoothing=0",
        "--trainer.callbacks+=tests.helpers.runs.LossRecorder",
    ]
    command = arguments(
        tmp_path, RECIPE, *several, f"--trainer.callbacks.path={tmp_path}/losses.tsv", "--trainer.max_steps=2"
    )
    main([word for word in command if ".samples=" not in word] + listed)
    assert 0 < losses(tmp_path)["train", 2][0] < 1


METHODS = ["videomae", "umt", "umt2", "viclip", "vilp", "internvideo_mm", "finetune"]


@pytest.mark.parametrize("method", METHODS)
def test_a_probe_starts_from_a_run_of_any_method(method: str, tmp_path: Path) -> None:
    """All of the encoder is loaded from the checkpoint, and the report names the checkpoint's other tensors."""
    run = fit(tmp_path, ["-c", str(ROOT / f"recipes/{method}_tiny.yaml")], "--trainer.max_steps=1")
    theirs, _ = load_objective(str(run))
    encoder = theirs.model.encoder if method == "finetune" else theirs.encoder
    expected = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    probe = models.LinearProbe(encoder, 4)
    report = models.load_weights(probe, next((run / "checkpoints").glob("*.ckpt")), "none")
    assert {n for n in report.missing if n.startswith("encoder.")} == set()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in probe.encoder.state_dict().items())
    others = {name.partition(".")[0] for name in report.unused}
    assert others & {"decoder", "text", "temperature", "head", "fc_norm"}, "all that is not the encoder is named"


def test_what_is_left_of_a_checkpoint_is_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The report names all unused tensors of a pretrained checkpoint: its decoder and its last norm."""
    caplog.set_level("INFO")
    sizes = dict(width=96, depth=3, heads=4, mlp=384, patch=8, tubelet=2, frames=8, size=32)
    state = {f"encoder.{name}": tensor for name, tensor in models.VideoViT(**sizes).state_dict().items()}
    torch.save({**state, "decoder.mask_token": torch.zeros(1, 1, 8)}, tmp_path / "pretrained.pt")
    fit(tmp_path, RECIPE, f"--model.init_args.weights={tmp_path / 'pretrained.pt'}", "--trainer.max_steps=1")
    assert "not used from the checkpoint: encoder.norm.weight, encoder.norm.bias, decoder.mask_token" in caplog.text
    assert "left as they were in the model: fc_norm.weight" in caplog.text


def test_k_nearest_training_videos(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With an incomplete last batch; padded rows count once."""
    recipe = ["-c", str(ROOT / "recipes/umt_tiny.yaml"), "-c", str(ROOT / "recipes/eval/knn.yaml")]
    more = ["--data.init_args.test=Synthetic", "--data.init_args.test.samples=5", "--data.init_args.test.size=64"]
    small = ["frames=4", "size=32", "workers=0", "global_batch=4", "train.init_args.samples=10"]
    place = [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.accelerator=cpu"]
    options = [f"--data.init_args.{option}" for option in small]
    main(["test", *recipe, *more, *options, *place, "--allow_untrained=true"])
    assert "remembered 10" in capsys.readouterr().out
