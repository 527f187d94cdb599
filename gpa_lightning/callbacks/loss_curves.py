"""Training and validation loss in one chart: where the two part, overfitting begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning.callbacks.run_folder import run_folder
from gpa_lightning.callbacks.tensorboard import tensorboard_loggers
from gpa_lightning.resuming.whole_file import whole_file

Curve = list[tuple[int, float]]


class LossCurves(Callback):
    """Training and validation loss in one chart: in TensorBoard and as a picture with the run.

    The lecture's "Plotting Training vs Testing Loss": overfitting is where the two part. In
    TensorBoard the chart stands under Custom Scalars; ``loss_curves.png`` lies in the run's folder.

    Attributes:
        training: ``(epoch, train_loss)`` of each finished epoch, epochs counted from 0.
        validation: ``(epoch, val_loss)``, the last one of each epoch.
    """

    def __init__(self) -> None:
        self.training: Curve = []
        self.validation: Curve = []
        self._folder: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out TensorBoard's chart."""
        self._folder = run_folder(trainer)
        if trainer.is_global_zero:
            for logger in tensorboard_loggers(trainer):
                chart = {"training and validation": ["Multiline", ["train_loss$", "val_loss$"]]}
                logger.experiment.add_custom_scalars({"loss": chart})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the validation loss, in the place of an earlier one of the same epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._note(trainer, "val_loss", self.validation, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the training loss of the epoch before, which is complete only now."""
        self._note(trainer, "train_loss", self.training, trainer.current_epoch - 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the picture, also when a resumed run finds that nothing is left to train."""
        epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        self._note(trainer, "train_loss", self.training, epochs - 1)
        if trainer.is_global_zero and self._folder and self.training:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.save(self._folder / "loss_curves.png")

    def _note(self, trainer: Trainer, name: str, curve: Curve, epoch: int) -> None:
        if name not in trainer.callback_metrics or epoch < 0:
            return
        if curve and curve[-1][0] == epoch:
            curve.pop()
        curve.append((epoch, trainer.callback_metrics[name].item()))

    def save(self, path: Path) -> None:
        """Save the curves as a picture, in the place of an earlier one.

        Args:
            path: Where to; the suffix gives the format.

        Raises:
            OutputError: If it cannot be written.
        """
        from matplotlib.figure import Figure  # slow to import, and needed only at the end

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="mean squared error")
        for label, curve, style in (
            ("training", self.training, "-"),
            ("validation", self.validation, "--"),
        ):
            epochs, losses = zip(*curve, strict=True) if curve else ((), ())
            axes.plot(epochs, losses, style, label=label)
        if self.validation:
            epoch, loss = min(self.validation, key=lambda point: point[1])
            axes.plot(epoch, loss, "k.", label=f"lowest validation loss: {loss:.4f}")
        losses_after_start = [loss for _, loss in self.training[1:] + self.validation[1:]]
        if losses_after_start and self.training[0][1] > 2 * max(losses_after_start):
            axes.set_yscale("log")
        axes.legend()
        axes.grid(alpha=0.3)
        with whole_file(path, overwrite=True) as temporary:
            figure.savefig(temporary, dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """Return the curves, so that a resumed run draws them whole."""
        return {"training": self.training, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the curves of the run that is resumed."""
        self.training = [tuple(point) for point in state_dict["training"]]
        self.validation = [tuple(point) for point in state_dict["validation"]]
