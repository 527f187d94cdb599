"""This project with one of its speed-ups taken out at a time, and in other ways of its own."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import DataLoader, TensorDataset

from gpa_lightning.benchmark.contenders import Contender, this_project
from gpa_lightning.benchmark.task import Measurement, Meter, Task
from gpa_lightning.data.loaders import BatchSampler, TableDataset


def _rows_one_by_one(dataset: TableDataset, sampler: BatchSampler, *_: Any, **__: Any) -> Any:
    """Load batches as PyTorch's tutorials do, in the place of `table_loader`."""
    return DataLoader(TensorDataset(*dataset.tensors), sampler.batch_size, sampler.shuffle)


def _run(
    flags: dict[str, object], replaced: dict[str, object], task: Task, meter: Meter
) -> Measurement:
    """Train with other flags, and with names of this package replaced."""
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch(f"gpa_lightning.{name}", value))
        return this_project(task, meter, flags)


def _by_flags(what: str, flags: dict[str, object]) -> Contender:
    return Contender(f"without {what}", partial(_run, flags, {}), validates=True)


def _by_names(what: str, replaced: dict[str, object], full_batch: bool = False) -> Contender:
    run = partial(_run, {}, replaced)
    return Contender(f"without {what}", run, validates=True, full_batch=full_batch)


ABLATIONS = {
    "without-onednn": _by_names("oneDNN's matrix products", {"speed.onednn.AVAILABLE": False}),
    "without-stack": _by_names(
        "the layers as one operation", {"speed.fast_training.is_stack": lambda _: False}
    ),
    "without-fused-adam": _by_flags("fused Adam", {"optimizer": "Adam", "optimizer.fused": False}),
    "without-direct-adam": _by_names(
        "direct calls of Adam's kernel", {"speed.fused_adam.supports": lambda _: False}
    ),
    "without-direct-steps": _by_names(
        "direct steps", {"speed.training_loop.steps_plainly": lambda _: False}
    ),
    "without-rounds": _by_flags("several steps a round", {"fast_training.steps_per_execution": 1}),
    "without-fast-training": _by_flags("FastTraining at all", {"fast_training": "null"}),
    "without-gather": _by_names(
        "one gather a batch", {"data.datamodule.table_loader": _rows_one_by_one}
    ),
    "without-flushing": _by_names(
        "flushing denormal numbers", {"speed.fast_training.flush_denormals": lambda _: None}
    ),
    "without-sleeping": _by_names(
        "threads asleep beside a busy program", {"speed.waiting._CORES_WANTED": float("inf")}
    ),
    "without-chunks": _by_names(
        "full batches in chunks", {"losses.CHUNK_ROWS": 1 << 62}, full_batch=True
    ),
}
"""In mini-batch training, or else (``full_batch``) in full-batch training."""


def _in_two_processes(task: Task, meter: Meter) -> Measurement:
    """Share the threads between two processes, each of which takes half of the rows.

    Both take batches of the task's size, so that an epoch has half as many steps.
    """
    torch.set_num_threads(max(1, task.threads // 2))
    return this_project(task, meter, {"devices": 2})


VARIANTS = {
    "bf16-mixed": Contender(
        "this project, bf16-mixed",
        partial(_run, {"trainer.precision": "bf16-mixed"}, {}),
        validates=True,
    ),
    "two-processes": Contender(
        "this project, two processes", _in_two_processes, validates=True, gpu=False
    ),
}
"""In another precision, and in several processes."""
