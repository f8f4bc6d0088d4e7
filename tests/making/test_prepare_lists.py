"""What users give to prepare: lists of timestamps, files with other endings, a dry run first; and what it shows."""

import base64
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from datamodules.decoding.reader import PyAV
from datamodules.making.prepare import prepare
from datamodules.sources.shards import Shards
from datamodules.sources.tars import write_shard
from tests.helpers import videos
from tools.prepare import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    videos.make(folder / "a.mp4", frames=96)
    videos.make(folder / "b.mkv", frames=72, b_frames=0)
    (folder / "c.mp4").write_bytes(b"no video")
    return folder


LIST = """path,start,end,text,label
a.mp4,0.5,1.5,one,3
a.mp4,00:00:02.000,00:00:03.000,two,4
a.mp4,3,2,backwards,5
a.mp4,soon,later,words,5
b.mkv,0,1,three,5
a.mp4,30,40,behind its end,6
gone.mp4,0,1,absent,7
c.mp4,0,1,broken,8
"""


def test_a_list_of_timestamps_cuts_clips(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "clips.csv").write_text(LIST)
    arguments = [str(tmp_path / "clips.csv"), str(tmp_path / "out"), "--root", str(folder), "--workers", "1", "--quiet"]
    assert main([*arguments, "--dry-run"]) == 0 and not (tmp_path / "out").exists()
    printed = capsys.readouterr().out
    assert "would keep 3 clips of 2 videos: 0:03 of video" in printed and "3 clips of 80x48" in printed
    assert "would drop 1: it starts after the end of its video" in printed and "missing 1" in printed
    assert "would drop a.mp4 (line 4): from 3 to 2 is no clip" in printed and "'soon' is no timestamp" in printed
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["kept"], report["dropped"], report["missing"]) == (3, 4, 1)
    source, found = Shards(str(tmp_path / "out")), {}
    for sample in source:
        with sample.open(PyAV()) as video:
            found[sample.text] = [videos.number(f) for f in video.frames([0, len(video) - 1])], sample.label
    assert found == {"one": ([12, 35], 3), "two": ([48, 71], 4), "three": ([0, 23], 5)}


def test_a_dry_run_counts_equal_parts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(folder), str(tmp_path / "out"), "--clip-seconds", "1", "--short-side", "32", "--workers", "1"]
    assert main([*arguments, "--quiet", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "would keep 7 clips of 2 videos: 0:07 of video" in printed and "7 clips of 54x32" in printed
    assert "would drop 1: no video that FFmpeg can open" in printed
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "kept 7 clips" in shown.out and "MB in, " in shown.err and "video/s" in shown.err


def test_limits_of_what_a_header_claims_are_options(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of 96 and of 72 frames of 3,840 pixels."""
    arguments = [str(folder), str(tmp_path / "out"), "--workers", "1", "--quiet"]
    assert main([*arguments, "--max-frames", "80", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "96 is above the limit frames of 80; if it is right, raise it in the recipe, or by --max-frames" in printed
    assert main([*arguments, "--max-pixels", "3839"]) == 1
    printed = capsys.readouterr().out
    assert "dropped 2: " in printed and "above the limit frame_pixels of 3839" in printed and "--max-pixels" in printed
    assert main(arguments) == 2
    assert "begun with another limits" in capsys.readouterr().err, "else finished shards would lack what is allowed now"
    arguments[1] = str(tmp_path / "again")
    assert main([*arguments, "--max-pixels", "3840", "--max-frames", "80", "--short-side", "32"]) == 0
    assert json.loads((tmp_path / "again/report.json").read_text())["kept"] == 1


def test_the_page_shows_thumbnails(folder: Path, tmp_path: Path) -> None:
    prepare(str(folder), str(tmp_path / "out"), workers=1, progress=False)
    page = (tmp_path / "out" / "report.html").read_text()
    shown = re.findall(r"<img src='data:image/jpeg;base64,([^']+)' alt=''><figcaption>(.*?)</figcaption>", page)
    names = [os.path.relpath(path, folder) for path in sorted(folder.rglob("*.*"))]
    assert shown and all(any(text.startswith(f"{name} (0:") for name in names) for _, text in shown)
    with Image.open(io.BytesIO(base64.b64decode(shown[0][0]))) as picture:
        assert picture.width > 200 and picture.height == 72


def test_members_are_named_by_their_container(tmp_path: Path) -> None:
    """Videos of another ending or none, named in a list: what is kept is what a run sees."""
    whole = Path(videos.make(tmp_path / "w.mp4", frames=12)).read_bytes()
    stream = Path(videos.make(tmp_path / "w.ts", frames=12)).read_bytes()
    names = {"none": (whole, "mp4"), "x.data": (whole, "mp4"), "y.MOV": (whole, "mov"), "z.m2ts": (stream, "m2ts")}
    names["wrong.mkv"] = (whole, "mp4")
    for name, (content, _) in names.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "l.csv").write_text("path\n" + "\n".join(names) + "\n")
    report = prepare(str(tmp_path / "l.csv"), str(tmp_path / "out"), workers=1, progress=False)
    assert report["kept"] == len(Shards(str(tmp_path / "out"))) == 5
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        endings = [name.rpartition(".")[2] for name in tar.getnames() if not name.endswith(".json")]
    assert endings == [ending for _, ending in names.values()]


def test_a_member_that_no_run_would_see_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 samples are written, and 1 of them can be read"):
        write_shard(tmp_path / "s.tar", [("a", "mp4", b"x", {}), ("b", "xyz", b"x", {})])
    assert not (tmp_path / "s.tar").exists()


def test_parts_of_several_machines_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each makes every n-th shard in a folder of its own; merged, they are the shards of one machine."""
    (tmp_path / "in").mkdir()
    for i in range(5):
        videos.make(tmp_path / "in" / f"{i}.mp4", frames=6 + i)
    (tmp_path / "in" / "5.mp4").write_bytes(b"no video")
    common = [str(tmp_path / "in"), "--workers", "1", "--quiet", "--shard-samples", "1"]
    assert main([common[0], str(tmp_path / "one"), *common[1:]]) == 0
    parts = [tmp_path / f"part-{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        assert main([common[0], str(part), *common[1:], "--part", f"{i}/3"]) in (0, 1)
        assert len(list(part.glob("*.tar"))) == 2
    with pytest.raises(SystemExit):
        main([common[0], str(tmp_path / "x"), "--part", "4/3"])
    assert "'4/3' is no part: write 1/8 to 8/8" in capsys.readouterr().err
    merge = ["index", str(tmp_path / "all"), "--merge", *map(str, parts)]
    assert main(merge[:-1]) == 2 and "part 3 of 3 is not among the folders" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    videos.make(tmp_path / "other" / "x.mp4", frames=6)
    assert main([str(tmp_path / "other"), str(tmp_path / "another"), *common[1:], "--part", "3/3"]) == 1
    assert main([*merge[:-1], str(tmp_path / "another")]) == 2 and "of another list" in capsys.readouterr().err
    (tmp_path / "all").mkdir()
    (parts[0] / "shard-000000.tar").rename(tmp_path / "all" / "shard-000000.tar")  # as of a merge that was killed
    (parts[0] / "shard-000000.idx").rename(tmp_path / "all" / "shard-000000.idx")
    assert main(merge) == 0 and "kept 5 clips in 6 shards" in capsys.readouterr().out
    for name in ("shards.csv", *(f"shard-{i:06d}.tar" for i in range(6))):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(Shards(str(tmp_path / "all"))) == 5
    report = json.loads((tmp_path / "all" / "report.json").read_text())
    assert (report["kept"], report["dropped"], report["frames"]) == (5, 1, sum(range(6, 11)))
    (parts[1] / "report.json").unlink()
    assert main(merge) == 2 and "part-2 is not finished" in capsys.readouterr().err
