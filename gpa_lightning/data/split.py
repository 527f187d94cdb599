"""The random split of a table, and the scaler of its training rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpa_lightning.data.table import Array, DataError

BLOCK_ROWS = 1 << 16
"""Number of rows that are standardised at a time, so that no second table is in memory."""

MeanAndScale: TypeAlias = tuple[float, float]
"""Mean and deviation of the target's training values."""

RowNumbers: TypeAlias = npt.NDArray[np.signedinteger[Any]]


class SplitRows(NamedTuple):
    """The rows of a table, by set.

    Attributes:
        order: Numbers of the training rows, then of the validation and of the test rows.
        training: Number of training rows.
        validation: Number of validation rows.
    """

    order: RowNumbers
    training: int
    validation: int


@dataclass(frozen=True)
class Split:
    """A random split, the same for every table of as many rows.

    Args:
        test_size: Share of all rows that is held out for the test.
        val_size: Share of the remaining rows that is held out for validation.
        seed: Seed of the draw.
    """

    test_size: float
    val_size: float
    seed: int

    def __str__(self) -> str:
        return f"test_size {self.test_size}, val_size {self.val_size}, seed {self.seed}"

    def sizes(self, rows: int, location: str) -> tuple[int, int]:
        """Return the numbers of training and of validation rows; the rest is for the test.

        Args:
            rows: Number of rows of the table.
            location: Name of the table for messages.

        Raises:
            DataError: If a set would be too small.
        """
        test = math.ceil(self.test_size * rows)
        validation = math.ceil(self.val_size * (rows - test))
        training = rows - test - validation
        if training < 2 or test < 2 or validation == 1:
            raise DataError(
                f"{location}: {rows} rows are too few for a split into "
                f"{training} training, {validation} validation and {test} test rows, each of "
                "which needs two; give more rows or change --data.test_size, --data.val_size"
            )
        return training, validation

    def draw(self, rows: int, location: str) -> SplitRows:
        """Draw the order of the rows and cut it into the three sets.

        Args:
            rows: Number of rows of the table.
            location: Name of the table for messages.

        Raises:
            DataError: If a set would be too small.
        """
        sizes = self.sizes(rows, location)
        return SplitRows(shuffled_rows(rows, self.seed), *sizes)


def shuffled_rows(rows: int, seed: int | tuple[int, ...]) -> RowNumbers:
    """Shuffle the numbers 0 to ``rows - 1``, in 4 bytes each where they fit.

    Args:
        rows: Number of rows.
        seed: Seed of the shuffle; the order is that of NumPy's ``permutation``, in any width.
    """
    order: RowNumbers = np.arange(rows, dtype=np.int32 if rows <= 2**31 else np.int64)
    np.random.default_rng(seed).shuffle(order)
    return order


def blocks(rows: int) -> Iterator[slice]:
    """Cut a number of rows into blocks of ``BLOCK_ROWS``, the last of them shorter."""
    for start in range(0, rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, rows))


def fit_scaler(training_blocks: Iterable[Array]) -> tuple[dict[str, Tensor], MeanAndScale]:
    """Compute the mean and the deviation of the training rows.

    Args:
        training_blocks: Rows, shape ``(block, in_features + 1)``, the target last, in the order of
            the split.

    Returns:
        ``mean`` and ``scale`` of the features, float64 of shape ``(in_features,)``, and the
        target's.
    """
    from sklearn.preprocessing import StandardScaler  # slow to import, and `--help` needs none

    features, target = StandardScaler(), StandardScaler()
    for values in training_blocks:
        features.partial_fit(values[:, :-1].copy())
        target.partial_fit(values[:, -1:].copy())
    scaler = {"mean": torch.from_numpy(features.mean_), "scale": torch.from_numpy(features.scale_)}
    return scaler, (target.mean_.item(), target.scale_.item())


def standardise(features: Array, scaler: dict[str, Tensor]) -> npt.NDArray[np.float32]:
    """Standardise features, shape ``(rows, in_features)``, by a scaler, rounded once."""
    scaled: Array = (features - scaler["mean"].numpy()) / scaler["scale"].numpy()
    return scaled.astype(np.float32)
