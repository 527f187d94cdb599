"""The lecture's ten points: a line and a 10th-degree polynomial through them.

No data and no training, only linear algebra. Ten points leave the eleven weights of a 10th-degree
basis one degree of freedom, and least squares takes the solution of smallest norm. In the basis
1, x, ..., x¹⁰ that is badly conditioned; here the basis is of Legendre polynomials, orthonormal on
the interval, where the norm of the weights is that of the function, and the solution comes from
the QR decomposition of the transposed matrix, which forms no normal equations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from numpy.polynomial import legendre

from gpa_lightning.studies.drawing import new_axes
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.settings import Settings, Size

DEGREE, POINTS, NOISE = 10, 10, 1.0  # the lecture's
END = 10.0  # the points' x are uniform on [0, END]
NAME = "polynomial"
HIGHEST = 1000  # degree, whose exact integral takes a second

DRAWS: Mapping[Size, int] = {"full": 1000, "quick": 200, "tiny": 50}

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


def study(
    settings: Settings, degree: int = DEGREE, points: int = POINTS, noise: float = NOISE
) -> Result:
    """Fit both to 1,000 draws of the points; the first seed is that of the draws.

    Args:
        settings: Settings of the study.
        degree: Degree of the polynomial.
        points: Number of points of a draw.
        noise: Standard deviation of a point's distance from y = x.

    Raises:
        ValueError: If one of them is out of range.
    """
    if not 1 <= degree <= HIGHEST:
        raise ValueError(f"degree must be from 1 to {HIGHEST}, got {degree}")
    if points < 2:
        raise ValueError(f"points must be at least 2, for a line, got {points}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a finite number and not negative, got {noise}")
    draws = DRAWS[settings.size]
    random = np.random.default_rng(settings.seeds[0])
    # so many nodes integrate the squared distance from y = x exactly
    nodes, node_weights = legendre.leggauss(max(16, degree + 1))
    fresh, share = (nodes + 1) * END / 2, node_weights / 2
    degrees = {"line": 1, "polynomial": degree}
    values = {model: basis(fresh, highest) for model, highest in degrees.items()}
    rows: list[dict[str, Any]] = []
    for draw in range(draws):
        x, y = _drawn(random, points, noise)
        for model, highest in degrees.items():
            weights = least_squares(basis(x, highest), y)
            train = ((basis(x, highest) @ weights - y) ** 2).mean()
            bias = share @ (values[model] @ weights - fresh) ** 2
            test = noise**2 + bias  # a fresh point has noise of its own
            rows.append(
                {"draw": draw, "model": model, "train_mse": train, "expected_test_mse": test}
            )
    table = pd.DataFrame(rows)
    line, polynomial = (table[table.model == model] for model in degrees)
    worst = polynomial.train_mse.max()
    line_test, polynomial_test = (each.expected_test_mse.median() for each in (line, polynomial))
    tests = table.pivot_table(index="draw", columns="model", values="expected_test_mse")
    line_wins = (tests.line < tests.polynomial).mean()
    rounding = 1e-10 * max(1.0, noise) ** 2
    claims = [
        Claim(
            "The model perfectly predicts every training point!",
            f"The polynomial's largest training MSE over {draws:,} draws is {worst:.1e} "
            f"(perfect: at most {rounding:.0e}).",
            bool(worst <= rounding),
        ),
        Claim(
            "The model will have significant error for new points; a linear fit (with no basis) "
            "would provide better predictions for new points!",
            f"Median expected test MSE over {draws:,} draws: polynomial {polynomial_test:.4g}, "
            f"line {line_test:.4g}. The line is better in "
            f"{line_wins:.1%} of the draws (asked for: a median at least ten times the line's).",
            bool(polynomial_test > 10 * max(line_test, rounding)),
        ),
        Claim(
            "We can't overfit this data using a line!",
            f"Median expected test MSE of the line: {line_test:.3f}, where the noise alone is "
            f"{noise**2:g} (asked for: less than half above it); its training MSE: "
            f"{line.train_mse.median():.3f}.",
            bool(line_test < max(1.5 * noise**2, rounding)),
        ),
    ]
    summary = table.groupby("model", as_index=False).agg(
        median_train_mse=("train_mse", "median"),
        largest_train_mse=("train_mse", "max"),
        median_expected_test_mse=("expected_test_mse", "median"),
        smallest_expected_test_mse=("expected_test_mse", "min"),
    )
    given = [("degree", degree, DEGREE), ("points", points, POINTS), ("noise", noise, NOISE)]
    return Result(
        name=NAME,
        title=f"{points} points, a line and a polynomial of degree {degree}",
        lecture="10 points from y = x + N(0,1). Least squares fit, 10th degree polynomial: the "
        "model perfectly predicts every training point, and will have significant error for new "
        "points. A linear fit (with no basis) would provide better predictions for new points!",
        method=f"{draws:,} draws of {points} points, x uniform on [0, {END:g}], y = x with noise "
        f"of deviation {noise:g}. Where the polynomial has more weights than there are points, "
        "the solution through all of them with the smallest norm in an orthonormal Legendre basis "
        "is taken. The expected test MSE over fresh points is an exact integral; medians, since "
        "single draws explode.",
        table=table,
        summary=summary,
        figure=_figure(settings.seeds[0], degree, points, noise),
        alt="Noisy points along a diagonal; a straight line passes between them, beside a "
        f"polynomial of degree {degree}, of which the chart shows what is near the points.",
        claims=claims,
        uses_data=False,
        flags="".join(f" --{name} {value:g}" for name, value, usual in given if value != usual),
    )


def _drawn(random: np.random.Generator, points: int, noise: float) -> tuple[Array, Array]:
    x = random.uniform(0, END, points)
    return x, x + noise * random.standard_normal(points)


def _figure(seed: int, degree: int, points: int, noise: float) -> Figure:
    x, y = _drawn(np.random.default_rng(seed), points, noise)  # the first draw
    figure, (axes,) = new_axes(xlabel="x", ylabel="y")
    wide = np.linspace(0, END, 1000, dtype=np.float64)
    axes.plot(x, y, "ko", label="training points")
    for highest, style, label in ((1, "k-", "line"), (degree, "r--", f"degree {degree}")):
        fitted = basis(wide, highest) @ least_squares(basis(x, highest), y)
        axes.plot(wide, fitted, style, label=label)
    axes.set_ylim(min(y) - 4 * max(noise, 0.5), max(y) + 4 * max(noise, 0.5))
    axes.legend()
    return figure
