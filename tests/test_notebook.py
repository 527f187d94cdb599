"""What a notebook shows, run by the kernel of Jupyter that a student's notebook has."""

import os
from pathlib import Path

import pytest
from runs import PROJECT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = pytest.mark.slow


def executed(notebook: "nbformat.NotebookNode", folder: Path) -> "nbformat.NotebookNode":
    """Execute a notebook's cells in a folder."""
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def text(cell: "nbformat.NotebookNode") -> list[str]:
    """What each output of a cell shows, as text."""
    return [each.get("text") or each["data"]["text/plain"] for each in cell.outputs]


@pytest.fixture
def folder(table: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a notebook, where the package and a small table are found."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    monkeypatch.setenv("GPA_CSV", str(table))
    return workplace


def test_progress_and_summary(folder):
    small = ["--model.hidden_sizes", "[8]", "--max_epochs", "2", "--accelerator", "cpu"]
    cells = [
        "from gpa_lightning.commands import compare, train",
        f"train.train({small})",
        f"compare.main(['', '--model.dropout 0.5', '--seeds', '2', *{small}])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    _, trained, compared = executed(notebook, folder).cells
    progress, curves, summary, code = text(trained)
    assert "epoch 2/2" in progress
    assert "val_loss: " in progress
    assert "[1/2]" in curves
    assert "test MSE" in summary
    assert "checkpoint" in summary
    assert code == "0"
    progress, tables, code = text(compared)
    assert "4/4" in progress
    assert "dropout=0.5" in tables
    assert code == "0"
