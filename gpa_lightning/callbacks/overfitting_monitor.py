"""How far training and validation loss are apart, measured while a network trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import TensorDataset

from gpa_lightning.losses import evaluation_mse


@dataclass(frozen=True)
class Evaluation:
    """The losses of one state of the weights.

    Attributes:
        epoch: Epochs trained until then, in batches: 0.5 is half way through the first.
        train_loss: MSE on the whole training set in evaluation mode, in squared grade points.
        val_loss: MSE on the validation set, likewise.
    """

    epoch: float
    train_loss: float
    val_loss: float


class OverfittingMonitor(Callback):
    """Logs how far validation and training loss are apart, and says at the end since when.

    The lecture's "Overfitting": at first the loss falls on both sets, then the model learns what
    holds for the training set alone. The ``train_loss`` that a run logs cannot show this well: it
    is averaged over an epoch in which the weights changed, with dropout acting. So this callback
    evaluates the training set whenever the validation set has been evaluated (which
    ``--trainer.val_check_interval`` may make more often than once an epoch), and logs

    - ``train_eval_loss``: the MSE on the training set, in evaluation mode on the same weights,
    - ``generalisation_gap``: ``val_loss`` minus that,
    - ``best_val_loss``: the lowest ``val_loss`` so far,
    - ``epochs_since_best``: how long ago that was.

    Overfitting is said to begin where the validation loss is lowest, if it has risen since while
    the training loss has fallen. The training data have to be tensors in a `TensorDataset`, as
    those of `GPADataModule` are.

    Args:
        verbose: Whether to print, when training ends, when overfitting began.

    Attributes:
        history: Each evaluation so far, in order.

    Raises:
        MisconfigurationException: When fitting, if the training set is not a `TensorDataset` or
            no ``val_loss`` is logged.
    """

    def __init__(self, verbose: bool = True) -> None:
        self.verbose = verbose
        self.history: list[Evaluation] = []

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest validation loss, the first of equals."""
        return min(self.history, key=lambda each: each.val_loss, default=None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the training set, and log."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if "val_loss" not in trainer.callback_metrics:
            raise MisconfigurationException("OverfittingMonitor needs a model that logs val_loss")
        x, y = _training_tensors(trainer)
        batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        now = Evaluation(
            epoch=batches / trainer.num_training_batches,
            train_loss=evaluation_mse(pl_module, x, y),
            val_loss=trainer.callback_metrics["val_loss"].item(),
        )
        self.history.append(now)
        best = self.best
        assert best is not None
        values = {
            "train_eval_loss": now.train_loss,
            "generalisation_gap": now.val_loss - now.train_loss,
            "best_val_loss": best.val_loss,
            "epochs_since_best": now.epoch - best.epoch,
        }
        # as LearningRateMonitor does it: this hook comes too late for `self.log`
        trainer.callback_metrics.update({name: torch.tensor(v) for name, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)  # as `val_loss`

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say when overfitting began."""
        if self.verbose and trainer.is_global_zero and self.history:
            print(self.verdict())  # noqa: T201

    def verdict(self) -> str:
        """Say in a sentence when overfitting began, if it did.

        Example:
            >>> monitor = OverfittingMonitor()
            >>> monitor.history = [Evaluation(1, 0.60, 0.58), Evaluation(2, 0.50, 0.65)]
            >>> print(monitor.verdict())
            Overfitting began after 1 epoch: since then, the validation loss has risen from 0.5800 to 0.6500 and the training loss has gone from 0.6000 to 0.5000.
        """  # noqa: E501 - the example's output
        best = self.best
        if best is None:
            return "Nothing has been evaluated yet."
        last = self.history[-1]
        if last.val_loss <= best.val_loss or last.train_loss >= best.train_loss:
            return (
                f"No overfitting in {_epochs(last.epoch)}: the lowest validation loss, "
                f"{best.val_loss:.4f}, came after {_epochs(best.epoch)}, and the training loss "
                "has not fallen at its cost since."
            )
        return (
            f"Overfitting began after {_epochs(best.epoch)}: since then, the validation loss has "
            f"risen from {best.val_loss:.4f} to {last.val_loss:.4f} and the training loss has "
            f"gone from {best.train_loss:.4f} to {last.train_loss:.4f}."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the history, so that a resumed run goes on with it."""
        return {"history": [asdict(each) for each in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of the run that is resumed."""
        self.history = [Evaluation(**each) for each in state_dict["history"]]


def _training_tensors(trainer: Trainer) -> tuple[Tensor, ...]:
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not isinstance(dataset, TensorDataset):
        raise MisconfigurationException(
            "OverfittingMonitor needs a training loader over a TensorDataset, "
            f"not over {type(dataset).__name__}"
        )
    return dataset.tensors


def _epochs(number: float) -> str:
    return f"{number:.4g} {'epoch' if number == 1 else 'epochs'}"
