"""Checkpoint files: finding the last one, and reading one that may come from a stranger."""

from __future__ import annotations

import errno
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import torch

from gpa_lightning import __version__

CHECKPOINT_FORMAT = 1
"""Version of what a checkpoint holds, raised when older ones can no longer be read."""

PROJECT_KEY = "gpa_lightning"
DATA_KEY = "GPADataModule"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not of this project: one line, with what to do."""


def find_last(log_dir: Path) -> Path:
    """Find the checkpoint that ``--ckpt_path last`` means: the newest ``last.ckpt`` of all runs.

    Raises:
        CheckpointError: If no run in the folder of runs has left one.
    """
    candidates = list(log_dir.glob("*/checkpoints/last*.ckpt"))
    if not candidates:
        raise CheckpointError(
            f"--ckpt_path last: no last.ckpt in any run below {log_dir}; "
            "start a new run without --ckpt_path"
        )
    return max(candidates, key=lambda path: path.stat().st_mtime_ns)


def stamp(state: dict[str, Any]) -> None:
    """Record this project's version and the format in the data module's part of a checkpoint."""
    state[PROJECT_KEY] = {"version": __version__, "format": CHECKPOINT_FORMAT}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running any code that it may contain.

    Args:
        path: A file written by this project's training.

    Returns:
        Lightning's checkpoint dictionary, tensors in host memory.

    Raises:
        CheckpointError: If the file is missing, damaged, unsafe, of another project, or in a
            format that this version does not read.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                # PyTorch does not compare the checksums, and would load flipped bits as weights
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            file.seek(0)
            checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since it holds more than numbers and could run code"
        ) from error
    except Exception as error:  # a file that anyone may have made can raise anything
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one") from error
    record = None
    if isinstance(checkpoint, dict) and isinstance(data := checkpoint.get(DATA_KEY), dict):
        record = checkpoint.get(PROJECT_KEY, data.get(PROJECT_KEY))  # version 0.1.0: not in data
    if not isinstance(record, dict):
        raise CheckpointError(
            f"{path}: not a checkpoint of this project; give one that scripts/train.py wrote"
        )
    if record.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: has format {record.get('format')!r}, and gpa-lightning {__version__} reads "
            f"format {CHECKPOINT_FORMAT}; use it with gpa-lightning {record.get('version')!r}, "
            "which wrote it, or train again"
        )
    return checkpoint
