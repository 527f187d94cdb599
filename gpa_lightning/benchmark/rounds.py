"""Tasks measured one after the other, each in a process of its own, round after round.

A machine's speed drifts; interleaved rounds let every task have its share of each mood, and what
is compared is compared within a round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gpa_lightning.benchmark.task import Measurement, Task


class TaskError(RuntimeError):
    """A process failed; one line with the reason."""


def run_rounds(
    tasks: Mapping[str, Task], rounds: int, console: Console
) -> dict[str, list[Measurement] | str]:
    """Measure each task once a round, behind a progress bar.

    Args:
        tasks: Tasks by name, in the order of measuring.
        rounds: Number of rounds.
        console: Console to draw the bar on.

    Returns:
        By name, a measurement per round, or why there is none.
    """
    outcomes: dict[str, list[Measurement] | str] = {name: [] for name in tasks}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=rounds * len(tasks))
        for number in range(1, rounds + 1):
            for name, task in tasks.items():
                progress.update(bar, description=f"round {number} of {rounds}: {name}")
                measurements = outcomes[name]
                if not isinstance(measurements, str):
                    try:
                        measurements.append(measure(task))
                    except TaskError as error:
                        outcomes[name] = f"failed: {error}"
                progress.advance(bar)
        progress.update(bar, description="done")
    return outcomes


def measure(task: Task) -> Measurement:
    """Do a task in a new process.

    Raises:
        TaskError: If the process fails.
    """
    arguments = ["-m", "gpa_lightning.benchmark.process", json.dumps(asdict(task))]
    process = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, *arguments],
        env=os.environ | _environment(task),
        capture_output=True,
        text=True,
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise TaskError(lines[-1])
    return Measurement(**json.loads(process.stdout.splitlines()[-1]))


def _environment(task: Task) -> dict[str, str]:
    """Give every library the task's threads and device, and float32 without TF32."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")  # XLA: NPROC
    project = str(Path(__file__).parents[2])  # works without installing
    return dict.fromkeys(names, str(task.threads)) | {
        "PYTHONPATH": os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")])),
        "KERAS_BACKEND": "jax",
        "KERAS_HOME": task.folder,
        "JAX_PLATFORMS": task.device,
        "JAX_TRACEBACK_FILTERING": "off",  # an error's own line is to be the last
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
