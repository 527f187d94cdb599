"""The lecture as a notebook: what is committed, and what Jupyter's kernel makes of it."""

import inspect
import json
import re
from base64 import b64decode
from pathlib import Path

import pytest
from processes import PROJECT

from gpa_lightning import FullyConnectedNetwork, GPADataModule, GPARegressor
from gpa_lightning.data.baselines import baseline_losses

LECTURE = PROJECT / "docs/lecture.ipynb"
SKIPPED = "skip-execution"  # nbclient's word for a cell that it leaves out
SAYS = "The test set doubles as the validation set"


def code_cells(path: Path = LECTURE) -> list[dict]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def shown(cell: dict, kind: str = "text/plain") -> list[str]:
    """What each output of a cell shows, of those that show this kind; warnings apart."""
    outputs = [each for each in cell["outputs"] if each.get("name") != "stderr"]
    data = [each.get("data", {"text/plain": each.get("text")}) for each in outputs]
    return ["".join(each[kind]) for each in data if kind in each]


def cell_with(cells: list[dict], text: str) -> dict:
    (cell,) = (each for each in cells if text in "".join(each["source"]))
    return cell


def number(pattern: str, text: str) -> float:
    """The number that stands at the group of a pattern."""
    return float(re.search(pattern.replace("NUMBER", r"([\d.e+-]+)"), text)[1])


def data_frame(cell: dict) -> list[dict[str, str]]:
    """The rows of the table that a cell shows."""
    _, head, *rows = re.split("<tr", shown(cell, "text/html")[-1])
    names = re.findall("<th>(.+?)</th>", head)
    return [dict(zip(names, re.findall("<td>(.*?)</td>", row), strict=True)) for row in rows]


def assert_lesson(cells: list[dict]) -> None:
    """The lesson shows in the numbers, on whichever table."""
    full = cell_with(cells, "LECTURE_LOSSES")
    losses = [float(line.split()[-1]) for line in shown(full)[-1].splitlines()[1:]]
    assert len(losses) == 6
    assert losses[-1] < losses[1] < losses[0]

    twice = "\n".join(shown(cell_with(cells, "for calls in")))
    once, both = (number(f"called {calls}x: gradient's norm NUMBER", twice) for calls in (1, 2))
    assert both == pytest.approx(2 * once, rel=1e-3)

    bar, verdict, *_ = shown(cell_with(cells, 'fit("mini-batch"'))
    assert "epoch 60/60" in bar
    assert "Overfitting began after" in verdict
    mini = "\n".join(shown(cell_with(cells, "mini_batch.LECTURE_TEST")))
    here = [float(line.split()[-1]) for line in mini.splitlines() if line.startswith("[")]
    assert number("Test loss: NUMBER", mini) > max(here[-1], number("regression: NUMBER", mini))

    points = "\n".join(shown(cell_with(cells, "least_squares(")))
    line, polynomial = (
        [number(rf"degree +{degree}: {what}", points) for what in ("MSE NUMBER", ".*, NUMBER")]
        for degree in (1, 10)
    )
    assert polynomial[0] < 1e-10 < line[0] < line[1] < polynomial[1]

    stopped = "\n".join(shown(cell_with(cells, "EarlyStopping(")))
    assert int(re.search(r"epoch (\d+)/60", stopped)[1]) < 60
    patience = "\n".join(shown(cell_with(cells, "for patience in")))
    lowest = [float(loss) for loss in re.findall(r"validation loss ([\d.]+)", patience)]
    assert len(lowest) == 5
    assert lowest == sorted(lowest, reverse=True)

    capacity = data_frame(cell_with(cells, "networks = ["))
    gaps = {row["setting"]: float(row["gap"]) for row in capacity}
    assert gaps["hidden_sizes="] < gaps["hidden_sizes=1024,512,128"]
    strategies = {row["setting"] for row in data_frame(cell_with(cells, "strategies = ["))}
    penalties = {f"penalty={norm}-penalty_weight={w}" for norm, w in (("l1", 0.001), ("l2", 0.01))}
    assert strategies == {"defaults", "dropout=0.3", *penalties}

    descent = "\n".join(shown(cell_with(cells, "perform(")))
    for kind in ("trained", "random features"):
        peak = number(f"{kind}: peak NUMBER", descent)
        assert peak > 1.5 * number(f"{kind}: .* test loss NUMBER", descent)


class TestCommitted:
    cells = code_cells()

    def test_it_was_executed_from_top_to_bottom(self):
        counts = [each["execution_count"] for each in self.cells]
        skipped = [SKIPPED in each["metadata"].get("tags", []) for each in self.cells]
        assert skipped == [False] * (len(counts) - 1) + [True]  # TensorBoard, last
        assert counts == [*range(1, len(counts)), None]
        assert self.cells[-1]["outputs"] == []

    def test_it_is_small_and_has_its_figures(self):
        assert LECTURE.stat().st_size < 1_000_000
        pictures = [each for cell in self.cells for each in shown(cell, "image/png")]
        assert len(pictures) == 5
        assert all(5_000 < len(b64decode(each)) < 300_000 for each in pictures)

    def test_it_shows_no_student_no_advice_and_no_folder(self):
        assert "SYNTHETIC, no real students" in shown(cell_with(self.cells, "describe_table("))[-1]
        outputs = [each for cell in self.cells for each in cell["outputs"]]
        errors = [each for each in outputs if each.get("name") == "stderr"]
        assert all(SAYS in "".join(each["text"]) for each in errors)
        assert {each["output_type"] for each in outputs} <= {
            *("stream", "display_data", "execute_result"),
        }
        for text in (each for cell in self.cells for each in shown(cell)):
            assert not re.search(r"(?<![\w.])/\w+/|[A-Z]:\\|Tip:|ipywidgets", text)

    def test_it_is_of_this_code(self):
        """What takes no training is as it is computed here."""
        (printed,) = shown(cell_with(self.cells, "print(net)"))
        assert printed.startswith(str(FullyConnectedNetwork()))
        step = "\n".join(shown(cell_with(self.cells, "inspect.getsource")))
        assert step.strip() == inspect.getsource(GPARegressor.training_step).strip()
        seed = number("SEED = NUMBER", "".join(cell_with(self.cells, "SEED =")["source"]))
        data = GPADataModule("synthetic", val_size=0.0, seed=int(seed))
        data.setup()
        printed = "\n".join(shown(cell_with(self.cells, "untrained network")))
        for predictor, loss in baseline_losses(data).items():
            assert number(f"{predictor}: NUMBER", printed) == pytest.approx(loss, abs=1e-4)
        assert data.provenance.sha256 in shown(cell_with(self.cells, "describe_table("))[-1]

    def test_its_numbers_are_the_lesson(self):
        assert_lesson(self.cells)


@pytest.fixture
def folder(table: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's folder, as a notebook sees it, with a small table."""
    monkeypatch.setenv("GPA_CSV", str(table))
    Path("gpa_lightning").symlink_to(PROJECT / "gpa_lightning")
    Path("docs").mkdir()
    return workplace


def executed(notebook: str | list[str], folder: Path, skip: str = SKIPPED) -> list[dict]:
    """Execute a notebook, or a list of cells, in a folder, as a notebook in there; its cells."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    if isinstance(notebook, list):
        cells = [*map(nbformat.v4.new_code_cell, notebook)]
        opened = nbformat.v4.new_notebook(cells=cells)
    else:
        opened = nbformat.reads(notebook, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        opened, resources=where, skip_cells_with_tag=skip, coalesce_streams=True
    )
    client.execute()
    return [cell for cell in opened.cells if cell.cell_type == "code"]


LAST = """
import os
import signal
from urllib.request import urlopen

from tensorboard import manager

(info,) = manager.get_all()
print(urlopen(f"http://localhost:{info.port}/data/runs").read().decode())
os.kill(info.pid, signal.SIGTERM)
"""


@pytest.mark.slow
def test_the_lecture(folder, monkeypatch):
    """All of it, on a table that is small enough to take little time."""
    monkeypatch.setenv("TMPDIR", str(folder))  # where TensorBoard notes what is running
    notebook = json.loads(LECTURE.read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    last = {**notebook["cells"][-1], "source": LAST, "id": "last", "metadata": {}}
    notebook["cells"].append(last)
    Path("docs/lecture.ipynb").write_text(json.dumps(notebook))
    *cells, tensorboard, asked = executed(json.dumps(notebook), folder / "docs", skip="none")

    assert [cell["source"] for cell in [*cells, tensorboard]] == [
        "".join(cell["source"]) for cell in TestCommitted.cells
    ]
    assert "file: students.csv, 537 rows" in shown(cell_with(cells, "describe_table("))[-1]
    assert [len(shown(cell, "image/png")) for cell in cells] == [
        len(shown(cell, "image/png")) for cell in TestCommitted.cells[:-1]
    ]
    assert_lesson(cells)
    assert "iframe" in "".join(shown(tensorboard, "text/html"))
    runs = json.loads(shown(asked)[0])
    for name in ("full-batch", "mini-batch", "early-stopping"):
        assert f"lecture-{name}/version_0" in runs
    assert not Path("docs/lightning_logs").exists()


@pytest.mark.slow
def test_progress_and_summary(folder):
    small = ["--model.hidden_sizes", "[8]", "--max_epochs", "2", "--accelerator", "cpu"]
    cells = [
        "from gpa_lightning.commands import compare, train",
        f"train.train({small})",
        f"compare.main(['', '--model.dropout 0.5', '--seeds', '2', *{small}])",
    ]
    _, trained, compared = executed(cells, folder)
    progress, curves, summary, code = shown(trained)
    assert "epoch 2/2" in progress
    assert "val_loss: " in progress
    assert "[1/2]" in curves
    assert "test MSE" in summary
    assert "checkpoint" in summary
    assert code == "0"
    progress, tables, code = shown(compared)
    assert "4/4" in progress
    assert "dropout=0.5" in tables
    assert code == "0"
