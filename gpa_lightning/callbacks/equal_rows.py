"""Every row counts the same, in however many processes a network is trained."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gpa_lightning.data.loaders import BatchSampler


class EqualRows(Callback):
    """Weighs the last batches of an epoch, of which one process may have a row less than another.

    The gradient of a step is the mean of the processes' gradients, in which each counts the same
    however many rows it stands for. So the gradient of each process is multiplied by its rows over
    the mean number of rows. Does nothing in a single process, or with another sampler than
    `BatchSampler`.
    """

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Weigh the gradient of the epoch's last batch."""
        if trainer.world_size == 1:
            return
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if isinstance(sampler, BatchSampler) and trainer.fit_loop.batch_idx + 1 == len(sampler):
            share = sampler.share_of_last_batch
            loss.register_hook(lambda gradient: gradient * share)  # type: ignore[no-untyped-call]
