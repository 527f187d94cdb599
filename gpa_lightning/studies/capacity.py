"""Model capacity, from a line to the lecture's network, by scikit-learn's cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
from sklearn.model_selection import KFold, validation_curve
from torch.utils.tensorboard import SummaryWriter

from gpa_lightning.estimator import LightningMLPRegressor
from gpa_lightning.studies.drawing import MSE, TEST, TRAINING, draw_band, new_axes
from gpa_lightning.studies.full_batch import HIDDEN
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.runs import Outcome, Run, perform
from gpa_lightning.studies.settings import Settings, Size

NAME = "capacity"
NETWORKS = ((), (1,), (4,), (16,), (64,), (256,), (1024,), (256, 128), HIDDEN)
QUICK_NETWORKS = ((), (4,), (64,), HIDDEN)
TINY_NETWORKS = ((), (4,), (64,))
SIZES: Mapping[Size, tuple[Sequence[tuple[int, ...]], int, int]] = {
    "full": (NETWORKS, 30, 5),
    "quick": (QUICK_NETWORKS, 120, 3),  # of as many steps as a line needs
    "tiny": (TINY_NETWORKS, 2, 2),
}
"""The networks, the epochs and the folds."""


def run(
    settings: Settings, folder: Path, seed: int, hidden: list[int], epochs: int, folds: int
) -> Outcome:
    """Cross-validate one network on the training rows."""
    data = settings.data_module(seed, val_size=0.0)
    x, y = (tensor.numpy() for tensor in data.dataset("training").tensors)
    regressor = LightningMLPRegressor(
        max_iter=epochs,
        n_iter_no_change=float("inf"),
        random_state=seed,
        accelerator=settings.device,
    )
    scores = validation_curve(
        regressor,
        x,
        y[:, 0],
        param_name="hidden_layer_sizes",
        param_range=[tuple(hidden)],
        cv=KFold(folds, shuffle=True, random_state=seed),
        scoring="neg_mean_squared_error",
        error_score="raise",
    )
    training, held_out = (-score[0] for score in scores)
    with SummaryWriter(str(folder)) as writer:
        for fold in range(folds):
            writer.add_scalar("train_loss", training[fold], fold)
            writer.add_scalar("val_loss", held_out[fold], fold)
    return {"train_loss": training.tolist(), "held_out_loss": held_out.tolist()}


def study(settings: Settings) -> Result:
    """Cross-validate ever larger networks; the first seed is that of folds and weights."""
    networks, epochs, folds = SIZES[settings.size]
    seed = settings.seeds[0]
    runs = [
        Run(
            f"network-{'-'.join(map(str, hidden)) or 'line'}",
            run,
            {"seed": seed, "hidden": list(hidden), "epochs": epochs, "folds": folds},
        )
        for hidden in networks
    ]
    outcomes = perform(NAME, runs, settings)
    table = pd.DataFrame(
        [
            {
                "hidden_sizes": "-".join(map(str, hidden)) or "none: a line",
                "parameters": _parameters((settings.in_features, *hidden, 1)),
                "fold": fold,
                "train_loss": outcome["train_loss"][fold],
                "held_out_loss": outcome["held_out_loss"][fold],
            }
            for hidden, outcome in zip(networks, outcomes, strict=True)
            for fold in range(folds)
        ]
    )
    means = table.groupby(["hidden_sizes", "parameters"])[["train_loss", "held_out_loss"]].mean()
    summary = means.reset_index().sort_values("parameters")
    summary["gap"] = summary.held_out_loss - summary.train_loss
    figure, (axes,) = new_axes(xlabel="parameters", ylabel=MSE, xscale="log")
    draw_band(axes, table, "parameters", "train_loss", TRAINING, label="training folds")
    draw_band(axes, table, "parameters", "held_out_loss", TEST, label="fold held out")
    axes.legend()
    line, largest = summary.iloc[0], summary.iloc[-1]
    best = summary.loc[summary.held_out_loss.idxmin()]
    return Result(
        name=NAME,
        title="Model capacity",
        lecture="“Notice that we can't overfit this data using a line! Models with higher capacity "
        "can represent more functions. Models with higher capacity are more prone to "
        "over-fitting.”",
        method=f"{folds}-fold cross-validation on the training rows, scikit-learn's "
        f"validation_curve over hidden_layer_sizes of LightningMLPRegressor: {epochs} epochs at "
        "100 rows a batch, Adam. Both losses after training; means over the folds.",
        table=table,
        summary=summary,
        figure=figure,
        alt="Training loss and the loss on the fold held out, against the number of parameters.",
        claims=[
            Claim(
                "We can't overfit this data using a line!",
                f"Linear regression: held-out minus training loss {line.gap:.4f} (asked for: at "
                "most 0.005).",
                bool(abs(line.gap) <= 0.005),
            ),
            Claim(
                "Models with higher capacity can represent more functions.",
                f"Training loss {line.train_loss:.4f} of the line, {largest.train_loss:.4f} of the "
                "largest network (asked for: the lowest of all).",
                bool(largest.train_loss == summary.train_loss.min()),
            ),
            Claim(
                "Models with higher capacity are more prone to over-fitting.",
                f"Held-out minus training loss: {line.gap:.4f} of the line, {largest.gap:.4f} of "
                f"the largest network. Held-out loss: {best.held_out_loss:.4f} of the best "
                f"({int(best.parameters):,} parameters), {largest.held_out_loss:.4f} of the "
                "largest (asked for: the largest gap of all, and a held-out loss above the best).",
                bool(
                    largest.gap == summary.gap.max() and largest.held_out_loss > best.held_out_loss
                ),
            ),
        ],
    )


def _parameters(sizes: tuple[int, ...]) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
