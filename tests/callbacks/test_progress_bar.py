from lightning.pytorch import Callback
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import EpochProgressBar


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
