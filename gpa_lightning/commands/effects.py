"""Flags that would have no effect: they are given one, refused, or warned of in a line."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from inspect import signature
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.regressor import GPARegressor

LOGS = "lightning_logs"
"""The folder of runs, in the current folder or in that of ``--trainer.default_root_dir``."""

PROCESSES_A_CORE = 4
"""More than so many would stop the machine."""


_IDLE = {  # flags of Lightning's Trainer that have nothing to act on here
    "limit_predict_batches": "predictions are made by predict.py, of all rows",
    "model_registry": "nothing is uploaded",
    "use_distributed_sampler": "the data deal their rows out to processes by themselves",
}


@rank_zero_only
def warn(reason: str) -> None:
    """Print on standard error what a flag does not do.

    Args:
        reason: One line.
    """
    print("warning:", reason, file=sys.stderr)  # noqa: T201


def take_effect(settings: Namespace, asked: Namespace) -> None:
    """See to it that every flag does something, or that the user is told.

    Args:
        settings: All flags, which are changed.
        asked: Those that were given, on the command line or in a file.

    Raises:
        ArgumentError: If a flag lacks another one, without which it does nothing.
    """
    _learning_rate(settings, asked)
    _folder_of_runs(settings, asked)
    model, trainer = settings.model, settings.trainer
    asked_model = asked.get("model") or {}
    weight = asked_model.get("penalty_weight")
    # a penalty that is given as null, as in the file of an earlier run, was switched off on purpose
    if weight is not None and model.penalty is None and "penalty" not in asked_model:
        raise ArgumentError(
            None, f"--penalty_weight {weight} adds nothing without --penalty l1 or --penalty l2"
        )
    if model.penalty is not None and model.penalty_weight == 0 and asked_model:
        warn(f"--penalty {model.penalty} adds nothing with --penalty_weight 0")
    if trainer.gradient_clip_algorithm and not trainer.gradient_clip_val:
        algorithm = f"--trainer.gradient_clip_algorithm {trainer.gradient_clip_algorithm}"
        warn(f"{algorithm} changes nothing without --trainer.gradient_clip_val")
    _idle_flags(trainer)
    _processes(trainer)
    if settings.data.num_workers > 0:
        _refuse_beyond_cores("--data.num_workers", settings.data.num_workers)
    callbacks = [settings[flag] or {} for flag in ("checkpoint", "early_stopping")]
    if trainer.profiler or any(each.get("init_args.verbose") for each in callbacks):
        logging.getLogger("lightning.pytorch").setLevel(logging.INFO)  # by which they talk


def _idle_flags(trainer: Namespace) -> None:
    """Warn of flags of Lightning's Trainer that do nothing here, or let nothing be done."""
    for unit in ("epochs", "steps"):
        least, most = trainer[f"min_{unit}"], trainer[f"max_{unit}"]
        if least and most is not None and -1 < most < least:
            warn(f"--trainer.min_{unit} {least} changes nothing beyond max_{unit}, which is {most}")
    if trainer.limit_train_batches == 0:
        warn("--trainer.limit_train_batches 0 lets the network learn from nothing")
    for flag, why in _IDLE.items():
        value = trainer[flag]
        if value is not None and value is not True:
            given = "false" if value is False else value
            warn(f"--trainer.{flag} {given} changes nothing: {why}")


def _learning_rate(settings: Namespace, asked: Namespace) -> None:
    """Let the model's learning rate be that of an optimiser that was given none of its own."""
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
    """Let runs lie where Lightning puts them by itself, unless their logger has a folder."""
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
    """Return the number of cores, or refuse as many processes as would stop the machine."""
    from joblib import cpu_count  # slow to import

    cores: int = cpu_count()
    if processes > PROCESSES_A_CORE * cores:
        raise ArgumentError(
            None,
            f"{flag} {processes}: so many processes would stop a machine of {cores} cores; "
            f"{flag} {cores} is one for each",
        )
    return cores
