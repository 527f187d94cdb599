"""Running the project as its users do: a fit from Python, a program in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning import GPADataModule, GPARegressor

PROJECT = Path(__file__).parents[1]


def long(amount: int) -> int:
    """Return how often to do something in the long tests; LONG_SHARE=0.1 makes it a tenth."""
    return max(1, round(amount * float(os.environ.get("LONG_SHARE", "1"))))


def run(*args: str | Path, timeout: float = 600, **kwargs: object) -> subprocess.CompletedProcess:
    """Run a Python program of the project as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **kwargs,
    )


def fit(
    model: GPARegressor,
    data: GPADataModule,
    *callbacks: Callback,
    epochs: int = 2,
    ckpt_path: str | Path | None = None,
    **flags: object,
) -> Trainer:
    """Fit without leaving anything behind, unless ``flags`` for the Trainer say so."""
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = Trainer(max_epochs=epochs, callbacks=[*callbacks], **{**settings, **flags})
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def weights(model: LightningModule) -> list[np.ndarray]:
    """All weights of a model, as arrays."""
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]
