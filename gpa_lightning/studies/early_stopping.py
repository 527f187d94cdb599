"""Early stopping, at three degrees of patience, and a proof that the test set has no part in it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from matplotlib.figure import Figure

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.studies.drawing import MSE, new_axes
from gpa_lightning.studies.full_batch import HIDDEN, TINY_HIDDEN
from gpa_lightning.studies.result import Claim, Result
from gpa_lightning.studies.runs import Outcome, Run, fit, perform, tabulate
from gpa_lightning.studies.settings import Settings

NAME = "early-stopping"
PATIENCES = (1, 3, 10)
NONE = "none"


class WithoutTestSet(GPADataModule):
    """A data module whose test set is NaN: a training that looked at it would show that."""

    def setup(self, stage: str | None = None) -> None:
        """Split, standardise, and wipe out the test set."""
        super().setup(stage)
        for tensor in self.dataset("test").tensors:
            tensor.fill_(float("nan"))


def run(
    settings: Settings,
    folder: Path,
    seed: int,
    patience: int | None,
    blind: bool,
    hidden: list[int],
    epochs: int,
) -> Outcome:
    """Train with a patience, or to the end; if ``blind``, without a test set."""
    data = settings.data_module(seed, WithoutTestSet if blind else GPADataModule)
    stopping = [] if patience is None else [EarlyStopping("val_loss", patience=patience)]
    with TemporaryDirectory() as checkpoints:
        best = ModelCheckpoint(checkpoints, monitor="val_loss", save_weights_only=True)
        started = time.perf_counter()
        model = GPARegressor(settings.in_features, hidden)
        flags = {"max_epochs": epochs, "enable_checkpointing": True}
        trainer = fit(settings, folder, data, model, best, *stopping, **flags)
        outcome: Outcome = {
            "epochs": trainer.current_epoch,
            "seconds": time.perf_counter() - started,
            "weights": _fingerprint(model),
        }
        if not blind:
            final = trainer.test(model, data, verbose=False)[0]
            path = best.best_model_path
            kept = trainer.test(model, data, ckpt_path=path, verbose=False, weights_only=True)[0]
            outcome |= {"test_loss": final["test_loss"], "best_test_loss": kept["test_loss"]}
    return outcome


def _fingerprint(model: GPARegressor) -> str:
    values = [parameter.detach().cpu().numpy().tobytes() for parameter in model.parameters()]
    return hashlib.sha256(b"".join(values)).hexdigest()


def study(settings: Settings) -> Result:
    """Compare patience 1, 3, 10 and none, with each seed."""
    epochs, hidden = (4, TINY_HIDDEN) if settings.size == "tiny" else (100, HIDDEN)
    shared = {"hidden": list(hidden), "epochs": epochs}
    kinds = [*((patience, False) for patience in PATIENCES), (PATIENCES[0], True), (None, False)]
    runs = [
        Run(
            f"patience-{patience or NONE}{'-blind' if blind else ''}-seed-{seed}",
            run,
            {"seed": seed, "patience": patience, "blind": blind, **shared},
        )
        for patience, blind in kinds
        for seed in settings.repetitions
    ]
    outcomes = perform(NAME, runs, settings)
    table = tabulate(runs, outcomes, "seed", "patience", "blind")
    table = table.rename(columns={"blind": "test_set_wiped_out"})
    table["patience"] = [str(run.arguments["patience"] or NONE) for run in runs]
    tested = table[~table.test_set_wiped_out]
    measured = ["epochs", "seconds", "test_loss", "best_test_loss"]
    summary = tested.groupby("patience", sort=False)[measured].mean().reset_index()
    summary["time saved"] = 1 - summary.seconds / summary.seconds.iloc[-1]
    return Result(
        name=NAME,
        title="Early stopping",
        lecture="“Early stopping: Stop training when testing error increases. Typically split data "
        "into training, validation, and testing. Stop training when the error on the validation "
        "set begins to increase. This ensures that the training process never looks at the "
        "testing data.”",
        method=f"The lecture's network at 100 rows a batch, for at most {epochs} epochs; 64 % "
        "training, 16 % validation, 20 % test. Patience is the number of epochs without a lower "
        "validation loss after which training ends. test_loss: with the weights at the end of "
        "training; best_test_loss: with those of the lowest validation loss, kept on the way. "
        "Means over the seeds.",
        table=table,
        summary=summary,
        figure=_figure(tested, epochs),
        alt="Test loss against the epoch at which training stopped, for each patience.",
        claims=_claims(table, tested),
    )


def _claims(table: pd.DataFrame, tested: pd.DataFrame) -> list[Claim]:
    tests, seconds, epochs = (
        tested.pivot_table(index="seed", columns="patience", values=column)
        for column in ("test_loss", "seconds", "epochs")
    )
    stopped = [str(patience) for patience in PATIENCES]
    gains = {patience: tests[NONE] - tests[patience] for patience in stopped}
    earlier = [patience for patience in stopped if (epochs[patience] < epochs[NONE]).any()]
    never = [f"nothing with patience {p}" for p in stopped if p not in earlier]
    pairs = table[table.patience == stopped[0]].groupby("seed")
    distinct = pairs[["weights", "epochs"]].nunique()
    same = (distinct == 1).all(axis=1) & (pairs.size() == 2)
    return [
        Claim(
            "Early stopping avoids over-fitting: the test loss is lower than without it.",
            "Test loss below that of the whole training by "
            + "; ".join([*(f"{gains[p].mean():.4f} with patience {p}" for p in earlier), *never])
            + " (asked for: lower with every seed and patience).",
            all(bool((gain > 0).all()) for gain in gains.values()),
        ),
        Claim(
            "Training stops when the validation error begins to increase, which saves time.",
            "; ".join(
                f"patience {p}: stops after {epochs[p].mean():.1f} epochs, saves "
                f"{1 - seconds[p].sum() / seconds[NONE].sum():.0%} of the time"
                if p in earlier
                else f"patience {p}: does not stop within {int(epochs[NONE].max())} epochs"
                for p in stopped
            )
            + " (asked for: fewer epochs with every seed and patience).",
            all(bool((epochs[patience] < epochs[NONE]).all()) for patience in stopped),
        ),
        Claim(
            "The training process never looks at the testing data.",
            f"With every number of the test set replaced by NaN, {same.sum()} of {len(same)} "
            f"trainings with patience {stopped[0]} stop at the same epoch with the same weights, "
            "to the last bit.",
            bool(same.all()),
        ),
    ]


def _figure(table: pd.DataFrame, epochs: int) -> Figure:
    figure, (axes,) = new_axes(xlabel="epochs trained", ylabel=f"test {MSE}", xscale="log")
    for (patience, part), marker in zip(table.groupby("patience", sort=False), "o^sX", strict=True):
        at_most = f", {epochs} epochs" if patience == NONE else ""
        label = f"patience {patience}{at_most}"
        style: dict[str, Any] = {"marker": marker, "linestyle": "", "alpha": 0.8}
        axes.plot(part.epochs, part.test_loss, label=label, **style)
    kept = table[table.patience != NONE].best_test_loss.mean()
    axes.axhline(kept, color="k", ls=":", label=f"weights of the best epoch: {kept:.4f}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
    return figure
