"""What features are worth on moving shapes: each method's tiny recipe, then probes and fine-tuning with few labels.

Every training and every set of features is a command that one could type; what is there already is not made again.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from datamodules.sources.synthetic import SHAPES, Synthetic
from pretrain.features.writer import read_features
from pretrain.plots.bars import pixels
from pretrain.plots.contact_sheet import write_png
from pretrain.studies.probes import accuracy, knn, linear, subsets

ROOT = Path(__file__).parents[2]
TASKS = ("shape", "direction")
SETS = {"gallery": 3, "test": 4}  # seeds of the videos that probes are given labels of, and that all are judged on
_LABELLED = 5  # seed of the videos to fine-tune on; the ones after it are further draws
_LOOKS = {"size": 64, "noise": 2, "texture": 0}


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        title: what the row says.
        recipe: its recipe; None: nothing is trained.
        like: the method whose encoder it has, where nothing is trained.
        task: the task whose labels it learns from.
        told: what it learns from besides pixels.
        head: the classifier that its encoder is fine-tuned in.
    """

    title: str
    recipe: str | None = None
    like: str | None = None
    task: str | None = None
    told: str = ""
    head: str = "VideoClassifier"


METHODS = {
    "random": Method("random initialisation", like="videomae"),
    "videomae": Method("VideoMAE V2", "videomae_tiny"),
    "random_umt": Method("random initialisation", like="umt"),
    "umt": Method("UMT stage 1", "umt_tiny", told="features of a random network"),
    "random_viclip": Method("random initialisation", like="viclip"),
    "viclip": Method("ViCLIP", "viclip_tiny", told="captions"),
    "vilp": Method("ViLP", "vilp_tiny", told="captions"),
    "random_internvideo": Method("random initialisation", like="internvideo", head="UniFormerV2Classifier"),
    "internvideo": Method(
        "InternVideo, multimodal", "internvideo_mm_tiny", told="captions", head="UniFormerV2Classifier"
    ),
    "supervised_shape": Method("supervised", "finetune_tiny", task="shape", told="labels: shape"),
    "supervised_direction": Method("supervised", "finetune_tiny", task="direction", told="labels: direction"),
}


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Args:
        steps: of pretraining, 32 clips each.
        samples: videos to pretrain on.
        gallery: videos that labels for the probes are drawn from, `probe_labels` of them, `draws` times.
        test: videos that all are judged on.
        labels: for fine-tuning, of `tune_steps` steps of 32 clips, `tunings` times.
    """

    steps: int = 600
    samples: int = 8192
    gallery: int = 2048
    test: int = 1024
    probe_labels: int = 1024
    draws: int = 3
    labels: int = 256
    tune_steps: int = 120
    tunings: int = 1


class Study:
    """Runs what is missing of a table and reads the rest.

    Args:
        folder: where all of it goes.
        size: how much; a folder begun with another size is refused.
        command: runs `python -m pretrain` with these words.
    """

    def __init__(self, folder: Path, size: Size, command: Callable[[list[str]], None]) -> None:
        self.folder, self.size, self.command = folder, size, command
        file = folder / "size.json"
        if file.is_file() and json.loads(file.read_text()) != asdict(size):
            raise ValueError(f"{folder} was begun with other numbers ({file}): repeat them, or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(size)) + "\n")

    def row(self, name: str) -> dict[str, Any]:
        """All that is known of a method; accuracies in percent, a list of them a way and task."""
        method, tasks = METHODS[name], {}
        if method.recipe is not None:
            self.pretrain(name)
        outputs = {part: self.outputs(name, part) for part in SETS}
        features = {part: of["features"] for part, of in outputs.items()}
        for task in TASKS:
            labels = {part: classes(task, SETS[part], len(of)) for part, of in features.items()}
            tasks[task] = self.probe(features, labels)
            if method.task is None:
                tasks[task]["fine-tuned"] = [self.tune(name, task, draw) for draw in range(self.size.tunings)]
            elif method.task == task:
                tasks[task]["as trained"] = [100 * accuracy(outputs["test"]["scores"], labels["test"])]
        return {
            "name": name,
            **asdict(method),
            "kind": self.encoder(name)["class_path"].rpartition(".")[2],
            "seconds": self.seconds(name),
            **tasks,
        }

    def pretrain(self, name: str) -> None:
        """The method's tiny recipe on the table's videos."""
        self._fit(name, self._pages(name), self.size.steps)

    def outputs(self, name: str, part: str) -> dict[str, Tensor]:
        """An encoder's `features` `[n, D]` of a set of videos; and `scores`, which mean something where it has learnt
        classes."""
        method = METHODS[name]
        if method.task:
            words = [*self._pages(name), f"--ckpt_path={self.checkpoint(name, self.size.steps)}"]
        else:
            words = [*_page("quality/features"), *self._model(name, "LinearProbe")]
        return self._predict(name, part, words, SETS[part], self.size.gallery if part == "gallery" else self.size.test)

    def probe(self, features: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, list[float]]:
        """A linear layer and k-NN on frozen features, for each draw of labelled videos."""
        test, found = (features["test"], labels["test"]), {"linear": [], "k-NN": []}
        for rows in subsets(labels["gallery"], self.size.probe_labels, self.size.draws):
            given = features["gallery"][rows], labels["gallery"][rows]
            found["linear"].append(100 * linear(*given, *test))
            found["k-NN"].append(100 * knn(*given, *test))
        return found

    def tune(self, name: str, task: str, draw: int) -> float:
        """Accuracy on the test videos after fine-tuning all weights on few labels."""
        size, run = self.size, f"{name}/tuned-{task}-{draw}"
        words = [*_page("finetune_tiny"), *_page("quality/tune"), *self._model(name, METHODS[name].head)]
        words.append(f"--seed_everything={draw}")
        few = _source("train", samples=size.labels, seed=_LABELLED + draw, label=task)
        self._fit(run, [*words, *few], size.tune_steps)
        words.append(f"--ckpt_path={self.checkpoint(run, size.tune_steps)}")
        made = self._predict(run, "test", words, SETS["test"], size.test)
        return 100 * accuracy(made["scores"], classes(task, SETS["test"], size.test))

    def recipe(self, name: str) -> dict[str, Any]:
        """The arguments of a method's objective, as its checkpoint tells."""
        method = METHODS[name]
        if method.like:
            return self.recipe(method.like)
        self.pretrain(name)
        checkpoint = torch.load(self.checkpoint(name, self.size.steps), weights_only=True, map_location="cpu")
        return yaml.safe_load(checkpoint["recipe"]["model"])["init_args"]

    def encoder(self, name: str) -> dict[str, Any]:
        """The class and arguments of a method's encoder."""
        recipe = self.recipe(name)
        return recipe["encoder"] if "encoder" in recipe else recipe["model"]["init_args"]["encoder"]

    def checkpoint(self, run: str, steps: int) -> Path:
        """Where a run of `steps` steps leaves its weights."""
        return self.folder / run / "checkpoints" / f"step={steps:07d}.ckpt"

    def _pages(self, name: str) -> list[str]:
        method = METHODS[name]
        words = [*_page(str(method.recipe)), *(_page("quality/tune") if method.task else []), *_page("quality/shapes")]
        words += _page(f"quality/{name}") if (ROOT / f"recipes/quality/{name}.yaml").is_file() else []
        train = {"samples": self.size.samples, **({"label": method.task} if method.task else {})}
        return [*words, *_source("train", **train)]

    def _model(self, name: str, head: str) -> list[str]:
        """The method's encoder under a head, with its weights and the statistics that it normalises videos with."""
        recipe, encoder = self.recipe(name), self.encoder(name)
        given = {key: value for key, value in encoder["init_args"].items() if value is not None}
        model: dict[str, Any] = {"classes": len(SHAPES), "encoder": {**encoder, "init_args": given}}
        if head == "UniFormerV2Classifier":  # has no use for a projection to texts, and drops out by default
            given["out"], model["dropout"] = None, 0.0
        arguments = {"model": {"class_path": head, "init_args": model}, "mean": recipe["mean"], "std": recipe["std"]}
        page = self.folder / name / f"{head}.yaml"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(yaml.safe_dump({"model": {"init_args": arguments}}), encoding="utf-8")
        words = ["-c", str(page)]
        if METHODS[name].recipe:
            words.append(f"--model.init_args.weights={self.checkpoint(name, self.size.steps)}")
        return words

    def _fit(self, run: str, words: list[str], steps: int) -> None:
        if self.checkpoint(run, steps).is_file():
            return
        place = {"save_dir": self.folder, "name": run}
        place = [f"--trainer.logger.init_args.{key}={value}" for key, value in place.items()]
        # a small set of shapes is drawn as fast as it is learnt from, and one process has one set of random numbers
        options = ["--data.init_args.workers=0", f"--trainer.max_steps={steps}", "--ckpt_path=auto"]
        self._run(run, ["fit", *words, *place, *options])

    def _predict(self, run: str, part: str, words: list[str], seed: int, count: int) -> dict[str, Tensor]:
        file = self.folder / run / part / "features-00000.safetensors"
        if not file.is_file():
            options = [*_source("predict", samples=count, seed=seed), "--data.init_args.workers=0"]
            options += ["--trainer.logger=false", f"--features.folder={file.parent}"]
            self._run(f"{run}/{part}", ["predict", *words, *options, "--features.outputs=[features,scores]"])
        names, tensors = read_features(file)
        if names != [Synthetic(count, seed=seed, **_LOOKS)[i].name for i in range(count)]:
            raise ValueError(f"{file} is of other videos: delete it")
        return {key: torch.from_numpy(value) for key, value in tensors.items()}

    def _run(self, what: str, words: list[str]) -> None:
        began = time.process_time()
        self.command([*words, "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"])
        seconds, file = self.seconds(what.partition("/")[0]), self.folder / what.partition("/")[0] / "seconds.json"
        seconds[what] = round(seconds.get(what, 0) + time.process_time() - began, 1)
        file.write_text(json.dumps(seconds, indent=1) + "\n")

    def seconds(self, name: str) -> dict[str, float]:
        """Processor seconds of a method's runs, by run."""
        file = self.folder / name / "seconds.json"
        return json.loads(file.read_text()) if file.is_file() else {}


def classes(task: str, seed: int, count: int) -> Tensor:
    """The classes `[count]` of a set of videos."""
    source = Synthetic(count, seed=seed, label=task, **_LOOKS)
    return torch.tensor([source[i].label for i in range(count)])


def _page(name: str) -> list[str]:
    return ["-c", str(ROOT / f"recipes/{name}.yaml")]


def _source(part: str, **arguments: object) -> list[str]:
    return [f"--data.init_args.{part}.init_args.{key}={value}" for key, value in arguments.items()]


CHANCE = 25.0  # four shapes, four directions, as many of each
WAYS = ("linear", "k-NN", "fine-tuned", "as trained")
_COLOURS = dict(zip(WAYS, ("#285aaa", "#78afdc", "#e18228", "#5a5a5a"), strict=True))


def write(folder: Path, rows: list[dict[str, Any]], size: Size) -> str:
    """Writes `quality.md`, `quality.json` and `quality.png`; gives the table."""
    text = table(rows)
    (folder / "quality.md").write_text(text + "\n", encoding="utf-8")
    about = {"chance": CHANCE, "size": asdict(size), "rows": rows}
    (folder / "quality.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_png(folder / "quality.png", picture(rows))
    return text


def table(rows: list[dict[str, Any]]) -> str:
    """A row a method; of several draws the mean and the deviation."""
    head = ["method", "encoder", "learns from", *(f"{task}: {way}" for task in TASKS for way in WAYS[:3])]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * 3}{'---:|' * (len(head) - 3)}"]
    for row in rows:
        told = " and ".join(part for part in ("pixels" if row["recipe"] else "", row["told"]) if part) or "nothing"
        cells = [row["title"], row["kind"], told]
        for task in TASKS:
            cells += [_cell(row[task].get(way, [])) for way in WAYS[:2]]
            last = "fine-tuned" if "fine-tuned" in row[task] else "as trained"
            cells.append(_cell(row[task].get(last, [])) + (" (all labels)" if row[task].get("as trained") else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    spread = f" ± {np.std(found):.1f}" if len(found) > 1 else ""
    return f"{np.mean(found):.1f}{spread}"


def picture(rows: list[dict[str, Any]]) -> np.ndarray:
    """uint8 `[H, W, 3]`: a panel a task, bars a method, a line at chance."""
    from matplotlib.figure import Figure

    figure = Figure((9, 1 + 0.5 * len(rows)), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(TASKS), sharey=True, squeeze=False)[0]
    names = [f"{row['title']}\n{row['kind']}" for row in rows]
    for task, panel in zip(TASKS, panels, strict=True):
        for way, at in zip(WAYS, (-0.28, 0, 0.28, 0.28), strict=True):  # a method has one of the last two
            found = [np.mean(row[task][way]) if row[task].get(way) else np.nan for row in rows]
            label = "all labels" if way == "as trained" else way
            drawn = panel.barh(np.arange(len(rows)) + at, found, 0.26, color=_COLOURS[way], label=label)
            panel.bar_label(drawn, ["" if np.isnan(f) else f"{f:.0f}" for f in found], padding=2, fontsize=7)
        panel.axvline(CHANCE, color="red", linewidth=1, label="chance")
        panel.set(title=task, xlabel="% right", xlim=(0, 112))
        panel.set_yticks(range(len(rows)), names, fontsize=8)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return pixels(figure)
