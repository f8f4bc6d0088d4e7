"""The record of a film may come from elsewhere: its values are checked before they name a type, a file or a size."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pretrain.generation.record import make_record, read_record
from pretrain.generation.settings import Request
from tools import generate

RECORD = make_record(Request("a dog"), {"base": {"lavie_base.pt": "00"}}, "float32", 0)
WRONG: list[dict[str, Any]] = [
    {"dtype": "load"},
    {"dtype": None},
    {"tile": "512"},
    {"weights": [3]},
    {"weights": {"base": "00"}},
    {"request": {**RECORD["request"], "prompt": ["a"]}},
    {"request": {**RECORD["request"], "seed": "1"}},
    {"request": {**RECORD["request"], "frames": True}},
    {"request": {**RECORD["request"], "source": 3}},
    {"request": {**RECORD["request"], "settings": 3}},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_crafted_record_is_named(change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "film.json"
    file.write_text(json.dumps({**RECORD, **change}))
    words = ["--repeat", str(file), "--weights", str(tmp_path), "--out", str(tmp_path / "again.mp4")]
    assert generate.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file} ") and said.count("\n") == 1


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "film.json").write_text(json.dumps(RECORD))
    read = read_record(tmp_path / "film.json")
    assert read == RECORD and Request.from_json(read["request"], "film.json") == Request("a dog")


def test_a_source_that_never_ends_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(ValueError, match=f"the source {source} is not a regular file"):
            make_record(Request("a dog", stages=("vsr",), source=source), {}, "float32", 0)
