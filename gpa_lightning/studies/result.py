"""What a study comes to, and the files that it leaves behind."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from gpa_lightning.hardware import graphics_processor, processor
from gpa_lightning.resuming.checkpoint import VERSION
from gpa_lightning.resuming.whole_file import OutputError, whole_file
from gpa_lightning.studies.settings import Settings

QUICK = "QUICK VERSION: too small to judge anything by, made only to see that all works"
PACKAGES = ("torch", "lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Claim:
    """Something that the lecture says, and whether it is so here.

    Args:
        text: The claim.
        numbers: What was measured, in words.
        holds: Whether the numbers bear it out.
    """

    text: str
    numbers: str
    holds: bool


@dataclass(frozen=True)
class Result:
    """What a study comes to.

    Args:
        name: The study's name.
        title: A line that says what it shows.
        lecture: The slide that it reproduces, and what that says.
        method: What was done, in a few sentences.
        table: Every measured number, a row per run or per evaluation.
        summary: The few rows to look at, with the lecture's numbers where it has some.
        figure: The picture.
        alt: What the picture shows, for those who cannot see it.
        claims: What the lecture says, against the numbers.
        uses_data: Whether the study looks at the GPA table.
    """

    name: str
    title: str
    lecture: str
    method: str
    table: pd.DataFrame
    summary: pd.DataFrame
    figure: Figure
    alt: str
    claims: Sequence[Claim]
    uses_data: bool = True

    def verdicts(self, settings: Settings) -> list[tuple[str, Claim]]:
        """Put each claim's verdict before it; a quick version has none to give."""
        return [
            ("not judged (quick)" if settings.quick else _VERDICTS[claim.holds], claim)
            for claim in self.claims
        ]

    def save(self, settings: Settings) -> Path:
        """Write the figure, the table and the report, all of them or none.

        Args:
            settings: Those that the study was run with.

        Returns:
            The folder: ``figure.png``, ``figure.svg``, ``results.csv``, ``report.md``, and an
            event file with the figure for TensorBoard.

        Raises:
            OutputError: If they cannot be written.
        """
        folder = settings.output / self.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: {error.strerror or error}") from error
        if settings.quick:
            self.figure.suptitle(QUICK, fontsize="small")
        with ExitStack() as files:

            def new(name: str) -> Path:
                return files.enter_context(whole_file(folder / name, overwrite=True))

            self.figure.savefig(new("figure.png"), dpi=150)
            with rc_context({"svg.hashsalt": self.name}):  # the same figure, the same file
                self.figure.savefig(new("figure.svg"), metadata={"Date": None})
            self.table.to_csv(new("results.csv"), index=False)
            new("report.md").write_text(self.report(settings), encoding="utf-8")
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            writer.add_image(self.name, imread(folder / "figure.png"), dataformats="HWC")
        return folder

    def report(self, settings: Settings) -> str:
        """Return the report, as Markdown."""
        parts = [f"# {self.title}"]
        if settings.quick:
            parts.append(f"**{QUICK}.**")
        parts += [f"> {self.lecture}", self.method, f"![{self.alt}](figure.png)"]
        parts.append("## Claims")
        parts += [
            f"- **{verdict}**: {claim.text}  \n  {claim.numbers}"
            for verdict, claim in self.verdicts(settings)
        ]
        parts += ["## Numbers", _markdown(self.summary), "Every number: [results.csv](results.csv)"]
        parts.append("## Made with")
        parts.append("\n".join(f"- {k}: {v}" for k, v in circumstances(settings, self).items()))
        return "\n\n".join(parts) + "\n"


_VERDICTS = {True: "holds", False: "does not hold"}


def circumstances(settings: Settings, result: Result) -> dict[str, str]:
    """Say what a result comes from: data, seeds, versions, hardware.

    Args:
        settings: Those of the study.
        result: Its result.
    """
    lines = {}
    if result.uses_data:
        table = settings.provenance
        kind = "SYNTHETIC, no real students" if table.kind == "synthetic" else table.kind
        where = Path(table.location).name if table.kind in ("file", "cache") else table.location
        lines["data"] = f"{kind}: {where}, {table.rows:,} rows, SHA-256 {table.sha256}"
    lines["seeds"] = ", ".join(map(str, settings.repetitions))
    lines["command"] = f"scripts/study.py {result.name}{' --quick' if settings.quick else ''}"
    packages = [f"{package} {version(package)}" for package in PACKAGES]
    python = f"Python {platform.python_version()}"
    lines["versions"] = ", ".join([f"gpa-lightning {VERSION}", python, *packages])
    lines["hardware"] = f"{processor()}, {os.cpu_count()} cores, {platform.system()}"
    if settings.device == "gpu":
        lines["hardware"] += f"; {graphics_processor()}"
    return lines


def cell(value: Any) -> str:
    """Write a number as a report does: four digits that count; nothing where there is none."""
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:#.4g}".rstrip(".") if abs(value) < 1e4 else f"{value:.3e}"
    return value if isinstance(value, str) else json.dumps(int(value))


def _markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    cells = [[cell(value).replace("|", "/") for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
