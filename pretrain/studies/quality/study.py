"""Feature quality on moving shapes: each method's tiny recipe, then probes and fine-tuning with few labels.

Every training and every feature extraction is one `python -m pretrain` command; existing results are reused.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from datamodules.sources.synthetic import SHAPES, Synthetic
from datamodules.storage.json_text import Damaged, read_json
from datamodules.storage.whole_files import write_whole
from pretrain.export.load_run import load_objective
from pretrain.features.videos import read_features
from pretrain.studies.probes import accuracy, knn_probe, linear_probe, random_subsets

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
Task = Literal["shape", "direction"]
TASKS: tuple[Task, ...] = ("shape", "direction")
SEEDS = {"gallery": 3, "test": 4}  # of the videos whose labels the probes are fitted to, and of the test videos
_FINE_TUNING_SEED = 5  # of the videos to fine-tune on; repetition i has 5 + i


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        title: name of the method in the table.
        recipe: of its pretraining; None: the encoder stays as initialised.
        encoder_of: the method whose encoder is initialised, where there is no recipe.
        task: the task whose labels it is trained with; None: it is pretrained without labels.
        supervision: what it learns from besides pixels.
        head: class of the classifier that fine-tunes its encoder.
    """

    title: str
    recipe: str | None = None
    encoder_of: str | None = None
    task: Task | None = None
    supervision: str = ""
    head: str = "VideoClassifier"


METHODS = {
    "random": Method("random initialisation", encoder_of="videomae"),
    "videomae": Method("VideoMAE V2", "videomae_tiny"),
    "random_umt": Method("random initialisation", encoder_of="umt"),
    "umt": Method("UMT stage 1", "umt_tiny", supervision="features of a random network"),
    "random_viclip": Method("random initialisation", encoder_of="viclip"),
    "viclip": Method("ViCLIP", "viclip_tiny", supervision="captions"),
    "vilp": Method("ViLP", "vilp_tiny", supervision="captions"),
    "random_internvideo": Method("random initialisation", encoder_of="internvideo", head="UniFormerV2Classifier"),
    "internvideo": Method(
        "InternVideo, multimodal", "internvideo_mm_tiny", supervision="captions", head="UniFormerV2Classifier"
    ),
    "supervised_shape": Method("supervised", "finetune_tiny", task="shape", supervision="labels: shape"),
    "supervised_direction": Method("supervised", "finetune_tiny", task="direction", supervision="labels: direction"),
}


@dataclass(frozen=True)
class Size:
    """Numbers of steps, videos and repetitions.

    Args:
        steps: of pretraining, 32 clips each.
        samples: videos to pretrain on.
        gallery: videos from which each probe's labelled subset is drawn: `probe_labels` videos, `draws` times.
        test: test videos.
        labels: labelled videos for fine-tuning, which takes `tune_steps` steps of 32 clips, `tunings` times.
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
    """Runs what a table still lacks and reads the rest from its folder.

    Args:
        folder: of all runs and results.
        size: of the study.
        command: runs `python -m pretrain` with these arguments.
        trust: full names of classes that the recipes in the study's checkpoints may use besides ours.

    Raises:
        ValueError: the folder holds a study of another size.
    """

    def __init__(
        self, folder: Path, size: Size, command: Callable[[list[str]], None], trust: Sequence[str] = ()
    ) -> None:
        self.folder, self.size, self.command, self.trust = folder, size, command, trust
        file = folder / "size.json"
        if file.is_file() and read_json(file) != asdict(size):
            raise ValueError(f"{folder} was begun with other numbers ({file}): repeat them, or choose another folder")
        write_whole(file, json.dumps(asdict(size)) + "\n")

    def row(self, name: str) -> dict[str, Any]:
        """Results of one method: accuracies in percent, for each task and protocol a list over repetitions."""
        method = METHODS[name]
        tasks: dict[Task, dict[str, list[float]]] = {}
        if method.recipe is not None:
            self.pretrain(name)
        outputs = {part: self.outputs(name, part) for part in SEEDS}
        features = {part: tensors["features"] for part, tensors in outputs.items()}
        for task in TASKS:
            labels = {part: class_labels(task, SEEDS[part], len(rows)) for part, rows in features.items()}
            tasks[task] = self.probe(features, labels)
            if method.task is None:
                tasks[task]["fine-tuned"] = [self.fine_tune(name, task, i) for i in range(self.size.tunings)]
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
        """Trains the method's tiny recipe on the study's videos."""
        self._fit(name, self._recipe_options(name), self.size.steps)

    def outputs(self, name: str, part: str) -> dict[str, Tensor]:
        """An encoder's `features` `[n, D]` of a set of videos, and class `scores` `[n, K]`, which are random for a
        method that is trained without labels."""
        if METHODS[name].task:
            options = [*self._recipe_options(name), f"--ckpt_path={self.checkpoint(name, self.size.steps)}"]
        else:
            options = [*_config("quality/features"), *self._model(name, "LinearProbe")]
        count = self.size.gallery if part == "gallery" else self.size.test
        return self._predict(name, part, options, SEEDS[part], count)

    def probe(self, features: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, list[float]]:
        """Accuracies of a linear probe and of k-NN on frozen features, for each draw of labelled videos."""
        found: dict[str, list[float]] = {"linear": [], "k-NN": []}
        for rows in random_subsets(labels["gallery"], self.size.probe_labels, self.size.draws):
            data = features["gallery"][rows], labels["gallery"][rows], features["test"], labels["test"]
            found["linear"].append(100 * linear_probe(*data))
            found["k-NN"].append(100 * knn_probe(*data))
        return found

    def fine_tune(self, name: str, task: Task, repetition: int) -> float:
        """Accuracy on the test videos after fine-tuning all weights on few labels."""
        size, run = self.size, f"{name}/tuned-{task}-{repetition}"
        options = [*_config("finetune_tiny"), *_config("quality/tune"), *self._model(name, METHODS[name].head)]
        options.append(f"--seed_everything={repetition}")
        train = _source_options("train", samples=size.labels, seed=_FINE_TUNING_SEED + repetition, label=task)
        self._fit(run, [*options, *train], size.tune_steps)
        options.append(f"--ckpt_path={self.checkpoint(run, size.tune_steps)}")
        outputs = self._predict(run, "test", options, SEEDS["test"], size.test)
        return 100 * accuracy(outputs["scores"], class_labels(task, SEEDS["test"], size.test))

    def recipe(self, name: str) -> dict[str, Any]:
        """The arguments of a method's objective, from the recipe in its checkpoint."""
        method = METHODS[name]
        if method.encoder_of:
            return self.recipe(method.encoder_of)
        self.pretrain(name)
        file = self.checkpoint(name, self.size.steps)
        # Its model is built once, by the rules for recipes in files, before a command is given a part of the recipe.
        return load_objective(str(file), trust=self.trust)[1]["model"]["init_args"]

    def encoder(self, name: str) -> dict[str, Any]:
        """The class and arguments of a method's encoder."""
        recipe = self.recipe(name)
        return recipe["encoder"] if "encoder" in recipe else recipe["model"]["init_args"]["encoder"]

    def checkpoint(self, run: str, steps: int) -> Path:
        """Path of a run's checkpoint after `steps` steps."""
        return self.folder / run / "checkpoints" / f"step={steps:07d}.ckpt"

    def _recipe_options(self, name: str) -> list[str]:
        method = METHODS[name]
        options = [*_config(str(method.recipe)), *(_config("quality/tune") if method.task else [])]
        options += _config("quality/shapes")
        options += _config(f"quality/{name}") if (ROOT / f"recipes/quality/{name}.yaml").is_file() else []
        train = {"samples": self.size.samples, **({"label": method.task} if method.task else {})}
        return [*options, *_source_options("train", **train)]

    def _model(self, name: str, head: str) -> list[str]:
        """The method's encoder under a head, with its weights and the statistics that normalise its videos."""
        recipe, encoder = self.recipe(name), self.encoder(name)
        arguments = {key: value for key, value in encoder["init_args"].items() if value is not None}
        model: dict[str, Any] = {"classes": len(SHAPES), "encoder": {**encoder, "init_args": arguments}}
        if head == "UniFormerV2Classifier":  # it takes no projection to texts, and its default has dropout
            arguments["out"], model["dropout"] = None, 0.0
        objective = {"model": {"class_path": head, "init_args": model}, "mean": recipe["mean"], "std": recipe["std"]}
        file = self.folder / name / f"{head}.yaml"
        write_whole(file, yaml.safe_dump({"model": {"init_args": objective}}))
        options = ["-c", str(file)]
        if METHODS[name].recipe:
            options.append(f"--model.init_args.weights={self.checkpoint(name, self.size.steps)}")
        else:
            options.append("--allow_untrained=true")  # the random baseline
        return options

    def _fit(self, run: str, options: list[str], steps: int) -> None:
        if self.checkpoint(run, steps).is_file():
            return
        logger = {"save_dir": self.folder, "name": run}
        more = [f"--trainer.logger.init_args.{key}={value}" for key, value in logger.items()]
        # No workers: making these videos is faster than learning from them, and one process has one random state.
        more += ["--data.init_args.workers=0", f"--trainer.max_steps={steps}", "--ckpt_path=auto"]
        self._run(run, ["fit", *options, *more])

    def _predict(self, run: str, part: str, options: list[str], seed: int, count: int) -> dict[str, Tensor]:
        file = self.folder / run / part / "features-00000.safetensors"
        if not file.is_file():
            more = [*_source_options("predict", samples=count, seed=seed), "--data.init_args.workers=0"]
            more += ["--trainer.logger=false", f"--features.folder={file.parent}"]
            self._run(f"{run}/{part}", ["predict", *options, *more, "--features.outputs=[features,scores]"])
        names, tensors = read_features(file)
        videos = _videos(count, seed)
        if names != [videos[i].name for i in range(count)]:
            raise ValueError(f"{file} is of other videos: delete it")
        return {key: torch.from_numpy(value) for key, value in tensors.items()}

    def _run(self, run: str, arguments: list[str]) -> None:
        start = time.process_time()
        self.command([*arguments, "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"])
        name = run.partition("/")[0]
        seconds = self.seconds(name)
        seconds[run] = round(seconds.get(run, 0) + time.process_time() - start, 1)
        write_whole(self.folder / name / "seconds.json", json.dumps(seconds, indent=1) + "\n")

    def seconds(self, name: str) -> dict[str, float]:
        """Processor seconds of a method's runs, by run."""
        file = self.folder / name / "seconds.json"
        try:
            return read_json(file) if file.is_file() else {}
        except Damaged as error:
            log.warning("%s: its seconds are lost", error)
            return {}


def class_labels(task: Task, seed: int, count: int) -> Tensor:
    """The class of each video of a set, `[count]`."""
    videos = _videos(count, seed, task)
    return torch.tensor([videos[i].label for i in range(count)])


def _videos(count: int, seed: int, label: Literal[Task, "combination"] = "combination") -> Synthetic:
    return Synthetic(count, size=64, seed=seed, label=label, texture=0, noise=2)


def _config(name: str) -> list[str]:
    return ["-c", str(ROOT / f"recipes/{name}.yaml")]


def _source_options(part: str, **arguments: object) -> list[str]:
    return [f"--data.init_args.{part}.init_args.{key}={value}" for key, value in arguments.items()]
