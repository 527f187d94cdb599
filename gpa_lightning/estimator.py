"""The LightningModule under Lightning's Trainer, as a scikit-learn estimator.

With it, what scikit-learn has for any regressor works on the network of the lecture:
cross-validation, grid searches, validation curves and learning curves. An estimator is fitted
many times over on small tables, often in several processes, so a fit leaves nothing on disk, logs
nothing, and puts the global random states back to where they were.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.utils.data import DataLoader

from gpa_lightning.callbacks import StopOnDivergence
from gpa_lightning.data.datamodule import EVALUATION_ROWS
from gpa_lightning.data.loaders import BatchSampler, TableDataset, table_loader
from gpa_lightning.losses import Norm
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.regressor import GPARegressor
from gpa_lightning.speed import FastTraining

Array = npt.NDArray[np.float64]

_ONE_AT_A_TIME = threading.Lock()  # of threads: they share the random state and Lightning's logger


class LightningMLPRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """`GPARegressor` under Lightning's Trainer, fitted and used like any scikit-learn regressor.

    Parameters and attributes that `sklearn.neural_network.MLPRegressor` has too mean the same
    here; the others are those of `GPARegressor` and of the Trainer. Features are standardised
    inside, by the mean and deviation of the rows that are trained on, so they are given as they
    are; the target is not, so losses are in its squared units. Given the same standardised rows,
    batch size and seed, ``fit`` ends with the weights that a Trainer ends with on `GPARegressor`,
    to the last bit.

    It trains in single precision and predicts in double precision, on the CPU, so that the
    prediction for a row does not depend on the rows beside it.

    Args:
        hidden_layer_sizes: Units of each hidden layer; ``()`` is linear regression.
        dropout: Probability with which a hidden unit is zeroed in training.
        penalty: Norm of the weights that is added to the training loss: ``l1``, or ``l2`` (not
            squared). None adds nothing. Not scikit-learn's ``alpha``, which weighs the squared
            norm and shrinks with the number of rows.
        penalty_weight: The penalty's factor, the lecture's λ.
        batch_size: Rows a training batch, or ``full`` for all of them.
        learning_rate_init: Adam's step size.
        max_iter: Number of epochs at most.
        tol: The least improvement that counts, of the training loss (in squared units of the
            target) or, with ``early_stopping``, of the validation score.
        n_iter_no_change: Epochs without such an improvement after which the training ends;
            ``inf`` trains for ``max_iter`` epochs.
        early_stopping: Whether to hold out rows, to watch the score on them instead of the
            training loss, and to keep the weights of the epoch with the best score (the lecture's
            "Early Stopping").
        validation_fraction: Share of the rows that ``early_stopping`` holds out, at least two.
        random_state: Seed of the initial weights, the order of the rows, dropout, and the rows
            held out. A `RandomState`, or the global one for None, is drawn from at each fit.
        accelerator: Where the Trainer computes, on one device: ``cpu``, ``gpu``, ``auto``, ...
        verbose: Whether to print each epoch's losses.

    Attributes:
        network_: The trained `FullyConnectedNetwork`, in double precision.
        scaler_: The `StandardScaler` in front of it.
        loss_curve_: Training loss of each epoch, the plain MSE, mean over the rows as they were
            trained on (twice what `MLPRegressor` calls the loss, and without the penalty).
        loss_: Its last value.
        best_loss_: Its lowest; None with ``early_stopping``.
        validation_scores_: R² on the rows held out, after each epoch; None without
            ``early_stopping``.
        best_validation_score_: The highest of them, that of the network kept; or None.
        n_iter_: Number of epochs trained. ``max_iter`` where nothing ended the training before.
        n_features_in_: Number of features.
        feature_names_in_: Their names, if ``fit`` was given a table whose columns have names.

    Example:
        >>> from sklearn.datasets import make_regression
        >>> X, y = make_regression(n_samples=200, n_features=9, noise=1, random_state=0)
        >>> regressor = LightningMLPRegressor(hidden_layer_sizes=(64, 32), random_state=0)
        >>> round(regressor.set_params(learning_rate_init=0.01).fit(X, y).score(X, y), 2)
        1.0
        >>> regressor.predict(X).shape, len(regressor.loss_curve_)
        ((200,), 100)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "penalty": [StrOptions({"l1", "l2"}), None],
        "penalty_weight": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"full"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "accelerator": [str],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (1024, 512, 128),
        *,
        dropout: float = 0.0,
        penalty: Norm | None = None,
        penalty_weight: float = 1e-4,
        batch_size: int | Literal["full"] = 100,
        learning_rate_init: float = 1e-3,
        max_iter: int = 100,
        tol: float = 1e-4,
        n_iter_no_change: float = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        accelerator: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.accelerator = accelerator
        self.verbose = verbose

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> LightningMLPRegressor:
        """Train a new network.

        Args:
            X: Features, shape ``(rows, features)``, in any units, at least two rows.
            y: Target, shape ``(rows,)``.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If a parameter is out of its range, the data are not finite numbers of
                these shapes, or the training diverges.
            TypeError: If the features are a sparse matrix.
        """
        self._validate_params()
        features, target = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2
        )
        seed = (
            int(self.random_state)
            if isinstance(self.random_state, Integral)
            else check_random_state(self.random_state).randint(2**31)
        )
        if self.early_stopping:
            held_out = max(2, math.ceil(self.validation_fraction * len(target)))
            features, val_features, target, val_target = train_test_split(
                features, target, test_size=held_out, random_state=seed
            )
            variance = float(np.var(val_target)) or 1.0  # R² = 1 - loss / variance
            progress = _Progress("val_loss", self.tol * variance, self)
        else:
            progress = _Progress("train_loss", self.tol, self)

        scaler = StandardScaler().fit(features)
        batch_size = None if self.batch_size == "full" else self.batch_size
        loaders = [_loader(scaler.transform(features), target, batch_size, True, seed)]
        if self.early_stopping:
            loaders.append(_loader(scaler.transform(val_features), val_target, EVALUATION_ROWS))
        self.network_ = self._train(loaders, progress, seed).double().eval()
        self.scaler_ = scaler

        self.loss_curve_ = progress.curves["train_loss"]
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = len(self.loss_curve_)
        self.best_loss_ = self.validation_scores_ = self.best_validation_score_ = None
        if self.early_stopping:
            self.validation_scores_ = [1 - loss / variance for loss in progress.curves["val_loss"]]
            self.best_validation_score_ = max(self.validation_scores_)
        else:
            self.best_loss_ = min(self.loss_curve_)
        return self

    def _train(
        self, loaders: list[DataLoader[Any]], progress: _Progress, seed: int
    ) -> FullyConnectedNetwork:
        on_cpu = self.accelerator == "cpu"
        gpus = [] if on_cpu else range(torch.cuda.device_count())
        with _ONE_AT_A_TIME, quiet_lightning(), torch.random.fork_rng(gpus):
            # the CPU's generator alone, since seeding all of them would reach an idle GPU's too
            (torch.default_generator if on_cpu else torch).manual_seed(seed)
            model = GPARegressor(
                in_features=self.n_features_in_,
                hidden_sizes=np.atleast_1d(self.hidden_layer_sizes).tolist(),
                dropout=self.dropout,
                learning_rate=self.learning_rate_init,
                penalty=self.penalty,
                penalty_weight=self.penalty_weight,
            )
            trainer = Trainer(
                accelerator=self.accelerator,
                devices=1,
                max_epochs=self.max_iter,
                callbacks=[FastTraining(), StopOnDivergence(), progress],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            trainer.fit(model, train_dataloaders=loaders[0], val_dataloaders=loaders[1:] or None)
        if progress.best_weights:
            model.load_state_dict(progress.best_weights)
        return model.network

    def predict(self, X: npt.ArrayLike) -> Array:
        """Predict the target.

        Args:
            X: Features, shape ``(rows, features)``, in the units of those that were fitted.

        Returns:
            Predictions, shape ``(rows,)``, float64.

        Raises:
            sklearn.exceptions.NotFittedError: If there is no network yet.
            ValueError: If the features are not finite numbers or not those of the fit.
        """
        check_is_fitted(self, "network_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        x = torch.from_numpy(self.scaler_.transform(X))
        with torch.inference_mode():
            blocks = [self.network_(block) for block in torch.split(x, EVALUATION_ROWS)]
        predictions: Array = torch.cat(blocks).squeeze(1).numpy()
        return predictions


def _loader(
    x: Array, y: Array, batch_size: int | None, shuffle: bool = False, seed: int = 0
) -> DataLoader[Any]:
    # standardised in double precision and rounded once, as `GPADataModule` does it
    dataset = TableDataset(
        torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.float32))[:, None]
    )
    return table_loader(dataset, BatchSampler(dataset, batch_size, shuffle, seed))


class _Progress(EarlyStopping):
    """Notes the losses of each epoch, and ends the fit when the one that is watched stalls.

    Where that is the validation loss, it also keeps the weights of the best epoch, in memory.
    """

    def __init__(self, monitor: str, min_delta: float, estimator: LightningMLPRegressor) -> None:
        super().__init__(
            monitor,
            min_delta,
            patience=estimator.n_iter_no_change,  # type: ignore[arg-type]  # may be infinite
            check_on_train_epoch_end=True,
        )
        self.printing = estimator.verbose
        self.curves: dict[str, list[float]] = {"train_loss": [], monitor: []}
        self.best_weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, curve in self.curves.items():
            curve.append(trainer.callback_metrics[name].item())
        watched = self.curves[self.monitor]
        if self.monitor == "val_loss" and watched.index(min(watched)) == len(watched) - 1:
            self.best_weights = deepcopy(pl_module.state_dict())
        if self.printing:
            losses = ", ".join(f"{name} = {curve[-1]:.6f}" for name, curve in self.curves.items())
            print(f"Epoch {len(watched)}: {losses}")  # noqa: T201
        super().on_train_epoch_end(trainer, pl_module)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Withhold Lightning's notes and advice, of which none is the estimator's user's to act on."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*")
            yield
    finally:
        logger.setLevel(level)
