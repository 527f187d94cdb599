"""What makes training fast, in one callback that any Lightning project can use."""

from gpa_lightning.speed.fast_training import FastTraining

__all__ = ["FastTraining"]
