"""Callbacks: what is swapped to study overfitting, and those that every training has by default."""

from gpa_lightning.callbacks.divergence import StopOnDivergence
from gpa_lightning.callbacks.equal_rows import EqualRows
from gpa_lightning.callbacks.hyperparameter_table import HyperparameterTable
from gpa_lightning.callbacks.loss_curves import LossCurves
from gpa_lightning.callbacks.overfitting_monitor import OverfittingMonitor
from gpa_lightning.callbacks.progress_bar import EpochProgressBar
from gpa_lightning.callbacks.tensorboard import EpochTensorBoardLogger
from gpa_lightning.callbacks.weight_norms import WeightNorms

__all__ = [
    "EpochProgressBar",
    "EpochTensorBoardLogger",
    "EqualRows",
    "HyperparameterTable",
    "LossCurves",
    "OverfittingMonitor",
    "StopOnDivergence",
    "WeightNorms",
]
