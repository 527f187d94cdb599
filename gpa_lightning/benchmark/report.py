"""What a benchmark leaves behind: a page of Markdown and a chart, each readable on its own."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from gpa_lightning.benchmark.task import Task
from gpa_lightning.resuming.whole_file import whole_file
from gpa_lightning.studies.hardware import graphics_processor, processor, versions

PACKAGES = ("torch", "lightning", "numpy", "scikit-learn", "skorch", "keras", "jax", "optax")


@dataclass(frozen=True)
class Report:
    """A page of Markdown and a chart."""

    page: str
    chart: Figure

    def save(self, folder: Path) -> None:
        """Write ``benchmark.md`` and ``benchmark.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "benchmark.md", overwrite=True) as page:
            page.write_text(self.page, encoding="utf-8")
        with whole_file(folder / "benchmark.png", overwrite=True) as chart:
            self.chart.savefig(chart, dpi=120)


def hardware(device: str) -> str:
    """Return the name of what computes."""
    return graphics_processor() if device == "cuda" else processor()


def heading(
    title: str, task: Task, rounds: int, data: str, more: Mapping[str, str] | None = None
) -> str:
    """Say on what was measured: hardware, threads, versions, data and settings.

    Args:
        title: Title of the page.
        task: A task of those measured.
        rounds: Number of rounds.
        data: Name and size of the table.
        more: What else is to be said, by name; nothing where it is empty.

    Returns:
        Markdown: the title and a list.
    """
    lines = {
        "hardware": f"{hardware(task.device)}, {platform.system()}; CPU threads: {task.threads}",
        "versions": versions(PACKAGES),
        "data": data,
        "training": f"float32, seed {task.seed}; epochs: {task.epochs}, rounds: {rounds}",
        **(more or {}),
    }
    return f"# {title}\n\n" + "".join(f"- {name}: {text}\n" for name, text in lines.items() if text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table; rows that are too short are filled up with blanks."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    lines += [[*row, *[""] * (len(header) - len(row))] for row in rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
