"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: Trainer) -> Path | None:
    """Return the folder of a run, or None if there is no logger; to be called on every process.

    Lightning's ``log_dir`` is one for all runs where a logger is neither TensorBoard's nor a CSV
    file's; this is the folder in which `ModelCheckpoint` puts its checkpoints.
    """
    logger, folder = trainer.logger, None
    if isinstance(logger, (CSVLogger, TensorBoardLogger)):
        folder = Path(logger.log_dir)
    elif logger is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        number = logger.version
        version = number if isinstance(number, str) else f"version_{number}"
        folder = Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
    shared: Path | None = trainer.strategy.broadcast(folder)
    return shared
