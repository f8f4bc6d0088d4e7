"""Dense features: each row equals the feature of the same clip; resumed runs, two ranks, and other settings."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import PyAV, Squash
from pretrain.cli import main
from pretrain.export.load_run import load_objective
from pretrain.features.dense import DenseFolder
from tests.helpers.methods import METHODS
from tests.helpers.runs import ROOT, arguments, fit, run
from tests.helpers.videos import make

RECIPE = [*METHODS["videomae"], "-c", str(ROOT / "recipes/eval/dense_features.yaml")]
T, STEP = 8, 4  # frames of a window as `arguments` cuts the recipe, and the fragment's step
LENGTHS = {"long.mp4": 101, "sub/odd.mkv": 37, "short.mp4": 5, "exact.mp4": 8, "counted.avi": 61}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = fit(
        tmp_path_factory.mktemp("run"), METHODS["videomae"], "--trainer.max_steps=2", "--trainer.val_check_interval=2"
    )
    return str(folder / "checkpoints/step=0000002.ckpt")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for name, frames in LENGTHS.items():
        codec = "mpeg4" if name.endswith(".avi") else "libx264"
        make(folder / name, frames=frames, gop=250 if "long" in name else 12, codec=codec)
    (folder / "bad.mp4").write_text("not a video")
    return folder


def options(out: Path, trained: str, videos: Path, *more: str) -> list[str]:
    source = ["--data.init_args.predict=Files", f"--data.init_args.predict.init_args.path={videos}"]
    where = [f"--ckpt_path={trained}", f"--features.folder={out / 'dense'}", "--data.init_args.micro_batch=5"]
    return ["predict", *arguments(out, RECIPE, *source, *where, *more)[1:]]


@pytest.fixture(scope="module")
def dense(trained: str, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense")
    main(options(out, trained, videos))
    return out / "dense"


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {str(p.relative_to(folder)): np.load(p) for p in sorted(folder.rglob("*.npy"))}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_are_those_of_the_same_clips(dense: Path, videos: Path, trained: str, name: str) -> None:
    model, length = load_objective(trained)[0].eval(), LENGTHS[name]
    found = np.load((dense / name).with_suffix(".npy"))
    about = json.loads((dense / name).with_suffix(".json").read_text())
    starts = range(0, max(1, length - T + 1), STEP)
    assert found.shape == (len(starts), model.encoder.width) and found.dtype == np.float32
    with PyAV().open(str(videos / name)) as video, torch.no_grad():
        for start, row in zip(starts, found, strict=True):
            clip = video.frames(np.minimum(np.arange(start, start + T), length - 1))
            picture = torch.from_numpy(Squash()(clip, 32).copy()).permute(3, 0, 1, 2)[None]
            np.testing.assert_allclose(row, model.predict({"video": picture})["features"][0], atol=1e-5)
    middles = [(start + min(start + T, length)) / 2 / 24 for start in starts]
    np.testing.assert_allclose(about["seconds"], middles, atol=2e-3)  # mkv stores milliseconds
    assert about["name"] == name and about["frames"] == length and about["repeats the last frame"] == (length < T)


def test_unreadable_videos_are_named_and_leave_no_files(
    dense: Path, videos: Path, trained: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert len(arrays(dense)) == len(LENGTHS) and not list(dense.rglob(".*"))
    with pytest.raises(RuntimeError, match=r"(?s)1 of . videos could not be read.*bad\.mp4"):
        main(options(tmp_path, trained, videos, "--data.init_args.failure_grace=0"))


def test_a_killed_run_resumes(dense: Path, videos: Path, trained: str, tmp_path: Path, capsys) -> None:
    """Killed at its seventh batch, a run leaves complete files, which the next run does not write again."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\nsys.path.insert(0, sys.argv[1])\nfrom pretrain.features import dense\n"
        "from pretrain.cli import main\nadd, calls = dense.DenseWriter.add, []\n"
        "def dying(self, *rows):\n"
        "    add(self, *rows)\n    calls.append(1)\n"
        "    if len(calls) == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "dense.DenseWriter.add = dying\nmain(sys.argv[2:])\n"
    )
    command = [sys.executable, str(script), str(ROOT), *options(tmp_path, trained, videos)]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    out, whole = tmp_path / "dense", arrays(dense)
    first = arrays(out)
    assert 0 < len(first) < len(whole)
    same(first, {name: whole[name] for name in first})
    stamps = {name: os.stat(out / name).st_mtime_ns for name in first}
    main(options(tmp_path, trained, videos))
    assert f"{len(whole) - len(first)} videos written" in capsys.readouterr().out
    same(arrays(out), whole)
    assert stamps == {name: os.stat(out / name).st_mtime_ns for name in first} and not list(out.rglob(".*"))
    main(options(tmp_path, trained, videos))  # nothing is left to do


@pytest.mark.slow
def test_two_ranks_and_loading_processes_write_the_same(dense: Path, videos: Path, trained: str, tmp_path: Path):
    spread = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.workers=2"]
    printed = run(options(tmp_path, trained, videos, *spread))
    same(arrays(tmp_path / "dense"), arrays(dense))
    assert len(re.findall("videos? written", printed)) == 2


@pytest.mark.parametrize("more", [["--data.init_args.window_step=8"], ["--data.init_args.stride=2"], ["other weights"]])
def test_other_settings_are_not_mixed(dense: Path, videos: Path, trained: str, tmp_path: Path, more: list[str]) -> None:
    if more == ["other weights"]:
        state = torch.load(trained, weights_only=True)
        state["state_dict"]["encoder.norm.weight"] *= 2
        torch.save(state, trained := str(tmp_path / "other.ckpt"))
        more = []
    with pytest.raises(MisconfigurationException, match="made with other settings"):
        main(options(dense.parent, trained, videos, *more))


def test_a_file_of_another_run_is_not_taken(tmp_path: Path) -> None:
    one, other = (DenseFolder(tmp_path / "f", {"clip": {"frames": n}}) for n in (8, 16))
    one.open()
    one.path("a/b.mp4").parent.mkdir()
    np.save(one.path("a/b.mp4"), np.zeros(3))
    about = one.path("a/b.mp4").with_suffix(".json")
    with pytest.raises(MisconfigurationException, match="delete it"):
        one.is_done("a/b.mp4")
    about.write_text(json.dumps({"name": "a/b.mp4", "settings": one.digest, "seconds": [0, 1, 2]}))
    assert one.is_done("a/b.mp4") and not one.is_done("a/c.mp4")
    with pytest.raises(MisconfigurationException, match="other settings"):
        other.is_done("a/b.mp4")
    with pytest.raises(MisconfigurationException, match=r"a/b.mp4 and a/b.avi would both go to"):
        one.is_done("a/b.avi")
    with pytest.raises(MisconfigurationException, match="both go to"):
        one.check_names(["x.mp4", "/x.mkv"])
    for content in ("3", "[]", "{}", "[" * 100_000, json.dumps({"name": 3, "settings": one.digest, "seconds": 3})):
        about.write_text(content)
        assert not one.is_done("a/b.mp4")  # it is made again
    for content in ("3", "[]", "null", "[" * 100_000):
        (tmp_path / "f/dense.json").write_text(content)
        one.open()
        assert json.loads((tmp_path / "f/dense.json").read_text()) == one.settings
    assert one.path("../../x.mp4").parent == tmp_path / "f"  # nothing leads out of the folder
