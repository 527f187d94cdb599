"""The overfitting lab: each table, figure and claim of the lecture as a study, measured anew.

Each module holds one phenomenon: a function ``study`` from `Settings` to a `Result`.

    from gpa_lightning import studies

    settings = studies.Settings(data={"path": "data/GPA.csv"})
    result = studies.polynomial.study(settings)
    result.save(settings)
"""

from __future__ import annotations

from collections.abc import Callable

from gpa_lightning.studies import (
    capacity,
    double_descent,
    early_stopping,
    full_batch,
    mini_batch,
    more_data,
    overfitting_curve,
    polynomial,
    regularization,
)
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.settings import Settings

STUDIES: dict[str, Callable[..., Result]] = {
    "full-batch": full_batch.study,
    "mini-batch": mini_batch.study,
    "polynomial": polynomial.study,
    "overfitting-curve": overfitting_curve.study,
    "capacity": capacity.study,
    "more-data": more_data.study,
    "early-stopping": early_stopping.study,
    "regularization": regularization.study,
    "double-descent": double_descent.study,
}
"""All studies by name, in the lecture's order."""

__all__ = ["STUDIES", "Claim", "Result", "Settings"]
