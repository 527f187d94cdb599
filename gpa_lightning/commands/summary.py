"""The summary of a run: its data, its losses, and what they compare with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from gpa_lightning.commands.fit_report import FitReport
from gpa_lightning.commands.flag_checks import LOGS
from gpa_lightning.data.baselines import baseline_losses
from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.loaders import EVALUATION_ROWS, TableDataset
from gpa_lightning.losses import evaluation_mse
from gpa_lightning.regressor import GPARegressor
from gpa_lightning.resuming.checkpoint import read_checkpoint
from gpa_lightning.resuming.exact_resume import position_of


def final_losses(model: GPARegressor, data: GPADataModule) -> dict[str, float]:
    """Compute the MSE on the training, validation and test set, in evaluation mode."""
    return {name: _mse(model, data.dataset(name)) for name in data.rows}


def print_summary(
    fitted: FitReport,
    losses: dict[str, float],
    model: GPARegressor,
    data: GPADataModule,
    changed: Sequence[str],
) -> None:
    """Print what was trained, on what, and how good it is.

    Args:
        fitted: Report of the fit.
        losses: MSE on each set.
        model: Model that was tested.
        data: Its data.
        changed: Flags that are not the defaults.
    """
    console = Console()
    if fitted.training:
        console.print(_curves(fitted))
    source = data.provenance
    kind = "SYNTHETIC, no real students" if source.kind == "synthetic" else source.kind
    rows = ", ".join(f"{count:,} {name}" for name, count in data.rows.items())
    doubling = "" if data.val_size else " (the test set doubles as the validation set)"
    sizes = [data.in_features, *model.hparams["hidden_sizes"], 1]
    scale = model.target_units.scale
    weights = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        ("data", f"{kind}: {source.location}"),
        ("", f"{source.rows:,} rows, SHA-256 {source.sha256}"),
        ("target", data.target_name + ("" if scale is None else ", standardised to be learnt")),
        ("features", _list_columns(data.feature_names)),
        ("split", f"{rows}{doubling}; seed {data.seed}"),
        ("network", f"{'-'.join(map(str, sizes))}, {weights:,} parameters"),
        ("optimiser", fitted.optimizer),
        ("batch size", _batch_size(fitted, data)),
        ("penalty", _penalty(model)),
        ("flags", " ".join(changed) or "the defaults"),
        ("epochs run", f"{fitted.epochs}; {fitted.why_it_stopped}"),
    ]
    tested = "last epoch"
    if fitted.monitor and fitted.best is not None:
        tested = f"best {fitted.monitor}"
        where = position_of(read_checkpoint(fitted.checkpoint))
        lines.append(("best epoch", f"{where} ({fitted.monitor} {fitted.best:.4f})"))
    elif fitted.monitor:
        why = f"no checkpoint was saved by {fitted.monitor}, see --checkpoint and --trainer"
        lines.append(("best epoch", f"not kept: {why}"))
    if fitted.overfitting:
        lines.append(("overfitting", fitted.overfitting))
    if fitted.averaging:
        tested += f", weights averaged by {fitted.averaging}"
    for name, loss in losses.items():
        lines.append((f"{name} MSE", f"{loss:.4f}  ({tested})"))
    for name, loss in fitted.averaged_losses.items():
        lines.append((f"{name} MSE", f"{loss:.4f}  (averaged weights)"))
    baselines = baseline_losses(data)
    for predictor, loss in baselines.items():
        lines.append((f"  {predictor}", f"{loss:.4f}  (test MSE, for comparison)"))
    if not losses["test"] < baselines["predicting the mean"]:
        lines.append(("verdict", "the network predicts no better than the mean of the target does"))
    lines.append(("time", f"{fitted.seconds:.1f} s to fit on {fitted.device}"))
    if fitted.checkpoint:
        lines.append(("checkpoint", fitted.checkpoint))
    if fitted.averaged:
        lines.append(("averaged weights", fitted.averaged))
    if fitted.tensorboard:
        command = f"tensorboard --logdir {fitted.tensorboard}"
        here = fitted.tensorboard == LOGS  # where make looks
        lines.append(("curves", f"make tensorboard  (or: {command})" if here else command))
    if fitted.checkpoint:
        checkpoint = shlex.quote(fitted.checkpoint)
        command = f"python scripts/predict.py --ckpt_path {checkpoint} --input students.csv"
        lines.append(("predict", command))
    with console:  # at once, as a notebook spaces what comes apart
        console.print("\n[bold]Summary[/]")
        for label, value in lines:
            style = "bold red" if value.startswith("SYNTHETIC") else None
            # soft wrap: paths and sums stay whole when they are copied
            console.print(f"{label:<22}", Text(value), style=style, soft_wrap=True, highlight=False)


def _batch_size(fitted: FitReport, data: GPADataModule) -> str:
    """Return the number of rows of a step of the optimiser, of all processes together."""
    rows = data.batch_rows
    if rows is None:
        return f"full, {data.rows['training']:,} rows"
    parts = [f"{rows} rows"]
    if fitted.processes > 1:
        parts.append(f"{fitted.processes} processes")
    if fitted.accumulated > 1:
        parts.append(f"{fitted.accumulated} batches a step")
    together = rows * fitted.processes * fitted.accumulated
    return f"{together} ({' * '.join(parts)})" if len(parts) > 1 else str(together)


def _penalty(model: GPARegressor) -> str:
    penalty = model.hparams.get("penalty")
    return f"{penalty}, weight {model.hparams['penalty_weight']:g}" if penalty else "none"


def _mse(network: nn.Module, dataset: TableDataset) -> float:
    errors = (evaluation_mse(network, x, y) * len(x) for x, y in dataset.batches(EVALUATION_ROWS))
    return sum(errors) / len(dataset)


def _list_columns(names: Sequence[str]) -> str:
    """Return the names of a table's columns, at most twelve of them."""
    more = f" and {len(names) - 12:,} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _curves(fitted: FitReport) -> Table:
    """Tabulate the losses at every tenth epoch, as the lecture prints them."""
    table = Table(title="Losses (mean squared error)", title_justify="left")
    for column in ("epoch", "training", "validation"):
        table.add_column(column, justify="right")
    validation = dict(fitted.validation)
    every = 10 if len(fitted.training) > 20 else 1
    last = fitted.training[-1][0]
    for epoch, loss in fitted.training:
        if epoch % every == 0 or epoch == last:
            held_out = f"{validation[epoch]:.4f}" if epoch in validation else ""
            table.add_row(f"\\[{epoch}/{fitted.max_epochs}]", f"{loss:.4f}", held_out)
    return table
