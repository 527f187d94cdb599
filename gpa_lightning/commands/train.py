"""``scripts/train.py``: fit, test the best checkpoint, and print a summary."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser

from gpa_lightning.commands.changes import changes
from gpa_lightning.commands.cli import GPALightningCLI
from gpa_lightning.commands.exit_codes import run
from gpa_lightning.commands.fit_report import FitReport
from gpa_lightning.commands.flag_checks import warn
from gpa_lightning.commands.nearest import did_you_mean
from gpa_lightning.commands.outcome import OUTCOME, make_outcome
from gpa_lightning.commands.summary import final_losses, print_summary
from gpa_lightning.resuming.whole_file import whole_file

DESCRIPTION = "Train the network on the GPA data, test the best checkpoint, and print a summary."


class TrainCLI(GPALightningCLI):
    """The command line of ``scripts/train.py``: no subcommand, and a checkpoint to go on from."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--ckpt_path``, which subcommands have from Lightning."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from: a path, or 'last' for the newest last.ckpt.",
        )


def train(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/train.py``: fit, test the best checkpoint, print the summary.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    return run(_train, args)


def _train(args: Sequence[str]) -> None:
    cli = TrainCLI(
        args, run=False, parser_kwargs={"exit_on_error": False, "description": DESCRIPTION}
    )
    fitted = fit_and_test(cli)
    if cli.trainer.is_global_zero:
        losses = final_losses(cli.model, cli.datamodule)
        changed = changes(cli.asked, cli.parser.get_defaults())
        print_summary(fitted, losses, cli.model, cli.datamodule, changed)
        if fitted.log_dir:
            with whole_file(fitted.log_dir / OUTCOME, overwrite=True) as file:
                file.write_text(json.dumps(make_outcome(cli, fitted, losses)))


def fit_and_test(cli: TrainCLI) -> FitReport:
    """Fit, and test the best checkpoint, whose weights the model then has; report the fit."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    started = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=cli.config.ckpt_path, weights_only=True)
    # noted before the test, which puts the callbacks back to where the best checkpoint left them
    fitted = FitReport.of(trainer, time.perf_counter() - started)
    _warn_of_missing_metrics(trainer)
    if swa := next(
        (c for c in _callbacks(trainer) if isinstance(c, StochasticWeightAveraging)), None
    ):
        fitted = _with_averaged_weights(fitted, cli, swa)
    # The checkpoint has averaged weights; this callback loads those that training goes on from.
    callbacks = _callbacks(trainer)
    callbacks[:] = [each for each in callbacks if not isinstance(each, WeightAveraging)]
    if fitted.checkpoint:
        best = fitted.checkpoint
        trainer.test(datamodule=data, verbose=False, ckpt_path=best, weights_only=True)
    else:
        trainer.test(model, datamodule=data, verbose=False)
    return fitted


def _warn_of_missing_metrics(trainer: Trainer) -> None:
    """Warn of callbacks whose metric a validation has not logged, if none has refused it."""
    metrics = trainer.callback_metrics
    if not any(name.startswith("val_") for name in metrics):
        return
    for callback in _callbacks(trainer):
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in metrics:
            meant = did_you_mean(monitor, metrics)
            warn(f"{type(callback).__name__}: no metric {monitor} is logged{meant}")


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _with_averaged_weights(
    fitted: FitReport, cli: TrainCLI, averaging: StochasticWeightAveraging
) -> FitReport:
    """Save and evaluate the averaged weights of the model, which no checkpoint has.

    The best checkpoint is one from before: Lightning averages when the last epoch is over.
    """
    trainer, unlimited = cli.trainer, cli.trainer.max_epochs == -1
    if not averaging.n_averaged or not (unlimited or trainer.current_epoch > averaging.swa_end):
        reason = (
            f"none: from epoch {averaging.swa_start} to epoch {averaging.swa_end} they would have "
            f"been averaged, but the run has ended before; see --early_stopping, --max_epochs and "
            "--trainer.callbacks.swa_epoch_start"
        )
        return replace(fitted, averaged=reason)
    path = Path(fitted.checkpoint).with_name("averaged.ckpt") if fitted.checkpoint else None
    if path:
        trainer.save_checkpoint(path)
    losses = final_losses(cli.model, cli.datamodule) if trainer.is_global_zero else {}
    return replace(fitted, averaged=str(path or "in no checkpoint"), averaged_losses=losses)
