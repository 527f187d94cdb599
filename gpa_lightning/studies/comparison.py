"""Several settings on the same seeds: which is better, by how much, and whether the seeds agree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy import stats
from torch.utils.tensorboard import SummaryWriter

from gpa_lightning.callbacks.loss_curves import readable_range
from gpa_lightning.callbacks.tensorboard import LOSS
from gpa_lightning.data.table import Provenance
from gpa_lightning.studies.drawing import MSE, draw_band, new_axes
from gpa_lightning.studies.result import describe_table, markdown_table, save, versions_and_hardware
from gpa_lightning.studies.runs import Outcome
from gpa_lightning.studies.settings import Settings

METHOD = """\
Losses are {mse}, measured on each set with the weights that were tested; ± is the standard \
deviation over the seeds. The gap is the test loss minus the training loss. The difference is that \
of the test losses, seed by seed on the same test set, with a 95 % interval (Student's t)."""
ALT = "Training and validation loss of each setting against the epoch."
CAPTION = """\
Mean over the seeds as far as all of them trained, with a band from the lowest to the highest. The \
training loss is the average over an epoch in which the weights changed, dropout included."""
CURVES = "curves"
"""Folder of the mean curves for TensorBoard, which shows no more than 40 runs unasked."""
MARKERS = "os^Dv<>pPX*h"
MARKS = 10  # a curve
_TEST_SET = ("sha256", "rows", "target", "test_size", "split_seed")  # what names a run's


@dataclass(frozen=True)
class Comparison:
    """Comparison of several settings.

    Args:
        outcomes: Outcomes of the runs of each setting, by its name; the others are compared with
            the first. `make_outcome` makes them; an ``error`` in one says why there is no more.
        descriptions: Flags of each setting, by its name.
    """

    outcomes: Mapping[str, Sequence[Outcome]]
    descriptions: Mapping[str, str]

    @property
    def runs(self) -> pd.DataFrame:
        """Table of the runs, a row each, without their curves."""
        rows = [
            {"setting": setting, **outcome, **outcome.get("data", {})}
            for setting, outcomes in self.outcomes.items()
            for outcome in outcomes
        ]
        columns = ["setting", "seed", "epochs", "training_loss", "validation_loss", "test_loss"]
        columns += ["seconds", "why_it_stopped", "error", *_TEST_SET]
        return pd.DataFrame(rows).reindex(columns=columns)

    @property
    def table(self) -> pd.DataFrame:
        """Table of the settings as text, a row each, sorted by test loss."""
        runs = self.runs
        by_setting = {name: runs[runs.setting == name] for name in self.outcomes}
        first, *_ = by_setting
        rows = []
        for name, part in by_setting.items():
            difference, words = _difference(part, by_setting[first])
            failed = part.error.dropna()
            if name == first:
                difference, words = "", "compared with"
            if len(failed):
                some = len(failed) < len(part)
                words = (
                    f"{len(failed)} of {len(part)} {failed.iloc[0]}; {words}"
                    if some
                    else failed.iloc[0]
                )
            rows.append(
                {
                    "setting": name,
                    "epochs": _mean(part.epochs, ".1f"),
                    "training loss": _spread(part.training_loss),
                    "validation loss": _spread(part.validation_loss),
                    "test loss": _spread(part.test_loss),
                    "gap": _mean(part.test_loss - part.training_loss, ".4f"),
                    f"difference to {first}": difference,
                    "the seeds": words,
                    "seconds": _mean(part.seconds, ".1f"),
                }
            )
        losses = [part.test_loss.mean() for part in by_setting.values()]
        order = pd.Series(losses, dtype=float).sort_values(na_position="last", kind="stable").index
        return pd.DataFrame(rows).loc[order].reset_index(drop=True)

    @property
    def notes(self) -> list[str]:
        """Notes on settings whose test set guided the training, and on the data."""
        outcomes = [each for part in self.outcomes.values() for each in part]
        guided = [
            name
            for name, part in self.outcomes.items()
            if any(each.get("test_doubles_as_validation") for each in part)
        ]
        notes = []
        if guided:
            notes.append(f"the test set doubles as the validation set: {', '.join(guided)}")
        tables = {each["data"]["sha256"]: each["data"] for each in outcomes if "data" in each}
        return notes + [f"data: {describe_table(Provenance(**each))}" for each in tables.values()]

    def figure(self) -> Figure:
        """Draw training and validation loss against the epoch, a colour and a marker a setting."""
        figure, (both, closer) = new_axes(("training and validation", "validation, closer"))
        figure.set_size_inches(7.6, 3.8 + 0.12 * len(self.outcomes))
        looks: dict[str, dict[str, Any]] = {
            name: {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}
            for number, name in enumerate(self.outcomes)
        }
        curves: list[list[float]] = []
        lowest, last = [], []
        for number, (name, outcomes) in enumerate(self.outcomes.items()):
            training, validation = (
                _shared_epochs(outcomes, which) for which in ("training_curve", "validation_curve")
            )
            for axes, table, line in (
                (both, training, "--"),
                (both, validation, "-"),
                (closer, validation, "-"),
            ):
                every = max(1, table.epoch.nunique() // MARKS)
                marks = {"markevery": (number % every, every), "markersize": 4}
                style = {**looks[name], "linestyle": line}
                draw_band(axes, table, "epoch", "loss", style, middle="mean", **marks)
                curves.append(list(table.groupby("epoch").loss.mean()))
            if len(validation):
                means = validation.groupby("epoch").loss.mean()
                lowest.append(means.min())
                last.append(means.iloc[-1])
        both.set_ylim(*readable_range(*curves))
        if last:
            bottom, top = min(lowest), max(last)
            margin = max(0.3 * (top - bottom), 0.01 * top)
            closer.set_ylim(bottom - margin, top + margin)
        for axes in (both, closer):
            axes.set(xlabel="epoch", ylabel=MSE)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        handles.append(Line2D([], [], color="0.3", linestyle="--", label="training"))
        handles.append(Line2D([], [], color="0.3", linestyle="-", label="validation"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        return figure

    def save(self, settings: Settings, command: str) -> Path:
        """Write figure, table and report into ``settings.output``; the report names the command."""
        parts = ["# Comparison", METHOD.format(mse=MSE), markdown_table(self.table)]
        parts += [f"![{ALT}](figure.png)", CAPTION, "## Settings"]
        parts += ["\n".join(f"- {name}: `{text}`" for name, text in self.descriptions.items())]
        made_with = [*self.notes, f"command: `{command}`", *versions_and_hardware(settings)]
        parts += ["Every run: [results.csv](results.csv)", "## Made with"]
        parts += ["\n".join(f"- {line}" for line in made_with)]
        save(settings.output, self.figure(), self.runs, "\n\n".join(parts) + "\n")
        self._save_curves(settings.output / CURVES)
        return settings.output

    def _save_curves(self, folder: Path) -> None:
        """Write the means over the seeds for TensorBoard, as two runs a setting."""
        shutil.rmtree(folder, ignore_errors=True)
        for name, outcomes in self.outcomes.items():
            for which in ("training", "validation"):
                means = _shared_epochs(outcomes, f"{which}_curve").groupby("epoch").loss.mean()
                if len(means):  # a setting may have failed
                    with SummaryWriter(str(folder / name / which)) as writer:
                        for epoch, loss in means.items():
                            writer.add_scalar(LOSS, loss, int(epoch))


def _shared_epochs(outcomes: Sequence[Outcome], which: str) -> pd.DataFrame:
    """Return the points of a curve up to the epoch that all runs with that curve reached."""
    curves = [outcome[which] for outcome in outcomes if outcome.get(which)]
    points = [point for curve in curves for point in curve]
    table = pd.DataFrame(points, columns=["epoch", "loss"], dtype=float)
    return table[table.groupby("epoch").loss.transform("size") == len(curves)]


def _mean(values: pd.Series[float], form: str) -> str:
    values = values.dropna()
    return f"{values.mean():{form}}" if len(values) else ""


def _spread(values: pd.Series[float]) -> str:
    values = values.dropna()
    return _mean(values, ".4f") + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def _difference(part: pd.DataFrame, first: pd.DataFrame) -> tuple[str, str]:
    """Return the paired difference of the test losses with its interval, and how seeds agree."""
    # outcomes of earlier versions name no target
    tested = [each.fillna({"target": ""}).set_index(["seed", *_TEST_SET]) for each in (part, first)]
    mine, others = (each.test_loss for each in tested)
    difference = (mine - others).dropna()
    seeds = len(difference)
    if not seeds:
        return "", "no test set in common"
    mean = difference.mean()
    lower, higher = int((difference < 0).sum()), int((difference > 0).sum())
    if seeds == 1:
        word = "lower" if lower else "higher" if higher else "the same"
        return f"{mean:+.4f}", f"{word}, with a single seed: no interval"
    half = stats.t.ppf(0.975, seeds - 1) * difference.sem()
    if seeds in (lower, higher):
        words = f"all {seeds} agree: {'lower' if lower else 'higher'}"
    elif lower or higher:
        words = f"they disagree: lower with {lower} of {seeds}"
    else:
        return f"{mean:+.4f}", f"the same with all {seeds}"
    if abs(mean) <= half:
        words += ", may be chance"
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})", words
