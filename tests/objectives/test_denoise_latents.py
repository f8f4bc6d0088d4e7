"""The tiny LaVie trains on latents as on videos: equal losses, resumed bit for bit with buckets; others are refused."""

from pathlib import Path

import pytest
import torch
import yaml

from datamodules import Latents, Synthetic
from datamodules.clips.rectangles import CentreRectangle
from datamodules.loading.latent_batches import EvalLatents
from datamodules.sources.buckets import Bucket
from models.diffusion.autoencoder import PixelAutoencoder
from models.text import CLIPText
from pretrain.cli import main
from pretrain.export.load_run import build
from pretrain.features.latent_encoders import LatentEncoders
from pretrain.features.latents import make_latents
from pretrain.learning.prompts import Prompts
from pretrain.learning.teachers import Frozen
from pretrain.objectives.denoise import Denoise
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT
from tests.helpers.runs import losses, run_together, weights

RECIPE = str(ROOT / "recipes/lavie_base_tiny.yaml")
VIDEOS = Synthetic(12, size=32, length=12, noise=0, texture=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents by the recipe's encoders, of two lengths."""
    out = tmp_path_factory.mktemp("latents")
    given = yaml.safe_load(Path(RECIPE).read_text())["model"]["init_args"]
    text = CLIPText(**given["text"]["init_args"]["model"]["init_args"])
    prompts = Prompts(Frozen(text, random=given["text"]["init_args"]["random"]))
    encoders = LatentEncoders(PixelAutoencoder(**given["vae"]["init_args"]["model"]["init_args"]), prompts)
    buckets, quiet = [Bucket(4, 16, 16), Bucket(1, 16, 16)], {"workers": 0, "progress": False}
    make_latents(VIDEOS, str(out), encoders, buckets, stride=2, dtype="float32", **quiet)
    return out


@pytest.fixture
def batches(folder: Path) -> tuple[dict, dict]:
    """The same two clips as videos and as latents."""
    every = EvalLatents(Latents(str(folder)), 0, 1, 2)
    latents = next(batch for batch in (every[k] for k in range(len(every))) if batch["latents"].shape[2] == 4)
    clips = [CentreRectangle()(VIDEOS[i].content.frames([2, 4, 6, 8]), (16, 16)) for i in (0, 1)]
    video = torch.stack([torch.from_numpy(clip) for clip in clips]).permute(0, 4, 1, 2, 3)
    del latents["weight"], latents["skipped"]
    return {"video": video, "name": latents["name"], "text": [VIDEOS[i].text for i in (0, 1)]}, latents


def objective(capsys: pytest.CaptureFixture, *more: str) -> Denoise:
    truth = resolved(capsys, ["-c", RECIPE], *more)
    torch.manual_seed(0)
    return build(truth["model"])


def test_losses_on_latents_equal_those_on_videos(batches: tuple[dict, dict], capsys: pytest.CaptureFixture) -> None:
    model, (video, latents) = objective(capsys), batches
    assert latents["text"] == video["text"]
    with torch.no_grad():
        for mode in (True, False):
            model.train(mode)
            on_video, on_latents = model(video), model(model.on_host(latents))
            for name, loss in on_video.items():
                torch.testing.assert_close(loss, on_latents[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--model.init_args.text.init_args.random=1", "another text encoder"),
        ("--model.init_args.text.init_args.model.init_args.context=15", "another text encoder"),
        ("--model.init_args.vae.init_args.model.init_args.factor=2", "they are of another autoencoder"),
    ],
)
def test_latents_of_other_encoders_are_refused(
    batches: tuple[dict, dict], capsys: pytest.CaptureFixture, change: str, named: str
) -> None:
    channels = ["--model.init_args.unet.init_args.channels=12"] if "factor" in change else []
    with pytest.raises(ValueError, match=named):
        objective(capsys, change, *channels).on_host(batches[1])


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """A `fit` of six steps on latents, with buckets of which one has larger micro-batches."""
    source = {"class_path": "Latents", "init_args": {"path": str(folder)}}
    sizes = {"buckets": [[4, 16, 16, 2], [1, 16, 16, 1, 4]], "global_batch": 4, "micro_batch": 2, "workers": 0}
    out.mkdir(exist_ok=True)
    (out / "data.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"train": source, "val": source, **sizes}}}))
    quiet = ["accelerator=cpu", "enable_progress_bar=false", "enable_model_summary=false", "log_every_n_steps=1"]
    steps = [
        "max_steps=6",
        "val_check_interval=6",
        f"logger.init_args.save_dir={out}",
        "logger.init_args.name=run",
    ]
    record = ["--trainer.callbacks+=tests.helpers.runs.LossRecorder", f"--trainer.callbacks.path={out / 'losses.tsv'}"]
    keep = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=3"]
    names = ["--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename={step:07d}"]
    own = [*(f"--trainer.{option}" for option in (*quiet, *steps)), *record, *keep, *names]
    return ["fit", "-c", RECIPE, "-c", str(out / "data.yaml"), *own, *more]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    main(arguments(folder, out))
    return out


def test_a_run_on_latents_with_buckets_resumes_bit_for_bit(folder: Path, whole: Path, tmp_path: Path) -> None:
    checkpoint = next((whole / "run").rglob("step=0000003.ckpt"))
    main(arguments(folder, tmp_path, f"--ckpt_path={checkpoint}", "--data.init_args.workers=1"))
    resumed, uninterrupted = losses(tmp_path), losses(whole)
    later = {key: value for key, value in uninterrupted.items() if key[1] > 3}
    assert {key: resumed[key] for key in later} == later and len(later) == 4  # three steps and a validation
    after, before = weights(tmp_path / "run", 6), weights(whole / "run", 6)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
def test_two_ranks_train_as_one(folder: Path, whole: Path, tmp_path: Path) -> None:
    run_together([arguments(folder, tmp_path, "--trainer.devices=2", "--trainer.strategy=ddp")])
    for key, value in losses(tmp_path).items():
        assert value == pytest.approx(losses(whole)[key], rel=2e-4), key
