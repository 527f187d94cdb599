"""A row a run in TensorBoard's table of hyperparameters."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from gpa_lightning.callbacks.tensorboard import FINAL_LOSS, tensorboard_loggers

_OF_THE_MACHINE = (
    "data/cache_dir",
    "data/in_memory",
    "data/location",
    "data/num_workers",
    "data/path",
)


class HyperparameterTable(Callback):
    """A row for the run in TensorBoard's HParams tab: hyperparameters, data, and final losses.

    Other loggers get what Lightning does not tell them: which data and which optimiser. The losses
    are the validation and the test loss of the weights that were tested after the fit: those of
    the best epoch, if the test was given its checkpoint, else those of the last.
    """

    def __init__(self) -> None:
        self._last_validation: Tensor | None = None
        self._has_fitted = False

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from torch.utils.tensorboard.summary import hparams  # slow to import

        facts: dict[str, Any] = {}
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            provenance = data.state_dict().get("provenance", {})  # which the user's own has not
            facts |= {f"data/{name}": value for name, value in provenance.items()}
        if trainer.optimizers:
            facts["optimizer"] = type(trainer.optimizers[0]).__name__
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(facts)  # beside those that Lightning has logged
        values = {**pl_module.hparams, **facts}
        if data is not None:
            values |= {f"data/{name}": value for name, value in data.hparams.items()}
        if trainer.optimizers:
            values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in values.items()
            if not name.rpartition("/")[2].startswith("_") and name not in _OF_THE_MACHINE
        }
        # Without the first summary, a fixed list of columns, TensorBoard looks at the runs itself
        # and shows first what differs between them.
        _, *summaries = hparams(row, {})  # type: ignore[no-untyped-call]
        for logger in tensorboard_loggers(trainer):
            for summary in summaries:
                logger.experiment.file_writer.add_summary(summary)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the last validation loss, of which the test leaves nothing."""
        self._last_validation = trainer.callback_metrics.get("val_loss")
        self._has_fitted = True

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the losses of the weights that were tested, and which epoch's they are."""
        losses = {"test": trainer.callback_metrics.get("test_loss")}
        best = trainer.checkpoint_callback
        kept = best if isinstance(best, ModelCheckpoint) and best.monitor else None
        if kept and trainer.ckpt_path == kept.best_model_path:
            epoch = "best"
            losses["validation"] = kept.best_model_score if kept.monitor == "val_loss" else None
        else:
            epoch = "last"
            losses["validation"] = self._last_validation
        for logger in tensorboard_loggers(trainer) if self._has_fitted else ():
            for name, loss in losses.items():
                if loss is not None:
                    tag = f"{FINAL_LOSS.format(epoch)}/{name}"
                    logger.experiment.add_scalar(tag, loss, trainer.global_step)
