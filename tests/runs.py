"""Running the project as its users do: a fit from Python, a program in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning import GPADataModule, GPARegressor, default_callbacks

PROJECT = Path(__file__).parents[1]
HANGS = 3600
"""Seconds after which a process is taken to hang; nothing that ends by itself takes as long."""


def long(amount: int) -> int:
    """Return how often to do something in the long tests; LONG_SHARE=0.1 makes it a tenth."""
    return max(1, round(amount * float(os.environ.get("LONG_SHARE", "1"))))


def run(*args: str | Path, **kwargs: object) -> subprocess.CompletedProcess:
    """Run a Python program of the project as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
        **kwargs,
    )


def run_folder(version: int = 0, within: Path = Path()) -> Path:
    """The folder of a run, whose name says after its number what was changed."""
    logs = within / "lightning_logs"
    named = [*logs.glob(f"version_{version}"), *logs.glob(f"version_{version}-*")]
    return next(iter(named), logs / f"version_{version}")


def until(holds: Callable[[], object], *processes: subprocess.Popen) -> None:
    """Wait until something holds, for as long as all of the given processes run."""
    deadline = time.monotonic() + HANGS
    while not holds():
        for process in processes:
            if process.poll() is not None:
                raise AssertionError(f"ended early: {process.communicate()[1]}")
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.02)


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
