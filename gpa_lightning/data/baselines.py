"""Baselines for a network's test loss: predicting the mean, and linear regression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.split import BLOCK_ROWS


def baseline_losses(data: GPADataModule) -> dict[str, float]:
    """Compute the test MSE of the two simplest predictors, on the same split.

    Args:
        data: A data module that has been set up.

    Returns:
        Test MSE of ``predicting the mean`` of the training set and of ``linear regression``.
    """
    training, test = data.dataset("training"), data.dataset("test")
    # least squares needs no more of the rows than this triangle of their QR decomposition
    triangle = np.empty((0, data.in_features + 2))
    for rows in map(_with_intercept, training.batches(BLOCK_ROWS)):
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, rows]), mode="r"))
    # features are rounded to float32, so a column that others add up to is one only up to that
    rounding = float(np.finfo(np.float32).eps) * triangle.shape[1]
    linear = np.linalg.lstsq(triangle[:, :-1], triangle[:, -1], rcond=rounding)[0]
    mean = np.zeros_like(linear)
    mean[0] = triangle[0, -1] / triangle[0, 0]
    errors = np.zeros(2)
    for rows in map(_with_intercept, test.batches(BLOCK_ROWS)):
        predictions = rows[:, :-1] @ np.column_stack([mean, linear])
        errors += ((rows[:, -1:] - predictions) ** 2).sum(axis=0)
    names = ("predicting the mean", "linear regression")
    return dict(zip(names, (errors / len(test)).tolist(), strict=True))


def _with_intercept(batch: tuple[Tensor, ...]) -> npt.NDArray[np.float64]:
    x, y = (tensor.double().numpy() for tensor in batch)
    return np.hstack([np.ones((len(x), 1)), x, y])
