"""Training and validation loss in one chart: where the two part, overfitting begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gpa_lightning.callbacks.run_folder import run_folder
from gpa_lightning.callbacks.tensorboard import tensorboard_loggers
from gpa_lightning.resuming.whole_file import whole_file

Curve = list[tuple[int, float]]


def readable_range(*curves: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a linear axis on which a high beginning does not flatten the rest.

    Args:
        curves: Losses of each curve, in the order of training. In its first half, losses above
            twice its median may be cut off; a late rise never is.

    Returns:
        The lower and the upper end, with a margin.

    Example:
        >>> readable_range([9.0, 2.0, 0.7, 0.6, 0.5], [1.8, 0.8, 0.7, 0.8, 0.9])
        (0.48, 0.92)
    """
    losses: list[float] = []
    for curve in filter(len, curves):
        high, late = 2 * median(curve), len(curve) / 2
        losses += [loss for place, loss in enumerate(curve) if loss <= high or place >= late]
    bottom, top = min(losses, default=0.0), max(losses, default=1.0)
    margin = 0.05 * (top - bottom) or 0.05
    return bottom - margin, top + margin


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
            path: Path of the picture; the suffix gives the format.

        Raises:
            OutputError: If it cannot be written.
        """
        # slow to import, and needed only at the end
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="mean squared error")
        curves = (("training", self.training, "-"), ("validation", self.validation, "--"))
        bottom, top = readable_range(*([loss for _, loss in curve] for _, curve, _ in curves))
        axes.set_ylim(bottom, top)
        for label, curve, style in curves:
            epochs, losses = zip(*curve, strict=True) if curve else ((), ())
            above = f" (began at {losses[0]:.2f})" if curve and losses[0] > top else ""
            axes.plot(epochs, losses, style, label=f"{label}{above}")
        if self.validation:
            epoch, loss = min(self.validation, key=lambda point: point[1])
            axes.plot(epoch, loss, "k.", label=f"lowest: {loss:.4f}, epoch {epoch}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        axes.grid(alpha=0.3)
        with whole_file(path, overwrite=True) as temporary:
            figure.savefig(temporary, dpi=150)

    def state_dict(self) -> dict[str, Any]:
        return {"training": self.training, "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.training = [tuple(point) for point in state_dict["training"]]
        self.validation = [tuple(point) for point in state_dict["validation"]]
