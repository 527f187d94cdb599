"""The contest: the same training done by each contender, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from statistics import median

from matplotlib.figure import Figure
from rich.console import Console

from gpa_lightning.benchmark.ablations import ABLATIONS
from gpa_lightning.benchmark.contenders import CONTENDERS
from gpa_lightning.benchmark.report import Report, hardware, heading, table
from gpa_lightning.benchmark.rounds import run_rounds
from gpa_lightning.benchmark.task import Measurement, Task

EVERYONE = CONTENDERS | ABLATIONS

Outcomes = Mapping[str, "list[Measurement] | str"]

NOTES = """
- s/epoch: of a round, the median after the first two epochs, validation included; then the median \
and the range of the rounds.
- ÷ lecture's, ours ÷ it: its time over that of the lecture's loop, and this project's over its; \
the median of the ratios within each round.
- first epoch: compilation and start-up are part of it, imports and reading the table are not.
- memory: the peak beyond the imports, the table included; on a GPU, that of the GPU.
- val. MSE: the validation MSE of the last epoch's weights. All but scikit-learn start from the \
same weights; each shuffles in its own way.
- validation: whether the library evaluates the validation set itself or the loop around it does.
- No contender draws a progress bar. This project logs to TensorBoard, saves checkpoints and \
watches for early stopping, as its training script does.
"""


def hold_contest(
    task: Task,
    names: Sequence[str] | None,
    rounds: int,
    data: str,
    console: Console,
    busy: bool = False,
) -> Report:
    """Measure the same task with each contender.

    Args:
        task: Task to do, whatever its contender.
        names: Keys of ``EVERYONE``; one that cannot take part is named as skipped. By default
            all contenders, or those whose full-batch training is of interest.
        rounds: Number of rounds.
        data: Name and size of the table, for the report.
        console: Console to draw the progress bar on.
        busy: Whether a busy program is running beside.

    Returns:
        The contenders' table and bars, the fastest first.
    """
    size = task.data["batch_size"]
    if names is None:
        names = [name for name in CONTENDERS if size != "full" or CONTENDERS[name].full_batch]
    skipped = {name: f"skipped: {why}" for name in names if (why := hindrance(name, task))}
    tasks = {name: replace(task, contender=name) for name in names if name not in skipped}
    outcomes = run_rounds(tasks, rounds, console) | skipped
    title = "full-batch training" if size == "full" else f"mini-batch training, {size} rows a batch"
    if busy:
        title += ", beside a program that keeps one core busy"
    page = f"{heading(title.capitalize(), task, rounds, data)}\n{_table(outcomes)}{NOTES}"
    where = f"{hardware(task.device)}, CPU threads: {task.threads}"
    return Report(page, _chart(outcomes, f"{title}\n{where}"))


def hindrance(name: str, task: Task) -> str | None:
    """Return why a contender cannot take part, or None if it can."""
    contender = EVERYONE[name]
    missing = [package for package in contender.packages if find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if task.device == "cuda" and not contender.gpu:
        return "has no GPU support"
    return None


def _table(outcomes: Outcomes) -> str:
    rows = []
    for name in sorted(outcomes, key=lambda name: _seconds(outcomes[name])):
        outcome, contender = outcomes[name], EVERYONE[name]
        if isinstance(outcome, str):
            rows.append([contender.title, outcome])
            continue
        seconds = [measurement.seconds for measurement in outcome]
        rows.append(
            [
                contender.title,
                f"{median(seconds):.3f}",
                f"{min(seconds):.3f} to {max(seconds):.3f}",
                _ratio(outcome, outcomes.get("lecture", "")),
                _ratio(outcomes.get("this-project", ""), outcome),
                f"{median(m.epoch_seconds[0] for m in outcome):.2f}",
                f"{median(m.device_memory or m.memory for m in outcome) / 1e6:.0f}",
                f"{median(m.val_loss for m in outcome):.4f}",
                "its own" if contender.validates else "by hand",
            ]
        )
    header = ["contender", "s/epoch", "range", "÷ lecture's", "ours ÷ it", "first epoch, s"]
    header += ["memory, MB", "val. MSE", "validation"]
    return table(header, rows)


def _seconds(outcome: list[Measurement] | str) -> float:
    if isinstance(outcome, str):
        return float("inf")
    return median(measurement.seconds for measurement in outcome)


def _ratio(over: list[Measurement] | str, under: list[Measurement] | str) -> str:
    if isinstance(over, str) or isinstance(under, str):
        return ""
    return f"{median(a.seconds / b.seconds for a, b in zip(over, under, strict=True)):.2f}"


def _chart(outcomes: Outcomes, title: str) -> Figure:
    """Draw bars of seconds an epoch; this project's is black, so that no colour is needed."""
    measured = {name: o for name, o in outcomes.items() if not isinstance(o, str)}
    names = sorted(measured, key=lambda name: _seconds(measured[name]))
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="seconds per epoch (line: range of the rounds)")
    for place, name in enumerate(names):
        seconds = [measurement.seconds for measurement in measured[name]]
        middle = median(seconds)
        color = "black" if name == "this-project" else "0.8"
        axes.barh(place, middle, color=color, edgecolor="black")
        axes.plot([min(seconds), max(seconds)], [place, place], color="0.5", marker="|")
        axes.text(max(seconds), place, f"  {middle:.3g}", verticalalignment="center")
    axes.set_yticks(range(len(names)), [EVERYONE[name].title for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    return figure
