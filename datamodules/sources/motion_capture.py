"""Motion-captured human actions as moving capsules: the motions and the humanoid that the package `pybullet` carries.

Notable: only its files are read. The skeleton's transforms are computed here once for all frames of a motion, and poses
between frames are interpolated; no physics is simulated and nothing is shared between threads or processes.
"""

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

ACTIONS = {  # the files' names, and what a caption says
    "backflip": "does a backflip",
    "cartwheel": "turns a cartwheel",
    "crawl": "crawls",
    "dance_a": "dances with steps",
    "dance_b": "dances with arms",
    "getup_facedown": "gets up from the belly",
    "getup_faceup": "gets up from the back",
    "jump": "jumps",
    "kick": "kicks",
    "punch": "punches",
    "roll": "rolls over",
    "run": "runs",
    "spin": "spins",
    "spinkick": "does a spin kick",
    "walk": "walks",
}
_SCALE = 0.25  # of the humanoid's file to metres (DeepMimic's)
_JOINTS = ("chest", "neck", *(f"{side}_{name}" for side in ("right", "left") for name in ("hip", "knee", "ankle",
           "shoulder", "elbow")))  # in the order of a motion's rows  # fmt: skip
_CLOSED = 0.3  # metres: a motion is repeated if no part is further than this from its first place, seen from the hips


class Capsule(NamedTuple):
    """A body part: all points within `radius` of a segment; `name` is the link's."""

    name: str
    radius: float


@dataclass(frozen=True)
class Motion:
    """A motion: the ends of all capsules, in metres with y up, at known times.

    ends: float32 `[N, P, 2, 3]`, of N poses and P capsules.
    root: float32 `[N, 3]`, the hips.
    times: seconds of the poses, `[N]`, from 0.
    closed: the last pose is the first one at another place, as in walking; then the motion repeats.
    """

    ends: np.ndarray
    root: np.ndarray
    times: np.ndarray
    closed: bool

    def at(self, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`ends` `[T, P, 2, 3]` and `root` `[T, 3]` at some times `[T]`: interpolated, and outside the motion those
        of its repetition, or its first and last pose."""
        duration = self.times[-1]
        cycle = np.floor(seconds / duration) if self.closed else np.zeros_like(seconds)
        within = np.clip(seconds - cycle * duration, 0, duration)
        after = np.clip(np.searchsorted(self.times, within, side="right"), 1, len(self.times) - 1)
        share = ((within - self.times[after - 1]) / (self.times[after] - self.times[after - 1])).astype(np.float32)
        moved = cycle[:, None].astype(np.float32) * (self.root[-1] - self.root[0]) * np.array([1, 0, 1], np.float32)
        w = share[:, None, None, None]
        ends = (1 - w) * self.ends[after - 1] + w * self.ends[after] + moved[:, None, None]
        return ends, (1 - share[:, None]) * self.root[after - 1] + share[:, None] * self.root[after] + moved


def data_folder() -> Path:
    """Where `pybullet` keeps its data; ImportError with the remedy if it is not installed."""
    found = importlib.util.find_spec("pybullet_data")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the human actions are in the package pybullet: pip install -e '.[actions]'")
    return Path(found.submodule_search_locations[0])


@cache
def humanoid() -> tuple[list[Capsule], dict[str, Motion]]:
    """The body's capsules, and all motions by the names in `ACTIONS`."""
    folder = data_folder()
    text = (folder / "humanoid/humanoid.urdf").read_bytes().rstrip(b"\0")  # a NUL follows its last line
    links = ElementTree.fromstring(text)
    parents = {joint.find("child").attrib["link"]: joint for joint in links.iter("joint")}  # pyrefly: ignore
    shapes = {link.attrib["name"]: _shape(link) for link in links.iter("link") if link.find("collision") is not None}
    capsules = [Capsule(name, radius) for name, (_, radius) in shapes.items()]
    segments = {name: segment for name, (segment, _) in shapes.items()}
    motions = {}
    for name in ACTIONS:
        saved = json.loads((folder / f"data/motions/humanoid3d_{name}.txt").read_text())
        motions[name] = _motion(np.array(saved["Frames"], np.float64), parents, segments)
    return capsules, motions


def _shape(link: ElementTree.Element) -> tuple[np.ndarray, float]:
    """The two ends `[2, 3]` and the radius of a link's shape, in metres in the link's frame."""
    origin = _SCALE * _numbers(link.find("collision/origin").attrib["xyz"])  # pyrefly: ignore
    geometry = link.find("collision/geometry")[0]  # pyrefly: ignore
    if geometry.tag == "box":  # a foot: a capsule along its length, as thick as the mean of the other two sides
        length, *others = _SCALE * _numbers(geometry.attrib["size"])
        radius, half = float(np.mean(others)) / 2, np.array([length / 2, 0, 0])
        half[0] -= radius
    else:  # limbs lie along y; a sphere has no length
        radius = _SCALE * float(geometry.attrib["radius"])
        half = np.array([0, _SCALE * float(geometry.attrib.get("length", 0)) / 2, 0])
    return np.stack([origin + half, origin - half]), radius


def _numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def _motion(rows: np.ndarray, parents: dict[str, ElementTree.Element], segments: dict[str, np.ndarray]) -> Motion:
    """A motion from its file's rows: seconds of the pose, the root's place and quaternion, and each joint's rotation
    relative to its parent, a quaternion or, of knees and elbows, an angle about z."""
    root, at = rows[:, 1:4], 8
    turns = {"root": _matrices(rows[:, 4:8])}
    for joint in _JOINTS:
        if joint.endswith(("knee", "elbow")):
            angle, at = rows[:, at], at + 1
            zero = np.zeros_like(angle)
            turns[joint] = _matrices(np.stack([np.cos(angle / 2), zero, zero, np.sin(angle / 2)], 1))
        else:
            turns[joint], at = _matrices(rows[:, at : at + 4]), at + 4
    frames = {"root": (turns["root"], root)}

    def frame(name: str) -> tuple[np.ndarray, np.ndarray]:
        """Orientation `[N, 3, 3]` and origin `[N, 3]` of a link in the world."""
        if name not in frames:
            joint = parents[name]
            turn, origin = frame(joint.find("parent").attrib["link"])  # pyrefly: ignore
            offset = _SCALE * _numbers(joint.find("origin").attrib["xyz"])  # pyrefly: ignore
            frames[name] = (turn @ turns[name] if name in turns else turn, origin + turn @ offset)
        return frames[name]

    ends = [segments[name] @ frame(name)[0].swapaxes(1, 2) + frame(name)[1][:, None] for name in segments]
    made = np.stack(ends, 1).astype(np.float32)  # [N, P, 2, 3]
    gap = (made - root[:, None, None].astype(np.float32))[[0, -1]]
    times = np.concatenate([[0], np.cumsum(rows[:-1, 0])])
    return Motion(made, root.astype(np.float32), times, bool(np.linalg.norm(gap[1] - gap[0], axis=-1).max() < _CLOSED))


def _matrices(quaternions: np.ndarray) -> np.ndarray:
    """Rotations `[N, 3, 3]` of quaternions w, x, y, z `[N, 4]` of any length."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)
