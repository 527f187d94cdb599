"""What makes a run that was killed and resumed the same run: whole checkpoints, and nothing lost.

Lightning saves a checkpoint while it is still busy with the end of an epoch. What it does after
that (log the epoch's training metrics, step a scheduler that waits for a plateau, act on an early
stop) happens in a run that goes on, but not in one that is resumed from that checkpoint. And it
builds a checkpoint in the system's folder for temporary files: where that is on another disk, it
is copied into its place, and a process that is killed meanwhile leaves half of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from gpa_lightning.output import whole_file

_KEY = "end_of_epoch"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are whole at every moment, on local disks.

    One that is replaced by a better one stays until the next has been written, so that the best
    one that ``last.ckpt`` speaks of is always there.
    """

    def __init__(self) -> None:
        self._superseded: list[str | Path] = []
        self._folders: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint to a temporary name on the same disk, and rename it.

        Args:
            checkpoint: Lightning's dictionary.
            path: Where to.
            storage_options: Not used.

        Raises:
            OutputError: If it cannot be written; one that was there is left as it was.
        """
        if "://" in str(path):  # not a disk
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            content = BytesIO()
            torch.save(checkpoint, content)
            folder = Path(path).parent
            if folder not in self._folders:  # one that was made and has gone is missed, not remade
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            with whole_file(path, overwrite=True) as temporary:
                temporary.write_bytes(content.getbuffer())
        self.teardown()

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint once the next one is written.

        Args:
            path: Which one.
        """
        self._superseded.append(path)

    def teardown(self) -> None:
        """Remove what is left to remove."""
        while self._superseded:
            super().remove_checkpoint(self._superseded.pop())


class BestAndLastCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with a ``last.ckpt`` of every epoch.

    Lightning's own writes ``last.ckpt`` only together with a better checkpoint, so that a run that
    is killed while it does not improve would lose every epoch since the best. Takes the same
    arguments.
    """

    _saved_content: tuple[int, str] | None = None

    @property
    def state_key(self) -> str:
        """The key of `ModelCheckpoint`, whose checkpoints can be resumed with this one."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best, and the last whether or not it is the best."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Save, or give what has just been saved another name: the best is often also the last."""
        saved = self._last_checkpoint_saved
        # the first best one of a run does not know of a last one yet
        content = (trainer.global_step, self.last_model_path)
        if self._saved_content != content or not Path(saved).is_file():
            super()._save_checkpoint(trainer, filepath)
            self._saved_content = content
            return
        if trainer.is_global_zero:
            with whole_file(filepath, overwrite=True) as temporary:
                try:
                    temporary.hardlink_to(saved)
                except OSError:  # not every file system has such links
                    shutil.copyfile(saved, temporary)
        trainer.strategy.barrier()
        trainer.strategy.checkpoint_io.teardown()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up all of the state, of which Lightning leaves out the latest score."""
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]


class ExactResume(Callback):
    """Puts into a checkpoint what Lightning leaves out of it, and takes it up when it resumes.

    `GPARegressor` brings it to every Trainer. The random states, which a module may want without
    a callback, travel with the module.
    """

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put `WholeCheckpoints` in the place of Lightning's default."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics, those that are yet to be logged, and whether training is to end."""
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
        """Step the schedulers that wait for a plateau, as Lightning does after it has saved."""
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
