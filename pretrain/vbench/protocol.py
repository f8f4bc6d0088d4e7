"""What a run of VBench is: facts of its videos, and in what it differs from the official protocol.

The official protocol: the 946 entries of VBench's suite, videos PROMPT-0 to PROMPT-4 of each prompt, VBench's own
models, imaging mode `longer`, and temporal flickering on static videos only. Rate, size and length of the videos are
the generator's own.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from datamodules.storage.counted import counted
from pretrain.metrics.vbench.plan import Plan
from pretrain.metrics.vbench.prompts import FILE, package_folder
from pretrain.metrics.vbench.totals import DIMENSIONS

# VBench_full_info.json of the package vbench 0.1.5.
SUITE_SHA256 = "5dd2de80ee43cda750b2b72ea7023657c0b90d3702041c7e4608c65dbe50dccd"


@dataclass(frozen=True)
class Facts:
    """Frames, frame rate and size (height, width) of the videos of a plan; `broken`: why others cannot be opened."""

    videos: dict[str, tuple[int, float, tuple[int, int]]]
    broken: list[str]

    def lines(self) -> list[str]:
        """A sentence for each kind of video, and for what cannot be scored."""
        kinds = Counter(self.videos.values())
        found = [
            f"{counted(n, 'video')} of {counted(t, 'frame')}, {r:g} fps, {h} x {w}"
            for (t, r, (h, w)), n in kinds.most_common(5)
        ]
        if len(kinds) > 5:
            found.append(f"and {len(kinds) - 5} further kinds of videos")
        unrated = [name for name, (_, rate, _) in self.videos.items() if not 0 < rate < float("inf")]
        if unrated:
            found.append(
                f"{counted(len(unrated), 'video')} without a frame rate, the first {unrated[0]!r}: no dynamic degree"
            )
        single = [name for name, (frames, _, _) in self.videos.items() if frames < 2]
        if single:
            found.append(
                f"{counted(len(single), 'video')} of one frame, the first {single[0]!r}: no score where frames compare"
            )
        return found + [f"cannot be opened: {reason}" for reason in self.broken]


def look_at(plan: Plan, decoder: Decoder) -> Facts:
    """Open each video of a plan without decoding it."""
    videos, broken = {}, []
    for path in dict.fromkeys(job.path for job in plan.jobs):
        try:
            with decoder.open(str(path), path.name) as video:
                videos[path.name] = len(video), float(video.fps), (int(video.size[0]), int(video.size[1]))
        except DecodeError as error:
            broken.append(str(error))
    return Facts(videos, broken)


def is_official_suite(path: str | Path | None) -> bool:
    """Whether the prompts are VBench's, byte by byte. None: those of the installed package."""
    folder = package_folder()
    file = Path(path) if path is not None else (folder or Path()) / FILE
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == SUITE_SHA256


def deviations(
    plan: Plan,
    facts: Facts,
    dimensions: Iterable[str],
    official_suite: bool,
    filtered: bool,
    imaging_mode: str = "longer",
    stand_ins: Mapping[str, str] | None = None,
) -> list[str]:
    """In what a run differs from the official protocol, a sentence each.

    Args:
        filtered: only static videos count in temporal flickering.
        stand_ins: of dimensions, the model that stands in for VBench's.
    """
    wanted = list(dimensions)
    found = []
    if plan.mode != "standard":
        found.append(f"mode {plan.mode}: the prompts are not those of the suite")
    elif not official_suite:
        found.append("the prompts are not the file of vbench 0.1.5")
    if absent := [name for name in DIMENSIONS if name not in wanted]:
        found.append(f"{len(absent)} of 16 dimensions are left out: {', '.join(absent)}")
    if plan.missing:
        found.append(f"{len(plan.missing)} videos of the suite are missing, the first {plan.missing[0]!r}")
    found += [f"names that differ in case only: {', '.join(names)}" for names in plan.clashes]
    found += [f"cannot be opened: {reason}" for reason in facts.broken]
    if "temporal_flickering" in wanted and not filtered:
        found.append("temporal flickering is of all its videos: the static filter is not applied")
    if "imaging_quality" in wanted and imaging_mode != "longer":
        found.append(f"imaging quality resizes in mode {imaging_mode}")
    found += [f"{name} by {model}, which is not VBench's model" for name, model in (stand_ins or {}).items()]
    return found
