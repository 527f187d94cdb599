"""The LightningModule under Lightning's Trainer, as a scikit-learn estimator.

With it, what scikit-learn has for any regressor works on the network of the lecture:
cross-validation, grid searches, validation curves and learning curves. An estimator is fitted
many times over on small tables, often in several processes, so a fit leaves nothing on disk, logs
nothing, and puts the global random states back to where they were.

scikit-learn has no public names for what checks an estimator's parameters (`_param_validation`,
`_parameter_constraints`, `_validate_params`) and weights (`_check_sample_weight`); its own
`check_estimator`, among the tests, notices a change.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from gpa_lightning.callbacks import StopOnDivergence
from gpa_lightning.callbacks.quiet import quiet_lightning
from gpa_lightning.data.loaders import EVALUATION_ROWS, BatchSampler, TableDataset, table_loader
from gpa_lightning.losses import Norm, batch_mse, weight_norm
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.regressor import Batch, GPARegressor
from gpa_lightning.speed import FastTraining

Array = npt.NDArray[np.float64]

_LOCK = threading.Lock()  # of threads: they share the random state and Lightning's logger


def _supports_partial_fit(estimator: LightningMLPRegressor) -> bool:
    if estimator.early_stopping:  # as scikit-learn's, since each call would hold out other rows
        raise AttributeError("partial_fit does not support early_stopping=True")
    return True


class LightningMLPRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """`GPARegressor` under Lightning's Trainer, fitted and used like any scikit-learn regressor.

    Parameters and attributes that `sklearn.neural_network.MLPRegressor` has too mean the same
    here; the others are those of `GPARegressor` and of the Trainer. Features are standardised
    inside, by the mean and deviation of the rows that are trained on, so they are given as they
    are; the target is not, so losses are in its squared units. Given the same standardised rows,
    batch size and seed, ``fit`` ends with the weights that a Trainer ends with on `GPARegressor`,
    to the last bit.

    It trains in single precision and predicts in double precision, on the CPU, so that the rows
    beside a row change its prediction in the last digits at most.

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
        warm_start: Whether ``fit`` goes on from the weights of the call before, with a new Adam,
            instead of from new ones. The scaler stays that of the first call, in whose units the
            weights are; so do the best loss or score and the epochs without an improvement.

    Attributes:
        network_: The trained `FullyConnectedNetwork`, in double precision.
        scaler_: The `StandardScaler` in front of it.
        loss_curve_: Training loss of each epoch, the plain MSE, mean over the rows as they were
            trained on (twice what `MLPRegressor` calls the loss, and without the penalty). With
            ``warm_start`` and ``partial_fit`` it goes on, as the scores do.
        loss_: Its last value.
        best_loss_: Its lowest; None with ``early_stopping``.
        validation_scores_: R² on the rows held out, after each epoch; None without
            ``early_stopping``.
        best_validation_score_: The highest of them, that of the network kept; or None.
        n_iter_: Number of epochs of the last call. ``max_iter`` where nothing ended it before.
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
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "accelerator": [str],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
    }

    network_: FullyConnectedNetwork
    scaler_: StandardScaler
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    _adam: dict[Any, Any]
    _progress: tuple[float, float, int]

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
        warm_start: bool = False,
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
        self.warm_start = warm_start

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> LightningMLPRegressor:
        """Train a new network, or with ``warm_start`` the one that there is.

        Args:
            X: Features, shape ``(rows, features)``, in any units, at least two rows.
            y: Target, shape ``(rows,)``.
            sample_weight: Weights of the rows in the scaler, in the loss of a batch and in the
                score of rows held out, shape ``(rows,)``, not negative. Rows of weight 0 are left
                out. None for equal weights.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If a parameter is out of its range, the data are not finite numbers of
                these shapes, the training diverges, or the network that there is has other layers
                than ``hidden_layer_sizes``.
            TypeError: If the features are a sparse matrix.
        """
        continued = self.warm_start and hasattr(self, "network_")
        return self._fit(X, y, sample_weight, continued, self.max_iter)

    @available_if(_supports_partial_fit)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> LightningMLPRegressor:
        """Train for one epoch from where the call before has ended, Adam's averages included.

        As `MLPRegressor` does, not available with ``early_stopping``. The scaler is that of the
        first call, whose rows should therefore be like those to come.

        Args:
            X: Features, shape ``(rows, features)``; at the first call at least two rows.
            y: Target, shape ``(rows,)``.
            sample_weight: As for ``fit``.

        Returns:
            The estimator itself.

        Raises:
            ValueError: As ``fit`` does.
            TypeError: If the features are a sparse matrix.
        """
        continued = hasattr(self, "network_")
        return self._fit(X, y, sample_weight, continued, 1, self._adam if continued else None)

    def _fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        continued: bool,
        epochs: int,
        adam: dict[Any, Any] | None = None,
    ) -> LightningMLPRegressor:
        self._validate_params()
        features, target = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            y_numeric=True,
            multi_output=True,
            ensure_min_samples=1 if continued else 2,
            reset=not continued,
        )
        if target.ndim == 2 and target.shape[1] != 1:
            raise ValueError(
                f"y has {target.shape[1]} columns, but this estimator has one target: y should be "
                "a 1d array; for several, use sklearn.multioutput.MultiOutputRegressor"
            )
        target = column_or_1d(target, warn=True)
        columns = [features, target]
        if sample_weight is not None:
            columns = _drop_zero_weights(features, target, sample_weight)
        seed = (
            int(self.random_state)
            if isinstance(self.random_state, Integral)
            else check_random_state(self.random_state).randint(2**31)
        )
        monitor, unit = "train_loss", 1.0
        if self.early_stopping:
            held_out = max(2, math.ceil(self.validation_fraction * len(columns[1])))
            split = train_test_split(*columns, test_size=held_out, random_state=seed)
            columns, val_columns = split[::2], split[1::2]
            monitor, unit = "val_loss", _variance(*val_columns[1:]) or 1.0  # R² = 1 - loss / unit
        progress = _Progress(monitor, self.tol * unit, self)
        losses: list[float] = []
        scores: list[float] = []
        if continued:
            losses, scaler = self.loss_curve_, self.scaler_
            # another order of the rows, and other units dropped, than in the calls before
            seed = int(np.random.SeedSequence((seed, len(losses))).generate_state(1)[0])
            if self.early_stopping == bool(self.validation_scores_):
                scores = self.validation_scores_ or []
                progress.resume(unit, *self._progress)
        else:
            scaler = StandardScaler().fit(columns[0], None, *columns[2:])
        batch_size = None if self.batch_size == "full" else self.batch_size
        loaders = [_loader(scaler, columns, batch_size, True, seed)]
        if self.early_stopping:
            loaders.append(_loader(scaler, val_columns, EVALUATION_ROWS))
        network, adam = self._train(
            loaders, progress, seed, epochs, self.network_ if continued else None, adam
        )

        self.network_, self.scaler_ = network.double().eval(), scaler
        self._adam, self._progress = adam, progress.state(unit)
        self.n_iter_ = len(progress.curves["train_loss"])
        self.loss_curve_ = losses + progress.curves["train_loss"]
        self.loss_ = self.loss_curve_[-1]
        self.best_loss_ = self.validation_scores_ = self.best_validation_score_ = None
        if self.early_stopping:
            new = [1 - loss / unit for loss in progress.curves["val_loss"]]
            self.validation_scores_ = scores + new
            self.best_validation_score_ = max(self.validation_scores_)
        else:
            self.best_loss_ = min(self.loss_curve_)
        return self

    def _train(
        self,
        loaders: list[DataLoader[Any]],
        progress: _Progress,
        seed: int,
        epochs: int,
        network: FullyConnectedNetwork | None,
        adam: dict[Any, Any] | None,
    ) -> tuple[FullyConnectedNetwork, dict[Any, Any]]:
        """Train a new network or a given one, and return it with the state of its Adam."""
        on_cpu = self.accelerator == "cpu"
        gpus = [] if on_cpu else range(torch.cuda.device_count())
        with _LOCK, quiet_lightning(), torch.random.fork_rng(gpus):
            # the CPU's generator alone, since seeding all of them would reach an idle GPU's too
            (torch.default_generator if on_cpu else torch).manual_seed(seed)
            model = _Regressor(
                in_features=self.n_features_in_,
                hidden_sizes=np.atleast_1d(self.hidden_layer_sizes).tolist(),
                dropout=self.dropout,
                learning_rate=self.learning_rate_init,
                penalty=self.penalty,
                penalty_weight=self.penalty_weight,
            )
            if network is not None:
                _copy_weights(network, model.network)
            model.adam = adam
            trainer = Trainer(
                accelerator=self.accelerator,
                devices=1,
                max_epochs=epochs,
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
        return model.network, trainer.optimizers[0].state_dict()["state"]

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


def _drop_zero_weights(features: Array, target: Array, sample_weight: npt.ArrayLike) -> list[Array]:
    """Return features, target and weights of the rows whose weight is not 0."""
    weight = _check_sample_weight(
        sample_weight, features, dtype=np.float64, ensure_non_negative=True
    )
    counts = weight > 0
    if not counts.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return [features[counts], target[counts], weight[counts]]


def _variance(y: Array, weight: Array | None = None) -> float:
    return float(np.average((y - np.average(y, weights=weight)) ** 2, weights=weight))


def _loader(
    scaler: StandardScaler,
    columns: Sequence[Array],
    batch_size: int | None,
    shuffle: bool = False,
    seed: int = 0,
) -> DataLoader[Any]:
    # standardised in double precision and rounded once, as `GPADataModule` does it
    x, y, *weight = (scaler.transform(columns[0]), *columns[1:])
    weight = [each / each.mean() for each in weight]
    tensors = [torch.from_numpy(array.astype(np.float32)) for array in (x, y, *weight)]
    dataset = TableDataset(tensors[0], *(column[:, None] for column in tensors[1:]))
    return table_loader(dataset, BatchSampler(dataset, batch_size, shuffle, seed))


def _copy_weights(trained: FullyConnectedNetwork, new: FullyConnectedNetwork) -> None:
    sizes, wanted = (
        [layer.out_features for layer in network.layers if isinstance(layer, nn.Linear)]
        for network in (trained, new)
    )
    if sizes != wanted:
        raise ValueError(
            f"hidden_layer_sizes is {wanted[:-1]}, but the network to go on with has "
            f"{sizes[:-1]}; give these, or fit a new one with warm_start=False"
        )
    new.load_state_dict(trained.state_dict())


class _Regressor(GPARegressor):
    """A regressor that resumes the Adam of an earlier fit, and weighs the rows of a batch."""

    adam: dict[Any, Any] | None = None

    def configure_optimizers(self) -> Optimizer:
        optimizer = super().configure_optimizers()
        if self.adam is not None:
            groups = optimizer.state_dict()["param_groups"]  # the learning rate is what it is now
            optimizer.load_state_dict({"state": deepcopy(self.adam), "param_groups": groups})
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y, *weight = batch
        if not weight:
            return super().training_step(batch, batch_idx)
        loss = batch_mse(self, x, y, *weight)
        if not self.train_loss.update_called:
            self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        self.train_loss.update(loss.detach(), len(x))
        if self.penalty is not None:
            loss = loss + self.penalty_weight * weight_norm(self.parameters(), self.penalty)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y, *weight = batch
        root = weight[0].sqrt() if weight else 1
        self.val_loss.update(self(x) * root, y * root)  # the weights' mean is 1
        self.log("val_loss", self.val_loss)


class _Progress(EarlyStopping):
    """Records the losses of each epoch, and stops the fit when the monitored one stalls.

    If that is the validation loss, it also keeps the weights of the best epoch, in memory.
    """

    def __init__(self, monitor: str, min_delta: float, estimator: LightningMLPRegressor) -> None:
        super().__init__(
            monitor,
            min_delta,
            patience=estimator.n_iter_no_change,  # type: ignore[arg-type]  # may be infinite
            check_on_train_epoch_end=True,
        )
        self.prints = estimator.verbose
        self.curves: dict[str, list[float]] = {"train_loss": [], monitor: []}
        self.best = math.inf
        self.best_weights: dict[str, Tensor] = {}

    def resume(self, unit: float, best: float, best_score: float, wait_count: int) -> None:
        """Resume from the `state` of the call before."""
        self.best, self.best_score = best * unit, torch.tensor(best_score * unit)
        self.wait_count = wait_count

    def state(self, unit: float) -> tuple[float, float, int]:
        """Return the lowest loss, the lowest that counted, and the epochs since that."""
        return self.best / unit, self.best_score.item() / unit, self.wait_count

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best < math.inf and self.monitor == "val_loss":
            self.best_weights = deepcopy(pl_module.state_dict())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, curve in self.curves.items():
            curve.append(trainer.callback_metrics[name].item())
        monitored = self.curves[self.monitor]
        if monitored[-1] < self.best:
            self.best = monitored[-1]
            if self.monitor == "val_loss":
                self.best_weights = deepcopy(pl_module.state_dict())
        if self.prints:
            losses = ", ".join(f"{name} = {curve[-1]:.6f}" for name, curve in self.curves.items())
            print(f"Epoch {len(monitored)}: {losses}")  # noqa: T201
        super().on_train_epoch_end(trainer, pl_module)
