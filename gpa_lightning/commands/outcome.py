"""``outcome.json``: the outcome of a run that has been tested, for comparing it with others."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightning.pytorch.cli import LightningCLI

from gpa_lightning.commands.fit_report import FitReport

OUTCOME = "outcome.json"


def make_outcome(cli: LightningCLI, fitted: FitReport, losses: dict[str, float]) -> dict[str, Any]:
    """Return the outcome of a run, as JSON can hold it.

    That is: the seed, the data and the split, the curves of the fit, and the ``losses`` on each set
    of the weights that were tested.
    """
    data = cli.datamodule
    return {
        "seed": cli.config.seed_everything,
        "data": asdict(data.provenance),
        "target": data.target_name,
        "test_size": data.test_size,
        "split_seed": data.seed,
        "test_doubles_as_validation": data.val_size == 0,
        "epochs": fitted.epochs,
        "why_it_stopped": fitted.why_it_stopped,
        "seconds": fitted.seconds,
        "training_curve": fitted.training,
        "validation_curve": fitted.validation,
        **{f"{name}_loss": loss for name, loss in losses.items()},
    }
