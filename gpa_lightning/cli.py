"""The command line: Lightning's own, with this project's defaults and a few short flags."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from jsonargparse import Namespace, dict_to_namespace
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from gpa_lightning.checkpoint import CheckpointError, find_last, read_checkpoint
from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.table import DataError
from gpa_lightning.losses import DivergenceError
from gpa_lightning.output import PREFIX, OutputError
from gpa_lightning.refusal import refuse
from gpa_lightning.regressor import GPARegressor
from gpa_lightning.summary import FitReport, print_summary

RECIPES = Path(__file__).parent / "recipes"
LOGS = "lightning_logs"
TRAIN = "Train the network on the GPA data, test the best checkpoint, and print a summary."
_GOING_ON = "the same command with --ckpt_path last goes on from the end of the last whole epoch"
SHORT_FLAGS = ("accelerator", "devices", "strategy", "num_nodes", "precision", "max_epochs")

LOST_A_PROCESS = 1  # the exit code
DISK_ERRORS = (
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
)

# Each has a flag of its own, so that it can be changed, replaced, or switched off with `null`.
CALLBACKS: dict[str, tuple[type[Callback], dict[str, Any], str]] = {
    "early_stopping": (
        EarlyStopping,
        {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 10}},
        "Ends the training when a metric no longer improves.",
    ),
    "checkpoint": (
        ModelCheckpoint,
        {
            "class_path": "gpa_lightning.resuming.BestAndLastCheckpoint",
            "init_args": {
                "monitor": "val_loss",
                "save_last": True,
                "save_on_train_epoch_end": True,
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
WATCHING = ["gpa_lightning.callbacks.LossCurves", "gpa_lightning.callbacks.HyperparameterTable"]


class GPALightningCLI(LightningCLI):
    """A LightningCLI for `GPARegressor` and `GPADataModule`.

    Args:
        args: The command line, without the program's name.
        run: Whether the first argument is a subcommand to run.
        kwargs: Passed on to `LightningCLI`.
    """

    def __init__(self, args: Sequence[str], run: bool = True, **kwargs: Any) -> None:
        super().__init__(
            GPARegressor,
            GPADataModule,
            args=list(args),
            run=run,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 100,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            save_config_kwargs={"overwrite": True},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks' flags and the short ones, and let the network follow the data."""
        parser.link_arguments("data.in_features", "model.in_features", apply_on="instantiate")
        logger = {"save_dir": LOGS, "name": "", "default_hp_metric": False}
        parser.set_defaults(
            {
                "trainer.logger": {"class_path": "TensorBoardLogger", "init_args": logger},
                "trainer.callbacks": [{"class_path": path} for path in WATCHING],
            }
        )
        for flag, (base, default, text) in CALLBACKS.items():
            parser.add_subclass_arguments(base, flag, required=False, help=f"{text} null: none.")
            parser.set_defaults({flag: default})
        # argparse has aliases only for arguments that one adds oneself
        for action in parser._actions:
            short = action.dest.removeprefix("trainer.")
            if action.dest.startswith("trainer.") and short in SHORT_FLAGS:
                action.option_strings = [*action.option_strings, f"--{short}"]
                parser._option_string_actions[f"--{short}"] = action

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, and refuse a bad checkpoint before anything looks into it."""
        super().parse_arguments(parser, args)
        config = self.config.get(self.config.get("subcommand", ""), self.config)
        path = config.get("ckpt_path")
        if path and path not in ("best", "last", "hpc"):  # Lightning's words for its own
            read_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Fill in what the optimiser's flags leave open."""
        config = self.config if self.subcommand is None else self.config[self.subcommand]
        if config.lr_scheduler and not config.optimizer:
            # Lightning would ignore a schedule that comes without an optimiser
            config.optimizer = _optimizer_config(config.model.learning_rate)
        if config.optimizer and config.trainer.precision != "16-mixed":
            arguments = config.optimizer.init_args
            if "fused" in arguments and arguments.fused is None and not arguments.get("foreach"):
                arguments.fused = True  # the same arithmetic in one kernel

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; what they refuse is a mistake in the flags."""
        try:
            super().instantiate_classes()
        except (DataError, CheckpointError):
            raise
        except (ValueError, TypeError) as error:
            raise ArgumentError(None, str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the callbacks that have flags of their own."""
        trainer = self._get(self.config_init, "trainer")
        own = {flag: self._get(self.config_init, flag) for flag in CALLBACKS}
        for flag, switch in (
            ("checkpoint", "enable_checkpointing"),
            ("progress_bar", "enable_progress_bar"),
        ):
            # without one, Lightning would add its own; switched off, it would refuse ours
            if own[flag] is None:
                kwargs.setdefault(switch, trainer[switch] or False)
            elif trainer[switch] is False:
                own[flag] = None
        callbacks = [_SecondInterrupt(), _LastWord(), *(trainer.callbacks or [])]
        callbacks += filter(None, own.values())
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        _answer_sigterm_without_waiting(trainer)
        return trainer


def _answer_sigterm_without_waiting(trainer: Trainer) -> None:
    """Have SIGTERM noted and passed on to the processes that this one has started, no more.

    Lightning's handler also broadcasts it, and so waits for the other processes in the middle of
    whatever they exchange, possibly for ever (since its pull request 20825). Its loop broadcasts
    what has been noted before each round anyway.
    """
    connector = trainer._signal_connector

    def note(signum: int, _: FrameType | None) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = note  # type: ignore[method-assign]


def _optimizer_config(learning_rate: float) -> Namespace:
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": learning_rate, "fused": None}}
    namespace: Namespace = dict_to_namespace(adam)
    return namespace


class TrainCLI(GPALightningCLI):
    """The command line of ``scripts/train.py``: no subcommand, and a checkpoint to go on from."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--ckpt_path``."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from: a path, or 'last' for the newest last.ckpt.",
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint to go on from, and let the run go on in its folder."""
        super().before_instantiate_classes()
        config = self.config
        if config.ckpt_path == "last":
            config.ckpt_path = str(find_last(Path(LOGS)))
            epoch = read_checkpoint(config.ckpt_path)["epoch"]
            # of several runs, "last" may be another than the one that the user has in mind
            rank_zero_only(print)(f"going on from {config.ckpt_path}, after epoch {epoch}")
        if config.ckpt_path:
            checkpoint = Path(config.ckpt_path).resolve()
            run = checkpoint.parents[1]
            logger = config.trainer.logger
            if run.parent == Path(LOGS).resolve() and "version" in logger.get("init_args", {}):
                logger.init_args.version = run.name
                self._clear_up(checkpoint)

    def _clear_up(self, checkpoint: Path) -> None:
        """Make room for what a run that was killed had begun after a checkpoint of its own."""
        for unfinished in checkpoint.parents[1].glob(f"**/{PREFIX}*"):
            shutil.rmtree(unfinished)
        kept = (self.config.checkpoint or {}).get("init_args", {})
        own_folder = kept.get("dirpath", LOGS) is None
        if checkpoint.stem == "last" and own_folder and "enable_version_counter" in kept:
            kept.enable_version_counter = False  # the lost epoch's best is made again


def main(args: Sequence[str] | None = None) -> int:
    """Run the ``gpa-lightning`` command: ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line, without the program's name; by default that of the process.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    return _run(lambda arguments: GPALightningCLI(arguments, parser_kwargs=_parser_kwargs()), args)


def train(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/train.py``: fit, test the best checkpoint, print the summary.

    Args:
        args: The command line, without the program's name; by default that of the process.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    return _run(_train, args)


def _train(args: Sequence[str]) -> None:
    cli = TrainCLI(args, run=False, parser_kwargs={"exit_on_error": False, "description": TRAIN})
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    started = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=cli.config.ckpt_path, weights_only=True)
    # noted before the test, which puts the callbacks back to where the best checkpoint left them
    fitted = FitReport.of(trainer, time.perf_counter() - started)
    # The checkpoint has averaged weights; this callback loads those that training goes on from.
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [each for each in callbacks if not isinstance(each, WeightAveraging)]
    best = {"ckpt_path": "best", "weights_only": True} if fitted.checkpoint else {"model": model}
    trainer.test(datamodule=data, verbose=False, **best)
    if trainer.is_global_zero:
        print_summary(fitted, model, data)


def _parser_kwargs() -> dict[str, Any]:
    return {name: {"exit_on_error": False} for name in LightningCLI.subcommands()} | {
        "exit_on_error": False
    }


def _run(program: Callable[[Sequence[str]], object], args: Sequence[str] | None) -> int:
    """Run a command line, and leave the group of processes that it may have joined."""
    arguments = _with_recipes(sys.argv[1:] if args is None else args)
    _quieten_third_parties()
    code = _exit_code(program, arguments)
    if distributed.is_available() and distributed.is_initialized() and code != LOST_A_PROCESS:
        # Lightning leaves it to the end of the process, which its threads may turn into an abort
        distributed.destroy_process_group()
    return code


def _exit_code(program: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """Run a command line; a user's mistake becomes one line and exit code 2."""
    try:
        program(arguments)
    except (ArgumentError, CheckpointError, DataError, DivergenceError, OutputError) as error:
        return refuse(error)
    except MisconfigurationException as error:
        hint = "; --accelerator cpu runs everywhere" if "backend" in str(error) else ""
        return refuse(f"{error}{hint}")
    except RuntimeError as error:
        if "conditioned on metric" in str(error):  # EarlyStopping's word for a wrong `monitor`
            return refuse(error)
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            return _left_alone(error)
        raise
    except SIGTERMException:
        return _interrupted(signal.SIGTERM)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning answers Ctrl-C by an orderly end and exit code 1
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted(signal.SIGINT)
        raise
    except Exception as error:
        # TensorBoardLogger passes on what its writer's thread has met with as a ValueError
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError) and reason.errno in DISK_ERRORS:
            return refuse(
                f"{reason.filename or 'the run'}: cannot be written: {reason.strerror or reason}; "
                "checkpoints that are there are whole, --ckpt_path last goes on from them"
            )
        raise
    return 0


def _interrupted(by: signal.Signals) -> int:
    signal.signal(signal.SIGINT, _end_at_once)
    print(f"interrupted by {by.name}; {_GOING_ON}", file=sys.stderr)  # noqa: T201
    return 128 + by


def _end_at_once(signal_number: int, frame: FrameType | None) -> None:
    os._exit(128 + signal_number)


class _SecondInterrupt(Callback):
    """Lets a second Ctrl-C end the program at once, which Lightning would ignore."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, _end_at_once)


class _LastWord(Callback):
    """Lets a process that has lost another say so, before Lightning kills it for that.

    A thread of Lightning's looks every five seconds whether one of the processes that it started
    has failed, and then kills all the others. Here it does so if they have not ended by then.
    """

    patience = 30  # seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver) and stage == "fit":
                thread._terminate_all = partial(  # type: ignore[method-assign]
                    self._wait_and, thread._terminate_all
                )

    def _wait_and(self, kill: Callable[[], None]) -> None:
        time.sleep(self.patience)
        kill()


def _left_alone(error: RuntimeError) -> int:
    """Say that another process of the training is gone, which no process can go on without."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    reason = str(error).partition("] ")[2].partition(". ")[0] or str(error)
    print(  # noqa: T201
        f"error: process {rank} has lost another process of the training "
        f"({' '.join(reason.split())}): see that one's own messages; {_GOING_ON}",
        file=sys.stderr,
    )
    return LOST_A_PROCESS


def _with_recipes(args: Sequence[str]) -> list[str]:
    """Put the path of a recipe in the place of its name, after ``--config``."""
    arguments = list(args)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if equals and flag in ("--config", "-c"):
            arguments[index] = f"{flag}={_recipe(value)}"
        elif index and arguments[index - 1] in ("--config", "-c"):
            arguments[index] = _recipe(argument)
    return arguments


def _recipe(name: str) -> str:
    path = RECIPES / f"{name}.yaml"
    return str(path) if path.is_file() and not Path(name).exists() else name


def _quieten_third_parties() -> None:
    """Keep advice and deprecations that are not the user's to act on out of the output."""
    threading.excepthook = _pass_over_writers
    logging.basicConfig(format="%(levelname)s: %(message)s")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it warns of the restart that a resumed run marks in its curves
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    # it says which process has ended, before it ends those that wait for it
    launcher = "lightning.fabric.strategies.launchers.subprocess_script"
    logging.getLogger(launcher).setLevel(logging.INFO)
    for pattern in (
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`GPARegressor.configure_optimizers` will be overridden by.*",
        r".*LightningCLI's args parameter is intended.*",
        r".*does not have many workers.*",
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*callbacks used to create the checkpoint need to be provided.*",
        r".*the hooks will not be called on every batch.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r"\s*Unable to serialize instance.*",
    ):
        warnings.filterwarnings("ignore", pattern)


def _pass_over_writers(failed: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's writer: the training reports what it has met with."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)
