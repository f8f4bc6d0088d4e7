"""A processor and an exported model, by transformers alone, make of a video file the features that `predict` writes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from datamodules.clips import scale
from pretrain.cli import main
from pretrain.export.command import export
from tests.helpers.methods import METHODS
from tests.helpers.runs import arguments, fit
from tests.helpers.videos import make, picture

transformers = pytest.importorskip("transformers")

VIEWS = {
    "squares": ["--data.init_args.view=Squares"],
    "squash": ["--data.init_args.view=Squash"],
    "squash_sharp": ["--data.init_args.view=Squash", "--data.init_args.view.init_args.antialias=false"],
}
# Each kind of export: the method, its sampling rule, and the view of the default suite; `slow` runs the other cases.
EXPORTS = {
    "videomae": ("videomae", "Dense", "squares", []),
    "classifier": ("finetune", "Span", "squash", []),
    "viclip": ("viclip", "Sparse", "squash", ["--model.init_args.encoder.init_args.tubelet=1"]),
    "umt": ("umt", "Segments", None, []),
    "umt2": ("umt2", "Sparse", None, []),
    "vilp": ("vilp", "Spaced", None, []),
}
CASES = [
    pytest.param(kind, view, marks=[pytest.mark.slow] * (view != usual))
    for kind, (_, _, usual, _) in EXPORTS.items()
    for view in VIEWS
]
# What a user of an export runs; `model` and `processor` are made as its model card says.
SCRIPT = """
import sys
from safetensors.torch import save_file
from transformers import AutoModel, AutoVideoProcessor
processor = AutoVideoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokens = model(processor([sys.argv[2]]).pixel_values).last_hidden_state
save_file({"features": tokens.mean(dim=1)}, sys.argv[3])
assert not {"models", "datamodules", "pretrain", "lightning"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("video") / "wide.mp4", 50, 90, 124)


def run_of(kind: str, view: str, folder: Path) -> tuple[list[str], Path]:
    """The recipe of a run of one step, and its folder."""
    method, sampler, _, more = EXPORTS[kind]
    recipe = [*METHODS[method], *more, f"--data.init_args.sampler={sampler}", *VIEWS[view], "--data.init_args.stride=2"]
    return recipe, fit(folder, recipe, "--trainer.max_steps=1")


def predict(recipe: list[str], run: Path, path: str, output: str, *more: str) -> torch.Tensor:
    """What `python -m pretrain predict` writes for one file, `[1, ...]`."""
    source = ["--data.init_args.predict=Files", f"--data.init_args.predict.init_args.path={path}"]
    folder = run / f"features of {Path(path).stem}"
    where = [f"--ckpt_path={run}", f"--features.folder={folder}", f"--features.outputs=[{output}]"]
    main(["predict", *arguments(run.parent, recipe, *source, *where, *more)[1:]])
    (file,) = folder.glob("*.safetensors")
    return load_file(file)[output]


@torch.no_grad()
def features(kind: str, folder: Path, path: str) -> dict[str, torch.Tensor]:
    """Outputs of the exported model for a file, by the names of `predict`'s."""
    processor = transformers.AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
    pixels = processor([path]).pixel_values
    if kind == "classifier":
        model = transformers.AutoModelForVideoClassification.from_pretrained(folder).eval()
        return {"scores": model(pixels).logits}
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    if kind in ("viclip", "vilp"):
        return {"features": F.normalize(model.get_video_features(pixels), dim=-1)}
    tokens = model(pixels).last_hidden_state
    return {"tokens": tokens} if kind == "umt2" else {"features": tokens.mean(dim=1)}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("kind", "view"), CASES)
def test_the_exported_model_of_a_file_gives_the_features_of_predict(
    kind: str, view: str, video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "_scale", None)  # our kernel rounds some pixels to a neighbouring level
    recipe, run = run_of(kind, view, tmp_path)
    export(str(run), "transformers", str(tmp_path / "hf"))
    for name, found in features(kind, tmp_path / "hf", video).items():
        assert relative(found, predict(recipe, run, video, name)) < 1e-5
    if kind == "viclip" and view != "squash_sharp":
        image_of_clip(recipe, run, tmp_path / "hf/clip", tmp_path / "image.png")


@torch.no_grad()
def image_of_clip(recipe: list[str], run: Path, folder: Path, path: Path) -> None:
    """The plain CLIP beside a video model encodes an image as a video of one frame."""
    image = Image.fromarray(picture(77, 90, 124))
    image.save(path)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    found = model.visual_projection(model.vision_model(pixels).pooler_output)
    frames = ["--data.init_args.frames=1", "--model.init_args.encoder.init_args.frames=8"]
    expected = predict(recipe, run, str(path), "features", *frames)
    assert relative(F.normalize(found, dim=-1), expected) < 1e-5


def test_transformers_alone_reads_the_file_and_runs_the_model(video: str, tmp_path: Path) -> None:
    recipe, run = run_of("umt", "squash_sharp", tmp_path)
    export(str(run), "transformers", str(tmp_path / "hf"))
    command = [sys.executable, "-I", "-c", SCRIPT, tmp_path / "hf", video, tmp_path / "found.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "found.safetensors")["features"]
    assert relative(found, predict(recipe, run, video, "features")) < 1e-5
