"""The command `tubelet {fit,validate,test,predict,export,plan,weights}`: LightningCLI with our defaults."""

import shlex
import sys
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from models.convert.sharded import is_sharded, require_safe
from pretrain.engine.arguments import with_nulls, with_recipes
from pretrain.engine.checkpoint import FinalCheckpoint, KeepRecipe
from pretrain.engine.checkpoint_writer import checkpoint_io
from pretrain.engine.evaluated_source import leave_out_others
from pretrain.engine.library_messages import without_known_messages
from pretrain.engine.logger_versions import (
    DropLaterMetrics,
    KeepRunId,
    continue_newest_version,
    continue_run_ids,
    keep_metrics,
    newest_of_run,
    takes_new_version,
)
from pretrain.engine.metric_check import MetricCheck
from pretrain.engine.monitoring import Throughput
from pretrain.engine.nonfinite_guard import Guard
from pretrain.engine.option_errors import OptionParser
from pretrain.engine.preemption import Preemption
from pretrain.engine.resume import KeepJob, Resumed, resolve, resolve_trained, restarted
from pretrain.engine.resume_changes import ResumeChanges
from pretrain.engine.run_lock import RunLock
from pretrain.engine.run_summary import RunSummary
from pretrain.engine.short_options import run_name, written_out
from pretrain.engine.step_lines import StepLines
from pretrain.engine.trainer_settings import complete
from pretrain.features.writer import Features
from pretrain.metrics.report import Results
from pretrain.objectives import Objective
from pretrain.parser import nearest
from pretrain.plan.step_flop import StepFlop
from pretrain.short_names import METHODS

# Recipes may refer to any of their keys, from any file, with the values of the command line.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
PARSER = {"parser_mode": "omegaconf+"}

_OTHERS = ("export", "plan", "show", "replay", "weights")  # commands that have parsers of their own

_HELP = """Train, evaluate and export video foundation models.

    python -m pretrain fit -c recipes/videomae_tiny.yaml
    python -m pretrain fit -c recipes/videomae_tiny.yaml --ckpt_path last
    python -m pretrain export --help
    python -m pretrain plan --help
    python -m pretrain replay --help
    python -m pretrain show --help

An expected failure ends with one sentence; --debug shows where it came from.
"""


class CLI(LightningCLI):
    """One parser for every method: `model` is an Objective, `data` a LightningDataModule, `trainer` Lightning's own."""

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Adds only the command that is given: the parser of each takes a tenth of a second."""
        given, known = main_kwargs.pop("command"), LightningCLI.subcommands()
        named = {given: known[given]} if given in known else known
        self.subcommands = lambda: named
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """No abbreviations: --trainer.max_step would pass for max_steps."""
        return super().init_parser(**kwargs, allow_abbrev=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.init_args.global_batch", "model.init_args.global_batch")
        for part in ("data", "model"):
            parser.link_arguments("seed_everything", f"{part}.init_args.seed", compute_fn=int)
        parser.add_class_arguments(Features, "features")
        parser.add_class_arguments(Guard, "guard")
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="of float32 products on a GPU, as in torch.set_float32_matmul_precision; high: TF32",
        )
        parser.add_argument(
            "--wait_for_run",
            type=float | None,
            default=None,
            help="seconds that fit waits for the end of another run in its folder; null: 300 if a scheduler started it "
            "again, else 0",
        )
        parser.add_argument(
            "--background_checkpoints",
            type=bool | None,
            default=None,
            help="write checkpoints while training goes on (not with DeepSpeed); null: on GPUs",
        )
        parser.add_argument(
            "--allow_untrained", type=bool, default=False, help="evaluate random weights, without a checkpoint"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)  # from `main`
        self.words = args
        self.command = shlex.join(["python", "-m", "pretrain", *args])
        self.config = parser.parse_args(with_nulls(with_recipes(args, METHODS)))

    def _parse_ckpt_path(self) -> None:
        """Lightning would build the model that the checkpoint's `hyper_parameters` name: a file decides no class."""

    def instantiate_classes(self) -> None:
        """Builds all objects; an error of one of them is raised without the parser's message around it."""
        command = str(self.subcommand)
        leave_out_others(command, cast(Namespace, self.config)[command])
        try:
            super().instantiate_classes()
        except (ValueError, OSError) as error:
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, ValueError | OSError | ImportError):
                raise MisconfigurationException(str(cause)) from error
            raise cause from None

    def instantiate_trainer(self, **kwargs: object) -> pl.Trainer:
        self._dump_config()
        settings, objects = cast(Namespace, self.config), cast(Namespace, self.config_init)
        recipe = self._parser(self.subcommand).dump(settings[str(self.subcommand)], skip_none=False)
        torch.set_float32_matmul_precision(self._get(objects, "float32_matmul_precision"))
        features = self._get(objects, "features")
        features.settings = {part: self.config_dump[part] for part in ("model", "data")}
        guard, self.resumed = self._get(objects, "guard"), Resumed()
        keep = KeepRecipe(recipe, self.config_dump["model"])
        step_flop = StepFlop(recipe) if self.subcommand == "fit" else None
        callbacks = [Throughput(step_flop=step_flop), guard, features, keep, KeepJob(), FinalCheckpoint()]
        callbacks += [self.resumed, DropLaterMetrics()]
        if self.subcommand == "fit":
            callbacks += [MetricCheck(), ResumeChanges(recipe), KeepRunId(), StepLines(), RunSummary(self.words)]
        if self.subcommand == "test":
            callbacks.append(Results(features.settings, self.command))
        self.trainer_defaults["callbacks"] = callbacks
        trainer = self._get(objects, "trainer")
        callbacks += complete(trainer, str(self.subcommand), run_name(self.words))
        callbacks.append(Preemption())  # must be the last callback
        plugins = trainer.get("plugins") or []
        wanted = self._get(objects, "background_checkpoints", default=None)
        trainer["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), checkpoint_io(wanted, trainer)]
        try:
            return super().instantiate_trainer(**kwargs)
        except TypeError as error:  # Lightning's, of a value that has the type of the option and is none of its values
            raise MisconfigurationException(str(error)) from error

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_lock = RunLock()
        try:
            super()._run_subcommand(subcommand)
        finally:
            self.run_lock.release()

    def before_fit(self) -> None:
        """Finds the checkpoint to resume from; refuses to start a new run in a folder that holds one, and any run in
        the folder of one that is alive."""
        settings = self.config_init["fit"]
        if (restarted() or settings.ckpt_path in ("last", "auto")) and self._new_version():
            continue_newest_version(self.trainer, self.model, of_job=settings.ckpt_path is None)
        self.run_lock.take(self.trainer, self.model, settings.wait_for_run)
        self.resumed.found = settings.ckpt_path in ("last", "auto")
        settings.ckpt_path = resolve(self.trainer, self.model, settings.ckpt_path)
        keep_metrics(self.trainer)
        if settings.ckpt_path is not None:
            continue_run_ids(self.trainer)
        self._use_checkpoint(settings.ckpt_path)

    def before_validate(self) -> None:
        """Finds the checkpoint to evaluate; refuses random weights unless they are asked for."""
        settings = cast(Namespace, self.config_init)[str(self.subcommand)]
        settings.ckpt_path = resolve_trained(
            self.trainer, self.model, settings.ckpt_path, lambda: newest_of_run(self.trainer, self._new_version())
        )
        keep_metrics(self.trainer)
        if settings.ckpt_path is None and self.model.weights is None and not settings.allow_untrained:
            raise MisconfigurationException(
                f"{self.subcommand} without a checkpoint would evaluate random weights: name one by --ckpt_path (a "
                "file, a run folder, or last), give weights by --weights FILE, or set "
                "--allow_untrained true"
            )
        self._use_checkpoint(settings.ckpt_path)

    before_test = before_validate

    def _new_version(self) -> bool:
        return takes_new_version(cast(Namespace, self.config)[str(self.subcommand)].trainer.logger)

    def _use_checkpoint(self, checkpoint: str | None) -> None:
        """A checkpoint holds all weights: the files that its run started from are not read, and need not exist.

        On every rank, before torch's or DeepSpeed's reader would run what a sharded folder names.
        """
        if checkpoint is None:
            return
        self.model.weights = None
        if "://" not in checkpoint and is_sharded(Path(checkpoint)):
            require_safe(Path(checkpoint))

    def before_predict(self) -> None:
        self.before_validate()
        self.config_init["predict"].return_predictions = False  # the callback Features writes them


class _ParseOnly(CLI):
    """Reads and checks a recipe without building anything."""

    def instantiate_classes(self) -> None:
        pass

    def _set_seed(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def settings_of(args: list[str]) -> dict[str, Any]:
    """The resolved recipe, with all defaults, that `fit` would use with these arguments."""
    cli = _start(_ParseOnly, written_out(["fit", *args]))
    return yaml.safe_load(cli._parser("fit").dump(cast(Namespace, cli.config)["fit"], skip_none=False))


def main(args: list[str] | None = None) -> None:
    """Run one command; `args` defaults to those of the process."""
    with without_known_messages():
        _run(written_out(sys.argv[1:] if args is None else args))


def _run(args: list[str]) -> None:
    command = args[:1]
    if command == ["weights"]:
        from pretrain.engine.release_list import main as weights

        weights(args[1:])
        return
    if command == ["export"]:
        from pretrain.export.command import export
        from pretrain.export.embedded_recipe import TRUST

        parser = OptionParser(prog="python -m pretrain export", description=(export.__doc__ or "").partition("\n")[0])
        parser.add_function_arguments(export, as_positional=False, skip={"trust"})
        parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help=TRUST)
        export(**parser.parse_args(args[1:]).as_dict())
        return
    if command == ["show"]:
        from pretrain.engine.show import main as show

        show(args[1:], main, settings_of)
        return
    if command == ["replay"]:
        from pretrain.engine.replay import main as replay

        replay(args[1:], main)
        return
    if command == ["plan"]:
        from pretrain.plan.command import main as plan

        plan(args[1:], settings_of)
        return
    known = {*LightningCLI.subcommands(), *_OTHERS}
    if command and not command[0].startswith("-") and command[0] not in known:
        raise ValueError(f"there is no command {command[0]}" + nearest(command[0], known))
    _start(CLI, args)


def _start(kind: type[CLI], args: list[str]) -> CLI:
    return kind(
        Objective,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        seed_everything_default=0,
        parser_kwargs={**PARSER, "description": _HELP, "command": args[0] if args else None},
        parser_class=OptionParser,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )
