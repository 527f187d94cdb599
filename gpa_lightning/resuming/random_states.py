"""The random states of a process, in a form that a checkpoint may hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def collect() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and PyTorch's global generators.

    Plain numbers and tensors only, so that a checkpoint with them can be loaded safely.
    """
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is meant
    keys = torch.from_numpy(legacy["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": {**legacy, "state": {**legacy["state"], "key": keys}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def restore(states: dict[str, Any]) -> None:
    """Set the generators to what `collect` returned; those of absent GPUs are left out."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    legacy = states["numpy"]
    keys = legacy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**legacy, "state": {**legacy["state"], "key": keys}})  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_process(rank: int, step: int) -> None:
    """Seed this process differently from the others, so that dropout differs between them.

    Lightning seeds all processes of a training alike, which gives them the same initial weights,
    and would give the rows of each the same dropout masks.
    """
    own = np.random.SeedSequence(torch.initial_seed(), spawn_key=(rank, step))
    torch.manual_seed(int(own.generate_state(1, np.uint64)[0]))
