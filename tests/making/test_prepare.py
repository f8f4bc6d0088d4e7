"""From videos to shards by the command: kept, dropped with reasons, resized, cut, finished after a kill."""

import csv
import json
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest

from datamodules.decoding.reader import PyAV
from datamodules.making.encoding import Encoding
from datamodules.making.prepare import prepare
from datamodules.sources.shards import Shards
from tests.helpers import videos
from tests.helpers.paths import ROOT

TOOL = [sys.executable, str(ROOT / "tools/prepare.py")]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([*TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos (two in a sub-folder, names with spaces and other letters) and five files that are not videos."""
    folder = tmp_path_factory.mktemp("my videos")
    videos.make_bad(folder)
    (folder / "in here").mkdir()
    videos.make(folder / "a.mp4", frames=72)
    videos.make(folder / "b b.mkv", height=64, width=48)
    videos.make(folder / "in here" / "видео 視頻.mp4", frames=30)
    videos.make(folder / "in here" / "d.avi", codec="mpeg4", frames=48)
    videos.make(folder / "one.mp4", frames=1)
    return folder


def test_the_command(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "out", "--shard-samples", 4, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert (
        "kept 5 clips in 3 shards: 191 frames" in done.stdout
        and "dropped 1: not a video in a container that is read" in done.stdout
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["kept"], report["dropped"], report["frames"]) == (5, 5, 191)
    assert {d["name"] for d in report["dropped_files"]} == {
        f"{n}.mp4" for n in ("audio", "cut", "cut_fast", "empty", "text")
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(
        word in page
        for word in ("cut_fast.mp4", "not a video in a container that is read", "80x48", "Frames per second")
    )
    assert "<script" not in page and "http" not in page
    assert sum(report["reasons"].values()) == 5 and report["seconds"] == pytest.approx(191 / 24, abs=0.2)
    source, names = Shards(str(tmp_path / "out")), []
    for i in range(len(source)):
        with source[i].open(PyAV()) as video:
            assert videos.number(video.frames([len(video) - 1])[0]) == len(video) - 1
        names.append(i)
    assert len(names) == 5


def test_a_list_with_captions_and_labels(folder: Path, tmp_path: Path) -> None:
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerows(
            [["path", "caption", "label", "license"], ["a.mp4", "ein Kreis, groß", 3, "cc"], ["gone.mp4", "x", 1, ""]]
        )
    report = prepare(str(tmp_path / "list.csv"), str(tmp_path / "out"), root=str(folder), workers=1, progress=False)
    assert report["kept"] == 1 and report["reasons"] == {"no such file": 1}
    source = Shards(str(tmp_path / "out"))
    assert (source.texts, source.labels) == (1, 1)
    assert (source[0].text, source[0].label) == ("ein Kreis, groß", 3)
    assert source[0].content == (folder / "a.mp4").read_bytes()  # without options the bytes are unchanged


def test_resizing_and_cutting(folder: Path, tmp_path: Path) -> None:
    """72 frames at 24 fps become three clips of about a second; no frame is lost or repeated."""
    (tmp_path / "list.csv").write_text("path\na.mp4\nb b.mkv\nin here/d.avi\n")
    encoding = Encoding(short_side=32, clip_seconds=1.0, crf=18)
    report = prepare(
        str(tmp_path / "list.csv"), str(tmp_path / "out"), encoding, str(folder), workers=2, progress=False
    )
    assert report["dropped"] == 0 and report["frames"] == 72 + 40 + 48
    source, numbers, sizes = Shards(str(tmp_path / "out")), [], []
    for i in range(len(source)):
        with source[i].open(PyAV()) as video:
            sizes.append(video.size)
            numbers.append([videos.number(frame) for frame in video.frames(range(len(video)))])
    lengths = [len(n) for n in numbers]
    assert [*lengths[:3], *lengths[5:]] == [24] * 5 and abs(lengths[3] - 20) <= 1  # mkv rounds times to a millisecond
    assert [*chain(*numbers)] == [*range(72), *range(40), *range(48)]
    assert sizes[0] == (32, 54) and sizes[3] == (42, 32)


def test_a_second_run_does_nothing_and_other_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.mp4\none.mp4\n")
    arguments = (tmp_path / "list.csv", tmp_path / "out", "--root", folder, "--quiet")
    assert run(*arguments).returncode == 0
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tar")}
    assert run(*arguments).returncode == 0
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tar")} == before
    other = run(*arguments, "--short-side", 32)
    assert other.returncode == 2 and "short_side None then, 32 now" in other.stderr
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    changed = run(*arguments)
    assert changed.returncode == 2 and "another videos, list" in changed.stderr


def test_a_kill_loses_and_repeats_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(24):
        videos.make(tmp_path / "in" / f"{i:02d}.mp4", frames=12 + i)
    arguments = [
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--shard-samples",
        "3",
        "--workers",
        "1",
        "--short-side",
        "32",
    ]
    process = subprocess.Popen([*TOOL, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts, deadline = tmp_path / "out" / ".prepare", time.time() + 300
    while len(list(parts.glob("00*.json"))) < 2 and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p.name: p.stat().st_mtime_ns for p in parts.glob("00*.json")}
    assert 2 <= len(done) < 8
    assert run(*arguments).returncode == 0
    assert all((parts / name).stat().st_mtime_ns == when for name, when in done.items())
    source, lengths = Shards(str(tmp_path / "out")), []
    for i in range(len(source)):
        with source[i].open(PyAV()) as video:
            lengths.append(len(video))
    assert lengths == list(range(12, 36))
    assert not list((tmp_path / "out").rglob(".*.draft"))


def test_index_and_its_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.mp4\none.mp4\n")
    prepare(str(tmp_path / "list.csv"), str(tmp_path / "out"), root=str(folder), workers=1, progress=False)
    (tmp_path / "out" / "shards.csv").unlink()
    done = run("index", tmp_path / "out")
    assert done.returncode == 0 and "indexed 2 samples in 1 shard:" in done.stdout
    for arguments, message in [
        (("index", tmp_path / "in"), "no .tar in"),
        ((tmp_path / "gone", tmp_path / "x"), "no folder or list of videos at"),
        ((tmp_path / "out", tmp_path / "x"), "no video in"),
    ]:
        failed = run(*arguments)
        assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr


def test_processes_end_with_the_one_that_was_killed(tmp_path: Path) -> None:
    for i in range(40):
        videos.make(tmp_path / f"{i:02d}.mp4", frames=12)
    process = subprocess.Popen([*TOOL, str(tmp_path), str(tmp_path / "out"), "--encode", "--workers", "2", "--quiet"])
    tasks = Path(f"/proc/{process.pid}/task")
    if not tasks.exists():
        pytest.skip("no /proc here")
    deadline, found = time.time() + 300, []
    while len(found) < 2 and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
        found = [pid for task in tasks.glob("*/children") for pid in _read(task).split()]  # any thread may fork
    assert len(found) >= 2
    time.sleep(0.2)
    process.kill()
    process.wait()
    while any(_runs(pid) for pid in found) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in found)


def _runs(pid: str) -> bool:
    stat = _read(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat.rpartition(")")[2].split()[0] != "Z"


def _read(path: Path) -> str:
    """Text of a file in /proc; "" if its process is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
