"""Runs what the study still lacks: training, features of checkpoints, probes, fine-tuning; every figure is a record.

Training is `python -m pretrain fit` with a tiny recipe. A killed study goes on where it was: trained runs resume from
their checkpoints, and records that exist are kept.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from datamodules.storage.json_text import read_json
from datamodules.storage.lock import lock_file
from datamodules.storage.whole_files import write_whole
from pretrain.export.load_run import build, load_objective
from pretrain.objectives import Objective
from pretrain.studies.quality.encoding import encode
from pretrain.studies.quality.frames import frame_features
from pretrain.studies.quality.methods import METHODS
from pretrain.studies.quality.probes import attentive_scores, knn_scores, labelled_rows, linear_scores
from pretrain.studies.quality.teacher import make_teacher
from pretrain.studies.quality.videos import VIDEOS, accuracies

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[3]
SHARES = (0.01, 0.1, 1.0)  # of the training videos that are labelled
PROBES = ("linear", "attentive", "k-NN")
_CLIPS_AT_ONCE = 64
Record = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Numbers of steps and videos.

    Args:
        steps: of pretraining, 32 clips each.
        points: evaluated checkpoints of a run; each is after half as many steps as the next one.
        train, test: videos. The training videos are those to pretrain on, and shares of them are labelled.
        tune_steps: of fine-tuning, 32 clips each.
    """

    steps: int = 1000
    points: int = 4
    train: int = 4096
    test: int = 1024
    tune_steps: int = 150


class Study:
    """The study on one set of videos.

    Args:
        folder: of runs; drawn videos and the teacher lie in its parent.
        records: the file of all results, json; those in it are kept, and several processes may add to it.
        data: a name in `VIDEOS`.
        size: of the study.
        command: runs `python -m pretrain` with these arguments.
        trust: full names of classes that the recipes in the study's checkpoints may use besides ours.
        device: that trains and encodes, "cpu" or "cuda".

    Raises:
        ValueError: the file holds records of a study of another size.
    """

    def __init__(
        self,
        folder: Path,
        records: Path,
        data: str,
        size: Size,
        command: Callable[[list[str]], None],
        trust: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        self.folder, self.file, self.videos, self.size = folder, records, VIDEOS[data], size
        self.command, self.trust, self.device = command, trust, device
        self.about = {"data": data, "size": vars(size)}
        self.records: dict[tuple, Record] = {}
        # Of the processor, by run; a run that was resumed has none.
        self.training_seconds: dict[str, float] = {}
        self._read()
        self._clips: dict[str, Tensor] = {}
        self._labels: dict[tuple[str, str], Tensor] = {}
        self._frames: dict[str, tuple[Tensor, Tensor]] = {}

    # What is measured

    def steps(self) -> list[int]:
        """The evaluated steps of a run; 0 is the encoder as initialised."""
        return [0, *(self.size.steps >> i for i in reversed(range(self.size.points)))]

    def probe_features(self, name: str, seed: int) -> None:
        """Probes the frozen features of a method at all steps of its curve."""
        for run, label in self._runs(name, seed):
            labels = [label] if label else list(self.videos.classes)
            for step in [0] if METHODS[name].recipe is None else self.steps():
                wanted = [key for key in self._probe_keys(run, seed, step, labels) if key not in self.records]
                if not wanted:
                    continue
                if METHODS[name].recipe is not None:
                    self.pretrain(run, name, seed, label)
                start = time.process_time()
                features = {part: self.features(run, name, seed, step, part) for part in ("train", "test")}
                seconds = time.process_time() - start
                for key in wanted:
                    self._probe(key, features, seconds)

    def fine_tune(self, name: str, seed: int, shares: Sequence[float] = SHARES) -> None:
        """Fine-tunes all weights, from the initialised and from the last encoder of a method."""
        if METHODS[name].recipe is None or METHODS[name].labels:
            return
        for label in self.videos.classes:
            for share in shares:
                for step in (self.size.steps, 0):
                    key = (name, seed, step, "fine-tuned", label, share)
                    if key not in self.records:
                        self._fine_tune(*key)

    def _runs(self, name: str, seed: int) -> Iterator[tuple[str, str | None]]:
        """Names of a method's runs, and the labels each is trained with."""
        if METHODS[name].labels:
            yield from ((f"{name}-{label}", label) for label in self.videos.classes)
        else:
            yield name, None

    def _probe_keys(self, run: str, seed: int, step: int, labels: list[str]) -> Iterator[tuple]:
        for label in labels:
            for share in SHARES:
                yield from ((run, seed, step, probe, label, share) for probe in PROBES)

    def _probe(self, key: tuple, features: dict[str, tuple[Tensor, Tensor]], seconds: float) -> None:
        _, seed, _, probe, label, share = key
        classes = len(self.videos.classes[label])
        rows = labelled_rows(self.size.train, share, seed)
        truth = self.labels("train", label)[rows]
        start = time.process_time()
        if probe == "attentive":
            tokens, test = features["train"][1][rows], features["test"][1]
            scores = attentive_scores(tokens, truth, test, classes, seed, self.device)
        else:
            fit = linear_scores if probe == "linear" else knn_scores
            scores = fit(features["train"][0][rows], truth, features["test"][0], classes)
        self._add(key, scores, seconds=time.process_time() - start, encoding_seconds=seconds)

    def _fine_tune(self, name: str, seed: int, step: int, protocol: str, label: str, share: float) -> None:
        run, start = f"{name}-{seed}/tuned/{label}-{share}-{step}", time.process_time()
        count = len(labelled_rows(self.size.train, share, seed))
        options = [*_config("finetune_tiny"), *_config(f"quality/{self.videos.name}"), *_config("quality/tune")]
        source = self.videos.make("train", label, self._shared, self.size.train)
        if count < self.size.train:
            path = self.folder / f"{run}.txt"
            rows = labelled_rows(self.size.train, share, seed)
            write_whole(path, "".join(f"{row}\n" for row in sorted(rows.tolist())))
            source = {"class_path": "Listed", "init_args": {"source": source, "rows": str(path)}}
        options += [*self._classifier(name, seed, step, label), f"--data.train={json.dumps(source)}"]
        self._fit(run, options, self.size.tune_steps, seed, self.size.tune_steps)
        model, _ = load_objective(str(self._checkpoint(run, self.size.tune_steps)), trust=self.trust)
        with torch.no_grad():
            parts = self.clips("test").split(_CLIPS_AT_ONCE)
            scores = torch.cat([model.predict({"video": part})["scores"] for part in parts])
        self._add((name, seed, step, protocol, label, share), scores, seconds=time.process_time() - start)

    def _add(self, key: tuple, scores: Tensor, **facts: float) -> None:
        name, seed, step, protocol, label, share = key
        found = accuracies(self.videos, label, scores, self.labels("test", label))
        record = dict(zip(_KEYS, key, strict=True)) | {"accuracy": {t: round(a, 2) for t, a in found.items()}}
        self.records[key] = record | {fact: round(value, 1) for fact, value in facts.items()}
        self._save()
        tasks = ", ".join(f"{task} {value:.1f}" for task, value in found.items())
        print(f"{name}, seed {seed}, step {step}, {protocol}, {share:.0%} of labels: {tasks}", flush=True)

    def _read(self) -> None:
        """Adds what the file holds by now: several processes may write to it."""
        if not self.file.is_file():
            return
        saved = read_json(self.file)
        if {key: saved[key] for key in self.about} != self.about:
            raise ValueError(f"{self.file} is of a study with other numbers: repeat them, or choose another file")
        self.records = {_key(record): record for record in saved["records"]} | self.records
        self.training_seconds = saved.get("training_seconds", {}) | self.training_seconds

    def _save(self) -> None:
        with lock_file(self.file, wait=60):
            self._read()
            rows = ",\n".join(json.dumps(record) for record in self.records.values())
            head = json.dumps({**self.about, "training_seconds": self.training_seconds})[:-1]
            write_whole(self.file, f'{head}, "records": [\n{rows}\n]}}\n')

    # Training and features

    def pretrain(self, run: str, name: str, seed: int, label: str | None) -> None:
        """Trains the method's tiny recipe on the study's videos, unless that is done."""
        source = self.videos.make("train", label or next(iter(self.videos.classes)), self._shared, self.size.train)
        options = [*_config(str(METHODS[name].recipe)), *_config(f"quality/{self.videos.name}")]
        for fragment in (f"quality/{name}", f"quality/{self.videos.name}_{name}"):
            options += _config(fragment) if (ROOT / f"recipes/{fragment}.yaml").is_file() else []
        if name == "umt" and self.videos.name.startswith("actions"):
            options.append(f"--model.teacher.weights={make_teacher(self._shared / 'teacher')}")
        if label:
            classes = len(self.videos.classes[label])
            options += [*_config("quality/tune"), f"--model.model.classes={classes}"]
        options.append(f"--data.train={json.dumps(source)}")
        begun = any((self.folder / f"{run}-{seed}").glob("checkpoints/*.ckpt"))
        start = time.process_time()
        if self._fit(f"{run}-{seed}", options, self.size.steps, seed, self.steps()[1]) and not begun:
            self.training_seconds[f"{run}-{seed}"] = round(time.process_time() - start, 1)

    def features(self, run: str, name: str, seed: int, step: int, part: str) -> tuple[Tensor, Tensor]:
        """A vector `[N, D]` and float16 tokens `[N, K, D]` of each video, by the encoder after `step` steps."""
        if METHODS[name].recipe is None:
            if part not in self._frames:  # the same for all seeds
                self._frames[part] = frame_features(self.clips(part))
            return self._frames[part]
        objective: Any = self.objective(f"{run}-{seed}", seed, step)
        encoder = objective.model.encoder if METHODS[name].labels else objective.encoder
        return encode(encoder, objective.normalize, self.clips(part), self.device)

    def objective(self, run: str, seed: int, step: int) -> Objective:
        """The objective of a run after `step` steps, in eval mode; after none, with the seed's initial weights."""
        if step:
            return load_objective(str(self._checkpoint(run, step)), trust=self.trust)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(self._settings(run)).eval()

    def clips(self, part: str) -> Tensor:
        """The clips of the training or the test videos, uint8 `[N, 3, T, H, W]`."""
        if part not in self._clips:
            count = self.size.train if part == "train" else self.size.test
            self._clips[part] = self.videos.clips(part, self._shared, count)
        return self._clips[part]

    def labels(self, part: str, label: str) -> Tensor:
        """The classes of the training or the test videos, `[N]`."""
        if (part, label) not in self._labels:
            count = self.size.train if part == "train" else self.size.test
            self._labels[part, label] = self.videos.labels(part, label, self._shared, count)
        return self._labels[part, label]

    @property
    def _shared(self) -> Path:
        return self.folder.parent

    def _checkpoint(self, run: str, step: int) -> Path:
        return self.folder / run / "checkpoints" / f"step={step:07d}.ckpt"

    def _settings(self, run: str) -> dict[str, Any]:
        """The arguments of a run's objective, from the recipe in its last checkpoint."""
        return load_objective(str(self._checkpoint(run, self.size.steps)), trust=self.trust)[1]["model"]

    def _classifier(self, name: str, seed: int, step: int, label: str) -> list[str]:
        """Options for a method's encoder under a head, with its weights and the statistics of its pixels."""
        self.pretrain(name, name, seed, None)
        settings = self._settings(f"{name}-{seed}")["init_args"]
        encoder = settings["encoder"]
        arguments = {key: value for key, value in encoder["init_args"].items() if value is not None}
        model: dict[str, Any] = {
            "classes": len(self.videos.classes[label]),
            "encoder": {**encoder, "init_args": arguments},
        }
        if (
            METHODS[name].head == "UniFormerV2Classifier"
        ):  # it takes no projection to texts, and its default has dropout
            arguments["out"], model["dropout"] = None, 0.0
        objective = {"model": {"class_path": METHODS[name].head, "init_args": model}}
        objective |= {"mean": settings["mean"], "std": settings["std"]}
        file = self.folder / f"{name}-{seed}" / f"tuned-{label}.yaml"
        write_whole(file, yaml.safe_dump({"model": {"init_args": objective}}))
        weights = f"--model.weights={self._checkpoint(f'{name}-{seed}', step)}"
        return ["-c", str(file), *([weights] if step else [])]

    def _fit(self, run: str, options: list[str], steps: int, seed: int, every: int) -> bool:
        """Trains, unless the last checkpoint is there; whether it did."""
        if self._checkpoint(run, steps).is_file():
            return False
        saving = {"every_n_train_steps": every, "monitor": "step", "mode": "max", "save_top_k": -1}
        callback = {"class_path": "ModelCheckpoint", "init_args": {**saving, "filename": "{step:07d}"}}
        more = {"logger.init_args.save_dir": self.folder, "logger.init_args.name": run, "max_steps": steps}
        more |= {"accelerator": self.device, "enable_model_summary": "false", "callbacks": json.dumps([callback])}
        options = [*options, *(f"--trainer.{key}={value}" for key, value in more.items())]
        # No workers: one process has one random state, and frames are ready.
        options += ["--data.workers=0", f"--seed_everything={seed}", "--ckpt_path=auto"]
        self.command(["fit", *options])
        return True


_KEYS = ("method", "seed", "step", "protocol", "label", "share")


def _key(record: Record) -> tuple:
    return tuple(record[name] for name in _KEYS)


def _config(name: str) -> list[str]:
    return ["-c", str(ROOT / f"recipes/{name}.yaml")]
