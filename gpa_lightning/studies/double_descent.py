"""Double descent: past the width at which a network fits every training row, it gets better again.

Twice, on the same few rows: networks with one hidden layer trained by Adam, and random ReLU
features with the least squares solution of smallest norm, where the peak can be computed without
training and stands exactly where there are as many features as rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.studies.drawing import MSE, TEST, TRAINING, draw_band, legend_below, new_axes
from gpa_lightning.studies.more_data import val_size
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.runs import Outcome, Run, fit_for_steps, perform, tabulate
from gpa_lightning.studies.settings import Settings, Size

NAME = "double-descent"
ROWS = 400
WIDTHS = tuple(2**power for power in range(13))
SHARES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1, 1.3, 1.7, 2.5, 5, 10, 20)
SIZES: Mapping[Size, tuple[Sequence[int], int, Sequence[float]]] = {
    "full": (WIDTHS, 6000, SHARES),
    "quick": (WIDTHS[:11:2], 3000, SHARES[:-2]),
    "tiny": ((1, 16, 256), 200, (0.05, 1, 5)),
}
"""The widths of the networks, their steps, and the random features as shares of the rows."""
STEPS_AN_EPOCH = 100
HIGH = 5  # times the lowest test loss, where the figure ends
NETWORK, FEATURES = "network", "random features"


class RepeatedFullBatch(GPADataModule):
    """A data module whose epoch has a hundred full batches, to spare the fixed cost of an epoch."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the one batch, a hundred times."""
        batches: Any = [self.dataset("training").tensors] * STEPS_AN_EPOCH
        return DataLoader(batches, batch_size=None)


def train_network(
    settings: Settings, folder: Path, seed: int, width: int, rows: int, total: int, steps: int
) -> Outcome:
    """Train a network with one hidden layer to convergence."""
    data = settings.data_module(seed, RepeatedFullBatch, val_size=val_size(rows, total))
    model = GPARegressor(settings.in_features, (width,), learning_rate=3e-3)
    return fit_for_steps(settings, folder, data, model, steps)


def solve_random_features(
    settings: Settings, folder: Path, seed: int, width: int, rows: int, total: int
) -> Outcome:
    """Fit the output weights of a random hidden layer, by least squares with the smallest norm."""
    data = settings.data_module(seed, val_size=val_size(rows, total))
    (x, y), (x_test, y_test) = (
        (tensor.double().numpy() for tensor in data.dataset(name).tensors)
        for name in ("training", "test")
    )
    random = np.random.default_rng(seed)
    directions = random.standard_normal((x.shape[1], width)) / np.sqrt(x.shape[1])
    offsets = random.standard_normal(width)
    features, test_features = (np.maximum(each @ directions + offsets, 0) for each in (x, x_test))
    mean = y.mean()
    weights = np.linalg.lstsq(features, y - mean)[0]
    return {
        "train_loss": float(((features @ weights + mean - y) ** 2).mean()),
        "test_loss": float(((test_features @ weights + mean - y_test) ** 2).mean()),
    }


def study(settings: Settings) -> Result:
    """Widen both models past the width at which they fit every training row, for each seed."""
    every = settings.data_module(settings.seeds[0], val_size=0.0).rows["training"]
    rows = min(ROWS, every // 2)
    widths, steps, shares = SIZES[settings.size]
    runs = []
    for seed in settings.repetitions:
        drawn = {"seed": seed, "rows": rows, "total": every}
        for width in widths:
            arguments = {**drawn, "width": width, "steps": steps}
            runs.append(Run(f"network-{width}-seed-{seed}", train_network, arguments))
        for share in shares:
            width = round(share * rows)
            name = f"features-{width}-seed-{seed}"
            runs.append(Run(name, solve_random_features, {**drawn, "width": width}))
    outcomes = perform(NAME, runs, settings)
    table = tabulate(runs, outcomes, "width", "seed")
    models = [NETWORK if run.function is train_network else FEATURES for run in runs]
    table.insert(0, "model", models)
    medians = table.groupby(["model", "width"])[["train_loss", "test_loss"]].median()
    # a width w has w (inputs + 2) + 1 weights; with as many as rows it can fit them all
    threshold = (rows - 1) / (settings.in_features + 2)
    return Result(
        name=NAME,
        title="Double descent",
        lecture="“Use a large network!” “Large networks seem like they should be particularly "
        "prone to overfitting. When trained sufficiently on large amounts of data, empirical "
        "evidence suggests that deep (large) networks tend not to over-fit! This phenomenon, "
        "called double descent, is an active research topic!”",
        method=f"{rows} training rows, drawn anew by each seed. Left: one hidden layer, {steps:,} "
        "full-batch steps of Adam at 3e-3. Right: random ReLU features, output weights by least "
        "squares with the smallest norm. Medians and ranges over the seeds. The dotted line is "
        "the interpolation threshold: as many weights to fit as rows.",
        table=table,
        summary=medians.reset_index().sort_values(["model", "width"], ascending=[True, True]),
        figure=_figure(table, {NETWORK: threshold, FEATURES: rows}),
        alt="Training and test loss against width, of trained networks and of random features; "
        "the interpolation threshold is marked.",
        claims=[
            *_descent(NETWORK, medians.loc[NETWORK].test_loss),
            _near(medians.loc[NETWORK].test_loss, threshold),
            *_descent(FEATURES, medians.loc[FEATURES].test_loss),
            Claim(
                "With random features, the peak stands where there are as many features as rows.",
                f"Peak at width {medians.loc[FEATURES].test_loss.idxmax()}; {rows} rows.",
                bool(medians.loc[FEATURES].test_loss.idxmax() == rows),
            ),
        ],
    )


def _descent(model: str, test: pd.Series[float]) -> list[Claim]:
    peak = test.idxmax()
    first = test[test.index <= peak].min()
    widest = test.iloc[-1]
    return [
        Claim(
            f"Double descent ({model}): the test loss falls, peaks, and falls again.",
            f"First minimum {first:.4g} at width {test[test.index <= peak].idxmin()}, peak "
            f"{test.max():.4g} at {peak}, {widest:.4g} at {test.index[-1]} (asked for: a peak "
            "more than 1.5 times both).",
            bool(test.max() > 1.5 * max(first, widest)),
        ),
        Claim(
            f"Use a large network! ({model}, on this few rows)",
            f"Test loss of the widest: {widest:.4g}; of the best of all: {test.min():.4g} at "
            f"width {test.idxmin()} (asked for: the widest is the best).",
            bool(widest <= test.min()),
        ),
    ]


def _near(test: pd.Series[float], threshold: float) -> Claim:
    peak = test.idxmax()
    return Claim(
        "The network's peak stands near the interpolation threshold.",
        f"Peak at width {peak}; as many weights as rows at width {threshold:.0f} (asked for: "
        "apart by a factor of at most 4).",
        bool(threshold / 4 <= peak <= threshold * 4),
    )


def _figure(table: pd.DataFrame, thresholds: dict[str, float]) -> Figure:
    titles = ("one hidden layer, trained by Adam", "random features, least squares")
    figure, axes = new_axes(titles, xscale="log", ylabel=MSE)
    for each, model in zip(axes, thresholds, strict=True):
        part = table[table.model == model]
        draw_band(each, part, "width", "train_loss", TRAINING, label="training")
        draw_band(each, part, "width", "test_loss", TEST, label="test")
        each.axvline(thresholds[model], color="0.4", ls=":", label="interpolation threshold")
        each.set_xlabel("width of the hidden layer")
        medians = part.groupby("width").test_loss.median()
        # a peak that stands out far would flatten both descents
        top = min(1.1 * medians.max(), HIGH * medians.min())
        each.set_ylim(-0.03 * top, top)
        if medians.max() > top:
            peak = f"peak: {medians.max():.3g}"
            each.text(0.03, 0.92, peak, transform=each.transAxes)
    legend_below(axes[0])
    return figure
