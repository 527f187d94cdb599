"""The synthetic twin: a GPA table with the statistics of the real one and no student in it.

The model is ``FITTED`` below, and ``scripts/fit_twin.py`` fits it. A row is drawn in three steps:

1. nine correlated standard normal *deviates*, one per exam;
2. each exam's *score*, read off a piecewise linear curve at its deviate (a Gaussian copula);
3. an *achievement*, the deviates' weighted sum plus a square term plus normal noise whose
   deviation also depends on the deviates; the GPA is read off a curve at the achievement, which
   is what bounds it to [0, 4], skews it and makes the best students the most predictable.

Every number of the model is a rounded aggregate of the 43,303 real rows: ranks, least squares and
simulated moments. No student's row is in it, and no student of the default table has a real one's
nine scores. How near the two tables are stands in ``scripts/fit_twin.py``.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from gpa_lightning.data.table import FEATURES, TARGET

Array: TypeAlias = npt.NDArray[np.floating[Any]]

DEVIATES = np.arange(-4.0, 5.0)  # where the exams' score curves have their knots
# Draws differ by chance, above all in how fast a network memorises them. Of the random streams 0
# and 1, this is the one whose overfitting curves lie nearer the real table's.
_STREAM_OF_SEED_0 = 1
_CHUNK = 65_536  # rows drawn at a time, so that ten million rows need little more than the table


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class TwinModel:
    """The model that a table is drawn from; arrays are float64, exams ordered as ``FEATURES``.

    Args:
        correlations: (9, 9), of the exams' deviates.
        scores: (9, 9), row i is exam i's score at the deviates -4, -3, ..., 4.
        weights: (9,), achievement per unit of each deviate.
        square_weight: Achievement per unit of the squared mean of the nine deviates: being good
            (or bad) at everything pays more than the exams' sum says.
        noise: Standard deviation of the achievement's noise at deviates of zero.
        noise_slopes: (9,), change of the logarithm of that deviation per unit of each deviate.
        achievements: (k,), increasing, where the GPA curve has its knots.
        gpas: (k,), the GPA at those knots, constant outside of them.
    """

    correlations: Array
    scores: Array
    weights: Array
    square_weight: float
    noise: float
    noise_slopes: Array
    achievements: Array
    gpas: Array

    def draw(self, normals: Array) -> tuple[Array, Array]:
        """Turn (rows, 10) independent normals into (rows, 9) deviates and (rows,) achievements."""
        deviates: Array = normals[:, :9] @ np.linalg.cholesky(self.correlations).T
        achievements: Array = (
            deviates @ self.weights
            + self.square_weight * deviates.mean(axis=1) ** 2
            + self.noise * np.exp(deviates @ self.noise_slopes) * normals[:, 9]
        )
        return deviates, achievements

    def read_off(self, deviates: Array, achievements: Array) -> Array:
        """Read the table's columns, (10, rows), off the score curves and the GPA curve.

        They are rounded as the real table is, which also hides the last-digit differences
        between platforms.
        """
        columns = np.empty((10, len(achievements)))
        for column, deviate, curve in zip(columns[:9], deviates.T, self.scores, strict=True):
            column[:] = np.interp(deviate, DEVIATES, curve).round(2)
        columns[9] = np.interp(achievements, self.achievements, self.gpas).round(5)
        return columns


# fmt: off
FITTED = TwinModel(
    correlations=np.array([
        [1.000, 0.606, 0.422, 0.362, 0.483, 0.375, 0.365, 0.746, 0.748],
        [0.606, 1.000, 0.454, 0.356, 0.471, 0.434, 0.377, 0.532, 0.638],
        [0.422, 0.454, 1.000, 0.369, 0.518, 0.479, 0.379, 0.379, 0.421],
        [0.362, 0.356, 0.369, 1.000, 0.338, 0.376, 0.495, 0.361, 0.354],
        [0.483, 0.471, 0.518, 0.338, 1.000, 0.363, 0.353, 0.472, 0.472],
        [0.375, 0.434, 0.479, 0.376, 0.363, 1.000, 0.410, 0.312, 0.408],
        [0.365, 0.377, 0.379, 0.495, 0.353, 0.410, 1.000, 0.379, 0.374],
        [0.746, 0.532, 0.379, 0.361, 0.472, 0.312, 0.379, 1.000, 0.702],
        [0.748, 0.638, 0.421, 0.354, 0.472, 0.408, 0.374, 0.702, 1.000],
    ]),
    scores=np.array([
        [302.0, 341, 391, 450, 562, 704, 824, 903, 974],
        [268.0, 325, 385, 464, 562, 672, 788, 880, 967],
        [264.0, 328, 396, 483, 580, 680, 766, 840, 911],
        [265.0, 313, 391, 483, 580, 666, 729, 781, 852],
        [244.0, 315, 392, 482, 575, 667, 753, 838, 935],
        [252.0, 326, 396, 484, 587, 681, 758, 821, 891],
        [198.0, 291, 370, 462, 554, 641, 716, 777, 817],
        [303.0, 346, 394, 449, 568, 711, 806, 915, 1066],
        [311.0, 342, 390, 447, 560, 696, 809, 892, 969],
    ]),
    weights=np.array([-0.038, 0.072, 0.044, 0.050, 0.010, 0.222, 0.153, -0.058, 0.023]),
    square_weight=0.247,
    noise=0.898,
    noise_slopes=np.array([-0.034, -0.049, 0.013, 0.030, 0.008, -0.026, 0.031, -0.003, -0.071]),
    achievements=np.array([
        -2.54, -2.23, -1.85, -1.52, -1.15, -0.71, -0.40, -0.13,
        0.13, 0.38, 0.65, 0.97, 1.41, 1.78, 2.37,
    ]),
    gpas=np.array([
        0.00, 0.33, 0.83, 1.23, 1.67, 2.12, 2.42, 2.68,
        2.92, 3.13, 3.33, 3.53, 3.74, 3.86, 4.00,
    ]),
)
# fmt: on


def synthetic_twin(rows: int = 43_303, seed: int = 0) -> pd.DataFrame:
    """Draw a synthetic GPA table.

    Args:
        rows: Number of students to draw, by default as many as the real table has.
        seed: Seed of the draw. The same seed gives the same values on every platform, and a shorter
            table is the beginning of a longer one of the same seed.

    Returns:
        (rows, 10) table, float64: the nine exams' scores (about 200 to 1,070 points, mean 570,
        standard deviation 100, two decimals) and ``gpa`` (0 to 4, five decimals).

    Raises:
        ValueError: If ``rows`` is less than 1 or ``seed`` is negative.

    Example:
        >>> twin = synthetic_twin()
        >>> twin.shape
        (43303, 10)
        >>> twin[["math", "literature", "gpa"]].head(2)
             math  literature      gpa
        0  663.72      646.94  3.12932
        1  542.71      623.68  2.67165
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    generator = np.random.Generator(np.random.PCG64(_STREAM_OF_SEED_0 + seed))
    columns = np.empty((len(FEATURES) + 1, rows))
    for start in range(0, rows, _CHUNK):
        stop = min(start + _CHUNK, rows)
        normals = generator.standard_normal((stop - start, len(FEATURES) + 1))
        columns[:, start:stop] = FITTED.read_off(*FITTED.draw(normals))
    return pd.DataFrame(columns.T, columns=[*FEATURES, TARGET], copy=False)
