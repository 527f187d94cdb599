"""The command line: Lightning's own, with this project's defaults and a few short flags."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.callbacks import EqualRows, StopOnDivergence
from gpa_lightning.callbacks.run_folder import run_folder
from gpa_lightning.commands.arguments import expand
from gpa_lightning.commands.exit_codes import run
from gpa_lightning.commands.flag_checks import LOGS, check_flags
from gpa_lightning.commands.help import HelpfulParser
from gpa_lightning.commands.mistakes import explain
from gpa_lightning.commands.run_names import go_on_in_folder_of, name_run, short_name
from gpa_lightning.commands.signals import (
    DelayedKill,
    SecondInterrupt,
    answer_sigterm_without_waiting,
)
from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.table import DataError
from gpa_lightning.regressor import GPARegressor
from gpa_lightning.resuming import ExactResume
from gpa_lightning.resuming.checkpoint import DATA_KEY, CheckpointError, find_last, read_checkpoint
from gpa_lightning.resuming.exact_resume import position_of
from gpa_lightning.speed import FastTraining

LIGHTNINGS_WORDS = ("best", "hpc")  # for checkpoints, in the place of a path
ARGUMENTS = tuple(signature(GPARegressor).parameters)

# Each has a flag of its own, so that it can be changed, replaced, or switched off with `null`. They
# are called in this order, those of `trainer.callbacks` after the first.
CALLBACKS: dict[str, tuple[type[Callback], dict[str, Any], str]] = {
    "fast_training": (
        FastTraining,
        {"class_path": "gpa_lightning.speed.FastTraining"},
        "Trains in less time, to the same weights.",
    ),
    "stop_on_divergence": (
        StopOnDivergence,
        {"class_path": "gpa_lightning.callbacks.StopOnDivergence"},
        "Ends the training when a loss is no longer a finite number.",
    ),
    "equal_rows": (
        EqualRows,
        {"class_path": "gpa_lightning.callbacks.EqualRows"},
        "Lets every row count the same where several processes train.",
    ),
    "exact_resume": (
        ExactResume,
        {"class_path": "gpa_lightning.resuming.ExactResume"},
        "Lets a run that is gone on with end as one that was never stopped.",
    ),
    "early_stopping": (
        EarlyStopping,
        {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 10}},
        "Ends the training when a metric no longer improves; --patience N is how many epochs it "
        "waits, as --early_stopping.patience N is.",
    ),
    "checkpoint": (
        ModelCheckpoint,
        {
            "class_path": "gpa_lightning.resuming.BestAndLastCheckpoint",
            "init_args": {
                "monitor": "val_loss",
                "save_last": True,
                "auto_insert_metric_name": False,
                "filename": "best-epoch-{epoch}",
            },
        },
        "Keeps the best weights and the last.",
    ),
    "progress_bar": (
        ProgressBar,
        {"class_path": "gpa_lightning.callbacks.EpochProgressBar"},
        "Shows how far a run is.",
    ),
}
LOGGER = {"save_dir": LOGS, "name": "", "default_hp_metric": False}
WATCHING = ["gpa_lightning.callbacks.LossCurves", "gpa_lightning.callbacks.HyperparameterTable"]


class Parser(HelpfulParser):
    """The parser, which knows the defaults of the classes that have flags of their own."""

    class_defaults: ClassVar[dict[str, Any]] = {
        f"{flag}.{name}": value
        for flag, (_, default, _) in CALLBACKS.items()
        for name, value in default.get("init_args", {}).items()
    } | {f"trainer.logger.{name}": value for name, value in LOGGER.items()}


class SaveConfig(SaveConfigCallback):
    """Saves the configuration in the run's own folder, if it has one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, on every process, and save."""
        self._folder = run_folder(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = str(self._folder / self.config_filename)
            self.parser.save(self.config, path, skip_unset=False, overwrite=True, multifile=False)


class GPALightningCLI(LightningCLI):
    """A LightningCLI for `GPARegressor` and `GPADataModule`.

    Args:
        args: The command line, without the program's name.
        run: Whether the first argument is a subcommand to run.
        kwargs: Passed on to `LightningCLI`.

    Attributes:
        extra_flags: Flags that the program has besides those of the parser.
    """

    extra_flags: ClassVar[Sequence[str]] = ()
    _checkpoint: dict[str, Any] | None = None  # that of --ckpt_path

    def __init__(self, args: Sequence[str], run: bool = True, **kwargs: Any) -> None:
        self._given, self._runs = list(args), run
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)  # the user's own classes are there, wherever the program lies
        super().__init__(
            GPARegressor,
            GPADataModule,
            args=expand(args),
            run=run,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 100,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=Parser,
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks' flags and the short ones, and let the network follow the data."""
        parser.link_arguments("data.in_features", "model.in_features", apply_on="instantiate")
        parser.set_defaults(
            {
                "trainer.logger": {
                    "class_path": "gpa_lightning.callbacks.EpochTensorBoardLogger",
                    "init_args": LOGGER,
                },
                "trainer.callbacks": [{"class_path": path} for path in WATCHING],
            }
        )
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run's folder, after its number; by default it says what was changed.",
        )
        for flag, (base, default, text) in CALLBACKS.items():
            parser.add_subclass_arguments(base, flag, required=False, help=f"{text} null: none.")
            parser.set_defaults({flag: default})
            (parser.groups or {})[flag].title = f"callback {base.__name__}"

    @property
    def _command(self) -> str:
        """Name of the subcommand; ``fit`` for ``scripts/train.py``, which has none."""
        command: str = self.config.get("subcommand", "fit")
        return command

    @property
    def _settings(self) -> Namespace:
        """Parsed flags, those of the subcommand if there is one."""
        settings: Namespace = self.config.get(self._command, self.config)
        return settings

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, and refuse a bad checkpoint before anything looks into it."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise self._refusal(error) from error
        settings = self._settings
        # Without defaults, a class may lack what it needs: what has been validated is not again,
        # for which jsonargparse has no public name.
        asked = parser.parse_args(args, defaults=False, _skip_validation=True)  # type: ignore[arg-type]
        self.asked: Namespace = asked.get(self._command, asked)
        parser = self._parser(self.config.get("subcommand"))  # Lightning's, of no public name
        check_flags(settings, self.asked, parser)
        path = settings.get("ckpt_path")
        if path is None or path in LIGHTNINGS_WORDS:
            return
        if path == "last":
            settings.ckpt_path = str(find_last(self._logs))
        self._checkpoint = read_checkpoint(settings.ckpt_path)
        if path == "last":
            # of several runs, "last" may be another than the one that the user has in mind
            verb = "going on from" if self._command == "fit" else "using"
            epoch = position_of(self._checkpoint)
            rank_zero_only(print)(f"{verb} {settings.ckpt_path}, of epoch {epoch}")

    @property
    def _logs(self) -> Path:
        """Folder of runs: the logger's, or else Lightning's default."""
        trainer = self._settings.trainer
        is_single = isinstance(trainer.logger, Namespace)
        folder = trainer.logger.get("init_args.save_dir") if is_single else None
        return Path(folder or Path(trainer.default_root_dir or "", LOGS))

    def _refusal(self, error: Exception) -> ArgumentError:
        subcommands = (word for word in self._given if word in self.subcommands())
        subcommand = next(subcommands, None) if self._runs else None
        parser = self._parser(subcommand)  # Lightning's, of no public name
        return ArgumentError(None, explain(error, parser, self._given, self.extra_flags))

    def _parse_ckpt_path(self) -> None:
        """Take a checkpoint's hyperparameters for those of the model that is to be evaluated.

        Lightning's own, which has no public name, refuses those that the model had in an earlier
        version, and lets them overrule the flags of a training that is gone on with.
        """
        if self._checkpoint and self._command != "fit":
            hparams = self._checkpoint["hyper_parameters"]
            known = {name: hparams[name] for name in ARGUMENTS if name in hparams}
            self.config = self.parser.parse_object({self._command: {"model": known}}, self.config)

    def before_instantiate_classes(self) -> None:
        """Name the run; one that goes on from a checkpoint keeps its network and its folder."""
        settings, fits = self._settings, self._command == "fit"
        logger = settings.trainer.logger
        is_single = isinstance(logger, Namespace)
        self._asked_version = logger.get("init_args.version") if is_single else None
        name_run(settings, short_name(self._given) if fits else self._command)
        if self._checkpoint and fits:
            self._compare_network(self._checkpoint["hyper_parameters"])
            go_on_in_folder_of(Path(settings.ckpt_path).resolve(), settings, self._logs)

    def _compare_network(self, then: dict[str, Any]) -> None:
        """Refuse to go on with another network than a checkpoint's."""
        for name in ("hidden_sizes", "dropout"):
            before, now = then.get(name), self._settings.model[name]
            if name == "hidden_sizes" and before is not None:
                before, now = list(before), list(now)
            if before != now:
                raise CheckpointError(
                    f"--model.{name} is {now}, but the checkpoint's network has {before}; give "
                    "the checkpoint's or start a new run"
                )

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; what they refuse is a mistake in the flags."""
        try:
            super().instantiate_classes()
            if self._checkpoint:
                self.datamodule.check_split(self._checkpoint[DATA_KEY])
                self._checkpoint = None  # Lightning reads it for itself
        except (DataError, CheckpointError):
            raise
        except (ArithmeticError, ValueError, TypeError) as error:
            raise self._refusal(error) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the callbacks that have flags of their own."""
        config = self.config_init if self.subcommand is None else self.config_init[self.subcommand]
        trainer, own = config.trainer, {flag: config.get(flag) for flag in CALLBACKS}
        theirs = trainer.callbacks or []
        theirs = theirs if isinstance(theirs, list) else [theirs]
        for flag, switch in (
            ("checkpoint", "enable_checkpointing"),
            ("progress_bar", "enable_progress_bar"),
        ):
            # without one, Lightning would add its own; switched off, it would refuse ours
            if own[flag] is None:
                bases = ModelCheckpoint if flag == "checkpoint" else ProgressBar
                other = any(isinstance(each, bases) for each in theirs)
                kwargs.setdefault(switch, trainer[switch] or other)
            elif trainer[switch] is False:
                own[flag] = None
        first = own.pop("fast_training")
        callbacks = [SecondInterrupt(), DelayedKill(), *filter(None, [first])]
        callbacks += [*theirs, *filter(None, own.values())]
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        logger = self._settings.trainer.logger
        if isinstance(logger, Namespace) and "version" in logger.get("init_args", {}):
            # what is saved of it makes another run, in a folder of its own
            logger.init_args.version = self._asked_version
        answer_sigterm_without_waiting(trainer)
        return trainer


def main(args: Sequence[str] | None = None) -> int:
    """Run Lightning's own commands: ``fit``, ``validate``, ``test``.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    return run(lambda arguments: GPALightningCLI(arguments, parser_kwargs=_parser_kwargs()), args)


def _parser_kwargs() -> dict[str, Any]:
    return {name: {"exit_on_error": False} for name in LightningCLI.subcommands()} | {
        "exit_on_error": False
    }
