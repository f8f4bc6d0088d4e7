"""`make demo` at a smaller size: the same commands, from videos to a picture and a Hugging Face folder."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.helpers.videos import make


def test_the_demo_from_videos_to_picture(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("one.mp4", "two words.mp4", "три.mp4"):
        make(videos / name, frames=72)
    (videos / "broken.mp4").write_bytes(b"")
    small = ["size=64", "frames=8", "stride=2", "workers=0"]
    out = tmp_path / "out"
    command = [sys.executable, "tools/demo.py", "--videos", videos, "--out", out, "--steps", "8", "--"]
    command += [f"--data.init_args.{option}" for option in small] + [
        "--trainer.accelerator=cpu",
        "--trainer.log_every_n_steps=2",
    ]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for words in ("kept 3 clips", "dropped 1", "Training loss:", "features equal to"):
        assert words in done.stdout, done.stdout[-3000:]
    assert (out / "shards" / "shards.csv").exists() and (out / "export" / "model.safetensors").exists()
    picture = max((out / "videomae_tiny" / "reconstructions").glob("*.png"))
    assert str(picture) in done.stdout and picture.stat().st_size > 5_000
