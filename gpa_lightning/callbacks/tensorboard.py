"""TensorBoard's picture of a run: training and validation loss in one chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOSS = "Loss/by epoch"  # a capital letter, so that TensorBoard shows it first
FINAL_LOSS = "Loss of the {} epoch"  # after it; in the table of hyperparameters before all others
CURVES = {"train_loss": "train", "val_loss": "validation"}


class EpochTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger, and the training and validation loss by epochs in one chart.

    The two are runs of their own within the run's folder, as Keras's callback has them, so that
    TensorBoard gives each a colour and a name. Of all the other metrics the x axis counts steps.
    The number of the epoch, which Lightning logs with each, gets no chart, and the metrics of the
    test set get a group of their own. Takes the same arguments.
    """

    _writers: dict[str, SummaryWriter] | None = None

    @property
    def writers(self) -> dict[str, SummaryWriter]:
        """Writers of the two curves, by the name of the metric."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        if self._writers is None:
            self._writers = {
                name: SummaryWriter(f"{self.log_dir}/{folder}") for name, folder in CURVES.items()
            }
        return self._writers

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step, and the losses among them at the epoch that comes with them."""
        values: dict[str, Any] = dict(metrics)
        epoch = values.pop("epoch", None)
        if values:
            super().log_metrics({_grouped(name): value for name, value in values.items()}, step)
        for name in CURVES.keys() & values.keys() if epoch is not None else ():
            self.writers[name].add_scalar(LOSS, values[name], int(epoch))

    @rank_zero_only
    def save(self) -> None:
        super().save()
        for writer in (self._writers or {}).values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the files, which are opened again if more is logged."""
        super().finalize(status)
        for writer in (self._writers or {}).values():
            writer.close()


def _grouped(name: str) -> str:
    return f"test/{name}" if name.startswith("test_") else name


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Return a Trainer's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
