"""Runs that go on as if nothing had happened: whole checkpoints, and all that they have to hold."""

from gpa_lightning.resuming.best_and_last import BestAndLastCheckpoint
from gpa_lightning.resuming.exact_resume import ExactResume
from gpa_lightning.resuming.whole_checkpoints import WholeCheckpoints

__all__ = ["BestAndLastCheckpoint", "ExactResume", "WholeCheckpoints"]
