"""A row a run in TensorBoard's table of hyperparameters."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.callbacks.tensorboard import tensorboard_loggers

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
    are those that the run logs as ``val_loss`` and ``test_loss``, so a row has its test loss once
    the run has been tested.
    """

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row."""
        from torch.utils.tensorboard.summary import hparams  # slow to import

        facts: dict[str, Any] = {}
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            provenance = data.state_dict()["provenance"]
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
