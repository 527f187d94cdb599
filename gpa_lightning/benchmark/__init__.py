"""The benchmark: how fast this project trains, beside what a user would pick instead of it.

    pip install -r requirements-benchmark.txt
    python scripts/benchmark.py                     # mini-batch training, every contender
    python scripts/benchmark.py --mode full-batch
    python scripts/benchmark.py --mode load         # mini-batch training beside a busy program
    python scripts/benchmark.py --mode speed-ups    # this project without each of its speed-ups
    python scripts/benchmark.py --mode scaling      # how cost grows with rows and batch size

Each *contender* does the same *task* in a process of its own, where a *meter* notes the time of
each epoch and the peak of the memory. *Rounds* repeat that, and a *report* compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.markdown import Markdown

from gpa_lightning.benchmark.ablations import ABLATIONS, VARIANTS
from gpa_lightning.benchmark.contenders import CONTENDERS
from gpa_lightning.benchmark.contest import hold_contest
from gpa_lightning.benchmark.neighbour import busy_neighbour
from gpa_lightning.benchmark.scaling import BATCH_SIZES, ROWS, measure_scaling
from gpa_lightning.benchmark.task import Task
from gpa_lightning.data.datamodule import GPADataModule
from gpa_lightning.data.table import DataError

# of each mode, how many (epochs, rounds) show its cost in reasonable time
MODES = {
    "mini-batch": (10, 5),
    "full-batch": (20, 5),
    "load": (6, 5),
    "speed-ups": (10, 5),
    "scaling": (3, 1),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/benchmark.py``.

    Args:
        args: Command line without the program's name; by default that of the process.

    Returns:
        The exit code: 0. A mistake that the user can mend exits with 2.
    """
    parser = _parser()
    config = parser.parse_args(args)
    if config.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU")
    epochs, rounds = MODES[config.mode]
    epochs, rounds = config.epochs or epochs, config.rounds or rounds
    data = config.data.as_dict() | {"seed": config.data.seed or 0}
    if config.mode == "full-batch":
        data["batch_size"] = "full"
    console = Console()
    with TemporaryDirectory() as folder:
        task = Task("this-project", epochs, config.device, config.threads, data, folder)
        if config.mode == "scaling":
            sizes = config.batch_sizes
            report = measure_scaling(task, config.max_rows, sizes, rounds, console)
        else:
            try:
                table, description = _settle_on_table(data)
            except DataError as error:
                parser.error(str(error))
            task = replace(task, data=data | table)
            names = config.contenders
            if config.mode == "speed-ups":
                mini_batch = (name for name in ABLATIONS if not ABLATIONS[name].full_batch)
                names = names or ["this-project", *mini_batch]
            busy = config.mode == "load"
            with busy_neighbour() if busy else nullcontext():
                report = hold_contest(task, names, rounds, description, console, busy)
    output = Path(config.output or f"lightning_logs/benchmark-{config.mode}")
    report.save(output)
    console.print(Markdown(report.page))
    console.print(f"saved in {output}")
    return 0


def _settle_on_table(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return data arguments after ``auto`` has chosen, so that all get one table, and its name."""
    module = GPADataModule(**data)
    module.setup()
    found = module.provenance
    name = Path(found.location).name if found.kind == "file" else found.location
    split = ", ".join(f"{rows:,} {part}" for part, rows in module.rows.items())
    description = f"{name}, SHA-256 {found.sha256}; {found.rows:,} rows: {split}"
    return found.arguments, description


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="benchmark.py", description="Measure how fast this project and its peers train."
    )
    add = parser.add_argument
    add("--mode", choices=list(MODES), default="mini-batch", help="What to compare.")
    add(
        "--contenders",
        nargs="+",
        choices=[*CONTENDERS, *VARIANTS, *ABLATIONS],
        help="Who takes part; by default all that the mode has. Scaling has this project alone.",
    )
    for flag, place in (("--epochs", 0), ("--rounds", 1)):
        default = ", ".join(f"{numbers[place]} {mode}" for mode, numbers in MODES.items())
        add(flag, type=PositiveInt, help=f"How many; by default {default}.")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="Where to train.")
    cores = torch.get_num_threads()
    add("--threads", type=PositiveInt, default=cores, help="By default one for each core.")
    add("--output", help="Folder of the report; by default one in lightning_logs for each mode.")
    add("--max_rows", type=PositiveInt, default=ROWS[-1], help="Scaling: the largest table.")
    add(
        "--batch_sizes",
        nargs="+",
        type=PositiveInt | Literal["full"],
        default=list(BATCH_SIZES),
        help="Scaling: rows a batch.",
    )
    parser.add_class_arguments(GPADataModule, "data", skip={"num_workers"})
    return parser
