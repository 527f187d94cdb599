"""The stop of a training whose loss is no longer a finite number."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class DivergenceError(ValueError):
    """A loss or weights that are not finite: one line, with the step and what to try."""


class StopOnDivergence(Callback):
    """Ends a fit as soon as a loss or a weight is no longer a finite number.

    The losses of the training are looked at some at a time, since each look waits for a GPU; the
    step that is named is the first of which the loss was not finite all the same. No checkpoint is
    saved of weights that are not finite.

    Args:
        monitor: Metric of the validation that has to be finite, if it is logged.
        check_every_n_steps: Number of steps whose losses are looked at together.

    Raises:
        DivergenceError: When fitting, if a loss or a weight is not finite.
        ValueError: If ``check_every_n_steps`` is not positive.
    """

    def __init__(self, monitor: str = "val_loss", check_every_n_steps: int = 64) -> None:
        if check_every_n_steps < 1:
            raise ValueError(f"check_every_n_steps must be at least 1, got {check_every_n_steps}")
        self.monitor = monitor
        self.check_every_n_steps = check_every_n_steps
        self._losses: list[Tensor] = []
        self._checked = self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps from here, where a run goes on within an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._checked, self._first_step = [], 0, trainer.global_step

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._losses.append(loss.detach())
        if len(self._losses) >= self.check_every_n_steps:
            self._check_losses(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the losses of the training so far."""
        self._check_losses(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the validation loss, before anybody stops or saves by it."""
        loss = trainer.callback_metrics.get(self.monitor)
        if trainer.state.fn == "fit" and loss is not None and not bool(loss.isfinite()):
            raise _divergence(trainer, "the validation loss is", trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_losses(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        weights = torch.stack([weight.isfinite().all() for weight in pl_module.parameters()])
        if trainer.training and not bool(weights.all()):
            raise _divergence(trainer, "the weights are", trainer.global_step)

    def _check_losses(self, trainer: Trainer) -> None:
        losses, self._losses = self._losses, []
        if not losses:
            return
        finite = torch.stack(losses).isfinite()
        # where several processes train, all of them stop
        if not trainer.strategy.reduce_boolean_decision(bool(finite.all()), all=True):
            batches = self._checked + int(finite.cumprod(0).sum())
            step = self._first_step + batches // trainer.accumulate_grad_batches
            raise _divergence(trainer, "the training loss is", step)
        self._checked += len(losses)


def _divergence(trainer: Trainer, what: str, step: int) -> DivergenceError:
    rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    kept = f"the best weights are in {best}" if best else "there is no checkpoint yet"
    return DivergenceError(
        f"{what} not finite at epoch {trainer.current_epoch}, step {step} (counted from 0), so "
        f"the training has ended; try a smaller learning rate than {rate:g}, and look for huge "
        f"values in the table; {kept}"
    )
