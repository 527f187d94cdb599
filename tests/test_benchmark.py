import time
from collections import defaultdict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from matplotlib.image import imread
from processes import PROJECT, run
from rich.console import Console
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from gpa_lightning import FullyConnectedNetwork
from gpa_lightning.benchmark import contest, limit, main, rounds, scaling
from gpa_lightning.benchmark.ablations import ABLATIONS
from gpa_lightning.benchmark.contenders import CONTENDERS
from gpa_lightning.benchmark.contest import BESIDES, EVERYONE, hindrance, hold_contest
from gpa_lightning.benchmark.rounds import TaskError, measure, run_rounds
from gpa_lightning.benchmark.scaling import measure_scaling
from gpa_lightning.benchmark.task import Measurement, Meter, Task
from gpa_lightning.data.twin import synthetic_twin
from gpa_lightning.speed import onednn

SILENT = Console(quiet=True)
TASK = Task("this-project", 2, "cpu", 1, {"batch_size": 100, "seed": 0}, "")


@pytest.fixture
def twin(tmp_path):
    path = tmp_path / "twin.parquet"
    synthetic_twin(3_000).to_parquet(path, index=False)
    return path


@pytest.fixture
def identical_students(tmp_path):
    """1,050 times the same row: however a contender shuffles, its steps are those of the others."""
    path = tmp_path / "identical.parquet"
    synthetic_twin(1).sample(1_050, replace=True).to_parquet(path, index=False)
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure without processes, but for peers, which take their settings from the environment."""

    def measure_here(task):
        contender = EVERYONE[task.contender]
        return measure(task) if contender.packages else contender.run(task, Meter())

    monkeypatch.setattr(rounds, "measure", measure_here)
    monkeypatch.setattr("sys.argv", ["process"])  # Lightning's command line warns of any others


def tables(folder):
    """The tables' lines in a report, split into cells, by their first cell."""
    page = (folder / "benchmark.md").read_text(encoding="utf-8")
    lines = [line[1:-1].split("|") for line in page.splitlines() if line.startswith("|")]
    cells = defaultdict(list)
    for name, *others in lines:
        cells[name.strip()] += [cell.strip() for cell in others]
    return cells


def validation_mses(folder):
    lines = tables(folder)
    column = lines["contender"].index("val. MSE")
    return {
        name: float(lines[contender.title][column])
        for name, contender in CONTENDERS.items()
        if contender.title in lines and not lines[contender.title][0].startswith("skipped")
    }


def assert_close(mses):
    """All contenders but one start from the same weights; Keras adds Adam's epsilon elsewhere."""
    same_start = {name: mse for name, mse in mses.items() if name != "scikit-learn"}
    expected = dict.fromkeys(same_start, mses["this-project"])
    assert same_start == pytest.approx(expected, rel=5e-4)


def measurement(seconds, memory=0, val_loss=0.5):
    return Measurement([9.0, 9.0, seconds], memory, 0, val_loss)


@pytest.mark.slow
def test_two_contenders_take_the_same_steps(identical_students, tmp_path):
    flags = ["--threads=1", "--epochs=2", "--rounds=1", f"--data.path={identical_students}"]
    flags += ["--output=report", "--contenders", "plain-pytorch", "this-project"]
    result = run(PROJECT / "scripts" / "benchmark.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = tmp_path / "report"
    mses = validation_mses(report)
    assert mses.keys() == {"plain-pytorch", "this-project"}
    assert_close(mses)
    assert sorted(path.name for path in report.iterdir()) == ["benchmark.md", "benchmark.png"]
    assert (report / "benchmark.png").stat().st_size < 300_000
    assert imread(report / "benchmark.png").std() > 0
    assert [path.name for path in tmp_path.iterdir() if path != identical_students] == ["report"]


def test_all_contenders_take_the_same_steps(identical_students, in_this_process, tmp_path):
    flags = ["--threads=1", "--epochs=2", "--rounds=1", f"--data.path={identical_students}"]
    report = tmp_path / "report"
    assert main([*flags, f"--output={report}"]) == 0

    absent = {name for name, c in CONTENDERS.items() if not all(map(find_spec, c.packages))}
    mses = validation_mses(report)
    assert mses.keys() == CONTENDERS.keys() - absent
    for name in absent:
        outcome = tables(report)[CONTENDERS[name].title][0]
        assert outcome.startswith("skipped:")
        assert outcome.endswith("not installed")
    assert_close(mses)


@pytest.mark.slow
def test_full_batch_contenders_take_the_same_steps(twin, in_this_process, tmp_path):
    flags = ["--mode=full-batch", "--threads=1", "--epochs=3", "--rounds=1", f"--data.path={twin}"]
    assert main([*flags, f"--output={tmp_path}", "--contenders", *CONTENDERS]) == 0
    mses = validation_mses(tmp_path)
    assert {"this-project", "lecture", "textbook-lightning", "plain-pytorch"} <= mses.keys()
    assert_close(mses)


def test_cost_is_measured_over_rows_and_batch_sizes(in_this_process, tmp_path):
    flags = ["--mode=scaling", "--threads=1", "--epochs=1", "--max_rows=300"]
    assert main([*flags, "--batch_sizes", "150", "full", f"--output={tmp_path}"]) == 0
    measured = tables(tmp_path)
    assert {"300", "150", "full"} <= measured.keys()
    assert all(float(measured[size][0]) > 0 for size in ("300", "150", "full"))
    assert (tmp_path / "benchmark.png").stat().st_size < 300_000


def test_the_matrix_products_are_those_of_a_step_of_training():
    network = FullyConnectedNetwork(9)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(50, 9)).sum().backward()
    assert sum(each.operations for each in limit.products(50, 9)) == counter.get_total_flops()


def test_the_limit_is_that_of_all_libraries_there_are():
    assert ("oneDNN" in limit.LIBRARIES) == onednn.AVAILABLE


def test_each_matrix_product_is_that_of_the_faster_library(twin, monkeypatch):
    calls = []
    fast, slow = lambda *_: None, lambda x, weight: calls.append(x) or linear(x, weight)
    monkeypatch.setattr(limit, "LIBRARIES", {"slow": slow, "fast": fast})
    data = {"source": "file", "path": str(twin), "batch_size": 100, "seed": 0}
    measured = limit.matrix_products(replace(TASK, data=data), Meter())
    assert len(calls) == limit.REPETITIONS * len(limit.products(1, 9))  # and not in an epoch
    assert measured.rates["slow"] < measured.rates["fast"]


def test_ratios_are_medians_of_those_within_the_rounds(monkeypatch, tmp_path):
    # the machine is three times slower in the second round
    outcomes = {
        "this-project": [measurement(seconds) for seconds in (1.0, 3.0, 1.2)],
        "lecture": [measurement(seconds) for seconds in (2.0, 6.0, 2.0)],
    }
    monkeypatch.setattr(contest, "run_rounds", lambda *_: outcomes)
    monkeypatch.setattr(contest, "find_spec", lambda package: None)
    hold_contest(TASK, ["this-project", "lecture", "jax"], 3, "a table", SILENT).save(tmp_path)
    measured = tables(tmp_path)
    assert measured["this project"][:4] == ["1.200", "1.000 to 3.000", "0.50", "1.00"]
    assert measured["this project"][measured["contender"].index("first epoch, s")] == "9.00"
    assert measured["the lecture's loop"][2:4] == ["1.00", "0.50"]
    assert measured["JAX lax.scan"][0] == "skipped: jax and optax not installed"


def test_how_restless_the_machine_was_is_said(monkeypatch, tmp_path):
    def page(*seconds_again):
        outcomes = {
            "this-project": [measurement(1.0)] * 3,
            "lecture": [measurement(2.0)] * 3,
            "lecture-again": [measurement(seconds) for seconds in seconds_again],
            "limit": [replace(measurement(0.8), rates={"oneDNN": 212.6})] * 3,
        }
        monkeypatch.setattr(contest, "run_rounds", lambda *_: outcomes)
        report = hold_contest(TASK, ["this-project", "lecture"], 3, "a table", SILENT)
        (axes,) = report.chart.axes
        assert " machine: twice" in axes.get_title()
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert names == ["this project", "the lecture's loop"]
        assert [bar.get_width() for bar in axes.patches] == [1.0, 2.0]
        assert report.chart.get_figwidth() <= 8
        report.save(tmp_path)
        return report.page

    quiet, restless = page(2.0, 2.1, 3.0), page(2.3, 2.0, 1.6)
    assert "a quiet machine: twice the same training differed by 5% (median), 50% (most)" in quiet
    assert "a restless machine: twice the same training differed by 15% (median)" in restless
    assert "213 GFLOP/s by oneDNN" in quiet
    measured = tables(tmp_path)
    limit = measured["contender"].index("limit")
    assert measured["this project"][limit] == "0.80"
    assert measured["the lecture's loop"][limit] == "0.40"
    assert "the lecture's loop, again" not in measured


def test_the_report_fits_into_eighty_columns(monkeypatch, capsys, twin, tmp_path):
    def run_rounds(tasks, *_):
        return {name: [measurement(1.234)] * 2 for name in tasks}

    monkeypatch.setattr(contest, "run_rounds", run_rounds)
    monkeypatch.setattr(contest, "find_spec", lambda package: package)
    monkeypatch.setenv("COLUMNS", "80")
    assert main([f"--data.path={twin}", f"--output={tmp_path}"]) == 0
    assert len(imread(tmp_path / "benchmark.png")) > 40 * len(CONTENDERS)  # of the names' bars
    printed = capsys.readouterr().out
    assert "…" not in printed
    for title in (contender.title for contender in CONTENDERS.values()):
        lines = [line.strip() for line in printed.splitlines() if line.strip().startswith(title)]
        assert len(lines) == 2, title


def test_full_batch_mode_has_its_own_contenders_and_batches(twin, monkeypatch, tmp_path):
    tasks = {}

    def run_rounds(given, *_):
        tasks.update(given)
        return {name: [measurement(1.0)] for name in given}

    monkeypatch.setattr(contest, "run_rounds", run_rounds)
    assert main(["--mode=full-batch", f"--data.path={twin}", f"--output={tmp_path}"]) == 0
    assert tasks.keys() == {"this-project", "lecture", *BESIDES}
    assert {task.data["batch_size"] for task in tasks.values()} == {"full"}
    rows = "3,000 rows: 1,920 training, 480 validation, 600 test"
    assert rows in (tmp_path / "benchmark.md").read_text(encoding="utf-8")


def test_the_memory_of_the_imports_is_not_the_trainings(monkeypatch):
    monkeypatch.setattr("gpa_lightning.benchmark.task._memory", {"VmRSS": 300, "VmHWM": 1000}.get)
    meter = Meter()
    meter.imported()
    before = time.perf_counter()
    meter.start()
    meter.epoch_ended()
    measured = meter.result(0.5)
    assert measured.memory == 700
    assert 0 < measured.epoch_seconds[0] < time.perf_counter() - before


def test_growth_is_that_of_a_row(monkeypatch, tmp_path):
    def run_rounds(tasks, rounds, console):
        costs = {}
        for name in tasks:
            rows = int(name.partition(" ")[0].replace(",", ""))
            costs[name] = [measurement(rows * 2e-6, memory=50_000_000 + rows * (80 + 44))]
        return costs

    monkeypatch.setattr(scaling, "run_rounds", run_rounds)
    task = replace(TASK, folder=str(tmp_path))
    report = measure_scaling(task, 200_000, [32, "full"], 1, SILENT)
    report.save(tmp_path)
    measured = tables(tmp_path)
    assert measured["10,000"] == ["0.020", "2.00", "51", "", "1.00"]
    assert measured["200,000"] == ["0.400", "2.00", "75", "44", "1.00"]
    assert measured["full"] == ["0.200", "2.00", "62"]
    assert "how cost grows" in report.chart.get_suptitle()
    *times, by_rows, by_batch_size = report.chart.axes
    for axes in times:
        bottom, top = axes.get_ylim()
        assert 0 == bottom < min(axes.lines[0].get_ydata()) < top
    assert list(by_rows.lines[0].get_ydata()) == pytest.approx([51.24, 62.4, 74.8])
    assert list(by_batch_size.lines[0].get_ydata()) == pytest.approx([62.4] * 2)


def test_a_size_that_fails_leaves_the_others(monkeypatch, tmp_path):
    def run_rounds(tasks, rounds, console):
        failed = "failed: out of memory"
        return {
            name: failed if "100,000 r" in name else [measurement(1.0, 10**8)] for name in tasks
        }

    monkeypatch.setattr(scaling, "run_rounds", run_rounds)
    task = replace(TASK, folder=str(tmp_path))
    measure_scaling(task, 200_000, [32, "full"], 1, SILENT).save(tmp_path)
    measured = tables(tmp_path)
    assert measured["100,000"] == ["failed: out of memory", "", "", "", ""]
    assert measured["200,000"] == ["1.000", "5.00", "100", "", ""]
    assert measured["full"] == ["failed: out of memory", "", ""]


def test_what_runs_on_the_cpu_alone_is_skipped_on_a_gpu():
    assert hindrance("lecture", TASK) is None
    assert hindrance("scikit-learn", replace(TASK, device="cuda")) == "has no GPU support"


def test_a_contender_that_fails_does_not_end_the_others_rounds(monkeypatch):
    def failing(task):
        if task.contender == "lecture":
            raise TaskError("out of memory")
        return measurement(1.0)

    monkeypatch.setattr(rounds, "measure", failing)
    tasks = {name: replace(TASK, contender=name) for name in ("lecture", "jax")}
    outcomes = run_rounds(tasks, 2, SILENT)
    assert outcomes == {"lecture": "failed: out of memory", "jax": [measurement(1.0)] * 2}


@pytest.mark.slow
def test_a_process_that_fails_says_why(tmp_path):
    data = {"source": "file", "path": str(tmp_path / "absent.csv"), "batch_size": 100, "seed": 0}
    with pytest.raises(TaskError, match="there is no such file"):
        measure(replace(TASK, contender="lecture", data=data))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.path=absent.csv"], "absent.csv: there is no such file"),
        (["--data.val_size=2"], "--data.val_size must be at least 0 and below 1"),
        (["--contenders", "somebody"], "somebody"),
        (["--device=cuda"], "PyTorch sees no GPU"),
    ],
)
def test_mistakes_are_named(flags, message, workplace, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_code:
        main(flags)
    assert exit_code.value.code == 2
    assert message in capsys.readouterr().err


def test_an_epoch_is_the_median_after_the_first_two():
    assert Measurement([9, 9, 1, 3, 2], 0, 0, 0.5).seconds == 2
    assert Measurement([9, 4], 0, 0, 0.5).seconds == 4


def test_nothing_else_imports_the_benchmark():
    modules = [
        path
        for path in (PROJECT / "gpa_lightning").rglob("*.py")
        if path.parent.name != "benchmark"
    ]
    assert len(modules) > 20
    assert not [path for path in modules if "gpa_lightning.benchmark" in path.read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_a_speed_up_that_is_taken_out_changes_no_result(name, twin, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["process"])  # Lightning's command line warns of any others
    size = "full" if ABLATIONS[name].full_batch else 100
    data = {"source": "file", "path": str(twin), "batch_size": size, "seed": 0}
    task = replace(TASK, data=data, folder=str(tmp_path))
    with_it = CONTENDERS["this-project"].run(task, Meter()).val_loss
    without = ABLATIONS[name].run(task, Meter()).val_loss
    shuffled_otherwise = name == "without-gather"
    assert without == pytest.approx(with_it, rel=0.05 if shuffled_otherwise else 1e-4)


@pytest.mark.slow
def test_other_ways_of_the_project_learn_alike(identical_students, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["process"])  # Lightning's command line warns of any others
    data = {"source": "file", "path": str(identical_students), "batch_size": 100, "seed": 0}
    task = replace(TASK, data=data, folder=str(tmp_path))
    of_200_rows = replace(task, data=data | {"batch_size": 200})
    in_two = measure(replace(task, contender="two-processes"))
    assert len(in_two.epoch_seconds) == task.epochs
    together = CONTENDERS["this-project"].run(of_200_rows, Meter()).val_loss
    assert in_two.val_loss == pytest.approx(together, rel=1e-4)
    plain, rounded = (EVERYONE[n].run(task, Meter()) for n in ("this-project", "bf16-mixed"))
    assert rounded.val_loss != plain.val_loss
    assert rounded.val_loss == pytest.approx(plain.val_loss, rel=0.02)


def test_a_program_is_busy_beside_what_is_measured(identical_students, tmp_path, monkeypatch):
    beside = []

    def measure_one(task):
        children = psutil.Process().children()
        beside.extend(child for child in children if "while True" in child.cmdline()[-1])
        return EVERYONE[task.contender].run(task, Meter())

    monkeypatch.setattr(rounds, "measure", measure_one)
    monkeypatch.chdir(tmp_path)
    flags = ["--mode=load", "--threads=1", "--epochs=2", "--rounds=1", "--contenders", "lecture"]
    assert main([*flags, f"--data.path={identical_students}", "--output=report"]) == 0
    (neighbour,) = set(beside)
    assert not neighbour.is_running()
    page = Path("report/benchmark.md").read_text()
    assert "beside a program that keeps one core busy" in page
    assert "| its matrix products alone" not in page
