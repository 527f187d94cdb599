"""The lecture's ten points: a line and a 10th-degree polynomial through them.

No data and no training, only linear algebra. Ten points leave the eleven weights of a 10th-degree
basis one degree of freedom, and least squares takes the solution of smallest norm. In the basis
1, x, ..., x¹⁰ that is badly conditioned; here the basis is of Legendre polynomials, orthonormal on
the interval, where the norm of the weights is that of the function, and the solution comes from
the QR decomposition of the transposed matrix, which forms no normal equations.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from numpy.polynomial import legendre

from gpa_lightning.studies.drawing import new_axes
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.settings import Settings

POINTS, DEGREE, END = 10, 10, 10.0  # the points' x are uniform on [0, END]

Array: TypeAlias = npt.NDArray[np.float64]


def basis(x: Array, degree: int) -> Array:
    """Evaluate the Legendre polynomials up to ``degree``, orthonormal on [0, END].

    Args:
        x: Points, shape ``(n,)``.
        degree: Degree of the last polynomial.

    Returns:
        Values, shape ``(n, degree + 1)``.
    """
    scale = np.sqrt((2 * np.arange(degree + 1) + 1) / END)
    return np.asarray(legendre.legvander(2 * x / END - 1, degree) * scale, np.float64)


def least_squares(matrix: Array, target: Array) -> Array:
    """Return the least squares weights, of all solutions that with the smallest norm.

    Args:
        matrix: Matrix of full rank, shape ``(rows, columns)``.
        target: Target, shape ``(rows,)``.
    """
    rows, columns = matrix.shape
    q, r = np.linalg.qr(matrix.T if rows < columns else matrix)
    if rows < columns:
        return q @ np.linalg.solve(r.T, target)
    return np.linalg.solve(r, q.T @ target)


def study(settings: Settings) -> Result:
    """Fit both to 1,000 draws of the ten points; the first seed is that of the draws."""
    draws = 50 if settings.quick else 1000
    random = np.random.default_rng(settings.seeds[0])
    # a polynomial's squared distance from y = x has degree 20: 16 nodes integrate it exactly
    nodes, node_weights = legendre.leggauss(16)
    fresh, share = (nodes + 1) * END / 2, node_weights / 2
    rows: list[dict[str, Any]] = []
    for draw in range(draws):
        x = random.uniform(0, END, POINTS)
        y = x + random.standard_normal(POINTS)
        for model, degree in (("line", 1), ("polynomial", DEGREE)):
            weights = least_squares(basis(x, degree), y)
            train = ((basis(x, degree) @ weights - y) ** 2).mean()
            bias = share @ (basis(fresh, degree) @ weights - fresh) ** 2
            # a fresh point's own noise has variance 1
            rows.append(
                {"draw": draw, "model": model, "train_mse": train, "expected_test_mse": 1 + bias}
            )
    table = pd.DataFrame(rows)
    line, polynomial = (table[table.model == model] for model in ("line", "polynomial"))
    worst = polynomial.train_mse.max()
    line_test, polynomial_test = (each.expected_test_mse.median() for each in (line, polynomial))
    tests = table.pivot_table(index="draw", columns="model", values="expected_test_mse")
    line_wins = (tests.line < tests.polynomial).mean()
    claims = [
        Claim(
            "The model perfectly predicts every training point!",
            f"The polynomial's largest training MSE over {draws:,} draws is {worst:.1e} "
            "(perfect: at most 1e-10).",
            bool(worst <= 1e-10),
        ),
        Claim(
            "The model will have significant error for new points; a linear fit (with no basis) "
            "would provide better predictions for new points!",
            f"Median expected test MSE over {draws:,} draws: polynomial {polynomial_test:.4g}, "
            f"line {line_test:.4g}. The line is better in "
            f"{line_wins:.1%} of the draws (asked for: a median at least ten times the line's).",
            bool(polynomial_test > 10 * line_test),
        ),
        Claim(
            "We can't overfit this data using a line!",
            f"Median expected test MSE of the line: {line_test:.3f}, where the noise alone is 1 "
            f"(asked for: less than half above it); its training MSE: "
            f"{line.train_mse.median():.3f}.",
            bool(line_test < 1.5),
        ),
    ]
    summary = table.groupby("model", as_index=False).agg(
        median_train_mse=("train_mse", "median"),
        largest_train_mse=("train_mse", "max"),
        median_expected_test_mse=("expected_test_mse", "median"),
        smallest_expected_test_mse=("expected_test_mse", "min"),
    )
    return Result(
        name="polynomial",
        title="Ten points, a line and a 10th-degree polynomial",
        lecture="10 points from y = x + N(0,1). Least squares fit, 10th degree polynomial: the "
        "model perfectly predicts every training point, and will have significant error for new "
        "points. A linear fit (with no basis) would provide better predictions for new points!",
        method=f"{draws:,} draws of {POINTS} points, x uniform on [0, {END:g}]. The polynomial "
        "has one weight more than there are points: of the solutions through all of them, the "
        "one with the smallest norm in an orthonormal Legendre basis is taken. The expected test "
        "MSE over fresh points is an exact integral; medians, since single draws explode.",
        table=table,
        summary=summary,
        figure=_figure(settings.seeds[0]),
        alt="Ten noisy points along a diagonal; a straight line passes between them, while the "
        "10th-degree polynomial passes through each and swings far away in between.",
        claims=claims,
        uses_data=False,
    )


def _figure(seed: int) -> Figure:
    random = np.random.default_rng(seed)  # the first draw
    x = random.uniform(0, END, POINTS)
    y = x + random.standard_normal(POINTS)
    figure, (axes,) = new_axes(xlabel="x", ylabel="y")
    wide = np.linspace(0, END, 1000, dtype=np.float64)
    axes.plot(x, y, "ko", label="training points")
    for degree, style, label in ((1, "k-", "line"), (DEGREE, "r--", "10th-degree polynomial")):
        axes.plot(
            wide, basis(wide, degree) @ least_squares(basis(x, degree), y), style, label=label
        )
    axes.set_ylim(min(y) - 4, max(y) + 4)
    axes.legend()
    return figure
