"""Predict students' GPA from exam scores, and study overfitting, with PyTorch Lightning."""

from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.regressor import GPARegressor

__all__ = ["FullyConnectedNetwork", "GPADataModule", "GPARegressor"]
