"""Pointing against words: a question about one of several moving shapes, asked by a point, a box, a mask or in words.

What InternChat (arXiv 2305.05662) claims of its users is measured here on generated films, with the assistant's own
tools and no trained model: whether the answer is right, over the number of shapes, and what was typed for it.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datamodules.sources.order import mix
from datamodules.sources.shape_scenes import Scene, random_scene
from pretrain.assistant.artefacts import Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.planners.plan import Planner
from pretrain.assistant.prompts import Box, Mask, Points, Prompt
from pretrain.chat.rle import box_of
from pretrain.generation.film_file import write_film

WAYS = ("point", "box", "mask", "words")
QUESTION = "Which way does {} move?"
_SLIP = 2  # pixels by which a hand misses the edge of what it draws around
_WAY = re.compile(r"moves (?:(?:up|down) and )?(left|right|up|down)\b")


@dataclass(frozen=True)
class Trial:
    """One question. first, right: the first and the last answer were right. characters: typed. turns: questions asked.

    iou: mean over the frames after the one that was pointed at; None if nothing was tracked.
    valid: plans that could run, of those that the planner made.
    """

    way: str
    objects: int
    seed: int
    first: bool
    right: bool
    characters: int
    turns: int
    iou: float | None
    valid: tuple[int, int]


def measure(
    scenes: int = 10,
    most_objects: int = 6,
    ways: Sequence[str] = WAYS,
    planner: Planner | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """Ask about one shape of each of `scenes` films with 1 to `most_objects` shapes, in each way.

    Args:
        planner: None: the rules.
    """
    trials = []
    for objects in range(1, most_objects + 1):
        for seed in range(scenes):
            scene = random_scene(seed, objects)
            with tempfile.TemporaryDirectory() as folder:
                film = Path(folder) / "film.mp4"
                write_film(film, (get() for get in scene.stream()), scene.size, scene.fps, crf=10)
                for way in ways:
                    trials.append(_trial(scene, film, way, objects, seed, planner))
        progress(f"{objects} shapes: {scenes} films")
    return trials


def _trial(scene: Scene, film: Path, way: str, objects: int, seed: int, planner: Planner | None) -> Trial:
    rng = np.random.default_rng(mix(seed, objects, WAYS.index(way)))
    target = int(np.random.default_rng(mix(seed, objects)).integers(objects))
    session = Session(film.parent / way)
    assistant = Assistant(session, FlowTracker(), [film.parent], planner=planner)
    try:
        assistant.load(film)
        true = scene.shapes[target].direction
        answers: list[str | None] = []
        typed = 0
        for words in _wordings(scene, target) if way == "words" else ["it"]:
            question = QUESTION.format(words)
            typed += len(question)
            chosen = [] if way == "words" else [assistant.point(pointed(scene, target, way, rng)).id]
            answer = assistant.ask(question, chosen)
            found = _WAY.search(answer.text)
            answers.append(found[1] if found else None)
            if found:
                break
        values = [_iou(mask, scene.masks(frame)[target]) for frame, mask in _masks(assistant) if frame > 0]
        valid = sum(1 for turn in assistant.turns if not turn.notes), len(assistant.turns)
        mean = float(np.mean(values)) if values else None
        return Trial(way, objects, seed, answers[0] == true, answers[-1] == true, typed, len(answers), mean, valid)
    finally:
        assistant.close()


def _masks(assistant: Assistant) -> list[tuple[int, np.ndarray]]:
    return list(assistant.mask_frames("obj1")) if "obj1" in assistant.objects else []


def pointed(scene: Scene, target: int, way: str, rng: np.random.Generator) -> Prompt:
    """A hand's point on a shape in frame 0, a box around it, or an outline, a little off."""
    mask = scene.masks(0)[target]
    rows, columns = np.nonzero(mask)
    if way == "point":
        chosen = rng.integers(len(rows))
        return Points(0, ((float(columns[chosen]) + 0.5, float(rows[chosen]) + 0.5),), (True,))
    box = box_of(mask)
    assert box is not None
    if way == "box":
        off = rng.integers(0, _SLIP, 4, endpoint=True)
        height, width = scene.size
        left, top, right, bottom = box
        return Box(
            0, max(0, left - off[0]), max(0, top - off[1]), min(width, right + off[2]), min(height, bottom + off[3])
        )
    around = mask.copy()
    for _ in range(_SLIP):
        padded = np.pad(around, 1)
        around = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return Mask(0, around, loose=True)


def _wordings(scene: Scene, target: int) -> list[str]:
    """What a user says of a shape, each time more: its form, its colour too, and then on which side it is."""
    shape = scene.shapes[target]
    same = [each for each in scene.shapes if (each.shape, each.colour) == (shape.shape, shape.colour)]
    places = np.array([each.start for each in same])
    x, y = shape.start
    sides = {"left": x == places[:, 0].min(), "right": x == places[:, 0].max()}
    sides |= {"top": y == places[:, 1].min(), "bottom": y == places[:, 1].max()}
    side = next((name for name, outermost in sides.items() if outermost), "left")  # one in the middle has no side
    kind = f"the {shape.colour} {shape.shape}"
    return [f"the {shape.shape}", kind, f"{kind} on the {side}"]


def _iou(mask: np.ndarray, true: np.ndarray) -> float:
    union = (mask | true).sum()
    return float((mask & true).sum() / union) if union else 1.0


def summary(trials: Sequence[Trial]) -> list[dict[str, float | int | str]]:
    """A row for each way and number of shapes: shares of right answers, and means of the rest."""
    rows: list[dict[str, float | int | str]] = []
    for way in dict.fromkeys(trial.way for trial in trials):
        for objects in sorted({trial.objects for trial in trials}):
            group = [trial for trial in trials if (trial.way, trial.objects) == (way, objects)]
            ious = [trial.iou for trial in group if trial.iou is not None]
            made = sum(trial.valid[1] for trial in group)
            rows.append(
                {
                    "way": way,
                    "objects": objects,
                    "questions": len(group),
                    "first": float(np.mean([trial.first for trial in group])),
                    "right": float(np.mean([trial.right for trial in group])),
                    "characters": float(np.mean([trial.characters for trial in group])),
                    "turns": float(np.mean([trial.turns for trial in group])),
                    "iou": float(np.mean(ious)) if ious else float("nan"),
                    "valid": sum(trial.valid[0] for trial in group) / made if made else float("nan"),
                }
            )
    return rows


def as_json(trials: Sequence[Trial]) -> list[dict]:
    """Plain values of all trials."""
    return [asdict(trial) for trial in trials]
