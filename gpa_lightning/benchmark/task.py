"""The training that every contender is given, and the measurement of it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from gpa_lightning.data.datamodule import GPADataModule

# What training imports only on its way (the optimiser, the scaler): memory, but not training's.
LATE_IMPORTS = ("torch._dynamo", "sklearn.preprocessing")


@dataclass(frozen=True)
class Task:
    """One training, to be done in a process of its own.

    Args:
        contender: Key of the contender in ``CONTENDERS``.
        epochs: Number of epochs.
        device: Device to train on.
        threads: Number of CPU threads.
        data: Arguments of `GPADataModule`; the seed among them is also that of the weights.
        folder: Folder for logs and checkpoints.
    """

    contender: str
    epochs: int
    device: Literal["cpu", "cuda"]
    threads: int
    data: dict[str, Any]
    folder: str

    @property
    def seed(self) -> int:
        """Seed of the initial weights."""
        return int(self.data["seed"])

    def split(self) -> tuple[Tensor, ...]:
        """Load the table, and split and standardise it as this project does.

        Returns:
            Training features ``(rows, in_features)`` and targets ``(rows, 1)``, then those of the
            validation set, float32, on the CPU.
        """
        data = GPADataModule(**self.data)
        data.prepare_data()
        data.setup()
        return (*data.dataset("training").tensors, *data.dataset("validation").tensors)

    def batch_size(self, training_rows: int) -> int:
        """Return the number of rows a batch, which is all of them for ``full``."""
        size = self.data["batch_size"]
        return training_rows if size == "full" else int(size)


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one training.

    Attributes:
        epoch_seconds: Seconds of each epoch, its validation included.
        memory: Peak of the process's memory in bytes, less that after the imports.
        device_memory: Peak of the GPU's memory in bytes, 0 without a GPU.
        val_loss: Validation MSE of the final weights.
        rates: 10⁹ operations a second of matrix products, by library, if that was measured.
    """

    epoch_seconds: list[float]
    memory: int
    device_memory: int
    val_loss: float
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Median seconds of the epochs after the first two, or else seconds of the last one."""
        return median(self.epoch_seconds[2:] or self.epoch_seconds[-1:])


class Meter:
    """Notes when a contender's epochs end and how much memory it takes.

    A contender calls `imported`, then loads the data and builds its model, then calls `start`,
    trains, calls `epoch_ended` after each epoch, and returns what `result` returns.
    """

    def imported(self) -> None:
        """Note the memory that the libraries take."""
        for name in LATE_IMPORTS:
            import_module(name)
        self._imports = _memory("VmRSS")

    def start(self) -> None:
        """Start the first epoch."""
        self._times = [time.perf_counter()]

    def epoch_ended(self) -> None:
        """Note that an epoch ended, with its validation, once the device has caught up."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        self._times.append(time.perf_counter())

    def result(
        self,
        val_loss: float,
        device_memory: int | None = None,
        rates: dict[str, float] | None = None,
    ) -> Measurement:
        """Return what was noted.

        Args:
            val_loss: Validation MSE of the final weights.
            device_memory: Peak of the GPU's memory in bytes, where PyTorch does not know it.
            rates: Those of a `Measurement`.
        """
        if device_memory is None:
            device_memory = torch.cuda.max_memory_allocated()
        return Measurement(
            epoch_seconds=[end - start for start, end in pairwise(self._times)],
            memory=_memory("VmHWM") - self._imports,
            device_memory=device_memory,
            val_loss=val_loss,
            rates=rates or {},
        )


def _memory(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Return the process's memory in bytes: now (RSS) or at its peak (HWM, high water mark).

    On Linux `resource` would count the parent process's peak in; elsewhere it has to do, and
    knows the peak alone.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024
