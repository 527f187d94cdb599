"""Training and test loss side by side, from the first tenth of an epoch to the hundredth epoch."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from gpa_lightning.studies import mini_batch
from gpa_lightning.studies.drawing import MSE, TEST, TRAINING, draw_band, legend_below, new_axes
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.runs import perform
from gpa_lightning.studies.settings import Settings

NAME = "overfitting-curve"


def study(settings: Settings) -> Result:
    """Find out when overfitting begins, and how far it goes, in the runs of `mini_batch`."""
    outcomes = perform(NAME, mini_batch.runs(settings), settings)
    table = pd.DataFrame(
        [
            {"seed": seed, "epoch": epoch, "train_loss": training, "test_loss": test}
            for seed, outcome in zip(settings.repetitions, outcomes, strict=True)
            for epoch, training, test in outcome["evaluations"]
        ]
    )
    best = table.loc[table.groupby("seed").test_loss.idxmin()].set_index("seed")
    last = table.groupby("seed").last()
    summary = pd.DataFrame(
        {
            "seed": best.index,
            "epochs until the lowest test loss": best.epoch,
            "lowest test loss": best.test_loss,
            "training loss then": best.train_loss,
            "test loss at the end": last.test_loss,
            "training loss at the end": last.train_loss,
        }
    )
    return Result(
        name=NAME,
        title="Training and test loss: when overfitting begins",
        lecture="“Initially the loss decreases on the training and testing sets. Eventually, the "
        "model starts to learn specific trends in the training data that do not generalize to new "
        "points.” “With a relatively simple problem, overfitting begins within the first epoch!”",
        method="The lecture's mini-batch training. Both losses belong to the same weights, in "
        f"evaluation mode on the whole set: {mini_batch.TIMES} times an epoch in the first "
        f"{mini_batch.OFTEN} epochs, then after each epoch. Epochs are those trained until then: "
        "1 is the end of epoch 0. The star stands at the medians of the seeds' lowest test losses.",
        table=table,
        summary=summary,
        figure=_figure(table, best),
        alt="Training and test loss, in the first epochs and over the whole training, with the "
        "lowest test loss marked, at the medians of the seeds.",
        claims=_claims(best, last),
    )


def _claims(best: pd.DataFrame, last: pd.DataFrame) -> list[Claim]:
    rise, fall = last.test_loss - best.test_loss, best.train_loss - last.train_loss
    epochs = ", ".join(f"{epoch:.1f}" for epoch in best.epoch)
    rises = (
        f"From the test loss's minimum to the end, the test loss rises by {rise.mean():.4f} "
        f"(at least {rise.min():.4f}) and the training loss falls by {fall.mean():.4f}"
    )
    if (best.epoch == last.epoch).all():
        rises = f"The test loss is lowest at the end, after {last.epoch.median():g} epochs"
    return [
        Claim(
            "The loss decreases on training and testing sets at first; eventually it is lower for "
            "the training data, but higher for the testing data.",
            f"{rises} (asked for: both with every seed).",
            bool((rise > 0).all() and (fall > 0).all()),
        ),
        Claim(
            "With a relatively simple problem, overfitting begins within the first epoch!",
            f"The test loss is lowest after {best.epoch.median():.1f} epochs (median; by seed: "
            f"{epochs}; asked for: a median of at most 1).",
            bool(best.epoch.median() <= 1),
        ),
    ]


def _figure(table: pd.DataFrame, best: pd.DataFrame) -> Figure:
    figure, (early, whole) = new_axes(("the first epochs", "the whole training"))
    epoch, lowest = best.epoch.median(), best.test_loss.median()
    for axes, part in ((early, table[table.epoch <= mini_batch.OFTEN]), (whole, table)):
        axes.set(xlabel="epochs trained", ylabel=MSE)
        marks = {"marker": "" if axes is whole else "."}
        draw_band(axes, part, "epoch", "train_loss", {**TRAINING, **marks}, label="training")
        draw_band(axes, part, "epoch", "test_loss", {**TEST, **marks}, label="test")
        if axes is whole or epoch <= mini_batch.OFTEN:
            label = f"lowest: {lowest:.4f} after {epoch:.1f} epochs"
            axes.plot(epoch, lowest, "k*", ms=10, label=label)
    legend_below(whole)
    # the very first evaluations are far above the rest, which they would flatten
    early.set_ylim(top=table.test_loss[table.epoch > 0.2].max() * 1.05)
    whole.set_ylim(top=table.test_loss[table.epoch > 0.2].max() * 1.05)
    return figure
