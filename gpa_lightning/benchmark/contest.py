"""The contest: the same training done by each contender, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from statistics import median
from textwrap import fill

from matplotlib.figure import Figure
from rich.console import Console

from gpa_lightning.benchmark.ablations import ABLATIONS, VARIANTS
from gpa_lightning.benchmark.contenders import CONTENDERS, Contender
from gpa_lightning.benchmark.limit import matrix_products
from gpa_lightning.benchmark.report import Report, hardware, heading, table
from gpa_lightning.benchmark.rounds import run_rounds
from gpa_lightning.benchmark.task import Measurement, Task

LIMIT, AGAIN = "limit", "lecture-again"
BESIDES = {
    LIMIT: Contender("its matrix products alone", matrix_products, full_batch=True, gpu=False),
    AGAIN: replace(CONTENDERS["lecture"], title="the lecture's loop, again"),
}
"""What is measured beside the contenders: how fast it could be, and how restless the machine is."""

EVERYONE = CONTENDERS | ABLATIONS | VARIANTS | BESIDES
RESTLESS = 0.1  # of the time of the same training, measured twice in a round

Outcomes = Mapping[str, "list[Measurement] | str"]

NOTES = """
- s/epoch: of a round, the median after the first two epochs, validation included; then the median \
and the range of the rounds.
- ÷ lecture, ours ÷: its time over that of the lecture's loop, and this project's over its; \
limit: the time of its matrix products alone, each by the faster library, over its. Each is the \
median of the ratios within each round.
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
    besides = [AGAIN] if "lecture" in names else []
    if not busy and not hindrance(LIMIT, task):  # which spins away its time beside another program
        besides.append(LIMIT)
    skipped = {name: f"skipped: {why}" for name in names if (why := hindrance(name, task))}
    names = [*names, *besides]
    tasks = {name: replace(task, contender=name) for name in names if name not in skipped}
    outcomes = run_rounds(tasks, rounds, console) | skipped
    title = "full-batch training" if size == "full" else f"mini-batch training, {size} rows a batch"
    if busy:
        title += ", beside a program that keeps one core busy"
    again = outcomes.pop(AGAIN, "")
    noise = _noise(outcomes.get("lecture", ""), again)
    more = {"matrix products": _rates(outcomes.get(LIMIT, "")), "noise": noise}
    head = heading(title.capitalize(), task, rounds, data, more)
    page = f"{head}\n{_speeds(outcomes)}\n{_costs(outcomes)}{NOTES}"
    where = f"{hardware(task.device)}, CPU threads: {task.threads}\n{fill(noise, 60)}"
    return Report(page, _chart(outcomes, f"{title}\n{where}".strip()))


def hindrance(name: str, task: Task) -> str | None:
    """Return why a contender cannot take part, or None if it can."""
    contender = EVERYONE[name]
    missing = [package for package in contender.packages if find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if task.device == "cuda" and not contender.gpu:
        return "has no GPU support"
    return None


def _noise(lecture: list[Measurement] | str, again: list[Measurement] | str) -> str:
    """Say how much the time of the same training differed within a round."""
    if isinstance(lecture, str) or isinstance(again, str):
        return ""
    apart = [abs(b.seconds / a.seconds - 1) for a, b in zip(lecture, again, strict=True)]
    machine = "restless" if median(apart) > RESTLESS else "quiet"
    return (
        f"a {machine} machine: twice the same training differed by {median(apart):.0%} "
        f"(median), {max(apart):.0%} (most)"
    )


def _rates(limit: list[Measurement] | str) -> str:
    """Say how fast each library multiplies matrices of these shapes."""
    if isinstance(limit, str) or not limit:
        return ""
    return ", ".join(
        f"{median(each.rates[library] for each in limit):.0f} GFLOP/s by {library}"
        for library in limit[0].rates
    )


def _speeds(outcomes: Outcomes) -> str:
    rows = []
    for name in _in_order(outcomes):
        outcome = outcomes[name]
        if isinstance(outcome, str):
            rows.append([EVERYONE[name].title, outcome])
            continue
        seconds = [measurement.seconds for measurement in outcome]
        rows.append(
            [
                EVERYONE[name].title,
                f"{median(seconds):.3f}",
                f"{min(seconds):.3f} to {max(seconds):.3f}",
                _ratio(outcome, outcomes.get("lecture", "")),
                _ratio(outcomes.get("this-project", ""), outcome),
                _ratio(outcomes.get(LIMIT, ""), outcome),
            ]
        )
    return table(["contender", "s/epoch", "range", "÷ lecture", "ours ÷", "limit"], rows)


def _costs(outcomes: Outcomes) -> str:
    rows = []
    for name in _in_order(outcomes):
        outcome, contender = outcomes[name], EVERYONE[name]
        if not isinstance(outcome, str) and name not in BESIDES:
            rows.append(
                [
                    contender.title,
                    f"{median(m.epoch_seconds[0] for m in outcome):.2f}",
                    f"{median(m.device_memory or m.memory for m in outcome) / 1e6:.0f}",
                    f"{median(m.val_loss for m in outcome):.4f}",
                    "its own" if contender.validates else "by hand",
                ]
            )
    return table(["contender", "first epoch, s", "memory, MB", "val. MSE", "validation"], rows)


def _in_order(outcomes: Outcomes) -> list[str]:
    return sorted(outcomes, key=lambda name: _seconds(outcomes[name]))


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
    names = [name for name in _in_order(measured) if name not in BESIDES]
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="seconds per epoch (line: range of the rounds)")
    for place, name in enumerate(names):
        seconds = [measurement.seconds for measurement in measured[name]]
        middle = median(seconds)
        color = "black" if name == "this-project" else "0.8"
        axes.barh(place, middle, color=color, edgecolor="black")
        axes.plot([min(seconds), max(seconds)], [place, place], color="0.5", marker="|")
        axes.text(max(seconds), place, f"  {middle:.3g}", verticalalignment="center")
    if LIMIT in measured:
        limit = _seconds(measured[LIMIT])
        label = f"{EVERYONE[LIMIT].title}: {limit:.3g}"
        axes.axvline(limit, color="black", linestyle="--", label=label)
        axes.legend(loc="upper right")  # beside the shortest bars
    axes.set_yticks(range(len(names)), [EVERYONE[name].title for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    return figure
