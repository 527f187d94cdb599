"""What holds overfitting back: penalties on the weights, dropout, and AdamW's weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.optim import AdamW, Optimizer

from gpa_lightning import GPARegressor
from gpa_lightning.callbacks import WeightNorms
from gpa_lightning.losses import evaluation_mse, weight_norm
from gpa_lightning.studies.drawing import MSE, TEST, TRAINING, draw_band, legend_below, new_axes
from gpa_lightning.studies.full_batch import HIDDEN, TINY_HIDDEN
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.runs import Outcome, Run, fit, perform, tabulate
from gpa_lightning.studies.settings import Settings

NAME = "regularization"
NONE = "none"
GRIDS: Mapping[str, Sequence[float]] = {
    "L1 norm": (1e-5, 1e-4, 1e-3),
    "L2 norm": (1e-3, 1e-2, 1e-1),
    "dropout": (0.1, 0.3, 0.5),
    "AdamW": (0.01, 0.1, 1.0),
}
STRENGTH = {"L1 norm": "λ", "L2 norm": "λ", "dropout": "probability", "AdamW": "weight decay"}


class AdamWRegressor(GPARegressor):
    """`GPARegressor` with decoupled weight decay (Loshchilov and Hutter, 2019).

    Args:
        weight_decay: Weight decay of AdamW.
        kwargs: Arguments of `GPARegressor`.
    """

    def __init__(self, weight_decay: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight_decay = weight_decay

    def configure_optimizers(self) -> Optimizer:
        return AdamW(
            self.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )


def _model(strategy: str, strength: float, **network: Any) -> GPARegressor:
    match strategy:
        case "L1 norm":
            return GPARegressor(**network, penalty="l1", penalty_weight=strength)
        case "L2 norm":
            return GPARegressor(**network, penalty="l2", penalty_weight=strength)
        case "dropout":
            return GPARegressor(**network, dropout=strength)
        case "AdamW":
            return AdamWRegressor(strength, **network)
        case _:
            return GPARegressor(**network)


def run(
    settings: Settings,
    folder: Path,
    seed: int,
    strategy: str,
    strength: float,
    hidden: list[int],
    epochs: int,
) -> Outcome:
    """Train once with one strategy at one strength."""
    data = settings.data_module(seed)
    model = _model(strategy, strength, in_features=settings.in_features, hidden_sizes=hidden)
    trainer = fit(settings, folder, data, model, WeightNorms(), max_epochs=epochs)
    with torch.no_grad():
        l1, l2 = (weight_norm(model.parameters(), norm).item() for norm in ("l1", "l2"))
    x, y = data.dataset("training").tensors
    return {
        "train_loss": evaluation_mse(model, x, y),
        "val_loss": trainer.callback_metrics["val_loss"].item(),
        "test_loss": trainer.test(model, data, verbose=False)[0]["test_loss"],
        "l1_norm": l1,
        "l2_norm": l2,
    }


def study(settings: Settings) -> Result:
    """Sweep over the strength of each strategy, with each seed."""
    tiny = settings.size == "tiny"
    epochs, hidden = (2, TINY_HIDDEN) if tiny else (20, HIDDEN)
    grid = [(NONE, 0.0)]
    for strategy, strengths in GRIDS.items():
        tried = (strengths[0], strengths[-1]) if tiny else strengths
        grid += [(strategy, strength) for strength in tried]
    shared = {"hidden": list(hidden), "epochs": epochs}
    runs = [
        Run(
            f"{strategy.replace(' ', '-')}-{strength:g}-seed-{seed}",
            run,
            {"seed": seed, "strategy": strategy, "strength": strength, **shared},
        )
        for strategy, strength in grid
        for seed in settings.repetitions
    ]
    outcomes = perform(NAME, runs, settings)
    table = tabulate(runs, outcomes, "strategy", "strength", "seed")
    plain = table[table.strategy == NONE].set_index("seed").test_loss
    best = {strategy: _best(table, strategy) for strategy in (NONE, *GRIDS)}
    summary = pd.DataFrame(
        [
            {
                "strategy": strategy,
                "best strength": part.strength.iloc[0],
                "training loss": part.train_loss.mean(),
                "validation loss": part.val_loss.mean(),
                "test loss": part.test_loss.mean(),
                "less than without": (plain - part.test_loss).mean(),
                "seeds with less": f"{(part.test_loss < plain).sum()} of {len(plain)}",
            }
            for strategy, part in best.items()
        ]
    )
    return Result(
        name=NAME,
        title="Regularization: penalties, dropout, weight decay",
        lecture="“Include a regularization term in the loss function. Regularization terms "
        "increase the loss the farther the weight vector is from zero: L_new(w, D) = L(w, D) + "
        "λ‖w‖, often using the L1 norm or the L2 norm.” “Other strategies (e.g., dropout).”",
        method=f"The lecture's network at 100 rows a batch for {epochs} epochs, with a "
        "validation set. A strategy's best strength is that with the lowest mean validation "
        "loss; its test losses are compared seed by seed with those of the unregularised network "
        "on the same split. AdamW's weight decay stands there for contrast: it shrinks the "
        "weights beside the loss, not through it.",
        table=table,
        summary=summary,
        figure=_figure(table),
        alt="For each strategy, training and test loss against its strength, and the test loss of "
        "the unregularised network.",
        claims=_claims(table, best, plain),
    )


def _best(table: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """Return the runs at the strength with the lowest validation loss, by seed."""
    part = table[table.strategy == strategy]
    strength = part.groupby("strength").val_loss.mean().idxmin()
    return part[part.strength == strength].set_index("seed")


def _claims(
    table: pd.DataFrame, best: Mapping[str, pd.DataFrame], plain: pd.Series[float]
) -> list[Claim]:
    claims = []
    for strategy in GRIDS:
        gain = plain - best[strategy].test_loss
        claims.append(
            Claim(
                f"{strategy}: avoids over-fitting.",
                f"At its best {STRENGTH[strategy]} of {best[strategy].strength.iloc[0]:g}, the "
                f"test loss is lower than without by {gain.mean():.4f} (by seed: "
                f"{gain.min():.4f} to {gain.max():.4f}; asked for: lower with every seed).",
                bool((gain > 0).all()),
            )
        )
    for strategy, norm in (("L1 norm", "l1_norm"), ("L2 norm", "l2_norm")):
        norms = table[table.strategy.isin([NONE, strategy])].groupby("strength")[norm].mean()
        claims.append(
            Claim(
                f"A regularization term pulls the weights towards zero: {strategy}.",
                "Norm of the trained weights: "
                + ", ".join(f"{value:.4g} at λ = {strength:g}" for strength, value in norms.items())
                + " (asked for: smaller with the largest λ than without).",
                bool(norms.iloc[-1] < norms.iloc[0]),
            )
        )
    return claims


def _figure(table: pd.DataFrame) -> Figure:
    figure, axes = new_axes(tuple(GRIDS), ylabel=MSE)
    plain = table[table.strategy == NONE].test_loss.median()
    for each, strategy in zip(axes, GRIDS, strict=True):
        part = table[table.strategy == strategy]
        draw_band(each, part, "strength", "train_loss", TRAINING, label="training")
        draw_band(each, part, "strength", "test_loss", TEST, label="test")
        each.axhline(plain, color="0.4", ls=":", label="test, unregularised")
        each.set(xlabel=STRENGTH[strategy], xscale="linear" if strategy == "dropout" else "log")
    legend_below(axes[0])
    return figure
