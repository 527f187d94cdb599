"""How far training and validation loss are apart, measured while a network trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
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
        epoch: Epochs trained until then: 1 is the end of epoch 0, 0.5 half way through it.
        train_loss: MSE on the training set, in squared grade points.
        val_loss: MSE on the validation set, likewise.
    """

    epoch: float
    train_loss: float
    val_loss: float

    @property
    def moment(self) -> str:
        """The moment in words, by the number of its epoch, from 0 as in checkpoints' names.

        Example:
            >>> Evaluation(9, 0.60, 0.58).moment, Evaluation(8.25, 0.60, 0.58).moment
            ('epoch 8', '25 % of epoch 8')
        """
        number = ceil(self.epoch) - 1
        done = self.epoch - number
        return f"epoch {number}" if done == 1 else f"{100 * done:.0f} % of epoch {number}"


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

    That costs a forward pass over the training set at each validation: about a fifth of the time of
    the lecture's mini-batch training, so the summary of a run makes do with ``train_loss``.

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
        return lowest(self.history) if self.history else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
        best = lowest(self.history)
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
        if self.verbose and trainer.is_global_zero and self.history:
            print(self.verdict())  # noqa: T201

    def verdict(self) -> str:
        """Say in a sentence when overfitting began, if it did: `verdict` of the history."""
        return verdict(self.history)

    def state_dict(self) -> dict[str, Any]:
        return {"history": [asdict(each) for each in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [Evaluation(**each) for each in state_dict["history"]]


def _training_tensors(trainer: Trainer) -> tuple[Tensor, ...]:
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if not isinstance(dataset, TensorDataset):
        raise MisconfigurationException(
            "OverfittingMonitor needs a training loader over a TensorDataset, "
            f"not over {type(dataset).__name__}"
        )
    return dataset.tensors


def lowest(history: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation with the lowest validation loss, the first of equals."""
    return min(history, key=lambda each: each.val_loss)


def verdict(history: Sequence[Evaluation]) -> str:
    """Say in a sentence when overfitting began, if it did.

    Args:
        history: Evaluations, in the order of training.

    Example:
        >>> print(verdict([Evaluation(1, 0.60, 0.58), Evaluation(2, 0.50, 0.65)]))
        Overfitting began after epoch 0: since then, the validation loss has risen from 0.5800 to 0.6500 and the training loss has gone from 0.6000 to 0.5000.
    """  # noqa: E501 - the example's output
    if not history:
        return "Nothing has been evaluated yet."
    best, last = lowest(history), history[-1]
    if last.val_loss <= best.val_loss or last.train_loss >= best.train_loss:
        epochs = f"{last.epoch:.4g} {'epoch' if last.epoch == 1 else 'epochs'}"
        return (
            f"No overfitting in {epochs}: the lowest validation loss, {best.val_loss:.4f}, came "
            f"after {best.moment}, and the training loss has not fallen at its cost since."
        )
    return (
        f"Overfitting began after {best.moment}: since then, the validation loss has risen from "
        f"{best.val_loss:.4f} to {last.val_loss:.4f} and the training loss has gone from "
        f"{best.train_loss:.4f} to {last.train_loss:.4f}."
    )
