"""How the studies' figures look: alike, and readable when printed in black and white."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MSE = "MSE (squared grade points)"

# told apart by line and marker; colour is an extra
TRAINING: Mapping[str, Any] = {"color": "tab:blue", "linestyle": "--", "marker": "o"}
TEST: Mapping[str, Any] = {"color": "black", "linestyle": "-", "marker": "s"}


def new_axes(titles: tuple[str, ...] = ("",), **labels: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure of axes, two in a row, with a title each and the same labels and scales."""
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    # small, so that the text is large beside it: a phone shrinks a figure to its own width
    figure = Figure(figsize=(1.6 + 3 * columns, 0.6 + 2.7 * rows), layout="constrained")
    axes = [
        figure.add_subplot(rows, columns, place, title=title, **labels)
        for place, title in enumerate(titles, start=1)
    ]
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def legend_below(axes: Axes) -> None:
    """Explain the lines of axes under their figure, where nothing lies behind the words."""
    figure = axes.get_figure()
    assert figure is not None
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, frameon=False)


def draw_band(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    style: Mapping[str, Any],
    middle: str = "median",
    **more: Any,
) -> None:
    """Draw the middle of the runs, and a band from the lowest to the highest.

    Args:
        axes: Axes to draw on.
        table: Table with a row per run and x.
        x: Name of the column to draw over.
        y: Name of the column to draw.
        style: Properties of the line.
        middle: ``median`` or ``mean``.
        more: Further properties of the line, such as its label.
    """
    runs = table.groupby(x)[y]
    line = runs.agg(middle)
    axes.plot(line.index, line, **{"markersize": 3, **style, **more})
    axes.fill_between(line.index, runs.min(), runs.max(), color=style["color"], alpha=0.15, lw=0)
