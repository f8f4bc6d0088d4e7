"""What a new user does first, from files to a result, by the documented commands: classes, captions, search, encoders.

Models and clips are tiny. Ctrl-C and going on are in `engine/test_resume.py`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.cli import main
from pretrain.features.videos import read_features
from tests.helpers.commands import commands_of_page
from tests.helpers.paths import ROOT
from tests.helpers.videos import make
from tools import prepare, search

QUICK = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.max_steps=2", "--data.workers=0", "--data.global_batch=2", "--data.micro_batch=2"),
    *("--data.frames=4", "--data.size=32"),
]
TINY_VIT = [
    *("--model.weights=null", "--model.model.encoder.width=48", "--model.model.encoder.depth=1"),
    *("--model.model.encoder.heads=2", "--model.model.encoder.mlp=96", "--data.test_clips=1", "--data.test_crops=1"),
]


def documented(page: str, start: str) -> list[str]:
    """The words of the command of a page that begins so, without `tubelet`."""
    found = [line for line in commands_of_page(ROOT / page) if line.startswith(start)]
    assert found, f"{page} has no command that begins {start!r}"
    return shlex.split(found[0], comments=True)[1:]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clips(folder: Path, names: list[str], frames: int = 12) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name, frames=frames, height=48, width=64)


def test_fine_tuning_on_two_folders_of_classes(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "val", "test"):
        clips(place / "my" / part, ["playing guitar/a.mp4", "гитара/b.mp4"])
    further = ["--data.val_sets.far", "my/test", "--data.val_sets.far.labels=folders", "--trainer.val_check_interval=2"]
    main([*documented("docs/finetuning.md", "tubelet fit -c own_classes"), *QUICK, *TINY_VIT, *further])
    assert re.search(r"validation at step 2: .*val/accuracy/top1 .*val/far/accuracy/top1", caplog.text)
    tested = documented("docs/finetuning.md", "tubelet test -c own_classes")
    main([*tested, *QUICK, *TINY_VIT])
    report = (place / "runs/own_classes/results.md").read_text()
    assert "| | top1 | mean_class |" in report and "top5" not in report
    (table,) = (place / "runs/own_classes/results").glob("*.csv")
    assert "playing guitar" in table.read_text() and "гитара" in table.read_text()
    main(documented("docs/finetuning.md", "tubelet export --ckpt runs/own_classes"))
    config = json.loads((place / "my-model/config.json").read_text())
    assert config["id2label"] == {"0": "playing guitar", "1": "гитара"}
    card = (place / "my-model/README.md").read_text()
    assert "video-classification" in card and "supervised" in card and "self-supervised" not in card
    assert 'from_pretrained("my-model"' in card and "video.mp4" in card and "Classes: playing guitar, гитара." in card
    assert str(place) not in card + (place / "my-model/recipe.yaml").read_text()


def test_another_number_of_classes_is_said_before_the_first_step(place: Path) -> None:
    clips(place / "my/train", ["a/1.mp4", "b/2.mp4", "c/3.mp4"])
    words = documented("docs/finetuning.md", "tubelet fit -c own_classes")
    words = [word for word in words if not word.startswith("--data.val") and word != "my/val"]
    with pytest.raises(ValueError, match=r"3 classes \(a, b, c\), and the model has 2: set --model.model.classes 3"):
        main([*words, *QUICK, *TINY_VIT])


@pytest.mark.slow
def test_captions_in_any_script_are_learnt_and_searched(place: Path, capsys: pytest.CaptureFixture) -> None:
    clips(place / "my/videos", ["one.mp4", "影片/two.mp4"])
    rows = ["path,text", 'one.mp4,"a man, a guitar"', "影片/two.mp4,"]
    (place / "my/videos/captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    fit = ["fit", "-c", "viclip_tiny", "--data", "my/videos/captions.csv", *QUICK]
    with pytest.raises(Exception, match=r"1 of 2 training samples have no text, the first is row 2 \(影片/two\.mp4\)"):
        main(fit)
    (place / "my/videos/captions.csv").write_text("\n".join(rows) + "弹吉他\n", encoding="utf-8")
    main(fit)
    assert prepare.main(["my/videos", "shards", "--workers", "1", "--quiet"]) == 0
    words = documented("docs/search.md", "tubelet predict -c viclip_l")
    words[words.index("viclip_l")] = "viclip_tiny"
    words[words.index("--weights") : words.index("--weights") + 2] = ["--ckpt_path", "runs/viclip_tiny"]
    words[words.index("my/videos")] = "shards"
    main([*words, *QUICK])
    (file,) = (place / "my-index").glob("*.safetensors")
    assert read_features(file)[0] == ["one.mp4", "影片/two.mp4"], "names of videos, not of members of a tar"
    capsys.readouterr()
    found = documented("docs/search.md", 'python tools/search.py "a man')[1:]
    assert search.main(["弹吉他", *found[1:]]) == 0
    printed = capsys.readouterr().out
    assert "one.mp4" in printed and "影片/two.mp4" in printed and "shard-" not in printed
    assert np.asarray(Image.open(place / "found.png")).std() > 10


ENCODER = '''"""An encoder of one's own."""

import models


class Scaled(models.VideoViT):
    """A vision transformer whose tokens are halved."""

    def forward(self, video, keep=None, taps=()):
        tokens = super().forward(video, keep, taps)
        return (tokens[0] / 2, *tokens[1:]) if isinstance(tokens, tuple) else tokens / 2
'''


@pytest.mark.slow
def test_an_encoder_of_ones_own_from_another_folder(place: Path) -> None:
    (place / "my_encoder.py").write_text(ENCODER)
    command = [sys.executable, "-m", "pretrain", "fit", "-c", "videomae_tiny"]
    size = ["--model.encoder.frames=4", "--model.encoder.size=32"]
    own = ["--model.encoder", "my_encoder.Scaled", *size, *QUICK, "--data.train.samples=4", "--data.val.samples=2"]
    done = subprocess.run(
        [*command, *own], capture_output=True, text=True, check=False, env=environment(ROOT), timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "class_path: my_encoder.Scaled" in (place / "runs/videomae_tiny/config.yaml").read_text()


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_folder(place: Path) -> None:
    source = place / "source"
    for name in ("models", "datamodules", "pretrain", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", place / "wheels", source], check=True, timeout=300
    )
    (wheel,) = (place / "wheels").glob("*.whl")
    venv.create(place / "env", with_pip=False)
    ours = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    theirs = next((place / "env/lib").glob("python*/site-packages"))
    subprocess.run([*pip, "--python", place / "env/bin/python", "install", "--no-deps", wheel], check=True, timeout=300)
    (theirs / "others.pth").write_text(f"{ours}\n")  # the libraries
    empty = place / "empty"
    empty.mkdir()
    tubelet = [place / "env/bin/tubelet"]
    done = subprocess.run(
        [*tubelet, "fit", "-c", "videomae_tiny", *QUICK, "--data.train.samples=4", "--data.val=null"],
        cwd=empty,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list((empty / "runs/videomae_tiny/checkpoints").glob("*.ckpt"))
    where = subprocess.run(
        [place / "env/bin/python", "-c", "import pretrain; print(pretrain.__file__)"],
        cwd=empty,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(place / "env"))


def environment(path: Path) -> dict[str, str]:
    """This process's environment, with the checkout importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(path)}
