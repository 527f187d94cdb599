"""The network under Lightning: MSE and Adam, penalties, metrics, and a fast training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import Adam, Optimizer
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from gpa_lightning.losses import DivergenceError, Norm, mse_in_pieces, weight_norm
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.resuming import ExactResume, random_states
from gpa_lightning.resuming.checkpoint import CheckpointError, stamp
from gpa_lightning.speed.arithmetic import Arithmetic
from gpa_lightning.speed.cuda_graph import StepGraph
from gpa_lightning.speed.direct_step import DirectStep
from gpa_lightning.speed.execution import Execution

PIECE_ROWS = 1024
"""Rows of a full batch that are in the works at a time: about 7 MB of activations."""

_STEPS_BETWEEN_CHECKS = 64  # of the loss, each of which waits for the GPU

Batch = Sequence[Tensor]  # features (batch, in_features) and target (batch, 1)


class GPARegressor(LightningModule):
    """Learns to predict a student's GPA from exam scores, by MSE and Adam.

    Logs ``train_loss``, ``val_loss`` and ``test_loss``, always the plain MSE in squared grade
    points, and for validation and test also RMSE, MAE and R².

    Args:
        in_features: Number of exam scores. The command line takes it from the data.
        hidden_sizes: Units of each hidden layer; ``()`` is linear regression.
        dropout: Probability with which a hidden unit is zeroed in training.
        learning_rate: Adam's step size.
        penalty: Norm of the weights that is added to the training loss, as the lecture's
            L(w, D) + λ‖w‖: ``l1``, or ``l2`` (not squared). None adds nothing.
        penalty_weight: The λ above.
        steps_per_execution: Optimiser steps that may be run per round of Lightning's loop; on an
            NVIDIA GPU all but the first are replayed from a CUDA graph. The result is the same for
            every value, bit for bit on a CPU; 1 is slower. Whatever acts between two batches
            (gradient accumulation, a callback's hook for single batches) gets 1 by itself.
        matmul_precision: Of single-precision matrix products, as
            `torch.set_float32_matmul_precision` has it: ``highest`` is the lecture's arithmetic,
            ``high`` lets an NVIDIA GPU use TF32, which is faster and rounds to ten bits.
        compile: Whether to compile the network with `torch.compile`.

    Raises:
        ValueError: If a size, a probability or a weight is out of its range.
        DivergenceError: When fitting, if a training or validation loss is not a finite number.

    Example:
        >>> GPARegressor(hidden_sizes=(16,)).predict_step([torch.zeros(5, 9)], 0).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        in_features: int = 9,
        hidden_sizes: Sequence[int] = (1024, 512, 128),
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
        penalty: Norm | None = None,
        penalty_weight: float = 1e-4,
        steps_per_execution: int = 256,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        compile: bool = False,  # noqa: A002 - PyTorch's own word
    ) -> None:
        super().__init__()
        if penalty_weight < 0:
            raise ValueError(f"penalty_weight must not be negative, got {penalty_weight}")
        if steps_per_execution < 1:
            raise ValueError(f"steps_per_execution must be at least 1, got {steps_per_execution}")
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.steps_per_execution = steps_per_execution
        self.matmul_precision = matmul_precision
        self.network = FullyConnectedNetwork(in_features, hidden_sizes, dropout)
        if compile:
            self.network.compile()
        metrics = MetricCollection(
            {
                "loss": MeanSquaredError(),
                "rmse": MeanSquaredError(squared=False),
                "mae": MeanAbsoluteError(),
                "r2": R2Score(),
            }
        )
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")
        self._execution: Execution | None = None
        self._step_graph = StepGraph()
        self._random_states: list[dict[str, Any]] = []
        self._squared_error_sum = torch.zeros(())
        self._rows_seen: float = 0
        self._processes = 1
        self._unchecked_losses: list[Tensor] = []
        self._checked_losses = 0
        self._first_step = 0

    def configure_callbacks(self) -> list[Callback]:
        """Bring what every fit needs, unless the Trainer has it from the last one."""
        present = {type(callback) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        return [kind() for kind in (Arithmetic, ExactResume) if kind not in present]

    def forward(self, x: Tensor) -> Tensor:
        """Predict GPAs, shape ``(batch, 1)``, from standardised scores ``(batch, in_features)``."""
        prediction: Tensor = self.network(x)
        return prediction

    def setup(self, stage: str) -> None:
        """Check that the network fits the data."""
        in_features: int = self.hparams["in_features"]
        data = getattr(self.trainer, "datamodule", None)
        columns = getattr(data, "in_features", in_features)
        if columns != in_features:
            raise ValueError(
                f"the data have {columns} feature columns, but the network {in_features} inputs; "
                f"give GPARegressor(in_features={columns})"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the project's stamp, and the random states, so that a resumed run changes nothing."""
        weights = torch.stack([weight.isfinite().all() for weight in self.parameters()])
        if self.trainer.training and not bool(weights.all()):
            raise self._diverged("the weights are")
        stamp(checkpoint)
        states = [random_states.collect()] * self.trainer.world_size
        if len(states) > 1:
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint's network is this one, and keep its random states for later."""
        states = checkpoint.get("random_states", [])
        # the first checkpoints of version 0.1.0 hold those of their one process, in no list
        self._random_states = states if isinstance(states, list) else [states]
        then = checkpoint["hyper_parameters"]
        for name in ("in_features", "hidden_sizes", "dropout"):
            before, now = then.get(name), self.hparams[name]
            if name == "hidden_sizes" and before is not None:
                before, now = list(before), list(now)
            if before != now:
                raise CheckpointError(
                    f"--model.{name} is {now}, but the checkpoint's network has {before}; give "
                    "the checkpoint's or start a new run"
                )

    def configure_optimizers(self) -> Optimizer:
        """Return Adam with PyTorch's defaults (``--optimizer`` on the command line replaces it)."""
        # The fused kernel unscales fp16 gradients by itself, which rules out clipping them.
        fused = self.trainer.precision != "16-mixed"
        return Adam(self.parameters(), lr=self.learning_rate, fused=fused)

    def on_train_start(self) -> None:
        """Take up the random states of a run that is resumed, at the last moment before it is.

        A process that the run did not have before starts with a state of its own.
        """
        states, self._random_states = self._random_states, []
        if self.global_rank < len(states):
            random_states.restore(states[self.global_rank])
        elif self.global_rank > 0:
            random_states.seed_apart(self.global_rank, self.global_step)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's training loss, and see how many steps may be run at once."""
        self._squared_error_sum = torch.zeros((), device=self.device)
        self._rows_seen = 0
        self._unchecked_losses = []
        self._checked_losses = 0
        self._first_step = self.trainer.global_step
        self._processes = self.trainer.world_size
        self._execution = Execution(self.trainer, self.steps_per_execution)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss to minimise: the MSE, plus the penalty if there is one."""
        x, y = batch
        rows: float = len(x)
        if rows > PIECE_ROWS:
            mse = mse_in_pieces(self.network, x, y, PIECE_ROWS)
        else:
            mse = mse_loss(self.network(x), y)
        if self._processes > 1 and self.trainer.is_last_batch:
            mse, rows = self._weighted(mse, len(x))
        self._note_loss(mse.detach(), rows)
        if self.penalty is None:
            return mse
        return mse + self.penalty_weight * weight_norm(self.network.parameters(), self.penalty)

    def _note_loss(self, mse: Tensor, rows: float) -> None:
        # summed here and logged once an epoch: a `self.log` at every step would cost time
        self._squared_error_sum.add_(mse, alpha=rows)
        self._unchecked_losses.append(mse)
        self._rows_seen += rows

    def _weighted(self, mse: Tensor, rows: int) -> tuple[Tensor, float]:
        """Weigh the MSE of this process's rows as its share in those of all processes.

        The gradient of a step is the mean of the processes' gradients, in which each counts the
        same. Only in an epoch's last step may one have a row less than another, or none.

        Returns:
            The weighted MSE, and the mean number of rows, which is what it stands for.
        """
        mean = self.trainer.strategy.reduce(torch.tensor(float(rows), device=self.device))
        assert isinstance(mean, Tensor)
        mean_rows = mean.item()
        if not rows:  # the mean of nothing is NaN, but every process has to give a gradient
            return 0 * weight_norm(self.network.parameters(), "l1"), mean_rows
        return mse * (rows / mean_rows), mean_rows

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step on the current batch, then on those after it, ``steps_per_execution`` in all."""
        optimizer.step(closure=optimizer_closure)
        if self._execution is not None:
            self._execution.run(optimizer, self._direct_step())
        if len(self._unchecked_losses) >= _STEPS_BETWEEN_CHECKS:
            self._check_losses()

    def _direct_step(self) -> DirectStep | None:
        """Return what does all that a `training_step` and its optimiser step do, if there is."""
        overridden = is_overridden("training_step", self, GPARegressor)
        if overridden or self.penalty is not None or self.hparams["compile"]:
            return None
        optimizer = self.trainer.optimizers[0]
        return DirectStep.of(self.network, optimizer, PIECE_ROWS, self._note_loss, self._step_graph)

    def _check_losses(self) -> None:
        """Stop the training if a loss since the last check is not a finite number."""
        losses, self._unchecked_losses = self._unchecked_losses, []
        if not losses:
            return
        finite = torch.stack(losses).isfinite()
        # where several processes train, all of them stop
        if not self.trainer.strategy.reduce_boolean_decision(bool(finite.all()), all=True):
            batches = self._checked_losses + int(finite.cumprod(0).sum())
            step = self._first_step + batches // self.trainer.accumulate_grad_batches
            raise self._diverged("the training loss is", step)
        self._checked_losses += len(losses)

    def _diverged(self, what: str, step: int | None = None) -> DivergenceError:
        trainer = self.trainer
        step = trainer.global_step if step is None else step
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        kept = f"the best weights are in {best}" if best else "there is no checkpoint yet"
        return DivergenceError(
            f"{what} not finite at epoch {trainer.current_epoch}, step {step} (counted from 0), so "
            f"the training has ended; try a smaller learning rate than {rate:g}, and look for huge "
            f"values in the table; {kept}"
        )

    def on_validation_start(self) -> None:
        """Check the losses of the training so far."""
        self._check_losses()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss, the mean over its rows as they were trained on."""
        self._check_losses()
        loss = self._squared_error_sum / self._rows_seen
        self.log("train_loss", loss, prog_bar=True, sync_dist=True)

    def on_fit_end(self) -> None:
        """Free the GPU's memory that a recorded step holds."""
        self._step_graph = StepGraph()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update and log the validation metrics."""
        x, y = batch
        self.val_metrics.update(self.network(x), y)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_metrics(self.val_metrics, "val_loss")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update and log the test metrics."""
        x, y = batch
        self.test_metrics.update(self.network(x), y)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_metrics(self.test_metrics, "test_loss")

    def _log_metrics(self, metrics: MetricCollection, loss: str) -> None:
        values = metrics.compute()
        metrics.reset()
        if self.trainer.state.fn == "fit" and not bool(values[loss].isfinite()):
            raise self._diverged("the validation loss is")
        # torchmetrics has summed over all devices already; this only keeps Lightning from asking
        self.log(loss, values.pop(loss), prog_bar=True, sync_dist=True)
        self.log_dict(values, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict GPAs, shape ``(batch, 1)``, from the batch's first element, the scores."""
        return self.forward(batch[0])
