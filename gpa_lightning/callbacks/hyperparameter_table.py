"""A row a run in TensorBoard's table of hyperparameters."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.callbacks.tensorboard import tensorboard_loggers


class HyperparameterTable(Callback):
    """A row for the run in TensorBoard's HParams tab: hyperparameters, data, and final losses.

    The losses are those that the run logs as ``val_loss`` and ``test_loss``, so a row has its
    test loss once the run has been tested.
    """

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row."""
        from torch.utils.tensorboard.summary import hparams  # slow to import

        values: dict[str, Any] = {**pl_module.hparams}
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            facts = {**data.hparams, **data.state_dict()["provenance"]}
            values |= {f"data/{name}": v for name, v in facts.items() if not name.startswith("_")}
        if trainer.optimizers:
            values["optimizer"] = type(trainer.optimizers[0]).__name__
            values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in values.items()
            if not name.startswith("_")
        }
        # Without the first summary, a fixed list of columns, TensorBoard looks at the runs itself
        # and shows first what differs between them.
        _, *summaries = hparams(row, {})  # type: ignore[no-untyped-call]
        for logger in tensorboard_loggers(trainer):
            for summary in summaries:
                logger.experiment.file_writer.add_summary(summary)
