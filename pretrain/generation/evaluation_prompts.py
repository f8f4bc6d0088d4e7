"""Prompts of the zero-shot protocols: class names of UCF101, a caption of each test video of MSR-VTT."""

import csv
import random
import re
from collections.abc import Sequence
from pathlib import Path

from datamodules.sources.annotated.classes import read_classes
from datamodules.storage.json_text import read_json
from datamodules.storage.whole_files import whole_file

Film = tuple[str, str, int]  # name, prompt, seed


def class_prompts(classes: Sequence[str], count: int = 100) -> list[Film]:
    """`count` films of each class with the seeds 0, 1, ...; "ApplyEyeMakeup" is asked for as "apply eye makeup"."""
    films = []
    for name in classes:
        prompt = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower().split())
        films += [(f"{prompt.replace(' ', '-')}-{seed:04d}", prompt, seed) for seed in range(count)]
    return films


def caption_prompts(annotations: Path, seed: int = 0) -> list[Film]:
    """A random caption of each test video of MSR-VTT's `MSRVTT_data.json`, drawn by the seed, in the videos' order.

    Raises:
        ValueError: the file has no test video, or a test video has no caption.
    """
    found = read_json(annotations)
    try:
        videos = [video["video_id"] for video in found["videos"] if video["split"] == "test"]
        captions: dict[str, list[str]] = {video: [] for video in videos}
        for sentence in found["sentences"]:
            if sentence["video_id"] in captions:
                captions[sentence["video_id"]].append(sentence["caption"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{annotations} is no MSRVTT_data.json: it lacks {error}") from None
    if not videos:
        raise ValueError(f"{annotations} has no video of the split `test`")
    if silent := [video for video, texts in captions.items() if not texts]:
        raise ValueError(f"{annotations} has no caption of {silent[0]}")
    # A generator for each video: its caption does not depend on the others.
    return [(video, random.Random(f"{seed}/{video}").choice(captions[video]), seed) for video in videos]


def write_prompts(films: Sequence[Film], folder: Path) -> None:
    """Write `prompts.csv`, which tools/generate.py reads, and `films.csv`, the list of the films it then makes."""
    with whole_file(folder / "prompts.csv", newline="") as file:
        csv.writer(file).writerows([("name", "prompt", "seed"), *films])
    with whole_file(folder / "films.csv", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *((f"{name}.mp4", prompt) for name, prompt, _ in films)])


def ucf101_prompts(classes: Path, count: int = 100) -> list[Film]:
    """`class_prompts` of a file of class names."""
    return class_prompts(read_classes(str(classes), None, {}), count)
