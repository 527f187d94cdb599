"""The runs of a study: independent of each other, several at a time, each done once and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from gpa_lightning import GPADataModule, GPARegressor, __version__, default_callbacks
from gpa_lightning.callbacks import HyperparameterTable
from gpa_lightning.callbacks.notebook_progress import NotebookProgress
from gpa_lightning.callbacks.quiet import quiet_lightning
from gpa_lightning.losses import evaluation_mse
from gpa_lightning.resuming.whole_file import OutputError, whole_file
from gpa_lightning.studies.settings import Settings

Outcome: TypeAlias = dict[str, Any]  # what JSON can hold
OUTCOME = "outcome.json"
ATTEMPTS = 3
"""How often a run is tried whose process is killed; Dask's own limit is of this size too."""

_LOCK = threading.Lock()  # of a Dask worker's threads: they share the random state


class WorkerError(RuntimeError):
    """Lack of a process for the runs, or one that is killed repeatedly: one line, what to do."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Args:
        name: Name of its folder, which is a run of TensorBoard's.
        function: Function called with the settings, the folder and ``arguments``, perhaps in
            another process, after PyTorch was seeded with the argument ``seed``; returns what
            JSON can hold.
        arguments: Arguments of the function, as JSON can hold them: all that the outcome depends
            on besides the data and the device.
    """

    name: str
    function: Callable[..., Outcome]
    arguments: Mapping[str, Any]

    def key(self, settings: Settings) -> str:
        """Return a hash of all that the outcome depends on, 16 hexadecimal digits."""
        facts = {
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "arguments": self.arguments,
            "test_size": settings.data.get("test_size"),
            "data": settings.provenance.sha256,
            "device": settings.device,
            "version": __version__,
        }
        if settings.max_rows is not None:
            facts["max_rows"] = settings.max_rows
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def perform(study: str, runs: Sequence[Run], settings: Settings) -> list[Outcome]:
    """Do a study's runs, but those that an earlier call has finished, and show a progress bar.

    Each run leaves ``<output>/<study>/runs/<name>-<key>/outcome.json``, written when the run is
    complete, so a study that was stopped goes on where it was. Runs that another study has done
    are copied from there.

    Args:
        study: Name of the study.
        runs: Runs to do. One whose process is killed is tried again.
        settings: Settings of the study; ``n_jobs`` runs at a time share the cores.

    Returns:
        The outcomes, in the order of ``runs``.

    Raises:
        OutputError: If an outcome cannot be written.
        WorkerError: If no process can be had for the runs, or each that is tried dies.
    """
    output = settings.output.absolute()  # a worker may have another working directory
    outcomes: dict[int, Outcome] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    with _configure_joblib(settings) as threads, NotebookProgress(*columns, remaining) as progress:
        bar = progress.add_task(study, total=len(runs))
        for _ in range(ATTEMPTS):
            calls = (
                delayed(_perform_one)(i, output / study, run, settings, threads)
                for i, run in enumerate(runs)
                if i not in outcomes
            )
            try:
                for i, outcome in Parallel(settings.n_jobs, return_as="generator_unordered")(calls):
                    outcomes[i] = outcome
                    progress.update(bar, advance=1, refresh=True)
                return [outcomes[i] for i in range(len(runs))]
            except TerminatedWorkerError as error:
                killed = error
    raise WorkerError(
        f"{study}: a process that trains was killed {ATTEMPTS} times, perhaps for want of memory; "
        f"--n_jobs below {settings.n_jobs} needs less"
    ) from killed


@contextmanager
def _configure_joblib(settings: Settings) -> Iterator[int]:
    """Configure joblib for processes or a cluster, and yield the number of threads of a run."""
    if settings.dask is None:
        yield max(1, torch.get_num_threads() // effective_n_jobs(settings.n_jobs))
        return
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise WorkerError(
            "--dask needs Dask, which is not installed: pip install dask distributed"
        ) from error
    where = f"--dask {settings.dask}"
    try:
        client = Client(settings.dask, timeout=5)
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{where}: no scheduler answers there; give the address that `dask scheduler` prints"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=10)
        except TimeoutError as error:
            raise WorkerError(
                f"{where}: there is no worker; start some by `dask worker`"
            ) from error
        try:  # joblib would wait for ever for a scheduler that cannot read what it is sent
            client.submit(_version, pure=False).result()
            versions = set(client.run(_version).values())
        except (ModuleNotFoundError, AttributeError, RuntimeError) as error:
            raise WorkerError(
                f"{where}: scheduler or workers lack gpa-lightning {__version__}: install "
                "it there, or start them with its folder in PYTHONPATH"
            ) from error
        if versions != {__version__}:
            raise WorkerError(
                f"{where}: the workers have gpa-lightning {', '.join(versions)}, not {__version__}"
            )
        try:
            with parallel_config("dask", client=client):
                yield 1  # to Dask, each thread of a worker is a core
        except KilledWorker as error:
            raise WorkerError(
                f"{where}: a run was given up, since each worker that took it was lost, perhaps "
                "for want of memory"
            ) from error


def tabulate(runs: Sequence[Run], outcomes: Sequence[Outcome], *arguments: str) -> pd.DataFrame:
    """Tabulate outcomes, a row a run, with some of the runs' arguments in front."""
    return pd.DataFrame(
        [
            {name: run.arguments[name] for name in arguments} | outcome
            for run, outcome in zip(runs, outcomes, strict=True)
        ]
    )


def _version() -> str:
    return __version__


def _perform_one(
    number: int, study: Path, run: Run, settings: Settings, threads: int
) -> tuple[int, Outcome]:
    with _LOCK:
        torch.set_num_threads(threads)
        return number, _load_or_run(study, run, settings)


def _load_or_run(study: Path, run: Run, settings: Settings) -> Outcome:
    """Load the outcome of a finished run, of this study or another; else run it now."""
    name = f"{run.name}-{run.key(settings)}"
    folder = study / "runs" / name
    try:
        if not (folder / OUTCOME).exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was stopped has left
            for finished in study.parent.glob(f"*/runs/*-{run.key(settings)}/{OUTCOME}"):
                shutil.copytree(finished.parent, folder)
                break
            else:
                folder.mkdir(parents=True)
                with whole_file(folder / OUTCOME) as file, _seeded(run.arguments["seed"]):
                    outcome = run.function(settings, folder, **run.arguments)
                    file.write_text(json.dumps(outcome))
        loaded: Outcome = json.loads((folder / OUTCOME).read_text())
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    return loaded


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch for one run, quietly, and restore its random state afterwards."""
    try:
        with quiet_lightning(), torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    except SystemExit as stopped:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from stopped


def fit(
    settings: Settings,
    folder: Path,
    data: LightningDataModule,
    model: GPARegressor,
    *callbacks: Callback,
    **flags: Any,
) -> Trainer:
    """Train as any user does, logging to TensorBoard.

    Args:
        settings: Settings of the study.
        folder: Folder of the run.
        data: Data module, set up.
        model: Model to train.
        callbacks: Callbacks besides the table of hyperparameters.
        flags: Arguments of the Trainer that differ from those here.
    """
    logger = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
    defaults = {
        "accelerator": settings.device,
        "devices": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    callbacks = (*default_callbacks(), HyperparameterTable(), *callbacks)
    trainer = Trainer(logger=logger, callbacks=[*callbacks], **{**defaults, **flags})
    trainer.fit(model, datamodule=data)
    return trainer


def fit_for_steps(
    settings: Settings, folder: Path, data: GPADataModule, model: GPARegressor, steps: int
) -> Outcome:
    """Train for a number of optimiser steps without validation, and measure both losses at the end.

    Returns:
        ``train_loss``, in evaluation mode, and ``test_loss``.
    """
    flags = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0}
    trainer = fit(settings, folder, data, model, **flags)
    x, y = data.dataset("training").tensors
    return {
        "train_loss": evaluation_mse(model, x, y),
        "test_loss": trainer.test(model, data, verbose=False)[0]["test_loss"],
    }
