import re
from io import StringIO

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from lightning.pytorch import Callback
from rich import get_console
from rich.console import Console
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import EpochProgressBar
from gpa_lightning.callbacks.notebook_progress import NotebookProgress
from gpa_lightning.speed import FastTraining


class NotesCompleted(Callback):
    """Notes at the end of each epoch how many batches the bar shows as done."""

    def __init__(self) -> None:
        self.completed: list[float] = []

    def on_train_epoch_end(self, trainer, pl_module):
        bar = trainer.progress_bar_callback
        (task,) = (task for task in bar.progress.tasks if task.id == bar.train_progress_bar_id)
        self.completed.append(task.completed)


def test_the_bar_reaches_its_end_in_each_epoch(table):
    data = GPADataModule(path=str(table), batch_size=50)
    notes = NotesCompleted()
    model = GPARegressor(hidden_sizes=(8,))
    trainer = fit(model, data, EpochProgressBar(), notes, enable_progress_bar=True)
    assert notes.completed == [trainer.num_training_batches] * 2 == [7, 7]


@pytest.fixture
def notebook(workplace, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(workplace / "ipython"))
    monkeypatch.setattr(get_console(), "is_jupyter", True)
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("flags", "last"),
    [
        ({"epochs": 3}, "epoch 3/3 "),
        ({"epochs": 1}, "epoch 1/1 "),
        ({"epochs": -1, "max_steps": 7 * 2}, "epoch 2 "),
    ],
)
def test_a_notebook_shows_one_line_that_ends_with_the_last_epoch(table, notebook, flags, last):
    data = GPADataModule(path=str(table), batch_size=50)
    model = GPARegressor(hidden_sizes=(8,))
    with capture_output() as captured:
        fit(model, data, EpochProgressBar(), logger=True, enable_progress_bar=True, **flags)
    first, *others = captured.outputs
    assert not first.update
    assert all(each.update for each in others)
    line = others[-1].data["text/plain"]
    assert line.startswith(last)
    assert re.search(r" val_loss: \d+\.\d{3}  train_loss: \d+\.\d{3}\n", line)
    assert "v_num" not in line
    assert line.count("\n") == 1


def test_a_terminal_shows_what_rich_does():
    console = Console(file=StringIO(), force_terminal=True)
    with capture_output() as captured, NotebookProgress(console=console) as progress:
        progress.add_task("studying", total=2, completed=1)
    assert captured.outputs == []
    assert "studying" in console.file.getvalue()
    assert "50%" in console.file.getvalue()


def test_a_notebook_sees_every_round_where_there_is_time(table, notebook, monkeypatch):
    monkeypatch.setattr(NotebookProgress, "is_due", True)
    data = GPADataModule(path=str(table), batch_size=50)
    callbacks = FastTraining(3), EpochProgressBar()
    with capture_output() as captured:
        fit(GPARegressor(hidden_sizes=(8,)), data, *callbacks, enable_progress_bar=True)
    lines = [each.data["text/plain"] for each in captured.outputs[1:]]
    # of seven batches each, three a round; then the end
    assert [line.split()[1][0] for line in lines] == ["0", "0", "1", "1", "1", "2", "2", "2"]
