"""Several batches in one turn of Lightning's training loop, counted as if each had had its own.

Lightning's loops have no public names; what is called of them in training stands in this file, and
the tests of `FastTraining` compare every counter with those of a plain fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.optim import LBFGS
from torchmetrics import Metric

from gpa_lightning.speed.processes import SharedGradients

BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
STEP_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
STEP_METHODS = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_LOGGING_HOOKS = ("training_step", *BATCH_HOOKS, *STEP_HOOKS, *STEP_METHODS, *TRANSFER_HOOKS)


def acts_between_batches(trainer: Trainer, own: Callback) -> bool:
    """Tell whether anything acts at the start or the end of each batch.

    Progress bars, timers and a `ModelCheckpoint` that saves by epochs have a hook for batches and
    may be called once for several.

    Args:
        trainer: The Trainer that fits.
        own: Callback to leave out of account, the one that asks.
    """
    module = trainer.lightning_module
    return (
        not module.automatic_optimization
        or is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True)
        or trainer.accumulate_grad_batches != 1
        or not isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
        or overrides(module, LightningModule, BATCH_HOOKS)
        or any(
            overrides(callback, Callback, BATCH_HOOKS) and not _may_skip_batches(callback)
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if callback is not own
        )
    )


def _may_skip_batches(callback: Callback) -> bool:
    if isinstance(callback, ModelCheckpoint):
        # set by arguments, for which it has no public names
        if callback._every_n_train_steps or callback._train_time_interval is not None:
            return False
    elif not isinstance(callback, (ProgressBar, Timer)):
        return False
    # a hook that the user has written for a class of Lightning's gets every batch
    hooks = (getattr(callback, hook).__module__.partition(".")[0] for hook in BATCH_HOOKS)
    return all(package in ("lightning", "gpa_lightning") for package in hooks)


def steps_plainly(trainer: Trainer) -> bool:
    """Tell whether a step is no more than the module's, autograd's, the optimiser's and hooks.

    If so, they can be called directly; if not, Lightning's own step is taken for each batch.

    Args:
        trainer: The Trainer that fits.
    """
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    kind = type(trainer.optimizers[0])
    return (
        kind.__module__.startswith("torch.optim.")
        and kind is not LBFGS  # which calls forward and backward itself, several times
        and trainer.precision in ("32-true", "bf16-mixed")
        and (type(trainer.strategy) is SingleDeviceStrategy or _averages_plainly(trainer))
        and trainer.strategy.root_device.type == "cpu"
        and not trainer.gradient_clip_val
        and not overrides(module, LightningModule, STEP_HOOKS + STEP_METHODS + TRANSFER_HOOKS)
        and (data is None or not overrides(data, LightningDataModule, TRANSFER_HOOKS))
    )


def _averages_plainly(trainer: Trainer) -> bool:
    """Tell whether several processes take the mean of their gradients, and do nothing besides."""
    strategy = trainer.strategy
    return (
        type(strategy) is DDPStrategy
        # set by arguments, for which it has no public names
        and not (strategy._ddp_kwargs or strategy._ddp_comm_hook or strategy._model_averager)
        and all(weight.dtype == torch.float32 for weight in trainer.lightning_module.parameters())
        and not any(getattr(m, "sparse", False) for m in trainer.lightning_module.modules())
    )


def overrides(instance: object, parent: type, hooks: tuple[str, ...]) -> bool:
    """Tell whether an instance has any of the hooks of its parent class for itself."""
    return any(is_overridden(hook, instance, parent) for hook in hooks)


def logs_batches(trainer: Trainer) -> bool:
    """Tell whether something is logged at each batch, so that Lightning has to see each end.

    A metric whose mean is logged once an epoch does not count: what updates it goes on doing so.

    Args:
        trainer: The Trainer that fits, at the end of a batch.
    """
    return any(
        result.meta.fx in _LOGGING_HOOKS
        and (result.meta.on_step or result.is_tensor or not isinstance(result.value, Metric))
        for result in (trainer._results or {}).values()
    )


def count_logged(trainer: Trainer) -> int:
    """Count the names under which something has been logged so far."""
    return len(trainer._results or ())


def batches_until_something_is_due(trainer: Trainer) -> int:
    """Count the batches until a validation, a limit or the end of the epoch is due.

    Args:
        trainer: The Trainer that fits, at the end of a batch.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    due = [trainer.num_training_batches - epoch_loop.batch_progress.current.ready]
    if trainer.max_steps >= 0:
        due.append(trainer.max_steps - trainer.global_step)
    interval = trainer.val_check_batch
    if interval and interval != float("inf") and epoch_loop._should_check_val_epoch():
        across_epochs = trainer.check_val_every_n_epoch is None
        index = epoch_loop.total_batch_idx if across_epochs else epoch_loop.batch_idx
        due.append(-(index + 1) % interval)
    few = min(due)
    return 1 << 62 if few == float("inf") else max(int(few), 0)


def further_batches(trainer: Trainer, most: int) -> Iterator[tuple[Any, int]]:
    """Yield the batches that follow the current one, and their indices within the epoch.

    Args:
        trainer: The Trainer that fits, at the end of a batch.
        most: Number of batches at most.
    """
    epoch_loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    batches, schedules = epoch_loop.batch_progress, bool(trainer.lr_scheduler_configs)
    results = trainer._results
    assert fetcher is not None
    assert results is not None
    for _ in range(min(most, batches_until_something_is_due(trainer))):
        if batches.is_last_batch or trainer.should_stop or trainer.received_sigterm:
            return
        # what Lightning does after the batch before ...
        batches.increment_completed()
        if schedules:
            epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        epoch_loop._batches_that_stepped += 1
        # ... and before and after this one
        batch, _, _ = next(fetcher)
        batches.is_last_batch = fetcher.done
        batches.increment_ready()
        results.batch, results.batch_size = batch, None  # from which `self.log` takes the size
        batches.increment_started()
        yield batch, epoch_loop.batch_idx
        batches.increment_processed()
        if schedules:
            epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            if epoch_loop._num_ready_batches_reached():
                epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)


def lightning_step(trainer: Trainer, batch: Any, index: int) -> None:
    """Take a step on a batch as Lightning does, with all its hooks and methods.

    Args:
        trainer: The Trainer that fits.
        batch: The batch, as the loader has made it.
        index: Its index within the epoch.
    """
    epoch_loop, module = trainer.fit_loop.epoch_loop, trainer.lightning_module
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    arguments = epoch_loop._build_kwargs(OrderedDict(), batch, index)
    epoch_loop.automatic_optimization.run(trainer.optimizers[0], index, arguments)


class DirectStep:
    """A step that calls the module, autograd, the optimiser and callbacks' hooks, and no more.

    Args:
        trainer: The Trainer that fits, for which `steps_plainly` holds.
        take: Function that takes the optimiser's step on the gradients.
        own: Callback whose hooks are not called, the one that takes the step.
        earlier: The direct step of an earlier round, if there was one in this fit.
    """

    def __init__(
        self,
        trainer: Trainer,
        take: Callable[[], object],
        own: Callback,
        earlier: DirectStep | None = None,
    ) -> None:
        self._trainer, self._module = trainer, trainer.lightning_module
        self._optimizer, self._take = trainer.optimizers[0], take
        self._precision = trainer.precision_plugin
        self._shared: SharedGradients | None = None
        if trainer.world_size > 1:
            self._shared = SharedGradients(self._module, earlier._shared if earlier else None)
        self._progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        self._weights = [w for group in self._optimizer.param_groups for w in group["params"]]
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        self._listeners = {
            hook: [c for c in callbacks if c is not own and overrides(c, Callback, (hook,))]
            for hook in STEP_HOOKS
        }
        self._with_index = is_param_in_hook_signature(
            self._module.training_step, "batch_idx", min_args=2
        )

    def __call__(self, batch: Any, index: int) -> None:
        """Take a step on a batch of the given index within the epoch."""
        self._progress.optimizer.step.increment_ready()
        self._module._current_fx_name = "training_step"
        arguments = (batch, index) if self._with_index else (batch,)
        if self._shared:
            self._shared.share_buffers()
        with self._precision.train_step_context():
            output = self._module.training_step(*arguments)
        loss = output["loss"] if isinstance(output, Mapping) else output
        self._call("on_before_zero_grad", self._optimizer)
        for weight in self._weights:  # `Optimizer.zero_grad` does this in ten times the time
            weight.grad = None
        if loss is not None:
            self._call("on_before_backward", loss)
            loss.backward()
            if self._shared:
                self._shared.average()
            self._call("on_after_backward")
        elif self._shared:  # as Lightning refuses it: the other processes would wait for this one
            raise RuntimeError(
                "Skipping the `training_step` by returning None in distributed training is not "
                "supported."
            )
        self._call("on_before_optimizer_step", self._optimizer)
        self._take()
        self._module._current_fx_name = None
        self._progress.optimizer.step.increment_completed()

    def _call(self, hook: str, *arguments: object) -> None:
        for callback in self._listeners[hook]:
            self._module._current_fx_name = hook
            getattr(callback, hook)(self._trainer, self._module, *arguments)
