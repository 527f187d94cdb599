"""A progress bar that counts every batch, in notebooks too."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from gpa_lightning.callbacks.notebook_progress import NotebookProgress


class EpochProgressBar(RichProgressBar):
    """Lightning's rich progress bar, which also counts batches of which the loop is told nothing.

    `FastTraining` takes several in a turn of the loop, for which Lightning names the first; this
    bar looks at the last. In a notebook, where rich asks for ipywidgets and would draw after every
    batch, it shows a training as one line of text instead, with the number of epochs that are done.
    """

    _line: NotebookProgress | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether rich shows it."""
        return super().is_enabled and not get_console().is_jupyter

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if super().is_enabled and not self.is_enabled:
            metrics = TextColumn("{task.fields[metrics]}", style=self.theme.metrics)
            remaining = TimeRemainingColumn(elapsed_when_finished=True)
            description = TextColumn("{task.description}")
            self._line = NotebookProgress(description, BarColumn(), remaining, metrics)
            epochs = trainer.max_epochs or -1
            self._line.add_task("", total=epochs if epochs > 0 else None, metrics="")
            self._line.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_batch = trainer.fit_loop.batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, last_batch)
        if self._line and self._line.is_due:
            done = (last_batch + 1) / trainer.num_training_batches
            self._draw(self._line, trainer, pl_module, trainer.current_epoch + done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a notebook the last state."""
        super().on_train_end(trainer, pl_module)
        if self._line:
            epochs = trainer.current_epoch  # as the total, so that the time it took is shown
            self._draw(self._line, trainer, pl_module, epochs, total=epochs)
            self._line.stop()
            self._line = None

    def _draw(
        self,
        line: NotebookProgress,
        trainer: Trainer,
        pl_module: LightningModule,
        epochs: float,
        **more: Any,
    ) -> None:
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        values = {
            name: format(value, self.theme.metrics_format) if isinstance(value, float) else value
            for name, value in self.get_metrics(trainer, pl_module).items()
        }
        line.update(
            line.task_ids[0],
            description=f"epoch {int(epochs)}{of}",
            completed=epochs,
            metrics="  ".join(f"{name}: {value}" for name, value in values.items()),
            **more,
        )
        line.refresh()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Leave out the run's number, of which Lightning shows the last four characters."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
