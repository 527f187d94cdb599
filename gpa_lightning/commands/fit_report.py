"""The report of a fit, from the Trainer that has just fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR

from gpa_lightning.callbacks.loss_curves import Curve, LossCurves
from gpa_lightning.callbacks.overfitting_monitor import Evaluation, OverfittingMonitor, verdict
from gpa_lightning.callbacks.run_folder import run_folder
from gpa_lightning.callbacks.tensorboard import tensorboard_loggers

_SIGNAL = ". Signaling Trainer to stop."  # the end of what Lightning says of an early stop


@dataclass(frozen=True)
class FitReport:
    """Report of a fit.

    Attributes:
        epochs: Number of epochs, those of an earlier run that it went on from included.
        max_epochs: Limit of that number; -1 for none.
        why_it_stopped: Reason, in words.
        training: ``(epoch, train_loss)`` of each epoch, numbered from 0.
        validation: ``(epoch, val_loss)`` of each epoch.
        checkpoint: Path of the best checkpoint, or empty.
        monitor: Metric that the best checkpoint is best in, or None for the latest.
        best: Value of the metric there.
        log_dir: Folder of the run, or None.
        tensorboard: Folder of TensorBoard's runs, or None without such a logger.
        seconds: Duration of the fit.
        device: Device that trained.
        optimizer: Names of the optimiser and its schedule, and the learning rate.
        processes: Number of processes that trained.
        accumulated: Number of batches per step of the optimiser.
        overfitting: When overfitting began, or empty where it cannot be told, or has been.
        averaging: Name of the callback whose averaged weights are validated, kept and tested.
        averaged: Checkpoint of the weights that a callback such as `StochasticWeightAveraging`
            averages when a fit ends, or the reason why there is none.
        averaged_losses: MSE of these weights on each set.
    """

    epochs: int
    max_epochs: int
    why_it_stopped: str
    training: Curve
    validation: Curve
    checkpoint: str
    monitor: str | None
    best: float | None
    log_dir: Path | None
    tensorboard: str | None
    seconds: float
    device: torch.device
    optimizer: str
    processes: int
    accumulated: int
    overfitting: str = ""
    averaging: str = ""
    averaged: str = ""
    averaged_losses: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, trainer: Trainer, seconds: float) -> FitReport:
        """Describe a Trainer that has just fitted, in so many seconds."""
        curves = _find_callback(trainer, LossCurves)
        # of several, that of --checkpoint is the last
        checkpoint = next(
            (c for c in reversed(trainer.checkpoint_callbacks) if isinstance(c, ModelCheckpoint)),
            None,
        )
        score = checkpoint.best_model_score if checkpoint else None
        return cls(
            epochs=trainer.current_epoch,
            max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
            why_it_stopped=_why_it_stopped(trainer),
            training=list(curves.training) if curves else [],
            validation=list(curves.validation) if curves else [],
            checkpoint=checkpoint.best_model_path if checkpoint else "",
            monitor=checkpoint.monitor if checkpoint else None,
            best=None if score is None else score.item(),
            log_dir=run_folder(trainer),
            tensorboard=next((each.save_dir for each in tensorboard_loggers(trainer)), None),
            seconds=seconds,
            device=trainer.strategy.root_device,
            optimizer=_optimizer(trainer),
            processes=trainer.world_size,
            accumulated=trainer.accumulate_grad_batches,
            overfitting=_overfitting(trainer, curves) if curves else "",
            averaging=type(each).__name__
            if (each := _find_callback(trainer, WeightAveraging))
            else "",
        )


def _optimizer(trainer: Trainer) -> str:
    """Name the optimiser, the learning rate that it began with, and its schedule."""
    names, schedules = [], [config.scheduler for config in trainer.lr_scheduler_configs]
    for optimizer in trainer.optimizers:
        group = optimizer.param_groups[0]
        rate = group.get("initial_lr", group.get("lr"))
        if any(isinstance(each, (SWALR, ReduceLROnPlateau)) for each in schedules):
            rate = optimizer.defaults["lr"]  # these put their own in the place of the first
        names.append(type(optimizer).__name__)
        names += [] if rate is None else [f"learning rate {float(rate):g}"]
    names += [f"schedule {type(each).__name__}" for each in schedules]
    return ", ".join(names)


def _find_callback(trainer: Trainer, kind: type) -> Any:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _why_it_stopped(trainer: Trainer) -> str:
    early = _find_callback(trainer, EarlyStopping)
    if early and early.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        once_an_epoch = _validates_at_ends(trainer) and trainer.check_val_every_n_epoch == 1
        checks = "epochs" if once_an_epoch else "validations"
        return f"stopped early: {early.monitor} did not improve for {early.patience} {checks}"
    if early and early.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
        return f"stopped early: {early.stopping_reason_message.removesuffix(_SIGNAL)}"
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"stopped at max_steps {trainer.max_steps}"
    if trainer.max_epochs == trainer.current_epoch:
        return f"stopped at max_epochs {trainer.max_epochs}"
    return "stopped on request"


def _validates_at_ends(trainer: Trainer) -> bool:
    """Tell whether validations are at the ends of epochs, not within them or by the clock."""
    return getattr(trainer, "val_check_interval", None) == 1


def _overfitting(trainer: Trainer, curves: LossCurves) -> str:
    """Say when overfitting began, by the losses of whole epochs."""
    if not _validates_at_ends(trainer) or _find_callback(trainer, OverfittingMonitor):
        return ""  # the lowest loss may be one within an epoch; or it has been said
    training = dict(curves.training)
    history = [
        Evaluation(epoch + 1, training[epoch], loss)
        for epoch, loss in curves.validation
        if epoch in training
    ]
    return verdict(history) if history else ""
