"""Predict students' GPA from exam scores, and study overfitting, with PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpa_lightning.lazy_imports import lazy_getattr

__version__ = "0.2.0"

__all__ = [
    "FullyConnectedNetwork",
    "GPADataModule",
    "GPARegressor",
    "LightningMLPRegressor",
    "default_callbacks",
]

if TYPE_CHECKING:
    from gpa_lightning.data.datamodule import GPADataModule
    from gpa_lightning.defaults import default_callbacks
    from gpa_lightning.estimator import LightningMLPRegressor
    from gpa_lightning.network import FullyConnectedNetwork
    from gpa_lightning.regressor import GPARegressor
else:  # predicting does without Lightning, training without scikit-learn: both are slow to import
    __getattr__ = lazy_getattr(
        __name__,
        {
            "FullyConnectedNetwork": "network",
            "GPADataModule": "data.datamodule",
            "GPARegressor": "regressor",
            "LightningMLPRegressor": "estimator",
            "default_callbacks": "defaults",
        },
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
