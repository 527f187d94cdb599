"""Several optimiser steps per `training_step`, with Lightning none the wiser.

Lightning spends nearly a millisecond around every batch (docs/leaderboard.md: rounds of one step,
against rounds of many that are not direct), and a step of the lecture's network takes about 1.5 ms.
Keras answers the same cost with ``steps_per_execution``. Here `GPARegressor.optimizer_step` goes
on, after Lightning's own step, with further batches from the loader that Lightning is iterating
over, and keeps Lightning's counters, so that ``global_step``, learning-rate schedules, validation
and limits come out as if Lightning had gone round its loop for each.

Everything that reaches into Lightning's loops stands in this file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from gpa_lightning.speed.direct_step import DirectStep

_BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
_STEP_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
_STEP_METHODS = ("backward", "optimizer_zero_grad", "configure_gradient_clipping")
_TRANSFER_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


class Execution:
    """What a round of Lightning's loop does beyond its own batch.

    One short rule says how many steps a round has: whatever acts between two batches
    (gradient accumulation; a callback, or a subclass of the model, with a hook for single
    batches) gets rounds of one. Progress bars, timers and a `ModelCheckpoint` that saves by
    epochs have such a hook and do not mind.

    Args:
        trainer: A Trainer that is fitting, with automatic optimisation.
        steps: Optimiser steps a round at most, the first of them Lightning's own.
    """

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self.trainer = trainer
        self.steps = 1 if _acts_between_batches(trainer) else steps
        # Where nobody listens and nothing is to be converted, the plain calls do the same faster.
        plain = trainer.precision == "32-true" and isinstance(
            trainer.strategy, SingleDeviceStrategy
        )
        self._plain_steps = plain and not _acts_within_steps(trainer)
        self._plain_batches = (
            plain and trainer.strategy.root_device.type == "cpu" and not _acts_on_transfer(trainer)
        )

    def run(
        self, optimizer: Optimizer | LightningOptimizer, direct_step: DirectStep | None
    ) -> None:
        """Take the optimiser steps of this round that follow Lightning's own.

        Args:
            optimizer: What Lightning has passed to `LightningModule.optimizer_step`.
            direct_step: What does a step at once, where only the module's own work is to be done.
        """
        module = self.trainer.lightning_module
        if self._plain_steps:
            plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
            weights = [weight for group in plain.param_groups for weight in group["params"]]
            for batch, index in self._further_batches():
                if direct_step is not None and direct_step(batch):
                    continue
                loss = module.training_step(batch, index)
                assert isinstance(loss, Tensor)
                for weight in weights:  # Optimizer.zero_grad does this in ten times the time
                    weight.grad = None
                loss.backward()  # type: ignore[no-untyped-call]
                plain.step()
            return
        loop = self.trainer.fit_loop.epoch_loop.automatic_optimization
        for batch, index in self._further_batches():
            arguments = OrderedDict(batch=batch, batch_idx=index)
            closure: Callable[[], Any] = loop._make_closure(
                arguments, self.trainer.optimizers[0], index
            )
            optimizer.step(closure=closure)

    def _further_batches(self) -> Iterator[tuple[Any, int]]:
        """Yield the batches that follow, and their indices within the epoch."""
        trainer = self.trainer
        fit_loop = trainer.fit_loop
        epoch_loop, fetcher = fit_loop.epoch_loop, fit_loop._data_fetcher
        batches = epoch_loop.batch_progress
        steps = epoch_loop.automatic_optimization.optim_progress.optimizer.step
        module = trainer.lightning_module
        assert fetcher is not None
        for _ in range(min(self.steps - 1, _batches_until_something_is_due(trainer))):
            if batches.is_last_batch or trainer.should_stop or trainer.received_sigterm:
                return
            # what Lightning's loop does after one batch ...
            batches.increment_processed()
            steps.increment_completed()
            if trainer.lr_scheduler_configs:
                epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=False)
                epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
            batches.increment_completed()
            epoch_loop._batches_that_stepped += 1
            # ... and before the next
            batch, _, _ = next(fetcher)
            batches.is_last_batch = fetcher.done
            if not self._plain_batches:
                batch = trainer.precision_plugin.convert_input(batch)
                batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
                batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            batches.increment_ready()
            batches.increment_started()
            steps.increment_ready()
            yield batch, epoch_loop.batch_idx


def _batches_until_something_is_due(trainer: Trainer) -> int:
    """Count the batches that may follow the current one before Lightning has something to do."""
    epoch_loop = trainer.fit_loop.epoch_loop
    due = [trainer.num_training_batches - epoch_loop.batch_progress.current.ready]
    if trainer.max_steps >= 0:
        due.append(trainer.max_steps - trainer.global_step - 1)
    interval = trainer.val_check_batch
    if interval and interval != float("inf") and epoch_loop._should_check_val_epoch():
        across_epochs = trainer.check_val_every_n_epoch is None
        index = epoch_loop.total_batch_idx if across_epochs else epoch_loop.batch_idx
        due.append(-(index + 1) % interval)
    few = min(due)
    return 1 << 62 if few == float("inf") else max(int(few), 0)


def _acts_between_batches(trainer: Trainer) -> bool:
    return (
        trainer.accumulate_grad_batches != 1
        or _overrides(trainer.lightning_module, LightningModule, _BATCH_HOOKS)
        or any(
            _overrides(callback, Callback, _BATCH_HOOKS) and not _is_indifferent(callback)
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
    )


def _is_indifferent(callback: Callback) -> bool:
    if isinstance(callback, ModelCheckpoint):
        return callback._every_n_train_steps == 0 and callback._train_time_interval is None
    return isinstance(callback, (ProgressBar, Timer))


def _acts_within_steps(trainer: Trainer) -> bool:
    return (
        bool(trainer.gradient_clip_val)
        or not isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
        or _overrides(trainer.lightning_module, LightningModule, _STEP_HOOKS + _STEP_METHODS)
        or any(_overrides(each, Optimizer, ("zero_grad",)) for each in trainer.optimizers)
        or any(
            _overrides(callback, Callback, _STEP_HOOKS)
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
    )


def _acts_on_transfer(trainer: Trainer) -> bool:
    hooks = (*_TRANSFER_HOOKS, "transfer_batch_to_device")
    data = getattr(trainer, "datamodule", None)
    return _overrides(trainer.lightning_module, LightningModule, hooks) or (
        data is not None and _overrides(data, LightningDataModule, _TRANSFER_HOOKS)
    )


def _overrides(instance: object, parent: type, hooks: tuple[str, ...]) -> bool:
    return any(is_overridden(hook, instance, parent) for hook in hooks)
