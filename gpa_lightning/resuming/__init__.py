"""Runs that go on as if nothing had happened: whole checkpoints, and all that they have to hold."""

from typing import TYPE_CHECKING

from gpa_lightning import lazy_getattr

__all__ = ["BestAndLastCheckpoint", "ExactResume", "WholeCheckpoints"]

if TYPE_CHECKING:
    from gpa_lightning.resuming.best_and_last import BestAndLastCheckpoint
    from gpa_lightning.resuming.exact_resume import ExactResume
    from gpa_lightning.resuming.whole_checkpoints import WholeCheckpoints
else:  # reading a checkpoint does without Lightning
    __getattr__ = lazy_getattr(
        __name__,
        {
            "BestAndLastCheckpoint": "best_and_last",
            "ExactResume": "exact_resume",
            "WholeCheckpoints": "whole_checkpoints",
        },
    )
