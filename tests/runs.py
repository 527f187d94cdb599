"""Running the project from Python, and finding what a run has left."""

import os
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning import GPADataModule, GPARegressor, default_callbacks


def long(amount: int) -> int:
    """Return how often to do something in the long tests; LONG_SHARE=0.1 makes it a tenth."""
    return max(1, round(amount * float(os.environ.get("LONG_SHARE", "1"))))


def run_folder(version: int = 0, within: Path = Path()) -> Path:
    """The folder of a run, whose name says after its number what was changed."""
    logs = within / "lightning_logs"
    named = [*logs.glob(f"version_{version}"), *logs.glob(f"version_{version}-*")]
    return next(iter(named), logs / f"version_{version}")


NOTHING_BESIDE = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Settings of a Trainer that leaves no files and prints nothing."""


def fit(
    model: GPARegressor,
    data: GPADataModule,
    *callbacks: Callback,
    epochs: int = 2,
    ckpt_path: str | Path | None = None,
    **flags: object,
) -> Trainer:
    """Fit with the default callbacks, and leave nothing behind unless ``flags`` say so."""
    settings = {**NOTHING_BESIDE, "num_sanity_val_steps": 0}
    given = {type(callback) for callback in callbacks}
    defaults = [each for each in default_callbacks() if type(each) not in given]
    trainer = Trainer(max_epochs=epochs, callbacks=[*defaults, *callbacks], **{**settings, **flags})
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def weights(model: LightningModule) -> list[np.ndarray]:
    """All weights of a model, as arrays."""
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]
