"""Flags that would do nothing, or make Lightning crash: given an effect, refused, or warned of."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.commands.arguments import SHORT_FLAGS
from gpa_lightning.commands.changes import changes
from gpa_lightning.commands.nearest import did_you_mean
from gpa_lightning.regressor import GPARegressor

LOGS = "lightning_logs"
"""The folder of runs, in the current folder or in that of ``--trainer.default_root_dir``."""

PROCESSES_A_CORE = 4
"""More than so many would stop the machine."""

_WATCHERS = ("early_stopping", "checkpoint", "progress_bar")  # callbacks that barebones leaves out
_STAY_IN_CHILDREN = ("ddp_fork", "ddp_notebook", "ddp_spawn")
_IDLE = {  # flags of Lightning's Trainer that have nothing to act on here
    "limit_predict_batches": "predictions are made by predict.py, of all rows",
    "model_registry": "nothing is uploaded",
    "use_distributed_sampler": "the data deal their rows out to processes by themselves",
}


@rank_zero_only
def warn(reason: str) -> None:
    """Print one line on standard error, on the first process."""
    print("warning:", reason, file=sys.stderr)  # noqa: T201


def check_flags(settings: Namespace, asked: Namespace, parser: LightningArgumentParser) -> None:
    """Give every flag an effect, or refuse it, or warn that it has none.

    Args:
        settings: Value of every flag, which may be changed.
        asked: Values of the flags that were given, on the command line or in a file.
        parser: Parser of both.
    """
    _check_trainer(settings.trainer)
    _learning_rate(settings, asked)
    _optimizer(settings)
    _penalty(settings, asked)
    _folder_of_runs(settings, asked)
    _idle_flags(settings.trainer)
    _processes(settings.trainer)
    if settings.data.num_workers > 0:
        _refuse_beyond_cores("--data.num_workers", settings.data.num_workers)
    callbacks = [settings[flag] or {} for flag in ("checkpoint", "early_stopping")]
    if settings.trainer.profiler or any(each.get("init_args.verbose") for each in callbacks):
        logging.getLogger("lightning.pytorch").setLevel(logging.INFO)  # by which they talk
    if settings.trainer.barebones:  # Lightning's word for a training that watches nothing
        _leave_out_watchers(settings, asked, parser.get_defaults())
    _early_stopping(settings)


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
    if isinstance(flags.strategy, str) and flags.strategy.startswith(_STAY_IN_CHILDREN):
        raise ArgumentError(
            None,
            f"--strategy {flags.strategy} leaves the trained network in processes of its own, and "
            "none to be tested; --strategy ddp trains in as many processes",
        )


def _optimizer(settings: Namespace) -> None:
    """Choose an optimiser where a schedule or 16-mixed needs one, and the fused kernel."""
    half = settings.trainer.precision == "16-mixed"  # whose gradients fused kernels cannot clip
    if (settings.get("lr_scheduler") or half) and not settings.get("optimizer"):
        # Lightning would ignore a schedule that comes without an optimiser
        settings["optimizer.class_path"] = "torch.optim.Adam"
        settings["optimizer.init_args.lr"] = settings.model.learning_rate
        settings["optimizer.init_args.fused"] = None
    if settings.get("optimizer") and not half:
        arguments = settings.optimizer.init_args
        if "fused" in arguments and arguments.fused is None and not arguments.get("foreach"):
            arguments.fused = True  # the same arithmetic in one kernel


def _penalty(settings: Namespace, asked: Namespace) -> None:
    model, asked_model = settings.model, asked.get("model") or {}
    weight = asked_model.get("penalty_weight")
    # a penalty that is given as null, as in the file of an earlier run, was switched off on purpose
    if weight is not None and model.penalty is None and "penalty" not in asked_model:
        raise ArgumentError(
            None, f"--penalty_weight {weight} adds nothing without --penalty l1 or --penalty l2"
        )
    if model.penalty is not None and model.penalty_weight == 0 and asked_model:
        warn(f"--penalty {model.penalty} adds nothing with --penalty_weight 0")


def _early_stopping(settings: Namespace) -> None:
    arguments = (settings.early_stopping or {}).get("init_args", {})
    if arguments.get("patience", 0) < 0:
        raise ArgumentError(None, f"--patience must not be negative, got {arguments.patience}")
    if arguments.get("check_on_train_epoch_end", True) is None:
        # else an epoch that ends before its validation, by max_steps or max_time, is a mistake
        own = {"val": False, "train": True}
        arguments.check_on_train_epoch_end = own.get(arguments.monitor.partition("_")[0])


def _leave_out_watchers(settings: Namespace, asked: Namespace, defaults: Namespace) -> None:
    """Leave out loggers and callbacks, as barebones does, and warn of their flags."""
    for change in changes(asked, defaults):
        flag, _, value = change.lstrip("-").partition(" ")
        left_out = (*_WATCHERS, "trainer.logger", "trainer.callbacks")
        if SHORT_FLAGS.get(flag, flag).startswith(left_out) and value not in ("null", "false"):
            warn(f"{change} changes nothing with --trainer.barebones true")
    settings.trainer.logger, settings.trainer.callbacks = False, None
    for flag in _WATCHERS:
        settings[flag] = None


def _idle_flags(trainer: Namespace) -> None:
    """Warn of flags of Lightning's Trainer that do nothing here, or let nothing be done."""
    for unit in ("epochs", "steps"):
        least, most = trainer[f"min_{unit}"], trainer[f"max_{unit}"]
        if least and most is not None and -1 < most < least:
            warn(f"--trainer.min_{unit} {least} changes nothing beyond max_{unit}, which is {most}")
    if trainer.limit_train_batches == 0:
        warn("--trainer.limit_train_batches 0 lets the network learn from nothing")
    if trainer.gradient_clip_algorithm and not trainer.gradient_clip_val:
        algorithm = f"--trainer.gradient_clip_algorithm {trainer.gradient_clip_algorithm}"
        warn(f"{algorithm} changes nothing without --trainer.gradient_clip_val")
    for flag, why in _IDLE.items():
        value = trainer[flag]
        if value is not None and value is not True:
            given = "false" if value is False else value
            warn(f"--trainer.{flag} {given} changes nothing: {why}")


def _learning_rate(settings: Namespace, asked: Namespace) -> None:
    """Give the model's learning rate to an optimiser that was given none of its own."""
    rate = asked.get("model.learning_rate")
    optimizer = settings.get("optimizer")
    if rate is None or not optimizer or "lr" not in optimizer.init_args:
        return
    own = asked.get("optimizer.init_args.lr")
    if own is None:
        optimizer.init_args.lr = rate
    elif rate not in (own, signature(GPARegressor).parameters["learning_rate"].default):
        warn(f"--learning_rate {rate} changes nothing, since --optimizer.lr is {own}")


def _folder_of_runs(settings: Namespace, asked: Namespace) -> None:
    """Put runs below ``--trainer.default_root_dir``, unless their logger was given a folder."""
    folder = asked.get("trainer.default_root_dir")
    if folder is None or asked.get("trainer.logger.init_args.save_dir") is not None:
        return
    logger = settings.trainer.logger
    if isinstance(logger, Namespace) and logger.get("init_args.save_dir") == LOGS:
        logger.init_args.save_dir = str(Path(str(folder), LOGS))


def _processes(trainer: Namespace) -> None:
    devices = str(trainer.devices)
    on_cpu = trainer.accelerator == "cpu" or (
        trainer.accelerator == "auto" and not torch.accelerator.is_available()
    )
    if not on_cpu or not devices.isdecimal() or int(devices) <= 1:
        return
    cores = _refuse_beyond_cores("--devices", int(devices))
    if int(devices) > cores:
        warn(f"--devices {devices}: more processes than the machine has cores, which are {cores}")


def _refuse_beyond_cores(flag: str, processes: int) -> int:
    """Return the number of cores; refuse as many processes as would stop the machine."""
    from joblib import cpu_count  # slow to import

    cores: int = cpu_count()
    if processes > PROCESSES_A_CORE * cores:
        raise ArgumentError(
            None,
            f"{flag} {processes}: so many processes would stop a machine of {cores} cores; "
            f"{flag} {cores} is one for each",
        )
    return cores
