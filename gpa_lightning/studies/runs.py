"""A study's runs: independent of each other, several at a time, each done once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from joblib import Parallel, delayed, effective_n_jobs
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import HyperparameterTable
from gpa_lightning.checkpoint import VERSION
from gpa_lightning.losses import evaluation_mse
from gpa_lightning.output import OutputError, whole_file
from gpa_lightning.studies.settings import Settings

Outcome: TypeAlias = dict[str, Any]  # what JSON can hold
OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Args:
        name: Of its folder, which is a run of TensorBoard's.
        function: Does it. Called with the settings, the folder and ``arguments``, in a process
            that may be another; returns what JSON can hold.
        arguments: What the outcome depends on, besides the data and the device. JSON too.
    """

    name: str
    function: Callable[..., Outcome]
    arguments: Mapping[str, Any]

    def key(self, settings: Settings) -> str:
        """Name what the outcome depends on, in 16 hexadecimal digits."""
        facts = {
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "arguments": self.arguments,
            "test_size": settings.data.get("test_size"),
            "data": settings.provenance.sha256,
            "device": settings.device,
            "version": VERSION,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def perform(study: str, runs: Sequence[Run], settings: Settings) -> list[Outcome]:
    """Do a study's runs, but those that an earlier call has finished, and show a progress bar.

    Each run leaves ``<output>/<study>/runs/<name>-<key>/outcome.json``, written when the run is
    complete, so a study that was stopped goes on where it was. Runs that another study has done
    are copied from there.

    Args:
        study: The study's name.
        runs: What to do.
        settings: With ``n_jobs`` above 1, that many runs go on at a time and share the cores.

    Returns:
        The outcomes, in the order of ``runs``.

    Raises:
        OutputError: If an outcome cannot be written.
    """
    jobs = effective_n_jobs(settings.n_jobs)
    threads = max(1, torch.get_num_threads() // jobs)
    calls = (delayed(_numbered)(i, study, run, settings, threads) for i, run in enumerate(runs))
    outcomes: dict[int, Outcome] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task(study, total=len(runs))
        for number, outcome in Parallel(jobs, return_as="generator_unordered")(calls):
            outcomes[number] = outcome
            progress.advance(bar)
    return [outcomes[number] for number in range(len(runs))]


def _numbered(
    number: int, study: str, run: Run, settings: Settings, threads: int
) -> tuple[int, Outcome]:
    torch.set_num_threads(threads)
    return number, _outcome(study, run, settings)


def _outcome(study: str, run: Run, settings: Settings) -> Outcome:
    """Return a run's outcome: its own, one copied from another study, or one that is made now."""
    name = f"{run.name}-{run.key(settings)}"
    folder = settings.output / study / "runs" / name
    try:
        if not (folder / OUTCOME).exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was stopped has left
            for finished in settings.output.glob(f"*/runs/*-{run.key(settings)}/{OUTCOME}"):
                shutil.copytree(finished.parent, folder)
                break
            else:
                folder.mkdir(parents=True)
                with whole_file(folder / OUTCOME) as file, _apart():
                    outcome = run.function(settings, folder, **run.arguments)
                    file.write_text(json.dumps(outcome))
        loaded: Outcome = json.loads((folder / OUTCOME).read_text())
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    return loaded


@contextmanager
def _apart() -> Iterator[None]:
    """Keep a run's randomness to itself, and Lightning's advice out of the output."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            yield
    except SystemExit as stopped:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from stopped
    finally:
        log.setLevel(level)


def fit(
    settings: Settings,
    folder: Path,
    data: LightningDataModule,
    model: Callable[[], GPARegressor],
    *callbacks: Callback,
    seed: int,
    **flags: Any,
) -> tuple[GPARegressor, Trainer]:
    """Train as any user does, logging to TensorBoard.

    Args:
        settings: Those of the study.
        folder: Of the run.
        data: Its data.
        model: Builds its model, after the seed has been set.
        callbacks: Lightning's or this project's.
        seed: Of the weights, and of dropout.
        flags: The Trainer's.

    Returns:
        The model and the Trainer that trained it.
    """
    torch.manual_seed(seed)
    regressor = model()
    logger = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
    trainer = Trainer(
        **{
            "accelerator": settings.device,
            "devices": 1,
            "logger": logger,
            "callbacks": [HyperparameterTable(), *callbacks],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **flags,
        }
    )
    trainer.fit(regressor, datamodule=data)
    return regressor, trainer


def fit_for_steps(
    settings: Settings,
    folder: Path,
    data: GPADataModule,
    model: Callable[[], GPARegressor],
    seed: int,
    steps: int,
) -> Outcome:
    """Train for a number of optimiser steps without validation, and measure both losses at the end.

    Args:
        settings: Those of the study.
        folder: Of the run.
        data: Its data.
        model: Builds its model, after the seed has been set.
        seed: Of the weights, and of dropout.
        steps: Optimiser steps.

    Returns:
        ``train_loss``, in evaluation mode, and ``test_loss``.
    """
    flags = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0}
    regressor, trainer = fit(settings, folder, data, model, seed=seed, **flags)
    x, y = data.dataset("training").tensors
    return {
        "train_loss": evaluation_mse(regressor.network, x, y),
        "test_loss": trainer.test(regressor, data, verbose=False)[0]["test_loss"],
    }
