"""Predict students' GPA from exam scores, and study overfitting, with PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
