"""Prompts of the zero-shot protocols: what tools/evaluation_prompts.py writes, tools/generate.py and the data read."""

import json
from pathlib import Path

import pytest

from datamodules import Files
from pretrain.generation.evaluation_prompts import caption_prompts
from pretrain.generation.prompts import read_prompts
from pretrain.generation.settings import Request
from tools.evaluation_prompts import main


def msrvtt(folder: Path) -> Path:
    videos = [{"video_id": f"video{i}", "split": "test" if i > 1 else "train"} for i in range(6)]
    sentences = [{"video_id": f"video{i}", "caption": f"caption {j} of {i}"} for j in range(9) for i in range(6)]
    (folder / "data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    return folder / "data.json"


def test_class_names_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ApplyEyeMakeup\nYoYo\n")
    assert main(["ucf101", str(tmp_path / "classes.txt"), "--per-class", "3", "--out", str(tmp_path)]) == 0
    films = read_prompts(tmp_path / "prompts.csv", Request("default"))
    assert {request.prompt for request in films.values()} == {"apply eye makeup", "yo yo"}
    assert [request.seed for request in films.values()] == [0, 1, 2] * 2
    source = Files(str(tmp_path / "films.csv"))
    made = [tmp_path / f"{name}.mp4" for name in films]
    assert [Path(str(source[i].content)) for i in range(len(source))] == made
    assert [source[i].text for i in range(len(source))] == [request.prompt for request in films.values()]


def test_each_test_video_has_one_of_its_captions(tmp_path: Path) -> None:
    assert main(["msrvtt", str(msrvtt(tmp_path)), "--out", str(tmp_path)]) == 0
    films = read_prompts(tmp_path / "prompts.csv", Request("default"))
    assert list(films) == ["video2", "video3", "video4", "video5"]
    assert all(request.prompt.endswith(f"of {name[-1]}") for name, request in films.items())
    draws = {seed: caption_prompts(msrvtt(tmp_path), seed) for seed in (0, 0, 1)}
    assert [prompt for _, prompt, _ in draws[0]] == [request.prompt for request in films.values()]
    assert [prompt for _, prompt, _ in draws[0]] != [prompt for _, prompt, _ in draws[1]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "lacks 'videos'"),
        ({"videos": [], "sentences": []}, "no video of the split"),
        ({"videos": [{"video_id": "a", "split": "test"}], "sentences": []}, "no caption of a"),
    ],
)
def test_files_that_are_none_of_msrvtt(tmp_path: Path, content: dict, said: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        caption_prompts(tmp_path / "x.json")
