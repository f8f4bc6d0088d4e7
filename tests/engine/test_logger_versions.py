"""A run whose logger starts a new version at each start is found, goes on in its version, and keeps its CSV rows."""

import csv
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger

from pretrain.cli import main
from pretrain.engine.logger_versions import KeepRunId, continue_run_ids, keep_metrics, takes_new_version
from pretrain.engine.resume import Resumed
from tests.helpers.runs import SMALL, arguments, fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]


class WithRunId(Logger):
    """Named like WandbLogger: without `id`, each start is a run with a new id, which is known once it has begun."""

    def __init__(self, save_dir: str, name: str, id: str | None = None) -> None:
        super().__init__()
        self._save_dir, self._name, self._id = save_dir, name, id

    @property
    def experiment(self) -> None:
        self._id = self._id or uuid4().hex[:8]

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str | None:
        return self._id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


KINDS = {
    "csv": "{class_path: CSVLogger, init_args: {version: null}}",
    "tensorboard": "{class_path: TensorBoardLogger, init_args: {version: null}}",
    "run_id": "{class_path: tests.engine.test_logger_versions.WithRunId}",
}


def with_logger(folder: Path, kind: str) -> list[str]:
    """The recipe with a logger that starts a new version at each start."""
    path = folder / "logger.yaml"
    path.write_text(f"trainer: {{logger: {KINDS[kind]}}}")
    return [*RECIPE, "-c", str(path)]


class FailAtStep(pl.Callback):
    """Ends a run without a word to the loggers or a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError(f"stopped at step {self.step}")


RECORD = "--trainer.callbacks+=tests.engine.test_logger_versions.RecordPath"


class RecordPath(pl.Callback):
    """Keeps the path of the checkpoint that is validated."""

    path = ""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        RecordPath.path = str(trainer.ckpt_path)


def rows(file: Path) -> list[tuple[str, str]]:
    """The step and the training or validation loss of each row."""
    with file.open(newline="") as stream:
        return [(row["step"], row.get("train/loss") or row["val/loss"]) for row in csv.DictReader(stream)]


def folders(path: Path) -> set[Path]:
    return {file.parent for file in path.rglob("*.ckpt")}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "run_id")) for k in KINDS])
def test_every_command_finds_the_newest_version_and_fit_goes_on_in_it(tmp_path: Path, kind: str) -> None:
    recipe, run = with_logger(tmp_path, kind), tmp_path / "run"
    fit(tmp_path, recipe, *SHORT)
    first = folders(run)
    fit(tmp_path, recipe, *SHORT)  # another run, in a version of its own
    both = folders(run)
    (second,) = both - first
    for wanted, steps in (("last", 3), ("auto", 4)):
        fit(tmp_path, recipe, f"--trainer.max_steps={steps}", f"--ckpt_path={wanted}")
        assert (second / f"step={steps:07d}.ckpt").exists()
    assert folders(run) == both
    main(["validate", *arguments(tmp_path, recipe, "--ckpt_path=last", RECORD)[1:]])
    assert RecordPath.path == str(second / "step=0000004.ckpt")


def test_a_restarted_job_does_not_go_on_in_the_run_of_another_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped before its first checkpoint, beside or in place of an older run of the same name."""
    recipe, run = with_logger(tmp_path, "csv"), tmp_path / "run"
    for job, restarts in (("1", "0"), ("2", "1"), ("2", "2")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        fit(tmp_path, recipe, *SHORT, f"--trainer.max_steps={2 + int(restarts)}")
    found = {folder.parent.name: sorted(p.name for p in folder.glob("*.ckpt")) for folder in folders(run)}
    assert found["version_0"] == ["step=0000002.ckpt"]
    assert found.keys() == {"version_0", "version_1"} and "step=0000004.ckpt" in found["version_1"]
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    with pytest.raises(Exception, match="already holds a run"):
        fit(tmp_path, [*recipe, "--trainer.logger.init_args.version=0"], *SHORT)
    fit(tmp_path, [*recipe, "--trainer.logger.init_args.version=0"], "--ckpt_path=last", "--trainer.max_steps=3")


@pytest.mark.slow
def test_only_the_version_that_a_recipe_names_is_searched(tmp_path: Path) -> None:
    recipe = with_logger(tmp_path, "csv")
    fit(tmp_path, recipe, *SHORT)
    with pytest.raises(Exception, match="nothing to resume"):
        fit(tmp_path, recipe, *SHORT, "--ckpt_path=last", "--trainer.logger.init_args.version=other")


@pytest.mark.slow
def test_a_folder_of_checkpoints_and_a_slash_in_their_names_are_found_with_new_versions(tmp_path: Path) -> None:
    recipe = with_logger(tmp_path, "run_id")
    only = tmp_path / "only.yaml"
    only.write_text("trainer: {callbacks: null}")
    place = ["-c", str(only), "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2"]
    place += ["--trainer.callbacks.filename={step}-{train/loss:.3f}"]
    fit(tmp_path, [*recipe, *place], *SHORT)
    fit(tmp_path, [*recipe, *place], "--trainer.max_steps=4", "--ckpt_path=last")
    assert len({path.parents[1] for path in (tmp_path / "run").rglob("*.ckpt")}) == 1
    place.append(f"--trainer.callbacks.dirpath={tmp_path}/elsewhere")
    fit(tmp_path, [*recipe, *place], *SHORT)
    fit(tmp_path, [*recipe, *place], "--trainer.max_steps=4", "--ckpt_path=auto")
    assert any("step=4" in str(path) for path in (tmp_path / "elsewhere").rglob("*.ckpt"))


def test_the_csv_file_of_a_resumed_run_holds_its_history_once(tmp_path: Path) -> None:
    """The run is stopped by an error two steps after its last checkpoint."""
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    for folder in (tmp_path / "whole", tmp_path / "parts"):
        recipe = with_logger(folder, "csv")
        every = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2"]
        more = ["--trainer.val_check_interval=6", "--trainer.logger.init_args.flush_logs_every_n_steps=1"]
        if folder.name == "parts":
            stop = ["--trainer.callbacks+=tests.engine.test_logger_versions.FailAtStep", "--trainer.callbacks.step=4"]
            with pytest.raises(RuntimeError, match="at step 4"):
                fit(folder, recipe, *every, *more, *stop)
            assert [step for step, _ in rows(folder / "run/version_0/metrics.csv")] == ["0", "1", "2"]
            more.append("--ckpt_path=last")
        fit(folder, recipe, *every, *more)
    whole, parts = (rows(tmp_path / name / "run/version_0/metrics.csv") for name in ("whole", "parts"))
    assert parts == whole and len(whole) == 7  # six steps and a validation


def test_rows_are_appended_to_a_file_that_another_process_wrote(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        logger = CSVLogger(tmp_path, "run", "mine")
        keep_metrics(pl.Trainer(logger=logger, accelerator="cpu"))
        logger.log_metrics({"val/loss": value} if value == 1 else {"val/loss": value, "val/top1": 0.5}, step=int(value))
        logger.save()
    assert rows(tmp_path / "run/mine/metrics.csv") == [("1", "1.0"), ("2", "2.0")]


def test_steps_of_a_run_that_is_made_longer_are_logged_without_a_gap() -> None:
    loop = SimpleNamespace(_batches_that_stepped=3)  # as Lightning counts after two steps and an end
    trainer: Any = SimpleNamespace(global_step=2, fit_loop=SimpleNamespace(epoch_loop=loop))
    resumed = Resumed()
    for step in (2, 3):
        resumed.on_train_batch_start(trainer, pl.LightningModule(), None, 0)
        assert loop._batches_that_stepped == step
        trainer.global_step, loop._batches_that_stepped = step + 1, step + 1


def test_a_version_is_new_unless_the_recipe_names_one() -> None:
    wandb = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"version": ""}}
    assert takes_new_version(wandb) and not takes_new_version({**wandb, "init_args": {"id": "mine"}})
    for logger in (None, True, {"init_args": {"version": None}}, {"class_path": "x"}, [{"init_args": {}}, False]):
        assert takes_new_version(logger)
    for logger in (False, [], {"init_args": {"version": ""}}, {"init_args": {"id": "a"}}, [{"init_args": {"id": "a"}}]):
        assert not takes_new_version(logger)


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["false", "true"])
def test_without_a_logger_of_the_recipe_all_files_lie_in_the_run_s_folder(
    logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "-c", "videomae_tiny", *SMALL, f"--trainer.logger={logger}"]
    main([*words, "--trainer.max_steps=1"])
    main([*words, "--trainer.max_steps=2", "--ckpt_path=last"])
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["videomae_tiny"]
    assert len(folders(tmp_path)) == 1 and list(tmp_path.rglob("step=0000002.ckpt"))


class StandInRun:
    """A run of W&B: its id, whether it goes on, and the steps that were logged."""

    def __init__(self, id: str, resume: str | None) -> None:
        self.id, self.resume, self.name, self.steps = id, resume, "run", []

    def define_metric(self, name: str, step_metric: str | None = None, step_sync: bool | None = None) -> None: ...

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self.steps.append(data["trainer/global_step"])


@pytest.fixture
def wandb_runs(monkeypatch: pytest.MonkeyPatch) -> list[StandInRun]:
    """Puts a module in the place of `wandb`, which is not installed here; returns the runs that are begun.

    `init` has the parameters of wandb's own that Lightning's logger passes, so another name is an error here too.
    """
    runs: list[StandInRun] = []

    def init(
        name: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        resume: str | None = None,
        anonymous: str | None = None,
    ) -> StandInRun:
        runs.append(StandInRun(id or uuid4().hex[:8], resume))
        return runs[-1]

    wandb = types.ModuleType("wandb")
    lib, run = types.ModuleType("wandb.sdk.lib"), types.ModuleType("wandb.wandb_run")
    wandb.init, wandb.run, lib.RunDisabled, run.Run = init, None, type("RunDisabled", (), {}), StandInRun
    for module in (wandb, types.ModuleType("wandb.sdk"), lib, run):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return runs


def test_a_run_of_wandb_is_kept_beside_the_checkpoints(tmp_path: Path, wandb_runs: list[StandInRun]) -> None:
    for resumed in (False, True):
        logger = WandbLogger(save_dir=str(tmp_path), resume=None)  # as the parser passes it
        saver = ModelCheckpoint(dirpath=tmp_path / "run/checkpoints")
        trainer = pl.Trainer(logger=[logger], callbacks=[saver], accelerator="cpu")
        if resumed:
            continue_run_ids(trainer)
        assert logger.experiment.resume == ("allow" if resumed else None)
        KeepRunId().on_train_start(trainer, pl.LightningModule())
    first, second = wandb_runs
    assert first.id == second.id


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["alone", "after TensorBoard"])
def test_a_run_of_wandb_goes_on_under_its_id(first: bool, tmp_path: Path, wandb_runs: list[StandInRun]) -> None:
    wandb = f"{{class_path: WandbLogger, init_args: {{save_dir: {tmp_path}/run}}}}"
    own = f"{{class_path: TensorBoardLogger, init_args: {{save_dir: {tmp_path}, name: run, version: ''}}}}"
    path = tmp_path / "logger.yaml"
    path.write_text(f"trainer: {{logger: [{'' if first else own + ', '}{wandb}]}}")
    words = ["fit", *RECIPE, "-c", str(path), *SMALL, *SHORT]
    main(words)
    main([*words, "--trainer.max_steps=3", "--ckpt_path=last"])
    one, two = wandb_runs
    assert one.id == two.id and two.resume == "allow"
    assert max(one.steps) == 1 and min(two.steps) == 2, "no step is logged twice"
    if first:
        main(words)
        assert wandb_runs[2].id != one.id, "a new run has an id of its own"
