"""MVBench's 20 tasks: where the published files and videos lie, and the questions in them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.sources.annotated.tables import Table
from pretrain.questions.question import Benchmark, Question, split_missing

QUESTIONS_OF_TASK = 200
FRAME_FOLDER_FPS = 3.0  # of TVQA's frames


@dataclass(frozen=True)
class Task:
    """short: its abbreviation in tables. folder: of the videos. bounded: its items have a start and an end."""

    name: str
    short: str
    folder: str
    bounded: bool = False
    frames: bool = False  # the videos are folders of frames

    @property
    def file(self) -> str:
        return f"{self.name.lower().replace(' ', '_').replace('-', '_')}.json"


# VideoChat2 `mvbench.ipynb`.
TASKS = (
    Task("Action Sequence", "AS", "star/Charades_v1_480", True),
    Task("Action Prediction", "AP", "star/Charades_v1_480", True),
    Task("Action Antonym", "AA", "ssv2_video"),
    Task("Fine-grained Action", "FA", "Moments_in_Time_Raw/videos"),
    Task("Unexpected Action", "UA", "FunQA_test/test"),
    Task("Object Existence", "OE", "clevrer/video_validation"),
    Task("Object Interaction", "OI", "star/Charades_v1_480", True),
    Task("Object Shuffle", "OS", "perception/videos"),
    Task("Moving Direction", "MD", "clevrer/video_validation"),
    Task("Action Localization", "AL", "sta/sta_video", True),
    Task("Scene Transition", "ST", "scene_qa/video"),
    Task("Action Count", "AC", "perception/videos"),
    Task("Moving Count", "MC", "clevrer/video_validation"),
    Task("Moving Attribute", "MA", "clevrer/video_validation"),
    Task("State Change", "SC", "perception/videos"),
    Task("Fine-grained Pose", "FP", "nturgbd"),
    Task("Character Order", "CO", "perception/videos"),
    Task("Egocentric Navigation", "EN", "vlnqa"),
    Task("Episodic Reasoning", "ER", "tvqa/frames_fps3_hq", True, True),
    Task("Counterfactual Inference", "CI", "clevrer/video_validation"),
)
SHORT = {task.name: task.short for task in TASKS}


def read_mvbench(path: str) -> Benchmark:
    """MVBench as it is published: `json/TASK.json`, and the videos in `video/FOLDER` or in `FOLDER`.

    Folders are never searched for a name: CLEVRER and Perception Test share names of files.

    Args:
        path: the folder that holds both.

    Raises:
        FileNotFoundError: there is no such folder, or none of the files is in it.
        ValueError: an item is malformed; the error names the file and the entry.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {path}: give the folder that holds MVBench's json/ and video/")
    questions: list[Question] = []
    absent: dict[str, str] = {}
    for task in TASKS:
        file = root / "json" / task.file
        if not file.is_file():
            absent[task.name] = str(file)
            continue
        questions += _items(task, file, _folder(root, task))
    if len(absent) == len(TASKS):
        raise FileNotFoundError(f"{root / 'json'} holds none of MVBench's files, such as {TASKS[0].file}")
    found, lost = split_missing(questions)
    names = tuple(task.name for task in TASKS)
    return Benchmark("MVBench", names, found, QUESTIONS_OF_TASK * len(TASKS), absent, lost)


def _folder(root: Path, task: Task) -> Path:
    inside = root / "video" / task.folder
    return inside if inside.is_dir() or not (root / task.folder).is_dir() else root / task.folder


def _items(task: Task, file: Path, folder: Path) -> Iterator[Question]:
    table = Table(str(file))
    for number, row in table.rows():
        place = table.place(number)
        fields: dict[str, Any] = row
        video, asked, answer, candidates = (fields.get(n) for n in ("video", "question", "answer", "candidates"))
        texts = isinstance(video, str) and isinstance(asked, str) and isinstance(answer, str)
        if not texts or not isinstance(candidates, list) or not _is_texts(candidates):
            raise ValueError(f"{place}: an item has the texts video, question and answer, and two candidates or more")
        start, end = (_seconds(row, name, place) for name in ("start", "end")) if task.bounded else (None, None)
        if task.bounded and (start is None or end is None or end < start):
            raise ValueError(f"{place}: an item of {task.name} has a start and a later end in seconds")
        rate = FRAME_FOLDER_FPS if task.frames else None
        inside = os.path.join(folder, os.path.normpath(os.path.join("/", video))[1:])  # never above the folder
        yield Question(task.name, number - 1, video, inside, asked, tuple(candidates), answer, start, end, rate)


def _is_texts(values: list) -> bool:
    return len(values) > 1 and all(isinstance(text, str) for text in values)


def _seconds(row: dict[str, Any], name: str, place: str) -> float | None:
    value = row.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0):
        return None if value is None else float(value)
    raise ValueError(f"{place}: {name} is {value!r}, which is no number of seconds")
