"""The videos of the study, their classes, and the tasks that a classifier's scores answer."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.loading.batches import EvalBatches
from datamodules.sources.actions import ORDERS, Actions
from datamodules.sources.motion_capture import ACTIONS
from datamodules.sources.rendered import Rendered
from datamodules.sources.source import Source
from datamodules.sources.synthetic import DIRECTIONS, SHAPES, Synthetic
from datamodules.video import VideoData

_DISTANCE = (1.9, 2.4)  # of the camera in metres: a standing body almost fills the frame
_EVERY = 3  # frames of a drawn action per stored frame
_CLIPS_AT_ONCE = 64


@dataclass(frozen=True)
class Task:
    """A question: which class of some kind of label, among all or a few of them.

    Args:
        label: the kind, a value of the source's `label`.
        among: the classes to tell apart; empty: all.
    """

    label: str
    among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Videos:
    """A set of training videos and one of test videos.

    Args:
        classes: of each kind of label.
        tasks: by name; a task among a few classes is read off the scores for all of its kind.
        make: the source's class path and arguments, from (part, label, folder, number of videos).
        stride: frames between two of a clip.
        size: height and width of a clip.
    """

    name: str
    classes: dict[str, tuple[str, ...]]
    tasks: dict[str, Task]
    make: Callable[[str, str, Path, int], dict[str, Any]]
    stride: int
    size: int = 32

    def chance(self, task: str) -> float:
        """Percent of a guess; classes are equally frequent."""
        asked = self.tasks[task]
        return 100 / len(asked.among or self.classes[asked.label])

    def clips(self, part: str, folder: Path, count: int) -> Tensor:
        """The middle clip of each video, uint8 `[N, 3, 8, size, size]`."""
        source = _instantiate(self.make(part, next(iter(self.classes)), folder, count))
        data = VideoData(frames=8, stride=self.stride, size=self.size, global_batch=_CLIPS_AT_ONCE, workers=0)
        batches = EvalBatches(source, data.clip, 1, 1, 0, 1, _CLIPS_AT_ONCE)
        return torch.cat([batches[i]["video"] for i in range(len(batches))])[: len(source)]

    def labels(self, part: str, label: str, folder: Path, count: int) -> Tensor:
        """The class of each video, `[N]`."""
        arguments = self.make(part, label, folder, count)
        source = _instantiate(arguments["init_args"].get("source", arguments))  # labels need no frames
        return torch.tensor([source[i].label for i in range(len(source))])


def _instantiate(arguments: dict[str, Any]) -> Source:
    kinds: dict[str, type[Source]] = {"Actions": Actions, "Rendered": Rendered, "Synthetic": Synthetic}
    made = {k: _instantiate(v) if isinstance(v, dict) else v for k, v in arguments["init_args"].items()}
    return kinds[arguments["class_path"]](**made)


def _actions(size: int, processes: int, part: str, label: str, folder: Path, count: int) -> dict[str, Any]:
    seed = 0 if part == "train" else 1
    drawn = {"samples": count, "size": size, "seed": seed, "part": part, "label": label, "reverse": True}
    source = {"class_path": "Actions", "init_args": {**drawn, "distance": list(_DISTANCE)}}
    path = str(folder / f"actions{size}_{part}_{count}.npy")
    stored = {"path": path, "every": _EVERY, "source": source, "processes": processes}
    return {"class_path": "Rendered", "init_args": stored}


def _shapes(part: str, label: str, folder: Path, count: int) -> dict[str, Any]:
    seed = 0 if part == "train" else 4
    drawn = {"samples": count, "size": 64, "noise": 2, "texture": 0, "seed": seed, "label": label}
    return {"class_path": "Synthetic", "init_args": drawn}


def _human_actions(name: str, size: int, processes: int) -> Videos:
    return Videos(
        name,
        {"action": tuple(ACTIONS), "order": ORDERS},
        {
            "action": Task("action"),
            "walk or run": Task("action", ("walk", "run")),
            "spin or spin kick": Task("action", ("spin", "spinkick")),
            "order": Task("order"),
        },
        partial(_actions, size, processes),
        stride=2,
        size=size,
    )


VIDEOS = {
    "actions": _human_actions("actions", 32, 1),
    "actions_112": _human_actions("actions_112", 112, os.cpu_count() or 1),  # for a machine with a GPU
    "shapes": Videos(
        "shapes",
        {"shape": SHAPES, "direction": tuple(DIRECTIONS)},
        {"shape": Task("shape"), "direction": Task("direction")},
        _shapes,
        stride=4,
    ),
}


def accuracies(videos: Videos, label: str, scores: Tensor, truth: Tensor) -> dict[str, float]:
    """Percent right in each task on a kind of label, of class scores `[N, K]` and the true classes `[N]`."""
    found = {}
    for name, task in videos.tasks.items():
        if task.label != label:
            continue
        among = torch.tensor([videos.classes[label].index(c) for c in task.among or videos.classes[label]])
        rows = torch.isin(truth, among)
        found[name] = 100 * (among[scores[rows][:, among].argmax(dim=1)] == truth[rows]).double().mean().item()
    return found
