"""Which videos are scored in which dimensions, and what of the suite is missing, before any model is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain.metrics.vbench.prompts import Prompt, by_text, category_prompts, collisions, prompt_of, prompts_of_files
from pretrain.metrics.vbench.totals import DIMENSIONS

SUFFIXES = (".mp4", ".gif", ".webm", ".mkv", ".avi", ".mov")
SAMPLES = 5  # videos of a prompt in the official protocol
STATIC_SAMPLES = 25  # of a prompt of temporal flickering, from which the static filter takes five
# Dimensions that ask for what only the suite's prompts have.
OF_THE_SUITE = ("object_class", "multiple_objects", "color", "spatial_relationship", "scene", "appearance_style")


@dataclass(frozen=True)
class Job:
    """A video, its prompt, and the dimensions that it is scored in."""

    path: Path
    prompt: str
    dimensions: tuple[str, ...]
    auxiliary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The jobs of a run. `missing` and `unused`: names of videos. `clashes`: names that differ in case only."""

    mode: str
    jobs: list[Job]
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    clashes: list[list[str]] = field(default_factory=list)

    def videos(self, dimension: str) -> int:
        """Number of videos that are scored in a dimension."""
        return sum(dimension in job.dimensions for job in self.jobs)

    def labels(self) -> list[str]:
        """What sets the run apart from the official protocol, a sentence each."""
        found = [f"mode {self.mode}, {len(self.jobs)} videos"]
        if self.missing:
            found.append(f"{len(self.missing)} videos of the suite are missing, the first {self.missing[0]!r}")
        if self.unused:
            found.append(f"{len(self.unused)} videos are of no wanted prompt, the first {self.unused[0]!r}")
        return found + [f"names that differ in case only: {', '.join(names)}" for names in self.clashes]


def videos_in(folder: str | Path) -> list[Path]:
    """The videos of a folder, by name; FileNotFoundError if there is no folder, or no video in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos at {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{folder} holds no video ({', '.join(SUFFIXES)})")
    return found


def check_dimensions(wanted: Iterable[str]) -> tuple[str, ...]:
    """The wanted dimensions in the official order; ValueError for an unknown one."""
    names = list(wanted)
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown:
        raise ValueError(f"VBench has no dimension {unknown[0]!r}; it has {', '.join(DIMENSIONS)}")
    return tuple(name for name in DIMENSIONS if name in names)


def plan_standard(
    folder: str | Path, suite: Sequence[Prompt], dimensions: Iterable[str], filtered: bool = False
) -> Plan:
    """The official suite: videos PROMPT-0 to PROMPT-4 of each prompt, each in the dimensions of its prompt.

    Args:
        filtered: temporal flickering takes further videos of its prompts, to PROMPT-24, that are there.
    """
    wanted, videos = check_dimensions(dimensions), videos_in(folder)
    named = {path.stem: path for path in videos}
    jobs, missing = [], []
    for prompt in by_text(suite).values():
        own = tuple(name for name in wanted if name in prompt.dimensions)
        for name in (f"{prompt.text}-{i}" for i in range(SAMPLES if own else 0)):
            if name in named:
                jobs.append(Job(named[name], prompt.text, own, prompt.auxiliary))
            else:
                missing.append(name)
        more = range(SAMPLES, STATIC_SAMPLES if filtered and "temporal_flickering" in own else SAMPLES)
        extra = [named[name] for name in (f"{prompt.text}-{i}" for i in more) if name in named]
        jobs += [Job(path, prompt.text, ("temporal_flickering",), prompt.auxiliary) for path in extra]
    used = {job.path for job in jobs}
    return Plan("standard", jobs, missing, [p.name for p in videos if p not in used], collisions(videos))


def plan_custom(folder: str | Path, dimensions: Iterable[str], prompts: Mapping[str, str] | None = None) -> Plan:
    """Any videos: the prompt is in the mapping, or in the file's name.

    Raises:
        ValueError: a dimension that only the suite's prompts can be scored in.
    """
    wanted, videos = check_dimensions(dimensions), videos_in(folder)
    refused = [name for name in wanted if name in OF_THE_SUITE]
    if refused:
        raise ValueError(f"{refused[0]} asks for facts of VBench's own prompts: leave it out, or use mode standard")
    texts = prompts_of_files(videos, prompts)
    return Plan("custom", [Job(path, texts[path], wanted) for path in videos], clashes=collisions(videos))


def plan_category(
    folder: str | Path, dimensions: Iterable[str], category: str, prompts: str | Path, samples: int = SAMPLES
) -> Plan:
    """A content category: videos PROMPT-0 to PROMPT-4 of each prompt of CATEGORY.txt in the folder `prompts`.

    Raises:
        FileNotFoundError: no such category.
        ValueError: a dimension that only the suite's prompts can be scored in.
    """
    plan = plan_custom(folder, dimensions)
    texts = list(dict.fromkeys(prompt.text for prompt in category_prompts(category, prompts)))
    named = {job.path.stem: job for job in plan.jobs}
    names = [f"{text}-{i}" for text in texts for i in range(samples)]
    jobs = [replace(named[name], prompt=prompt_of(f"{name}.mp4")) for name in names if name in named]
    used = {job.path for job in jobs}
    unused = [job.path.name for job in plan.jobs if job.path not in used]
    return Plan(f"category {category}", jobs, [name for name in names if name not in named], unused, plan.clashes)
