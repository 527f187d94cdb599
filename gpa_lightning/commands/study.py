"""``scripts/study.py``: the lecture's studies by name."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape

from gpa_lightning import GPADataModule
from gpa_lightning.callbacks.divergence import DivergenceError
from gpa_lightning.commands.mistakes import parse
from gpa_lightning.commands.refusal import refuse
from gpa_lightning.data.table import DataError
from gpa_lightning.resuming.checkpoint import CheckpointError
from gpa_lightning.resuming.whole_file import OutputError
from gpa_lightning.studies import STUDIES, Result, Settings, polynomial
from gpa_lightning.studies.page import save_page
from gpa_lightning.studies.runs import WorkerError
from gpa_lightning.studies.settings import OUTPUT, Jobs

POLYNOMIALS: Mapping[str, tuple[type, str]] = {
    "degree": (int, f"degree of the polynomial; the lecture's is {polynomial.DEGREE}"),
    "points": (int, f"number of points; the lecture's is {polynomial.POINTS}"),
    "noise": (float, f"their standard deviation from y = x; the lecture's is {polynomial.NOISE:g}"),
}
STOPPED = 130  # the shell's code for a program that Ctrl-C has ended


def main(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/study.py``.

    Returns:
        The exit code: 0, 2 for a mistake that the user can mend, 130 if stopped by Ctrl-C.
    """
    return run_and_keep(lambda: _main(args))


def _main(args: Sequence[str] | None) -> int:
    console = Console(soft_wrap=True, highlight=False)
    config = parse(study_parser(), args)
    settings = Settings(
        config.data.as_dict(),
        config.accelerator,
        [int(seed) for seed in config.seeds],  # plain, as checkpoints will hold them
        Path(config.output),
        "tiny" if config.tiny else "quick" if config.quick else "full",
        config.n_jobs,
        config.dask,
    )
    own = {name: config[name] for name in POLYNOMIALS if config[name] is not None}
    if own and config.name != polynomial.NAME:
        flag = f"--{next(iter(own))}"
        raise ArgumentError(None, f"{flag} belongs to {polynomial.NAME}, not to {config.name}")
    if config.name == "list":
        for name, study in STUDIES.items():
            console.print(f"{name:<18} {_first_line(study.__module__)}")
    elif config.name == "all":
        results = [_study(name, settings, console, {}) for name in STUDIES]
        console.print(f"the whole lecture: {save_page(results, settings)}")
    else:
        _study(config.name, settings, console, own)
    return 0


def run_and_keep(program: Callable[[], int]) -> int:
    """Run a program that can go on from where it was stopped, and return its exit code.

    That is 2 for a mistake that the user can mend, and 130 if Ctrl-C has stopped it.
    """
    try:
        return program()
    except (
        ArgumentError,
        CheckpointError,
        DataError,
        DivergenceError,
        MisconfigurationException,
        OutputError,
        WorkerError,
    ) as error:
        return refuse(error)
    except KeyboardInterrupt:
        Console().print("stopped; the same command goes on from here")
        return STOPPED


def _study(name: str, settings: Settings, console: Console, own: Mapping[str, Any]) -> Result:
    try:
        result = STUDIES[name](settings, **own)
    except ValueError as error:
        if not own or isinstance(error, DataError):
            raise
        raise ArgumentError(None, f"--{error}") from error
    folder = result.save(settings)
    console.print(f"\n[bold]{escape(result.title)}[/]")
    if mark := result.mark(settings):
        console.print(f"[bold red]{escape(mark)}[/]")
    for verdict, claim in result.verdicts(settings):
        console.print(f"[bold]{verdict}[/]: {escape(claim.text)}\n    {escape(claim.numbers)}")
    console.print(f"saved in {folder}\n")
    return result


def _first_line(module: str) -> str:
    return (sys.modules[module].__doc__ or "").splitlines()[0]


def study_parser() -> ArgumentParser:
    """Return the parser of ``scripts/study.py``."""
    parser = ArgumentParser(
        prog="study.py",
        description="Measure what the lecture says about overfitting, and check its claims. "
        "Finished runs are kept: a study that was stopped goes on where it was.",
        exit_on_error=False,
    )
    add = parser.add_argument
    add("name", choices=[*STUDIES, "all", "list"], help="The study; all of them; or their list.")
    parser.add_class_arguments(
        GPADataModule, "data", skip={"batch_size", "val_size", "seed", "num_workers"}
    )
    add(
        "--accelerator",
        type=Literal["auto", "cpu", "gpu"],
        default="auto",
        help="What trains; auto takes a GPU if there is one.",
    )
    add(
        "--seeds",
        nargs="+",
        type=NonNegativeInt,
        default=[0, 1, 2, 3, 4],
        help="One repetition each, of split, initial weights and shuffling.",
    )
    add("--output", default=str(OUTPUT), help="The folder that gets a folder for each study.")
    add(
        "--quick",
        action="store_true",
        help="A look of about a minute at the point: one seed, a sample of the rows, no verdict.",
    )
    add("--tiny", action="store_true", help=SUPPRESS)  # some seconds, for tests
    for name, (kind, text) in POLYNOMIALS.items():
        add(f"--{name}", type=kind | None, default=None, help=f"Of polynomial: {text}.")
    add("--n_jobs", type=Jobs, default=1, help="Runs at a time; -1: one a core.")
    add(
        "--dask",
        metavar="ADDRESS",
        type=str | None,
        default=None,
        help="Address of the scheduler of a Dask cluster, which then does the runs.",
    )
    return parser
