"""Which of a Trainer's loggers are TensorBoard's."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Return a Trainer's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
