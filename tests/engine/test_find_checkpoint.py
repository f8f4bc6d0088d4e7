"""A run is found wherever its ModelCheckpoint writes, by every command; nothing found is an error; others' stay."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.cli import main
from pretrain.engine.resume import resolve, resolve_trained
from tests.helpers.runs import arguments, fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
STOP = ["--trainer.callbacks+=tests.helpers.runs.SendSignal", "--trainer.callbacks.name=SIGTERM"]


def test_a_checkpoint_folder_of_ones_own_is_found(tmp_path: Path) -> None:
    place = ["--trainer.callbacks+=ModelCheckpoint", f"--trainer.callbacks.dirpath={tmp_path}/elsewhere"]
    place += ["--trainer.callbacks.every_n_train_steps=2", "--trainer.callbacks.filename={step}-{train/loss:.3f}"]
    only = tmp_path / "only.yaml"  # no other ModelCheckpoint
    only.write_text("trainer: {callbacks: null}")
    recipe = [*RECIPE, "-c", str(only)]
    fit(tmp_path, recipe, *place, *SHORT)
    before = sorted((tmp_path / "elsewhere").rglob("*.ckpt"))
    assert before and not (tmp_path / "run/checkpoints").exists()
    with pytest.raises(Exception, match="already holds a run"):
        fit(tmp_path, recipe, *place, *SHORT)
    main(arguments(tmp_path, recipe, *place, "--ckpt_path=last", "--trainer.max_steps=4"))
    assert any("step=4" in str(path) for path in (tmp_path / "elsewhere").rglob("*.ckpt"))


def test_a_run_without_a_model_checkpoint_gets_one(tmp_path: Path) -> None:
    none = tmp_path / "none.yaml"
    none.write_text("trainer: {callbacks: [{class_path: Reconstructions}]}")
    recipe = [*RECIPE, "-c", str(none)]
    run = fit(tmp_path, recipe, *SHORT)
    assert (run / "checkpoints/step=0000002.ckpt").exists()
    main(arguments(tmp_path, recipe, "--ckpt_path=last", "--trainer.max_steps=3"))
    assert (run / "checkpoints/step=0000003.ckpt").exists()


@pytest.mark.parametrize(
    "command", ["test", *(pytest.param(c, marks=pytest.mark.slow) for c in ("validate", "predict"))]
)
def test_evaluation_takes_the_run_or_says_that_there_is_none(tmp_path: Path, command: str) -> None:
    part = {"validate": "val", "test": "test", "predict": "predict"}[command]
    source = [f"--data.init_args.{part}=Synthetic", f"--data.init_args.{part}.init_args.samples=2"]

    def evaluate(*more: str) -> None:
        features = f"--features.folder={tmp_path}/features-{len(list(tmp_path.iterdir()))}"
        main([command, *arguments(tmp_path, RECIPE, *source, *more, features)[1:]])

    for wanted in ("last", "auto"):
        with pytest.raises(Exception, match="no complete checkpoint"):
            evaluate(f"--ckpt_path={wanted}")
    with pytest.raises(Exception, match="random weights"):
        evaluate()
    evaluate("--allow_untrained=true")
    run = fit(tmp_path, RECIPE, *SHORT)
    for wanted in ("last", run, run / "checkpoints/step=0000002.ckpt"):
        evaluate(f"--ckpt_path={wanted}")


def test_a_run_from_anothers_checkpoint_leaves_it_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path / "source", RECIPE, *STOP, "--trainer.callbacks.step=2", "--trainer.max_steps=8")
    (stop,) = (tmp_path / "source/run/checkpoints").glob("*.ckpt")
    fit(tmp_path / "fork", RECIPE, f"--ckpt_path={stop}", "--trainer.max_steps=8")
    assert stop.exists() and (tmp_path / "fork/run/checkpoints/step=0000008.ckpt").exists()


class Ranks:
    """The strategy of one of two ranks: what rank 0 broadcasts is what rank 1 receives."""

    def __init__(self) -> None:
        self.sent: object = None

    def connect(self, model: object) -> None: ...

    def setup_environment(self) -> None: ...

    def broadcast(self, value: tuple[str | None, str | None]) -> object:
        if value != (None, None):
            self.sent = value
        return self.sent


def test_all_ranks_take_what_rank_zero_finds_in_a_folder_given_by_path(tmp_path: Path) -> None:
    """Rank 1 sees a newer file, as on a shared file system whose ranks see different states."""
    run, strategy = tmp_path / "run", Ranks()
    run.mkdir()
    first, second = (
        SimpleNamespace(strategy=strategy, world_size=2, is_global_zero=rank == 0, fast_dev_run=False)
        for rank in range(2)
    )

    def both(path: Path) -> list[str]:
        """The checkpoints that the ranks resume from; another is written between the two."""
        found = [resolve(first, None, str(path))]
        torch.save({}, run / "step=3.ckpt")
        return [*found, resolve(second, None, str(path)), resolve_trained(second, None, str(path), lambda: None)]

    with pytest.raises(MisconfigurationException, match="no complete checkpoint in the folder"):
        resolve(first, None, str(run))
    torch.save({}, run / "step=2.ckpt")
    assert both(run) == [str(run / "step=2.ckpt")] * 3
    with pytest.raises(MisconfigurationException, match="no checkpoint at"):
        resolve(first, None, str(tmp_path / "none.ckpt"))
    with pytest.raises(MisconfigurationException, match="no checkpoint at"):
        resolve(second, None, str(run))  # rank 0 has sent its error
