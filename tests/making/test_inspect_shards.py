"""Inspecting shards: the properties of samples that it reports and the contact sheet that it draws."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.making.contents import as_markdown, contact_sheet, sample_properties, spread, totals
from datamodules.making.prepare import prepare
from datamodules.sources.files import Files
from datamodules.sources.shards import Shards
from tests.helpers import videos
from tests.helpers.paths import ROOT

TOOL = ROOT / "tools/inspect_shards.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five samples, the last of which was damaged after packing."""
    folder = tmp_path_factory.mktemp("shards")
    lines = ["path,text,label"]
    for i in range(5):
        videos.make(folder / f"{i}.mp4", frames=24 * (i + 1))
        lines.append(f"{i}.mp4,{'word ' * (i + 1)},{i}")
    (folder / "list.csv").write_text("\n".join(lines))
    prepare(str(folder / "list.csv"), str(folder / "out"), workers=1, progress=False)
    tar = folder / "out" / "shard-000000.tar"
    data, last = tar.read_bytes(), (folder / "4.mp4").read_bytes()
    tar.write_bytes(data.replace(last, bytes(len(last))))
    return folder / "out"


def test_sample_properties(shards: Path) -> None:
    source = Shards(str(shards))
    values, failed = sample_properties(source)
    assert values["seconds"] == pytest.approx([1, 2, 3, 4]) and values["caption words"] == [1, 2, 3, 4]
    assert values["fps"] == [24] * 4 and values["frames"] == [24, 48, 72, 96] and set(values["width"]) == {80}
    assert len(failed) == 1 and next(iter(failed)).endswith("000000000004")
    text = as_markdown(values)
    assert "| seconds | 1 | 1.15 | 1.75 | 2.5 | 3.25 | 3.85 | 4 | 2.5 |" in text
    assert "5 samples in 1 shard, 0:12 long in all; " in totals(source, values, failed) and "1 unreadable" in totals(
        source, values, failed
    )


def test_seconds_are_those_of_the_frames(tmp_path: Path) -> None:
    videos.two_rates(tmp_path / "v.mkv")
    values, _ = sample_properties(Files(str(tmp_path)))
    assert values["seconds"] == pytest.approx([12], abs=0.4) and values["frames"] == [78]


def test_the_command_draws_a_sheet(shards: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TOOL, shards, "--out", tmp_path / "new" / "sheet.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "| caption words |" in done.stdout and "unreadable" in done.stderr
    picture = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    assert picture.shape[1] > 2 * 5 * 160 and picture.std() > 30
    gone = subprocess.run([sys.executable, TOOL, tmp_path / "no"], capture_output=True, text=True, check=False)
    assert gone.returncode == 2 and "no shards at" in gone.stderr and "Traceback" not in gone.stderr


def test_frames_of_the_sheet_are_those_of_the_sample(shards: Path) -> None:
    sheet = np.asarray(contact_sheet(Shards(str(shards)), samples=1, frames=3, height=48))
    first = sheet[4 + 32 : 4 + 32 + 48, 4 : 4 + 80]
    assert videos.number(first) == spread(72, 3)[0]


def test_spread() -> None:
    assert spread(10, 2).tolist() == [2, 7] and spread(2, 5).tolist() == [0, 1] and spread(0, 5).tolist() == []
