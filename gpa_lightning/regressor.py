"""The network as a LightningModule: the lecture's MSE and Adam, its penalties, and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Adam, Optimizer
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection, R2Score

from gpa_lightning.losses import Norm, TargetUnits, batch_mse, weight_norm
from gpa_lightning.network import FullyConnectedNetwork

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

    Raises:
        ValueError: If a size, a probability or a weight is out of its range.

    Example:
        >>> import torch
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
    ) -> None:
        super().__init__()
        if not learning_rate >= 0:
            raise ValueError(f"learning_rate must not be negative, got {learning_rate}")
        if not penalty_weight >= 0:
            raise ValueError(f"penalty_weight must not be negative, got {penalty_weight}")
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.network = FullyConnectedNetwork(in_features, hidden_sizes, dropout)
        self.target_units = TargetUnits()  # which changes nothing, but for other tables
        self.train_loss = MeanMetric(nan_strategy=float("nan"))
        self.val_loss, self.test_loss = MeanSquaredError(), MeanSquaredError()
        metrics = MetricCollection(
            {"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError(), "r2": R2Score()}
        )
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")

    def forward(self, x: Tensor) -> Tensor:
        """Predict GPAs, shape ``(batch, 1)``, from standardised scores ``(batch, in_features)``."""
        prediction: Tensor = self.target_units(self.network(x))
        return prediction

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss to minimise: the MSE, plus the penalty if there is one."""
        x, y = batch
        loss = batch_mse(self, x, y)
        if not self.train_loss.update_called:  # once an epoch, of which it is the mean
            self.log("train_loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.train_loss.update(loss.detach(), len(x))
        if (scale := self.target_units.scale) is not None:
            loss = (loss / scale / scale).squeeze()  # step size and penalty count as for any target
        if self.penalty is not None:
            loss = loss + self.penalty_weight * weight_norm(self.parameters(), self.penalty)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Return Adam with PyTorch's defaults (``--optimizer`` on the command line replaces it)."""
        return Adam(self.parameters(), lr=self.learning_rate, fused=True)

    def on_validation_epoch_start(self) -> None:
        """Start the metrics anew: `Trainer.validate` leaves them in PyTorch's inference mode."""
        self.val_loss.reset()
        self.val_metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update and log the validation metrics."""
        x, y = batch
        prediction = self(x)
        self.val_loss.update(prediction, y)
        self.val_metrics.update(prediction, y)
        self.log("val_loss", self.val_loss, prog_bar=True)
        self.log_dict(self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Start the metrics anew, likewise."""
        self.test_loss.reset()
        self.test_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update and log the test metrics."""
        x, y = batch
        prediction = self(x)
        self.test_loss.update(prediction, y)
        self.test_metrics.update(prediction, y)
        self.log("test_loss", self.test_loss)
        self.log_dict(self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict GPAs, shape ``(batch, 1)``, from the batch's first element, the scores."""
        prediction: Tensor = self(batch[0])
        return prediction
