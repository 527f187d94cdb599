"""What makes a run that was stopped and resumed the same run: nothing of it is lost.

Lightning saves a checkpoint while it is still busy with the end of a batch or of an epoch. What it
does after that (validate, log the epoch's training metrics, step a scheduler that waits for a
plateau, act on an early stop) happens in a run that goes on, but not in one that is resumed from
that checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from gpa_lightning.resuming import random_states, within_epoch
from gpa_lightning.resuming.checkpoint import CheckpointError
from gpa_lightning.resuming.curves import resume_curves
from gpa_lightning.resuming.settings import collect_settings, compare_settings
from gpa_lightning.resuming.whole_checkpoints import WholeCheckpoints

_KEY = "end_of_epoch"  # as the first version called all of this


class ExactResume(Callback):
    """Adds to a checkpoint what Lightning leaves out of it, and restores it when a run resumes.

    That is: the random states of all processes, how far the epoch is and what it has logged so
    far, the metrics that are yet to be logged, an early stop, and how far TensorBoard's curves go.
    With it a run that goes on from a checkpoint, wherever that was taken, ends with the weights of
    one that was never stopped, to the last bit on a CPU. (Within an epoch the training loader has
    to be stateful for that, as this project's is.) Where several processes train, it also gives
    each a random stream of its own, so that dropout differs.

    Args:
        whole_checkpoints: Whether `WholeCheckpoints` takes the place of Lightning's default way of
            writing files.

    Raises:
        CheckpointError: When fitting, if the optimiser or a schedule has other settings than in
            the checkpoint, or the checkpoint was taken within an epoch by another number of
            processes.
    """

    def __init__(self, whole_checkpoints: bool = True) -> None:
        self.whole_checkpoints = whole_checkpoints
        self._checkpoint: dict[str, Any] = {}
        self._settings: list[dict[str, Any]] = []
        self._patience: dict[EarlyStopping, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put `WholeCheckpoints` in the place of Lightning's default, and note the patience."""
        self._patience = {each: each.patience for each in _early_stoppings(trainer)}
        if self.whole_checkpoints and type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        at = within_epoch.position(trainer)
        mine = within_epoch.collect(trainer, pl_module) if at["within"] else {}
        processes = [(random_states.collect(), mine)] * trainer.world_size
        if len(processes) > 1:
            torch.distributed.all_gather_object(processes, processes[0])
        checkpoint["random_states"] = [states for states, _ in processes]
        epochs = trainer.fit_loop.epoch_progress.current
        at_end = (
            trainer.training and not at["within"] and epochs.processed > epochs.completed  # type: ignore[attr-defined]
        )
        checkpoint[_KEY] = {
            "callback_metrics": _on_cpu(trainer.callback_metrics),
            "unlogged": _on_cpu(within_epoch.unlogged(trainer, at, at_end)),
            "at_end": at_end,
            "should_stop": trainer.should_stop,
            "position": at,
            "processes": [gathered for _, gathered in processes],
            "settings": self._settings,
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()  # no point of a curve may be later than its checkpoint

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep for later what was added; a checkpoint of version 0.1.0 has less of it, or none."""
        if trainer.state.fn != "fit":
            return
        names = (_KEY, "epoch", "global_step", "random_states")
        self._checkpoint = {name: checkpoint[name] for name in names if name in checkpoint}
        at = self._saved.get("position")
        if at is None:
            return
        before, now = len(self._saved["processes"]), trainer.world_size
        if at["within"] and before != now:
            raise CheckpointError(
                f"the checkpoint was taken within an epoch, with {before} processes, and can be "
                f"gone on from with as many, not with {now}"
            )
        within_epoch.set_counters(checkpoint["loops"]["fit_loop"], at)

    @property
    def _saved(self) -> dict[str, Any]:
        saved: dict[str, Any] = self._checkpoint.get(_KEY, {})
        return saved

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the settings; take up the metrics, an early stop, and TensorBoard's curves."""
        self._settings = collect_settings(trainer)
        if not self._checkpoint:
            return
        saved = self._saved
        compare_settings(self._settings, saved.get("settings", []))
        trainer.callback_metrics.update(saved.get("callback_metrics", {}))
        for early, patience in self._patience.items():
            # a checkpoint's patience would silently overrule the one that is asked for
            if early.patience != patience and early.wait_count < patience:
                early.stopping_reason = EarlyStoppingReason.NOT_STOPPED
            early.patience = patience
        stopped = any(
            early.stopping_reason != EarlyStoppingReason.NOT_STOPPED for early in self._patience
        )
        trainer.should_stop = stopped and saved.get("should_stop", False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                resume_curves(
                    logger,
                    step=self._checkpoint["global_step"] - 1,
                    saved_at=_saved_at(trainer.ckpt_path),
                    unlogged={name: v.item() for name, v in saved.get("unlogged", {}).items()},
                    epoch=self._checkpoint["epoch"],
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what Lightning does after it has saved, and take up the random states.

        At the last moment before they are used. A process that the run did not have before starts
        with a state of its own.
        """
        checkpoint, saved = self._checkpoint, self._saved
        self._checkpoint = {}
        rank = trainer.global_rank
        if at := saved.get("position"):
            within_epoch.resume_loops(trainer, at)
            if at["within"]:
                within_epoch.restore(trainer, pl_module, saved["processes"][rank])
        if saved.get("at_end"):
            _step_plateau_schedulers(trainer, checkpoint["epoch"] + 1, saved["callback_metrics"])
        states = checkpoint.get("random_states", [])
        # the first checkpoints of version 0.1.0 hold those of their one process, in no list
        states = states if isinstance(states, list) else [states]
        if rank < len(states):
            random_states.restore(states[rank])
        elif rank > 0:
            random_states.seed_process(rank, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the last epoch, also where nothing was left to train after it."""
        epochs = trainer.fit_loop.epoch_progress.current
        epochs.completed = epochs.processed  # type: ignore[attr-defined]


def _early_stoppings(trainer: Trainer) -> list[EarlyStopping]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, EarlyStopping)]


def position_of(checkpoint: dict[str, Any]) -> str:
    """Say how far the run of a checkpoint was: its epoch, and how many batches into it."""
    at, epoch = checkpoint.get(_KEY, {}).get("position"), checkpoint["epoch"]
    return f"{epoch}, after {at['batches']} batches" if at and not at["whole"] else f"{epoch}"


def _saved_at(path: Any) -> float:
    """Return when a checkpoint was saved; kept by the disk, since equal runs save equal files."""
    try:
        return Path(path).stat().st_mtime
    except (OSError, TypeError):  # on no disk
        return float("inf")


def _on_cpu(metrics: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).detach().cpu() for name, value in metrics.items()}


def _step_plateau_schedulers(trainer: Trainer, epochs: int, metrics: dict[str, Tensor]) -> None:
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and epochs % config.frequency == 0
        metric = metrics.get(str(config.monitor))
        if config.reduce_on_plateau and due and metric is not None:
            trainer.fit_loop.epoch_loop.scheduler_progress.increment_ready()
            config.scheduler.step(metric)  # type: ignore[arg-type]  # as a plateau's has it
            trainer.fit_loop.epoch_loop.scheduler_progress.increment_completed()
