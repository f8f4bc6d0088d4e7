"""Samples while training: films of the averaged weights at fixed steps, and a run that is the same without them."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.generation.pieces import VideoFile
from pretrain.generation.samples import Samples
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit, losses, weights

RECIPE = ["-c", str(ROOT / "recipes/lavie_base_tiny.yaml")]


def small(folder: Path, *more: str) -> Path:
    steps = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--model.init_args.sampling.steps=2"]
    saves = ["--trainer.callbacks.every_n_train_steps=2", "--trainer.callbacks+=tests.helpers.runs.LossRecorder"]
    return fit(folder, RECIPE, *steps, *saves, f"--trainer.callbacks.path={folder / 'losses.tsv'}", *more)


def test_samples_change_nothing_of_a_run(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,seed,name\na red circle moves left,1,left\na blue square,2,blue\n")
    (tmp_path / "plain").mkdir()
    (tmp_path / "sampled").mkdir()
    small(tmp_path / "plain")
    more = ["--trainer.callbacks+=Samples", f"--trainer.callbacks.prompts={prompts}"]
    size = ["--trainer.callbacks.frames=4", "--trainer.callbacks.height=16", "--trainer.callbacks.width=24"]
    run = small(tmp_path / "sampled", *more, "--trainer.callbacks.every_n_steps=2", *size)

    assert losses(tmp_path / "sampled") == losses(tmp_path / "plain")
    saved, plain = weights(run, 4), weights(tmp_path / "plain/run", 4)
    assert saved.keys() == plain.keys() and all(torch.equal(saved[name], plain[name]) for name in saved)

    steps = sorted(path.name for path in (run / "samples").iterdir())
    assert steps == ["step-0000000", "step-0000002", "step-0000004"]
    for step in steps:
        files = sorted(path.name for path in (run / "samples" / step).iterdir())
        assert files == ["blue.mp4", "blue.png", "left.mp4", "left.png"]
    films = [VideoFile(str(run / "samples" / step / "left.mp4")) for step in steps]
    assert all((len(film), film.size) == (4, (16, 24)) for film in films)
    assert (films[0].read(0, 4) != films[2].read(0, 4)).any()  # the network has learnt something


def test_samples_that_cannot_be_made_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    more = ["--trainer.callbacks+=Samples", f"--trainer.callbacks.prompts={tmp_path / 'prompts.txt'}"]
    with pytest.raises(MisconfigurationException, match=r"do not divide by 4"):
        small(tmp_path, *more, "--trainer.callbacks.height=17")
    with pytest.raises(MisconfigurationException, match="every_n_steps is 0"):
        Samples("a", every_n_steps=0)
