"""Scenes of moving shapes for the assistant: as films in memory, as files, and the places and masks of their shapes."""

from pathlib import Path

import numpy as np

from datamodules.sources.shape_scenes import MovingShape, Scene
from pretrain.assistant.prompts import Points
from pretrain.generation.film_file import write_film

# Two shapes that cross each other's way, one of them in front.
CROSSING = (
    MovingShape("circle", "red", 11.0, (20.0, 30.0), (2.0, 0.0)),
    MovingShape("square", "blue", 12.0, (60.0, 70.0), (0.0, -1.5)),
)


def crossing(length: int = 24) -> Scene:
    """A red circle to the right and a blue square upwards, 96 x 128 pixels."""
    return Scene(CROSSING, length)


def leaving() -> Scene:
    """A red circle that leaves on the right and returns, beside a yellow square that stays."""
    circle = MovingShape("circle", "red", 10.0, (90.0, 40.0), (4.0, 0.0), turns=14)
    return Scene((circle, MovingShape("square", "yellow", 10.0, (30.0, 70.0), (0.0, 0.0))), 29)


def write_scene(path: Path, scene: Scene, crf: int = 6) -> Path:
    """The scene as an mp4 of H.264, by default nearly without loss."""
    write_film(path, (scene.frames([i])[0] for i in range(len(scene))), scene.size, scene.fps, crf)
    return path


def click(scene: Scene, shape: int, frame: int = 0, positive: bool = True) -> Points:
    """A point in the middle of a shape's visible part."""
    rows, columns = np.nonzero(scene.masks(frame)[shape])
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return Points(frame, ((float(columns[nearest]) + 0.5, float(rows[nearest]) + 0.5),), (positive,))


def iou(mask: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union; 1 of two empty masks."""
    union = (mask | true).sum()
    return float((mask & true).sum() / union) if union else 1.0
