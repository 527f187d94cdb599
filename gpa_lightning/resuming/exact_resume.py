"""What makes a run that was killed and resumed the same run: nothing of it is lost.

Lightning saves a checkpoint while it is still busy with the end of an epoch. What it does after
that (log the epoch's training metrics, step a scheduler that waits for a plateau, act on an early
stop) happens in a run that goes on, but not in one that is resumed from that checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from gpa_lightning.resuming import random_states
from gpa_lightning.resuming.whole_checkpoints import WholeCheckpoints

_KEY = "end_of_epoch"


class ExactResume(Callback):
    """Puts into a checkpoint what Lightning leaves out of it, and takes it up when it resumes.

    That is: the random states of all processes, the metrics that are yet to be logged, an early
    stop, and how far TensorBoard's curves go. With it a run that goes on from a checkpoint ends
    with the weights of one that was never stopped, to the last bit on a CPU. Where several
    processes train, it also gives each a random stream of its own, so that dropout differs.

    Args:
        whole_checkpoints: Whether `WholeCheckpoints` takes the place of Lightning's default way of
            writing files.
    """

    def __init__(self, whole_checkpoints: bool = True) -> None:
        self.whole_checkpoints = whole_checkpoints
        self._checkpoint: dict[str, Any] = {}
        self._random_states: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put `WholeCheckpoints` in the place of Lightning's default."""
        if self.whole_checkpoints and type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states, the metrics, those yet to be logged, and an early stop."""
        states = [random_states.collect()] * trainer.world_size
        if len(states) > 1:
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["random_states"] = states
        epochs = trainer.fit_loop.epoch_progress.current
        at_end = trainer.training and epochs.processed > epochs.completed  # type: ignore[attr-defined]
        # there is no public name for the metrics of this epoch alone, without earlier ones
        unlogged = trainer._logger_connector.metrics["log"] if at_end else {}
        checkpoint[_KEY] = {
            "callback_metrics": _on_cpu(trainer.callback_metrics),
            "unlogged": _on_cpu(unlogged),
            "at_end": at_end,
            "should_stop": trainer.should_stop,
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()  # no point of a curve may be later than its checkpoint

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep for later what was added; a checkpoint of version 0.1.0 has none of it."""
        names = (_KEY, "epoch", "global_step")
        self._checkpoint = {name: checkpoint[name] for name in names if name in checkpoint}
        states = checkpoint.get("random_states", [])
        # the first checkpoints of version 0.1.0 hold those of their one process, in no list
        self._random_states = states if isinstance(states, list) else [states]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the metrics, an early stop, and TensorBoard's curves."""
        if not self._checkpoint:
            return
        left_off = self._checkpoint.get(_KEY, {})
        trainer.callback_metrics.update(left_off.get("callback_metrics", {}))
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        early_stopping = any(isinstance(callback, EarlyStopping) for callback in callbacks)
        trainer.should_stop = early_stopping and left_off.get("should_stop", False)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    _take_up_curves(logger, left_off.get("unlogged", {}), self._checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the schedulers that wait for a plateau, as Lightning does after it has saved.

        And take up the random states, at the last moment before they are used. A process that the
        run did not have before starts with a state of its own.
        """
        states, self._random_states = self._random_states, []
        if trainer.global_rank < len(states):
            random_states.restore(states[trainer.global_rank])
        elif trainer.global_rank > 0:
            random_states.seed_apart(trainer.global_rank, trainer.global_step)
        left_off, epochs = self._checkpoint.get(_KEY, {}), self._checkpoint.get("epoch", 0) + 1
        self._checkpoint = {}
        for config in trainer.lr_scheduler_configs if left_off.get("at_end") else ():
            due = config.interval == "epoch" and epochs % config.frequency == 0
            metric = left_off["callback_metrics"].get(config.monitor)
            if config.reduce_on_plateau and due and metric is not None:
                trainer.fit_loop.epoch_loop.scheduler_progress.increment_ready()
                config.scheduler.step(metric)
                trainer.fit_loop.epoch_loop.scheduler_progress.increment_completed()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the last epoch, also where nothing was left to train after it."""
        epochs = trainer.fit_loop.epoch_progress.current
        epochs.completed = epochs.processed  # type: ignore[attr-defined]


def _on_cpu(metrics: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).detach().cpu() for name, value in metrics.items()}


def _take_up_curves(
    logger: TensorBoardLogger, unlogged: dict[str, Tensor], checkpoint: dict[str, Any]
) -> None:
    """Hide from TensorBoard what was logged after a checkpoint, and log what was not, but before.

    The event that TensorBoard knows a restart by hides every point from its step on.
    """
    # slow to import, and needed only here
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    next_step = checkpoint["global_step"]
    restart = Event(step=next_step, session_log=SessionLog(status=SessionLog.START))
    logger.experiment.file_writer.add_event(restart)
    logger.experiment.flush()
    curves = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    points = {name: curves.Scalars(name) for name in curves.Tags()["scalars"]}
    latest = {name: curve[-1] for name, curve in points.items() if curve}
    missing = {
        name: value.item()
        for name, value in unlogged.items()
        if name not in latest or latest[name].step < next_step - 1
    }
    # Lightning writes the epoch's number after the metrics that it goes with
    cut_short = any(
        latest[name].wall_time > latest["epoch"].wall_time for name in unlogged.keys() - missing
    )
    if missing or cut_short:
        logger.log_metrics({**missing, "epoch": checkpoint["epoch"]}, next_step - 1)
        logger.experiment.flush()
