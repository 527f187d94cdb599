"""The best checkpoint of a run, and the last one of every epoch.

`ModelCheckpoint` has no public names for what it saves and has saved: those with an underscore are
its own. Tests of training (`samefile`) and of kills notice if they change.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from gpa_lightning.resuming.whole_file import whole_file


class BestAndLastCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with a ``last.ckpt`` of every epoch.

    Lightning's own writes ``last.ckpt`` only together with a better checkpoint, so that a run that
    is killed while it does not improve would lose every epoch since the best. Takes the same
    arguments.
    """

    _saved_state: tuple[object, ...] | None = None

    @property
    def state_key(self) -> str:
        """The key of `ModelCheckpoint`, whose checkpoints can be resumed with this one."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last, whether or not it is the best or has been saved after a validation."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.fast_dev_run or self._saved_state == self._state_of_training(trainer):  # type: ignore[attr-defined]
            return
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _state_of_training(self, trainer: Trainer) -> tuple[object, ...]:
        """Return what changes when a checkpoint would hold something else."""
        epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        # the first best one of a run does not know of a last one yet
        return trainer.global_step, epochs, self.last_model_path

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Save, or link to what has just been saved: the best is often also the last."""
        saved, state = self._last_checkpoint_saved, self._state_of_training(trainer)
        if self._saved_state != state or not Path(saved).is_file():
            super()._save_checkpoint(trainer, filepath)
            self._saved_state = state
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
        """Restore the state, with the latest score, which Lightning leaves out."""
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]
