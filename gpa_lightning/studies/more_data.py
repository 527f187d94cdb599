"""The learning curve: how training and test loss come together as the training set grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpa_lightning import GPARegressor
from gpa_lightning.studies.drawing import MSE, TEST, TRAINING, draw_band, new_axes
from gpa_lightning.studies.full_batch import HIDDEN, TINY_HIDDEN
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.runs import Outcome, Run, fit_for_steps, perform, tabulate
from gpa_lightning.studies.settings import Settings, Size

NAME = "more-data"
SIZES = (100, 300, 1000, 3000, 10_000)  # of the training set, besides all rows
STEPS: Mapping[Size, int] = {"full": 3500, "quick": 400, "tiny": 60}


def val_size(rows: int, total: int) -> float:
    """Return the validation share that leaves exactly ``rows`` of ``total`` rows for training.

    Example:
        >>> settings = Settings({"source": "synthetic"})
        >>> settings.data_module(0, val_size=val_size(300, total=34642)).rows["training"]
        300
    """
    # the data module rounds up; half a row less is safe from rounding errors
    return 0.0 if rows == total else (total - rows - 0.5) / total


def run(
    settings: Settings,
    folder: Path,
    seed: int,
    rows: int,
    total: int,
    hidden: list[int],
    steps: int,
) -> Outcome:
    """Train once on ``rows`` of the ``total`` training rows, for a number of steps."""
    data = settings.data_module(seed, val_size=val_size(rows, total))
    model = GPARegressor(settings.in_features, hidden)
    return fit_for_steps(settings, folder, data, model, steps)


def study(settings: Settings) -> Result:
    """Train on more and more rows, with each seed."""
    every = settings.data_module(settings.seeds[0], val_size=0.0).rows["training"]
    sizes = [size for size in SIZES if size <= every - 2]
    tiny = settings.size == "tiny"
    if tiny:
        sizes = sizes[:2]
    steps, hidden = STEPS[settings.size], TINY_HIDDEN if tiny else HIDDEN
    runs = [
        Run(
            f"rows-{rows}-seed-{seed}",
            run,
            {"seed": seed, "rows": rows, "total": every, "hidden": list(hidden), "steps": steps},
        )
        for rows in [*sizes, every]
        for seed in settings.repetitions
    ]
    outcomes = perform(NAME, runs, settings)
    table = tabulate(runs, outcomes, "rows", "seed")
    summary = table.groupby("rows")[["train_loss", "test_loss"]].mean().reset_index()
    summary["gap"] = summary.test_loss - summary.train_loss
    figure, (axes,) = new_axes(xlabel="training rows", ylabel=MSE, xscale="log")
    draw_band(axes, table, "rows", "train_loss", TRAINING, label="training")
    draw_band(axes, table, "rows", "test_loss", TEST, label="test")
    axes.legend()
    ends = summary.iloc[[0, -1]]
    return Result(
        name=NAME,
        title="More data: the learning curve",
        lecture="Overfitting is learning “specific trends in the training data that do not "
        "generalize to new points”; the fewer the points, the more of that there is to learn. "
        "“When trained sufficiently on large amounts of data, … deep (large) networks tend not to "
        "over-fit!”",
        method=f"The lecture's network, {steps:,} steps of Adam at up to 100 rows each (ten "
        "epochs of the full table), on the first so many rows of the training set; the test set "
        "is the same for all sizes. Both losses in evaluation mode, after training; means over "
        "the seeds.",
        table=table,
        summary=summary,
        figure=figure,
        alt="Training and test loss against the number of training rows.",
        claims=[
            Claim(
                "Small samples overfit more.",
                "Test minus training loss: "
                + ", ".join(
                    f"{g:.3f} with {n:,}"
                    for n, g in summary[["rows", "gap"]].itertuples(index=False)
                )
                + " rows (asked for: falls from size to size).",
                bool(summary.gap.is_monotonic_decreasing),
            ),
            Claim(
                "More data generalise better.",
                f"Test loss {ends.test_loss.iloc[0]:.4f} with {ends['rows'].iloc[0]:,} rows, "
                f"{ends.test_loss.iloc[1]:.4f} with {ends['rows'].iloc[1]:,} (asked for: falls "
                "from size to size).",
                bool(summary.test_loss.is_monotonic_decreasing),
            ),
        ],
    )
