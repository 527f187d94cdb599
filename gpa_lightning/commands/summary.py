"""What a training run ends with: the data it stands on, its losses, and what they compare with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR

from gpa_lightning.callbacks.loss_curves import Curve, LossCurves
from gpa_lightning.callbacks.overfitting_monitor import Evaluation, OverfittingMonitor, verdict
from gpa_lightning.callbacks.run_folder import run_folder
from gpa_lightning.callbacks.tensorboard import tensorboard_loggers
from gpa_lightning.commands.effects import LOGS
from gpa_lightning.data.baselines import baseline_losses
from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.loaders import EVALUATION_ROWS, TableDataset
from gpa_lightning.losses import evaluation_mse
from gpa_lightning.regressor import GPARegressor
from gpa_lightning.resuming.checkpoint import read_checkpoint
from gpa_lightning.resuming.exact_resume import position_of

_SIGNAL = ". Signaling Trainer to stop."  # the end of what Lightning says of an early stop


@dataclass(frozen=True)
class FitReport:
    """How a fit went.

    Attributes:
        epochs: Number of epochs run, of those of an earlier run that it went on from included.
        max_epochs: How many it could have been; -1 for no limit.
        why_it_stopped: In words.
        training: ``(epoch, train_loss)`` of each epoch, numbered from 0.
        validation: ``(epoch, val_loss)`` of each epoch.
        checkpoint: Path of the best checkpoint, or empty.
        monitor: The metric that the best checkpoint is best in, or None for the latest.
        best: The lowest value of it.
        log_dir: Folder of the run, or None.
        tensorboard: Folder of TensorBoard's runs, or None without such a logger.
        seconds: How long it took.
        device: Where.
        optimizer: The optimiser, its learning rate and its schedule.
        processes: How many trained.
        accumulated: Batches a step of the optimiser.
        overfitting: When overfitting began, or empty where it cannot be told, or has been.
        averaging: Name of the callback whose averaged weights are validated, kept and tested.
        averaged: Of weights that are averaged when a fit ends, such as those of
            `StochasticWeightAveraging`: their checkpoint, or why there are none.
        averaged_losses: The MSE on each set of those.
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
        """Describe a Trainer that has just fitted.

        Args:
            trainer: The Trainer.
            seconds: How long fitting took.
        """
        curves = _first(trainer, LossCurves)
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
            averaging=type(each).__name__ if (each := _first(trainer, WeightAveraging)) else "",
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


def _batch_size(fitted: FitReport, data: GPADataModule) -> str:
    """Say how many rows a step of the optimiser takes, of all processes together."""
    rows = data.batch_rows
    if rows is None:
        return f"full, {data.rows['training']:,} rows"
    parts = [f"{rows} rows"]
    if fitted.processes > 1:
        parts.append(f"{fitted.processes} processes")
    if fitted.accumulated > 1:
        parts.append(f"{fitted.accumulated} batches a step")
    together = rows * fitted.processes * fitted.accumulated
    return f"{together} ({' * '.join(parts)})" if len(parts) > 1 else str(together)


def _penalty(model: GPARegressor) -> str:
    penalty = model.hparams.get("penalty")
    return f"{penalty}, weight {model.hparams['penalty_weight']:g}" if penalty else "none"


def _first(trainer: Trainer, kind: type) -> Any:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _why_it_stopped(trainer: Trainer) -> str:
    early = _first(trainer, EarlyStopping)
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
    if not _validates_at_ends(trainer) or _first(trainer, OverfittingMonitor):
        return ""  # the lowest loss may be one within an epoch; or it has been said
    training = dict(curves.training)
    history = [
        Evaluation(epoch + 1, training[epoch], loss)
        for epoch, loss in curves.validation
        if epoch in training
    ]
    return verdict(history) if history else ""


def _mse(network: nn.Module, dataset: TableDataset) -> float:
    errors = (evaluation_mse(network, x, y) * len(x) for x, y in dataset.batches(EVALUATION_ROWS))
    return sum(errors) / len(dataset)


def final_losses(model: GPARegressor, data: GPADataModule) -> dict[str, float]:
    """Compute the MSE on each set, in evaluation mode.

    Args:
        model: The tested model.
        data: Its data.

    Returns:
        The MSE on the ``training``, the ``validation`` and the ``test`` set.
    """
    return {name: _mse(model, data.dataset(name)) for name in data.rows}


def print_summary(
    fitted: FitReport,
    losses: dict[str, float],
    model: GPARegressor,
    data: GPADataModule,
    changed: Sequence[str],
) -> None:
    """Print what was trained, on what, and how good it is.

    Args:
        fitted: How the fit went.
        losses: The MSE on each set.
        model: The tested model.
        data: Its data.
        changed: The flags that are not the defaults.
    """
    console = Console()
    if fitted.training:
        console.print(_curves(fitted))
    source = data.provenance
    kind = "SYNTHETIC, no real students" if source.kind == "synthetic" else source.kind
    rows = ", ".join(f"{count:,} {name}" for name, count in data.rows.items())
    doubling = "" if data.val_size else " (the test set doubles as the validation set)"
    sizes = [data.in_features, *model.hparams["hidden_sizes"], 1]
    scale = model.target_units.scale
    weights = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        ("data", f"{kind}: {source.location}"),
        ("", f"{source.rows:,} rows, SHA-256 {source.sha256}"),
        ("target", data.target_name + ("" if scale is None else ", standardised to be learnt")),
        ("features", _named(data.feature_names)),
        ("split", f"{rows}{doubling}; seed {data.seed}"),
        ("network", f"{'-'.join(map(str, sizes))}, {weights:,} parameters"),
        ("optimiser", fitted.optimizer),
        ("batch size", _batch_size(fitted, data)),
        ("penalty", _penalty(model)),
        ("flags", " ".join(changed) or "the defaults"),
        ("epochs run", f"{fitted.epochs}; {fitted.why_it_stopped}"),
    ]
    tested = "last epoch"
    if fitted.monitor and fitted.best is not None:
        tested = f"best {fitted.monitor}"
        where = position_of(read_checkpoint(fitted.checkpoint))
        lines.append(("best epoch", f"{where} ({fitted.monitor} {fitted.best:.4f})"))
    elif fitted.monitor:
        why = f"no checkpoint was saved by {fitted.monitor}, see --checkpoint and --trainer"
        lines.append(("best epoch", f"not kept: {why}"))
    if fitted.overfitting:
        lines.append(("overfitting", fitted.overfitting))
    if fitted.averaging:
        tested += f", weights averaged by {fitted.averaging}"
    for name, loss in losses.items():
        lines.append((f"{name} MSE", f"{loss:.4f}  ({tested})"))
    for name, loss in fitted.averaged_losses.items():
        lines.append((f"{name} MSE", f"{loss:.4f}  (averaged weights)"))
    baselines = baseline_losses(data)
    for predictor, loss in baselines.items():
        lines.append((f"  {predictor}", f"{loss:.4f}  (test MSE, for comparison)"))
    if not losses["test"] < baselines["predicting the mean"]:
        lines.append(("verdict", "the network predicts no better than the mean of the target does"))
    lines.append(("time", f"{fitted.seconds:.1f} s to fit on {fitted.device}"))
    if fitted.checkpoint:
        lines.append(("checkpoint", fitted.checkpoint))
    if fitted.averaged:
        lines.append(("averaged weights", fitted.averaged))
    if fitted.tensorboard:
        command = f"tensorboard --logdir {fitted.tensorboard}"
        here = fitted.tensorboard == LOGS  # where make looks
        lines.append(("curves", f"make tensorboard  (or: {command})" if here else command))
    if fitted.checkpoint:
        checkpoint = shlex.quote(fitted.checkpoint)
        command = f"python scripts/predict.py --ckpt_path {checkpoint} --input students.csv"
        lines.append(("predict", command))
    with console:  # at once, as a notebook spaces what comes apart
        console.print("\n[bold]Summary[/]")
        for label, value in lines:
            style = "bold red" if value.startswith("SYNTHETIC") else None
            # soft wrap: paths and sums stay whole when they are copied
            console.print(f"{label:<22}", Text(value), style=style, soft_wrap=True, highlight=False)


def _named(names: Sequence[str]) -> str:
    """Return the names of a table's columns, of a wide one the first."""
    more = f" and {len(names) - 12:,} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _curves(fitted: FitReport) -> Table:
    """Tabulate the losses at every tenth epoch, as the lecture prints them."""
    table = Table(title="Losses (mean squared error)", title_justify="left")
    for column in ("epoch", "training", "validation"):
        table.add_column(column, justify="right")
    validation = dict(fitted.validation)
    every = 10 if len(fitted.training) > 20 else 1
    last = fitted.training[-1][0]
    for epoch, loss in fitted.training:
        if epoch % every == 0 or epoch == last:
            held_out = f"{validation[epoch]:.4f}" if epoch in validation else ""
            table.add_row(f"\\[{epoch}/{fitted.max_epochs}]", f"{loss:.4f}", held_out)
    return table
