"""A progress bar that counts every batch of a round that has run several."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class EpochProgressBar(RichProgressBar):
    """Lightning's rich progress bar, which counts every batch of a round that has run several.

    Lightning names such a round by its first batch; this bar looks at the last.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on."""
        last_batch = trainer.fit_loop.batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, last_batch)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Leave out the run's number, of which Lightning shows the last four characters."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
