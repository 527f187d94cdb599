"""How this project's cost grows with the number of rows and with the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console

from gpa_lightning.benchmark.report import Report, hardware, heading, table
from gpa_lightning.benchmark.rounds import run_rounds
from gpa_lightning.benchmark.task import Measurement, Task
from gpa_lightning.data.twin import synthetic_twin

ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096, "full")
REFERENCE_ROWS = 100_000  # above this, what an epoch costs besides its rows is small
COLUMN_BYTES = 80  # of a row: ten columns of float64
COSTS = ("s/epoch", "µs a row", "memory, MB")

NOTES = f"""
- Rows are the table's: trained on, validated and held out for the test; seconds include validation.
- memory: the process's peak beyond its imports, the table included.
- bytes a row: what each row that the table before lacks adds to the memory, beyond the \
{COLUMN_BYTES} bytes of its own ten columns; blank where the constant part of the memory prevails.
- The last column is the ratio of the microseconds a row.
"""


class Point(NamedTuple):
    """Rows of the table and rows a batch."""

    rows: int
    batch_size: int | str

    def __str__(self) -> str:
        return f"{self.rows:,} rows, batch size {self.batch_size}"


class Cost(NamedTuple):
    """Median seconds of an epoch, and median bytes of memory, of a point's rounds."""

    seconds: float
    memory: float


def measure_scaling(
    task: Task, max_rows: int, batch_sizes: Sequence[int | str], rounds: int, console: Console
) -> Report:
    """Measure tables of growing size at one batch size, and growing batches on one table.

    Args:
        task: Task to do; synthetic twins take the place of its table.
        max_rows: Number of rows of the largest table.
        batch_sizes: Numbers of rows a batch, or ``full``.
        rounds: Number of rounds.
        console: Console to draw the progress bar on.

    Returns:
        Two tables and their curves.
    """
    sizes = [rows for rows in ROWS if rows < max_rows] + [max_rows]
    reference = max(rows for rows in sizes if rows <= REFERENCE_ROWS)
    by_rows = [Point(rows, task.data["batch_size"]) for rows in sizes]
    by_batch_size = [Point(reference, size) for size in batch_sizes]
    tasks = {str(point): _task(task, point) for point in by_rows + by_batch_size}
    for size in sizes:
        with console.status(f"drawing a table of {size:,} rows"):
            synthetic_twin(size).to_parquet(_path(task, size), index=False)
    outcomes = run_rounds(tasks, rounds, console)
    costs = {name: _cost(outcome) for name, outcome in outcomes.items()}
    page = "\n".join(
        [
            heading("How cost grows", task, rounds, "synthetic twins, seed 0"),
            _rows_table(by_rows, costs, Point(reference, task.data["batch_size"])),
            table(
                [f"batch size ({reference:,} rows)", *COSTS],
                [_cells(str(point.batch_size), point, costs) for point in by_batch_size],
            ),
        ]
    )
    return Report(page + NOTES, _chart(by_rows, by_batch_size, costs, hardware(task.device)))


def _path(task: Task, rows: int) -> str:
    return str(Path(task.folder) / f"{rows}.parquet")


def _task(task: Task, point: Point) -> Task:
    table = {"source": "file", "path": _path(task, point.rows), "batch_size": point.batch_size}
    return replace(task, data=task.data | table)


def _cost(outcome: list[Measurement] | str) -> Cost | str:
    if isinstance(outcome, str):
        return outcome
    return Cost(median(m.seconds for m in outcome), median(m.memory for m in outcome))


def _rows_table(points: Sequence[Point], costs: Mapping[str, Cost | str], reference: Point) -> str:
    """Tabulate cost over the rows of the table."""
    rows = []
    for before, point in zip([points[0], *points], points, strict=False):
        cost, smaller, base = (costs[str(each)] for each in (point, before, reference))
        cells = _cells(f"{point.rows:,}", point, costs)
        if isinstance(cost, Cost):
            relative = growth = ""
            if isinstance(base, Cost):
                relative = f"{cost.seconds / point.rows / (base.seconds / reference.rows):.2f}"
            if isinstance(smaller, Cost) and point.rows > reference.rows:
                more = (cost.memory - smaller.memory) / (point.rows - before.rows)
                growth = f"{round(more) - COLUMN_BYTES}"
            cells += [growth, relative]
        rows.append(cells)
    first = f"rows (batch size {reference.batch_size})"
    return table([first, *COSTS, "bytes a row", f"÷ at {reference.rows:,}"], rows)


def _cells(first: str, point: Point, costs: Mapping[str, Cost | str]) -> list[str]:
    cost = costs[str(point)]
    if isinstance(cost, str):
        return [first, cost]
    micros = cost.seconds / point.rows * 1e6
    return [first, f"{cost.seconds:.3f}", f"{micros:.2f}", f"{cost.memory / 1e6:.0f}"]


def _chart(
    by_rows: Sequence[Point],
    by_batch_size: Sequence[Point],
    costs: Mapping[str, Cost | str],
    title: str,
) -> Figure:
    """Draw time above and memory below, over rows on the left and batch size on the right."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    figure.suptitle(f"how cost grows\n{title}")
    axes = figure.subplots(2, 2, sharex="col")
    for column, points in enumerate((by_rows, by_batch_size)):
        known = [(point, cost) for point in points if isinstance(cost := costs[str(point)], Cost)]
        names = [f"{p.batch_size if column else p.rows}" for p, _ in known]
        axes[0, column].plot(names, [c.seconds / p.rows * 1e6 for p, c in known], "k.-")
        axes[1, column].plot(names, [c.memory / 1e6 for _, c in known], "k.-")
        axes[0, column].set_ylim(bottom=0)
        if known:
            axes[1, column].set_yscale("log")
        axes[1, column].tick_params(axis="x", rotation=45)
    axes[0, 0].set_ylabel("µs a row and epoch")
    axes[1, 0].set_ylabel("peak memory, MB")
    axes[1, 0].set_xlabel(f"rows (batch size {by_rows[0].batch_size})")
    axes[1, 1].set_xlabel(f"batch size ({by_batch_size[0].rows:,} rows)")
    return figure
