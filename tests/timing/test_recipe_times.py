"""Loading as recipes do it: the bare decoder decodes what the loader needs, and the report is complete."""

import json
from pathlib import Path

import pytest

from datamodules import Files, PyAV, Shards
from datamodules.making.encoding import Encoding
from datamodules.making.prepare import prepare
from datamodules.timing import bare_decoder
from datamodules.timing.recipe_times import measure_recipes
from tests.helpers import videos
from tests.helpers.paths import ROOT
from tools.benchmark import clip_of, main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "videos").mkdir()
    for i in range(2):
        videos.make(folder / f"{i}.mp4", frames=48, height=96, width=128)
    (folder / "none.mp4").write_text("no video")
    return folder


@pytest.mark.parametrize("ending, codec", [("mp4", "libx264"), ("avi", "mpeg4")])
def test_the_bare_decoder_decodes_the_frames_from_the_keyframes_before_them(
    ending: str, codec: str, tmp_path: Path
) -> None:
    path = videos.make(tmp_path / f"a.{ending}", frames=60, gop=12, codec=codec)
    with PyAV().open(path) as video:
        runs = bare_decoder.plan(video, [14, 14, 17, 40])
        if ending == "mp4":
            stamps = video.index.frame_pts[[14, 17, 40]].tolist()
            assert {run.start for run in runs} == {int(p) for p in video.index.key_pts[video.index.key_of(stamps)]}
        else:  # it stores no times
            stamps = [14, 17, 40]
            assert [run.start for run in runs] == [None]
    assert sorted(name for run in runs for name in run.wanted) == stamps
    assert bare_decoder.decode(path, runs) == bare_decoder.decode(Path(path).read_bytes(), runs, rgb=True) == 3
    assert bare_decoder.decode(path, [bare_decoder.Run(runs[0].start, frozenset({10**9}))]) == 0  # it never comes


def test_a_recipe_gives_its_clip() -> None:
    clip = clip_of(str(ROOT / "recipes" / "viclip_b.yaml"))
    assert (clip.frames, clip.size, clip.views, clip.flip) == (8, 224, 1, 0.5)
    assert (type(clip.sampler).__name__, type(clip.crop).__name__) == ("Sparse", "RandomResizedCrop")
    assert clip_of(str(ROOT / "recipes" / "videomae_b.yaml")).views == 4


def test_the_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, encoding in {"all": Encoding(encode=True), "cadence": Encoding(encode=True, fps=6)}.items():
        prepare(str(folder), str(tmp_path / name), encoding, workers=1, progress=False)
    recipes = [str(ROOT / "recipes" / f"{name}.yaml") for name in ("videomae_b", "viclip_b")]
    shards = [str(tmp_path / name) for name in ("all", "cadence")]
    few = ["--draws", "1", "--rounds", "1", "--json", str(tmp_path / "r.json")]
    assert main(["recipes", *recipes, "--videos", str(folder), "--shards", *shards, *few]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["videos"] == 2 and [*report["unreadable"]] == ["none.mp4"]
    assert report["bytes"]["original"] == sum((folder / f"{i}.mp4").stat().st_size for i in range(2))
    for by in report["cpu_seconds"].values():
        assert list(by) == ["frames", "RGB", "original", "all", "cadence"] and min(by.values()) > 0
    text = capsys.readouterr().out
    assert "| cadence against all |" in text and "| videomae_b |" in text and "2 videos, 1 clips of each" in text
    videos.make(folder / "2.mp4", frames=48)
    with pytest.raises(ValueError, match=r"not in the shards x: 2\.mp4"):
        measure_recipes(Files(str(folder)), {"a": clip_of(recipes[0])}, {"x": Shards(shards[0])})
