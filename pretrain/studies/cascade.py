"""LaVie's cascade at a tiny size: trains the three recipes on moving shapes, and judges and draws what they generate.

A classifier that is trained on real shapes says whether a generated clip shows its text. Each training is a
`python -m pretrain fit` command; existing checkpoints and results are reused.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.sources.synthetic import COLOURS, DIRECTIONS, SHAPES
from datamodules.storage.json_text import read_json
from datamodules.storage.whole_files import write_whole
from pretrain.export.load_run import load_objective
from pretrain.objectives import Objective
from pretrain.plots.contact_sheet import contact_sheet, write_png
from pretrain.studies.shape_classifier import FRAMES, SIZE, ShapeClassifier, accuracies, real_clips, train_classifier

ROOT = Path(__file__).parents[2]
STAGES = ("base", "interpolation", "vsr")
FACTOR = 4  # of the frame rate and of height and width, as in the recipes
PROMPTS = (
    "a red circle moves right",
    "a green square moves down",
    "a blue cross moves left",
    "a yellow triangle moves up",
)


@dataclass(frozen=True)
class Size:
    """Numbers of the study.

    Args:
        base, interpolation, vsr: training steps; 0: as many as the recipe says.
        clips: generated clips that are judged; the 64 combinations of shape, colour and direction take turns.
        real: real clips that the classifier learns from. epochs: how often it sees each.
    """

    base: int = 0
    interpolation: int = 0
    vsr: int = 0
    clips: int = 64
    real: int = 3000
    epochs: int = 8


@dataclass
class Result:
    """Percentages by question, of generated and of unseen real clips; processor seconds of each training."""

    size: dict[str, int]
    generated: dict[str, float]
    real: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)

    def markdown(self) -> str:
        """A table, and the seconds."""
        lines = ["| | " + " | ".join(self.generated) + " |", "| --- |" + " ---: |" * len(self.generated)]
        for name, row in (("generated", self.generated), ("real, unseen", self.real)):
            lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |")
        lines.append("| chance |" + " 25.0 |" * len(self.generated))
        spent = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in self.seconds.items())
        return "\n".join([*lines, "", f"- processor minutes of training: {spent}"])


def study(folder: Path, size: Size, command: Callable[[list[str]], None]) -> Result:
    """Trains what is missing, judges the base's clips, and writes `cascade.json`, `cascade.md` and `cascade.png`.

    Args:
        folder: of the runs and results.
        command: runs `python -m pretrain` with these arguments.
    """
    seconds = {stage: train(folder, stage, getattr(size, stage), command) for stage in STAGES}
    networks = {stage: load_objective(str(folder / stage))[0] for stage in STAGES}
    classifier = train_classifier(size.real, size.epochs)
    generated, real = judge(networks["base"], classifier, size.clips)
    result = Result(asdict(size), generated, real, seconds)
    write_whole(folder / "cascade.json", json.dumps(asdict(result), indent=1) + "\n")
    write_whole(folder / "cascade.md", result.markdown() + "\n")
    write_png(folder / "cascade.png", draw(networks, PROMPTS))
    return result


def train(folder: Path, stage: str, steps: int, command: Callable[[list[str]], None]) -> float:
    """Trains a stage's recipe, or goes on with it, if it is not finished; processor seconds since its last start."""
    finished = folder / stage / "finished.json"
    if not finished.is_file():
        start = time.process_time()
        recipe = str(ROOT / f"recipes/lavie_{stage}_tiny.yaml")
        options = ["-c", recipe, *([f"--trainer.max_steps={steps}"] if steps else [])]
        options += [f"--trainer.logger.save_dir={folder}", f"--trainer.logger.name={stage}"]
        # No workers: making these videos is faster than learning from them.
        options += ["--data.workers=0", "--trainer.accelerator=cpu", "--ckpt_path=auto"]
        command(["fit", *options])
        write_whole(finished, json.dumps({"seconds": time.process_time() - start}) + "\n")
    return float(read_json(finished)["seconds"])


def judge(base: Objective, classifier: ShapeClassifier, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracies of the classifier on generated clips, and on real ones that it has not seen."""
    every = [f"a {c} {s} moves {d}" for c in COLOURS for s in SHAPES for d in DIRECTIONS]
    texts = [every[i % len(every)] for i in range(count)]
    made = [generate(base, texts[i : i + 16], f"judged {i}") for i in range(0, count, 16)]
    real, captions = real_clips(max(count, 256), seed=12)
    return accuracies(classifier, torch.cat(made), texts), accuracies(classifier, real, captions)


@torch.no_grad()
def generate(network: Objective, texts: list[str], name: str, video: Tensor | None = None) -> Tensor:
    """uint8 clips `[n, 3, T, H, W]` of texts; `video`, of the result's size, holds what the stage is given."""
    if video is None:
        video = torch.zeros(len(texts), 3, FRAMES, SIZE, SIZE, dtype=torch.uint8)
    batch: Any = {"video": video, "text": texts, "name": [f"{name} {i}" for i in range(len(texts))]}
    return network.predict(batch)["video"]


def interpolate(network: Objective, clip: Tensor, texts: list[str]) -> Tensor:
    """Clips `[n, 3, T, H, W]` at four times the frames, `[n, 3, 4 (T - 1) + 1, H, W]`."""
    places = torch.arange(FACTOR * (clip.shape[2] - 1) + 1) // FACTOR  # only each fourth place is read
    return generate(network, texts, "interpolated", clip[:, :, places])


def enlarge(network: Objective, clip: Tensor, texts: list[str]) -> Tensor:
    """Clips `[n, 3, T, H, W]` at four times the height and width, as many frames at a time as it learnt from."""
    parts = []
    for start in range(0, clip.shape[2], FRAMES):
        part = clip[:, :, start : start + FRAMES].float()
        size = (part.shape[2], FACTOR * part.shape[3], FACTOR * part.shape[4])
        given = F.interpolate(part, size, mode="nearest").to(torch.uint8)  # the network averages it down again
        parts.append(generate(network, texts, f"enlarged {start}", given))
    return torch.cat(parts, dim=2)


def draw(networks: dict[str, Objective], prompts: tuple[str, ...]) -> Any:
    """A picture: of each prompt the base's frames, the enlarged ones, and the interpolated ones."""
    texts = list(prompts)
    base = generate(networks["base"], texts, "film")
    long = interpolate(networks["interpolation"], base, texts)
    shown = {"base": base, "enlarged": enlarge(networks["vsr"], base, texts), "interpolated": long}
    size, places = (FACTOR * SIZE, FACTOR * SIZE), torch.arange(long.shape[2])
    videos = {}
    for name, clip in shown.items():
        every = places // FACTOR if clip.shape[2] == FRAMES else places  # a frame stays until the next
        videos[name] = F.interpolate(clip[:, :, every].float() / 255, (len(places), *size), mode="nearest")
    return contact_sheet(videos, texts, frames=len(places))
