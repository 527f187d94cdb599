"""Predict students' GPA from exam scores, and study overfitting, with PyTorch Lightning."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# PyTorch's threads wait for each other by spinning, for so long that a busy neighbour's use of a
# core stops them all (docs/fast-training.md). libgomp reads this when PyTorch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.default_callbacks import default_callbacks
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.regressor import GPARegressor

if TYPE_CHECKING:
    from gpa_lightning.estimator import LightningMLPRegressor

__all__ = [
    "FullyConnectedNetwork",
    "GPADataModule",
    "GPARegressor",
    "LightningMLPRegressor",
    "default_callbacks",
]


def __getattr__(name: str) -> Any:
    # scikit-learn is slow to import, and training does without it
    if name == "LightningMLPRegressor":
        from gpa_lightning.estimator import LightningMLPRegressor

        return LightningMLPRegressor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
