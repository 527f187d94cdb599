"""The command line: Lightning's own, with this project's defaults and a few short flags."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.callbacks import EqualRows, StopOnDivergence
from gpa_lightning.callbacks.run_folder import run_folder
from gpa_lightning.commands.arguments import SHORT_FLAGS, written_out
from gpa_lightning.commands.changes import changes
from gpa_lightning.commands.effects import LOGS, take_effect, warn
from gpa_lightning.commands.exit_codes import run
from gpa_lightning.commands.help import HelpfulParser
from gpa_lightning.commands.mistakes import explain
from gpa_lightning.commands.nearest import did_you_mean
from gpa_lightning.commands.run_names import next_version, short_name
from gpa_lightning.commands.signals import LastWord, SecondInterrupt, answer_sigterm_without_waiting
from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.table import DataError
from gpa_lightning.regressor import GPARegressor
from gpa_lightning.resuming import ExactResume
from gpa_lightning.resuming.checkpoint import (
    DATA_KEY,
    CheckpointError,
    find_last,
    read_checkpoint,
)
from gpa_lightning.resuming.exact_resume import position_of
from gpa_lightning.resuming.whole_file import PREFIX
from gpa_lightning.speed import FastTraining

LIGHTNINGS_WORDS = ("best", "hpc")  # for checkpoints, in the place of a path
STAY_IN_CHILDREN = ("ddp_fork", "ddp_notebook", "ddp_spawn")
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
WATCHERS = ("early_stopping", "checkpoint", "progress_bar")  # callbacks that barebones leaves out
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
        """Ask on every process where that is, and save."""
        self._folder = run_folder(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save."""
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
        beside: Flags that the program has besides those of the parser.
    """

    beside: ClassVar[Sequence[str]] = ()

    def __init__(self, args: Sequence[str], run: bool = True, **kwargs: Any) -> None:
        self._given, self._runs = list(args), run
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)  # the user's own classes are there, wherever the program lies
        self._asked_version: str | int | None = None
        super().__init__(
            GPARegressor,
            GPADataModule,
            args=written_out(args),
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
    def _settings(self) -> Namespace:
        """The parsed flags, of the subcommand if there is one."""
        settings: Namespace = self.config.get(self.config.get("subcommand", ""), self.config)
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
        self.asked: Namespace = asked.get(self.config.get("subcommand", ""), asked)
        take_effect(settings, self.asked)
        path = settings.get("ckpt_path")
        if path == "last":
            settings.ckpt_path = str(find_last(self._logs))
            epoch = position_of(read_checkpoint(settings.ckpt_path))
            # of several runs, "last" may be another than the one that the user has in mind
            verb = "going on from" if self.config.get("subcommand", "fit") == "fit" else "using"
            rank_zero_only(print)(f"{verb} {settings.ckpt_path}, of epoch {epoch}")
        elif path and path not in LIGHTNINGS_WORDS:
            read_checkpoint(path)

    @property
    def _logs(self) -> Path:
        """The folder of runs, of a logger that has one."""
        logger = self._settings.trainer.logger
        folder = logger.get("init_args.save_dir") if isinstance(logger, Namespace) else None
        return Path(folder or LOGS)

    def _refusal(self, error: Exception) -> ArgumentError:
        subcommands = (word for word in self._given if word in self.subcommands())
        subcommand = next(subcommands, None) if self._runs else None
        parser = self._parser(subcommand)
        return ArgumentError(None, explain(error, parser, self._given, self.beside))

    def _parse_ckpt_path(self) -> None:
        """Take a checkpoint's hyperparameters for those of the model that is to be evaluated.

        Lightning's own, which has no public name, refuses those that the model had in an earlier
        version, and lets them overrule the flags of a training that is gone on with.
        """
        if self.config.get("subcommand", "fit") == "fit":
            return
        config = self.config[self.config.subcommand]
        if config.get("ckpt_path") not in (None, *LIGHTNINGS_WORDS):
            hparams = read_checkpoint(config.ckpt_path)["hyper_parameters"]
            known = {name: hparams[name] for name in ARGUMENTS if name in hparams}
            model = {self.config.subcommand: {"model": known}}
            self.config = self.parser.parse_object(model, self.config)

    def before_instantiate_classes(self) -> None:
        """Refuse what Lightning would crash on, fill in what flags leave open, name the run."""
        config = self._settings
        _check_trainer(config.trainer)
        patience = (config.early_stopping or {}).get("init_args.patience", 0)
        if patience < 0:
            raise ArgumentError(None, f"--patience must not be negative, got {patience}")
        if config.trainer.barebones:  # Lightning's word for a training that watches nothing
            self._warn_of_what_barebones_leaves_out()
            config.trainer.logger, config.trainer.callbacks = False, None
            for flag in WATCHERS:
                config[flag] = None
        stopping = (config.early_stopping or {}).get("init_args", {})
        if stopping.get("check_on_train_epoch_end", True) is None:
            # else an epoch that ends before its validation, by max_steps or max_time, is a mistake
            own = {"val": False, "train": True}
            stopping.check_on_train_epoch_end = own.get(stopping.monitor.partition("_")[0])
        half = config.trainer.precision == "16-mixed"  # whose gradients fused kernels cannot clip
        if (config.get("lr_scheduler") or half) and not config.get("optimizer"):
            # Lightning would ignore a schedule that comes without an optimiser
            config["optimizer.class_path"] = "torch.optim.Adam"
            config["optimizer.init_args.lr"] = config.model.learning_rate
            config["optimizer.init_args.fused"] = None
        if config.get("optimizer") and not half:
            arguments = config.optimizer.init_args
            if "fused" in arguments and arguments.fused is None and not arguments.get("foreach"):
                arguments.fused = True  # the same arithmetic in one kernel
        self._name_run()
        path = config.get("ckpt_path")
        if self.config.get("subcommand", "fit") == "fit" and path not in (None, *LIGHTNINGS_WORDS):
            self._compare_network(read_checkpoint(path)["hyper_parameters"])
            self._go_on_in_folder_of(Path(path).resolve())

    def _warn_of_what_barebones_leaves_out(self) -> None:
        """Warn of flags of the loggers and callbacks that are not there."""
        subcommand = self.config.get("subcommand")
        for change in changes(self.asked, self._parser(subcommand).get_defaults()):
            flag, _, value = change.lstrip("-").partition(" ")
            long = SHORT_FLAGS.get(flag, flag)
            left_out = (*WATCHERS, "trainer.logger", "trainer.callbacks")
            if long.startswith(left_out) and value not in ("null", "false"):
                warn(f"{change} changes nothing with --trainer.barebones true")

    def _name_run(self) -> None:
        """Name the folder of a run after its number and what was changed."""
        config, logger = self._settings, self._settings.trainer.logger
        if config.name and Path(config.name).name != config.name:
            raise ArgumentError(None, f"--name {config.name}: names one folder, without a slash")
        kind = logger.get("class_path", "") if isinstance(logger, Namespace) else ""
        if not kind.endswith(("TensorBoardLogger", "CSVLogger")):
            if config.name:
                warn(f"--name {config.name} changes nothing: no logger makes a folder of that name")
            return
        arguments = logger.init_args
        self._asked_version = arguments.version
        if arguments.version is not None:
            if config.name:
                warn(f"--name {config.name} changes nothing beside --trainer.logger.version")
            return
        number = next_version(Path(arguments.save_dir, arguments.name or ""))
        subcommand = self.config.get("subcommand", "fit")
        changed = short_name(self._given) if subcommand == "fit" else subcommand
        words = [f"version_{number}", config.name or changed]
        arguments.version = "-".join(filter(None, words))

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

    def _go_on_in_folder_of(self, checkpoint: Path) -> None:
        """Log where a checkpoint's run has logged, without what it had begun when it was killed."""
        config, run = self._settings, checkpoint.parents[1]
        logger = config.trainer.logger
        versioned = isinstance(logger, Namespace) and "version" in logger.get("init_args", {})
        if run.parent != self._logs.resolve() or not versioned:
            return
        if config.name and config.name not in run.name:
            warn(f"--name {config.name} changes nothing: the run goes on in {run.name}")
        logger.init_args.version = run.name
        for unfinished in run.glob(f"**/{PREFIX}*"):
            shutil.rmtree(unfinished)
        kept = (config.checkpoint or {}).get("init_args", {})
        own_folder = kept.get("dirpath", LOGS) is None
        if checkpoint.stem == "last" and own_folder and "enable_version_counter" in kept:
            kept.enable_version_counter = False  # the lost epoch's best is made again

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; what they refuse is a mistake in the flags."""
        try:
            super().instantiate_classes()
            path = self._settings.get("ckpt_path")
            if path not in (None, *LIGHTNINGS_WORDS):
                self.datamodule.check_split(read_checkpoint(path)[DATA_KEY])
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
        callbacks = [SecondInterrupt(), LastWord(), *filter(None, [first])]
        callbacks += [*theirs, *filter(None, own.values())]
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        logger = self._settings.trainer.logger
        if isinstance(logger, Namespace) and "version" in logger.get("init_args", {}):
            # what is saved of it makes another run, in a folder of its own
            logger.init_args.version = self._asked_version
        answer_sigterm_without_waiting(trainer)
        return trainer


def _check_trainer(flags: Namespace) -> None:
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = flags[name]
        if value is not None and not isinstance(value, str) and not value > 0:
            raise ArgumentError(None, f"--trainer.{name} must be above 0, but is {value}")
    for name in ("gradient_clip_val", "log_every_n_steps", "min_epochs", "min_steps"):
        if (flags[name] or 0) < 0:
            raise ArgumentError(None, f"--trainer.{name} must not be negative, got {flags[name]}")
    if flags.profiler == "xla" and not find_spec("torch_xla"):
        raise ArgumentError(None, "--trainer.profiler xla needs torch_xla, which is not installed")
    for name, words in (
        ("accelerator", ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]),
        ("strategy", ["auto", *StrategyRegistry.available_strategies()]),
    ):
        word = flags[name]
        if isinstance(word, str) and word.lower() not in words:
            near = did_you_mean(word, words, listed=len(words) < 10)
            raise ArgumentError(None, f"--{name} {word}: there is no such {name}{near}")
    if isinstance(flags.strategy, str) and flags.strategy.startswith(STAY_IN_CHILDREN):
        raise ArgumentError(
            None,
            f"--strategy {flags.strategy} leaves the trained network in processes of its own, and "
            "none to be tested; --strategy ddp trains in as many processes",
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run Lightning's own commands: ``fit``, ``validate``, ``test``.

    Args:
        args: The command line, without the program's name; by default that of the process.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    return run(lambda arguments: GPALightningCLI(arguments, parser_kwargs=_parser_kwargs()), args)


def _parser_kwargs() -> dict[str, Any]:
    return {name: {"exit_on_error": False} for name in LightningCLI.subcommands()} | {
        "exit_on_error": False
    }
