"""What every contender is given to do, and what is noted while it does it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gpa_lightning.data.datamodule import GPADataModule

# What training imports only on its way (the optimiser, the scaler): memory, but not training's.
LATE_IMPORTS = ("torch._dynamo", "sklearn.preprocessing")


class Split(NamedTuple):
    """Standardised features ``(rows, in_features)`` and targets ``(rows, 1)``, float32, on the CPU.

    Attributes:
        x: Features of the training rows.
        y: Targets of the training rows.
        x_val: Features of the validation rows.
        y_val: Targets of the validation rows.
    """

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor


@dataclass(frozen=True)
class Task:
    """One training, to be done in a process of its own.

    Args:
        contender: Who does it, a key of ``CONTENDERS``.
        epochs: Epochs to train for.
        device: Where to train.
        threads: Threads to compute with.
        data: `GPADataModule`'s arguments; the seed among them is also that of the weights.
        folder: Where a contender may leave logs and checkpoints.
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

    def split(self) -> Split:
        """Load the table, and split and standardise it as this project does."""
        data = GPADataModule(**self.data)
        data.prepare_data()
        data.setup()
        return Split(*data.dataset("training").tensors, *data.dataset("validation").tensors)

    def batch_size(self, training_rows: int) -> int:
        """Return the rows a batch, which is all of them for ``full``."""
        size = self.data["batch_size"]
        return training_rows if size == "full" else int(size)


@dataclass(frozen=True)
class Measurement:
    """What was noted.

    Attributes:
        epoch_seconds: Of each epoch, its validation included.
        memory: Peak of the process's memory beyond what it took after its imports, in bytes.
        device_memory: Peak of the GPU's memory in bytes, 0 without a GPU.
        val_loss: Validation MSE of the final weights.
    """

    epoch_seconds: list[float]
    memory: int
    device_memory: int
    val_loss: float

    @property
    def seconds(self) -> float:
        """Median seconds an epoch after the first two (of the last one, if there are no more)."""
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

    def result(self, val_loss: float, device_memory: int | None = None) -> Measurement:
        """Return what was noted.

        Args:
            val_loss: Validation MSE of the final weights.
            device_memory: Peak of the GPU's memory in bytes, where PyTorch does not know it.
        """
        if device_memory is None:
            device_memory = torch.cuda.max_memory_allocated()
        return Measurement(
            epoch_seconds=[end - start for start, end in pairwise(self._times)],
            memory=_memory("VmHWM") - self._imports,
            device_memory=device_memory,
            val_loss=val_loss,
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
