"""Flags that would have no effect: they are given one, refused, or warned of in a line."""

from __future__ import annotations

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
"""More than so many on a CPU would stop the machine."""


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
    if trainer.gradient_clip_algorithm and not trainer.gradient_clip_val:
        algorithm = f"--trainer.gradient_clip_algorithm {trainer.gradient_clip_algorithm}"
        warn(f"{algorithm} changes nothing without --trainer.gradient_clip_val")
    _processes(trainer)


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
    from joblib import cpu_count  # slow to import

    cores = cpu_count()
    if int(devices) > PROCESSES_A_CORE * cores:
        raise ArgumentError(
            None,
            f"--devices {devices}: so many processes would stop a machine of {cores} cores; "
            f"--devices {cores} is one for each",
        )
    if int(devices) > cores:
        warn(f"--devices {devices}: more processes than the machine has cores, which are {cores}")
