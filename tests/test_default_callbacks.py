"""A run from Python, with the default callbacks and nothing else."""

import logging
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpa_lightning import GPADataModule, GPARegressor, default_callbacks
from gpa_lightning.callbacks import EpochTensorBoardLogger
from gpa_lightning.callbacks.tensorboard import LOSS


def test_a_run_from_python_gives_no_advice_and_has_its_curves(
    table: Path, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lightning = logging.getLogger("lightning.pytorch")
    caplog.set_level(logging.INFO, "lightning.pytorch")
    lightning.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            logger = EpochTensorBoardLogger("lightning_logs", name="")
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=2,
                logger=logger,
                callbacks=default_callbacks(),
                log_every_n_steps=1,
                enable_progress_bar=False,
            )
            data = GPADataModule(path=str(table))
            trainer.fit(GPARegressor(hidden_sizes=(8,)), datamodule=data)
    finally:
        lightning.removeHandler(caplog.handler)
    assert "GPU available" in caplog.text  # what Lightning's users know stays
    assert "Tip" not in caplog.text
    assert [str(each.message) for each in warned] == []
    for curve in ("train", "validation"):
        events = EventAccumulator(f"lightning_logs/version_0/{curve}")
        events.Reload()
        assert [point.step for point in events.Scalars(LOSS)] == [0, 1]
