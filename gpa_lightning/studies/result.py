"""The result of a study, and the files that it is saved as."""

from __future__ import annotations

import os
import platform
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from gpa_lightning import __version__
from gpa_lightning.data.table import Provenance
from gpa_lightning.resuming.whole_file import OutputError, whole_file
from gpa_lightning.studies.hardware import graphics_processor, processor, versions
from gpa_lightning.studies.settings import Settings

TINY = "QUICK VERSION: too small to judge anything by, made only to see that all works"
PACKAGES = ("torch", "lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Claim:
    """Claim of the lecture, and whether it holds here.

    Args:
        text: Words of the claim.
        numbers: Measured numbers that decide, and the condition on them.
        holds: Whether the condition is met; None if the runs are too short to tell.
    """

    text: str
    numbers: str
    holds: bool | None


@dataclass(frozen=True)
class Result:
    """Result of a study.

    Args:
        name: Name of the study.
        title: Title of the report.
        lecture: Words of the slide that it reproduces.
        method: Description of what was done, in a few sentences.
        table: Table of every measured number, a row per run or per evaluation.
        summary: Table of the few rows to look at, with the lecture's numbers where it has some.
        figure: Figure of the report.
        alt: Description of the figure for those who cannot see it.
        claims: Claims of the lecture, compared with the numbers.
        uses_data: Whether the study uses the GPA table.
        flags: Flags of the command line that are this study's own, for the report.
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
    flags: str = ""

    def verdicts(self, settings: Settings) -> list[tuple[str, Claim]]:
        """Return each claim after its verdict, which a small version does not give."""
        verdicts = {True: "holds", False: "does not hold", None: "not judged (too short)"}
        if settings.size != "full":
            verdicts = dict.fromkeys(verdicts, "not judged (quick)")
        return [(verdicts[claim.holds], claim) for claim in self.claims]

    def mark(self, settings: Settings) -> str:
        """Return a warning that a small version is not a result; empty for the full one."""
        if settings.size == "quick":
            count = min(settings.max_rows or 0, settings.provenance.rows) if self.uses_data else 0
            rows = f", {count:,} rows" if count else ""
            return f"quick look: one seed{rows}; not a result"
        return TINY if settings.size == "tiny" else ""

    def _repr_html_(self) -> str:
        """Show figure and table in a notebook, and the numbers of each claim."""
        claims = (f"<li>{escape(each.text)}<br>{escape(each.numbers)}</li>" for each in self.claims)
        table = self.summary.map(_cell).to_html(index=False)
        return (
            f"<h3>{escape(self.title)}</h3><p>{escape(self.method)}</p>"
            f"{_image(self.figure, self.alt)}<ul>{''.join(claims)}</ul>{table}"
        )

    def save(self, settings: Settings) -> Path:
        """Write the figure, the table and the report, all of them or none.

        Returns:
            The folder, with the files that `save` writes.
        """
        folder = settings.output / self.name
        if mark := self.mark(settings):
            self.figure.suptitle(mark, fontsize="medium", color="tab:red", wrap=True)
        save(folder, self.figure, self.table, self.report(settings))
        return folder

    def report(self, settings: Settings) -> str:
        """Return the report, as Markdown."""
        parts = [f"# {self.title}"]
        if mark := self.mark(settings):
            parts.append(f"**{mark}.**")
        parts += [f"> {self.lecture}", self.method, f"![{self.alt}](figure.png)", "## Claims"]
        parts += [
            f"- **{verdict}**: {claim.text}  \n  {claim.numbers}"
            for verdict, claim in self.verdicts(settings)
        ]
        parts += [
            "## Numbers",
            markdown_table(self.summary),
            "Every number: [results.csv](results.csv)",
        ]
        parts += ["## Made with", "\n".join(f"- {line}" for line in self._made_with(settings))]
        return "\n\n".join(parts) + "\n"

    def _made_with(self, settings: Settings) -> Iterator[str]:
        """Yield lines on data, seeds, command, versions and hardware."""
        if self.uses_data:
            yield f"data: {describe_table(settings.provenance)}"
        yield f"seeds: {', '.join(map(str, settings.repetitions))}"
        small = "" if settings.size == "full" else f" --{settings.size}"
        yield f"command: scripts/study.py {self.name}{self.flags}{small}"
        yield from versions_and_hardware(settings)


def save(folder: Path, figure: Figure, table: pd.DataFrame, report: str) -> None:
    """Write a figure, a table and a report in Markdown into a folder, all of them or none.

    The files are ``figure.png``, ``figure.svg``, ``results.csv``, ``report.md``, and an event file
    with the figure for TensorBoard.

    Raises:
        OutputError: If they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    with ExitStack() as files:

        def new(name: str) -> Path:
            return files.enter_context(whole_file(folder / name, overwrite=True))

        figure.savefig(new("figure.png"), dpi=200)
        with rc_context({"svg.hashsalt": folder.name}):  # the same figure, the same file
            figure.savefig(new("figure.svg"), metadata={"Date": None})
        table.to_csv(new("results.csv"), index=False)
        new("report.md").write_text(report, encoding="utf-8")
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        writer.add_image(folder.name, imread(folder / "figure.png"), dataformats="HWC")


def _image(figure: Figure, alt: str) -> str:
    """Return a figure as an element of HTML that has it within."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    data = b64encode(picture.getvalue()).decode()
    return f'<img alt="{escape(alt)}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def describe_table(table: Provenance) -> str:
    """Describe a table, without the folders of this machine."""
    kind = "SYNTHETIC, no real students" if table.kind == "synthetic" else table.kind
    is_file = table.kind in ("file", "cache")
    where = Path(table.location).name if is_file else table.location
    return f"{kind}: {where}, {table.rows:,} rows, SHA-256 {table.sha256}"


def versions_and_hardware(settings: Settings) -> Iterator[str]:
    """Yield a line on the versions, and one on the hardware."""
    yield f"versions: gpa-lightning {__version__}, {versions(PACKAGES)}"
    gpu = f"; {graphics_processor()}" if settings.device == "gpu" else ""
    yield f"hardware: {processor()}, {os.cpu_count()} cores, {platform.system()}{gpu}"


def _cell(value: Any) -> str:
    """Write a number with four significant digits, and a missing one as nothing."""
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:#.4g}".rstrip(".") if abs(value) < 1e4 else f"{value:.3e}"
    return value if isinstance(value, str) else str(int(value))


def markdown_table(table: pd.DataFrame) -> str:
    """Write a table as Markdown."""
    rows = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    cells = [[_cell(value).replace("|", "/") for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
