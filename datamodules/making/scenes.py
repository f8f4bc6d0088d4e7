"""A manifest of the scenes of your own videos, by PySceneDetect's content detector: InternVid's first step."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from datamodules.cores import usable_cores
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.making.crew import LIMIT, Crew
from datamodules.making.journal import Journal
from datamodules.making.manifest import stamp_of
from datamodules.sources.files import find_videos
from datamodules.storage.json_text import json_text

if TYPE_CHECKING:
    from scenedetect import FrameTimecode, StatsManager

THRESHOLD = 27.0  # InternVid's value and the detector's default


@dataclass(frozen=True)
class Scenes:
    """Rules for scenes: where to cut, and which scenes to keep.

    Args:
        threshold: a larger change between two frames (mean over hue, saturation and brightness, 0 to 255) is a cut.
        seconds: shortest and longest scene to keep.
        motion: least and greatest mean change between frames of a scene. The paper drops still and extremely dynamic
            scenes but states no numbers; by default none is dropped.
    """

    threshold: float = THRESHOLD
    seconds: tuple[float, float] = (0.0, math.inf)
    motion: tuple[float, float] = (0.0, math.inf)

    def keeps(self, scene: dict) -> bool:
        """Whether the length and motion of a scene of `find_scenes` are within the limits."""
        length = scene["end"] - scene["start"]
        return self.seconds[0] <= length <= self.seconds[1] and self.motion[0] <= scene["motion"] <= self.motion[1]


def find_scenes(path: str, threshold: float = THRESHOLD) -> list[dict]:
    """Scenes of a video: `start` and `end` in seconds, `motion` (mean change between frames, without the cuts).

    Raises:
        DecodeError: the video cannot be read.
        ImportError: PySceneDetect is not installed.
    """
    try:
        from scenedetect import ContentDetector, SceneManager, StatsManager, open_video
        from scenedetect.video_stream import VideoOpenFailure
    except ImportError as error:
        raise ImportError("cutting scenes needs PySceneDetect: pip install -e '.[scenes]'") from error
    with PyAV().open(path):
        pass  # PyAV gives better reasons than PySceneDetect
    stats = StatsManager()
    manager = SceneManager(stats)
    manager.add_detector(ContentDetector(threshold))
    try:
        manager.detect_scenes(open_video(path, backend="pyav", suppress_output=True))
    except (VideoOpenFailure, OSError, AssertionError) as error:
        raise DecodeError(path, error) from None
    scenes = manager.get_scene_list(start_in_scene=True)
    found = [{"start": a.get_seconds(), "end": b.get_seconds(), "motion": _motion(stats, a, b)} for a, b in scenes]
    if found:
        found[0]["start"] = 0.0  # PySceneDetect gives 1/fps if the file has no time stamps (avi)
    return found


def _motion(stats: "StatsManager", start: "FrameTimecode", end: "FrameTimecode") -> float:
    """Mean of the detector's score over a scene without its first frame, whose score belongs to the cut."""
    found = [stats.get_metrics(frame, ["content_val"])[0] for frame in range(start.get_frames() + 1, end.get_frames())]
    scores = [score for score in found if score is not None]
    return round(sum(scores) / len(scores), 3) if scores else 0.0


def write_scenes(
    folder: str,
    out: str,
    scenes: Scenes | None = None,
    workers: int | None = None,
    limit: float = LIMIT,
    progress: bool = True,
) -> dict:
    """Writes a manifest (jsonl) of the scenes of all videos in `folder`; a killed run continues where it stopped.

    Returns:
        `videos`, `scenes` (found), `kept`, and `failed` (reason by video).
    """
    scenes, where = scenes or Scenes(), Path(folder)
    if not where.is_dir():
        raise FileNotFoundError(f"no folder of videos at {folder}")
    names = [file.relative_to(where).as_posix() for file in find_videos(where)]
    if not names:
        raise FileNotFoundError(f"no video in {folder}")
    with Journal(Path(out), {"folder": str(where), "threshold": scenes.threshold}) as journal:
        waiting = [name for name in names if name not in journal.records]
        bar = tqdm(total=len(names), initial=len(names) - len(waiting), disable=not progress, unit="video")
        with bar, Crew(partial(_work, threshold=scenes.threshold), workers or usable_cores(), limit) as crew:
            for name, found in zip(waiting, crew.run(str(where / name) for name in waiting), strict=True):
                journal.add(name, found)
                bar.update()
        done = {name: journal.records[name] for name in names}
        failed = {name: found for name, found in done.items() if isinstance(found, str)}
        rows = [(name, scene) for name, found in done.items() if name not in failed for scene in found]
        kept = [_line(name, scene) for name, scene in rows if scenes.keeps(scene)]
        journal.finish("".join(kept))
    return {"videos": len(names), "scenes": len(rows), "kept": len(kept), "failed": failed}


def _line(name: str, scene: dict) -> str:
    times = {"Start_timestamp": stamp_of(scene["start"]), "End_timestamp": stamp_of(scene["end"])}
    return json_text({"path": name, **times, "motion": scene["motion"]}) + "\n"


def _work(path: str, threshold: float) -> list[dict] | str:
    try:
        return find_scenes(path, threshold)
    except DecodeError as error:
        return error.reason
