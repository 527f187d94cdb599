import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from lightning.pytorch import seed_everything
from runs import fit, weights
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_score,
    learning_curve,
    train_test_split,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpa_lightning import GPADataModule, GPARegressor, LightningMLPRegressor
from gpa_lightning.resuming import random_states

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}


@pytest.fixture(scope="module")
def curved():
    """600 rows of a curved function with some noise, of unit variance."""
    X, y = make_friedman1(600, 6, noise=1, random_state=0)
    return X, scale(y)


def comparable(estimator):
    """With settings under which weighted and repeated rows lead to the same seven digits.

    scikit-learn has such settings for its own network, too. Here repeated rows have other units
    dropped and other rows held out, and many steps in single precision leave six digits.
    """
    return clone(estimator).set_params(
        hidden_layer_sizes=(8,), dropout=0, early_stopping=False, learning_rate_init=1e-3
    )


@parametrize_with_checks(
    [
        LightningMLPRegressor(
            (64, 32),
            dropout=0.1,
            penalty="l2",
            batch_size=50,
            learning_rate_init=0.02,
            max_iter=5,
            early_stopping=True,
        )
    ]
)
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(comparable(estimator) if "sample_weight_equivalence" in str(check) else estimator)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimators_partial_fit_n_features,
        estimator_checks.check_n_features_in_after_fitting,
        estimator_checks.check_dataframe_column_names_consistency,
    ],
)
def test_it_is_one_that_is_fitted_in_parts(check):
    check("LightningMLPRegressor", LightningMLPRegressor((8,), max_iter=1))


@pytest.mark.slow
@parametrize_with_checks([LightningMLPRegressor(max_iter=5)])
def test_the_lectures_network_is_a_scikit_learn_estimator(estimator, check):
    check(comparable(estimator) if "sample_weight_equivalence" in str(check) else estimator)


def test_defaults_are_those_of_the_model_and_the_data():
    estimator, model, data = (
        LightningMLPRegressor(),
        GPARegressor().hparams,
        GPADataModule().hparams,
    )
    assert estimator.hidden_layer_sizes == model["hidden_sizes"]
    assert estimator.learning_rate_init == model["learning_rate"]
    assert estimator.batch_size == data["batch_size"]
    for name in ("dropout", "penalty", "penalty_weight"):
        assert getattr(estimator, name) == model[name]


def test_it_ends_with_the_weights_that_a_trainer_ends_with(table):
    data = GPADataModule(path=str(table), batch_size=32, seed=7)
    seed_everything(7)
    model = GPARegressor(
        hidden_sizes=(32, 16), dropout=0.1, learning_rate=0.01, penalty="l1", penalty_weight=1e-3
    )
    fit(model, data, epochs=4)

    rows = np.random.default_rng(7).permutation(537)[: data.rows["training"]]
    students = pd.read_csv(table).iloc[rows]
    estimator = LightningMLPRegressor(
        (32, 16),
        dropout=0.1,
        learning_rate_init=0.01,
        penalty="l1",
        penalty_weight=1e-3,
        batch_size=32,
        max_iter=4,
        random_state=7,
    ).fit(students[list(data.feature_names)], students["gpa"])

    for ours, theirs in zip(weights(estimator.network_), weights(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert estimator.loss_ == model.trainer.callback_metrics["train_loss"].item()
    assert estimator.feature_names_in_.tolist() == list(data.feature_names)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_is_as_good_as_scikit_learns(curved):
    X, X_test, y, y_test = train_test_split(*curved, random_state=0)
    same = {
        "hidden_layer_sizes": (64, 32),
        "batch_size": 50,
        "learning_rate_init": 0.003,
        "max_iter": 40,
        "random_state": 0,
    }
    ours = LightningMLPRegressor(**same)
    theirs = make_pipeline(StandardScaler(), MLPRegressor(**same))
    scores = [regressor.fit(X, y).score(X_test, y_test) for regressor in (ours, theirs)]
    assert scores == pytest.approx([0.92, 0.92], abs=0.03)


FULL = {"hidden_layer_sizes": (8,), "batch_size": "full", "random_state": 0, "max_iter": 5}


@pytest.mark.parametrize("changes", [{}, {"penalty": "l2", "penalty_weight": 0.1}])
@pytest.mark.parametrize("rows", [100, 600])  # 600: repeated, more than are computed at a time
def test_a_weight_is_how_often_a_row_is_there(curved, rows, changes):
    X, y = (part[:rows] for part in curved)
    weight = np.random.default_rng(0).integers(0, 6, rows)
    settings = {**FULL, "learning_rate_init": 0.01, **changes}
    weighted = LightningMLPRegressor(**settings).fit(X, y, weight)
    repeated = LightningMLPRegressor(**settings).fit(X.repeat(weight, 0), y.repeat(weight))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weighted.scaler_.mean_, repeated.scaler_.mean_)
    assert weighted.loss_curve_ == pytest.approx(repeated.loss_curve_, rel=1e-5)
    plain = LightningMLPRegressor(**settings).fit(X, y)
    assert np.abs(plain.predict(X) - weighted.predict(X)).max() > 1e-3


def test_weights_have_no_unit_and_rows_of_weight_0_are_not_there(curved):
    X, y = curved
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    counts = weight > 0

    def prediction(rows, weights):
        return LightningMLPRegressor(**SMALL).fit(X[rows], y[rows], weights).predict(X)

    expected = prediction(counts, weight[counts])
    np.testing.assert_array_equal(prediction(slice(None), weight), expected)
    np.testing.assert_allclose(prediction(slice(None), weight * 1e-50), expected, rtol=1e-4)


def test_a_batch_is_weighed_as_scikit_learn_does(curved):
    X, y = scale(curved[0]), curved[1]
    weight = np.random.default_rng(0).uniform(0.1, 3, len(y))
    X = (X - np.average(X, axis=0, weights=weight)) / np.sqrt(
        np.average((X - np.average(X, axis=0, weights=weight)) ** 2, axis=0, weights=weight)
    )
    ours = LightningMLPRegressor(**FULL).fit(X, y, weight)
    loss = np.average((y - ours.predict(X)) ** 2, weights=weight)
    theirs = MLPRegressor(
        hidden_layer_sizes=8, batch_size=len(y), alpha=0, max_iter=1, random_state=0
    )
    with pytest.warns(ConvergenceWarning):
        theirs.fit(X, y, weight)
    layers = ours.network_.layers
    theirs.coefs_ = [layer.weight.detach().numpy().T.copy() for layer in (layers.fc1, layers.fc2)]
    theirs.intercepts_ = [layer.bias.detach().numpy().copy() for layer in (layers.fc1, layers.fc2)]
    theirs.partial_fit(X, y, weight)  # whose loss is that before its step, and half of ours
    assert 2 * theirs.loss_ == pytest.approx(loss, rel=1e-6)
    assert ours.partial_fit(X, y, weight).loss_ == pytest.approx(loss, rel=1e-5)


def test_rows_held_out_are_weighed_in_their_score(curved):
    X, y = curved
    weight = np.random.default_rng(0).uniform(0, 3, len(y))
    estimator = LightningMLPRegressor((64,), max_iter=3, early_stopping=True, random_state=3)
    estimator.fit(X, y, weight)
    _, X_val, _, y_val, _, weights = train_test_split(X, y, weight, test_size=0.1, random_state=3)
    score = estimator.score(X_val, y_val, weights)
    assert score == pytest.approx(estimator.best_validation_score_, abs=1e-6)
    assert score != pytest.approx(estimator.score(X_val, y_val), abs=1e-4)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(0, "at least one non-zero"), (-1, "Negative values"), (np.nan, "NaN"), ([1, 2], "shape")],
)
def test_weights_that_make_no_sense_are_refused(curved, weight, message):
    X, y = curved
    given = weight if isinstance(weight, list) else np.full(len(y), weight, float)
    with pytest.raises(ValueError, match=message):
        LightningMLPRegressor(**SMALL).fit(X, y, given)


@pytest.mark.parametrize("weight", [None, np.arange(600)])
def test_parts_go_on_from_one_another(curved, weight):
    whole = LightningMLPRegressor(**FULL, penalty="l1").fit(*curved, weight)
    parts = LightningMLPRegressor(**FULL, penalty="l1")
    for _ in range(5):
        assert parts.partial_fit(*curved, weight).n_iter_ == 1
    for ours, theirs in zip(weights(parts.network_), weights(whole.network_), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.best_loss_ == whole.best_loss_


def test_parts_may_be_of_any_rows_and_learn(curved):
    X, y = curved
    estimator = LightningMLPRegressor((32,), learning_rate_init=0.01, dropout=0.1, random_state=0)
    for _ in range(8):
        for start in range(0, len(y), 199):  # ends with 3 rows
            estimator.partial_fit(X[start : start + 199], y[start : start + 199])
    assert estimator.score(X, y) > 0.8
    assert len(estimator.loss_curve_) == 32
    np.testing.assert_array_equal(estimator.scaler_.mean_, X[:199].mean(axis=0))
    estimator.partial_fit(X[:1], y[:1])
    with pytest.raises(
        ValueError, match="X has 5 features, but LightningMLPRegressor is expecting"
    ):
        estimator.partial_fit(X[:, 1:], y)


def test_each_part_has_a_learning_rate_and_dropout_of_its_own(curved):
    X, y = curved
    estimator = LightningMLPRegressor(**SMALL, dropout=0.5).partial_fit(X, y)
    before = estimator.predict(X)
    estimator.set_params(learning_rate_init=1e-12)
    first, second = (estimator.partial_fit(X, y).loss_ for _ in range(2))
    np.testing.assert_array_equal(estimator.predict(X), before)
    assert first != second


def test_parts_with_early_stopping_are_refused(curved):
    estimator = LightningMLPRegressor(**SMALL, early_stopping=True)
    assert not hasattr(estimator, "partial_fit")
    with pytest.raises(AttributeError) as error:
        estimator.partial_fit(*curved)
    assert "does not support early_stopping=True" in str(error.value.__cause__)


def test_a_warm_start_goes_on_from_the_weights(curved):
    X, y = curved
    cold = LightningMLPRegressor(**{**FULL, "learning_rate_init": 1e-12}).fit(X, y)
    expected = cold.predict(X)
    assert not np.array_equal(cold.set_params(random_state=1).fit(X, y).predict(X), expected)

    warm = LightningMLPRegressor(**FULL, warm_start=True).fit(X, y)
    before, scaler = warm.predict(X), warm.scaler_
    warm.set_params(learning_rate_init=1e-12, max_iter=3, random_state=1)
    warm.fit(X[:300], y[:300])
    np.testing.assert_array_equal(warm.predict(X), before)
    assert warm.scaler_ is scaler
    assert warm.n_iter_ == 3
    assert len(warm.loss_curve_) == 8
    assert warm.best_loss_ == min(warm.loss_curve_)


def test_a_warm_start_keeps_the_best_of_all_calls(curved):
    X, y = curved
    settings = {"early_stopping": True, "learning_rate_init": 0.01, "random_state": 0}
    estimator = LightningMLPRegressor((32,), max_iter=20, warm_start=True, **settings).fit(X, y)
    before, best = estimator.predict(X), estimator.best_validation_score_
    estimator.set_params(learning_rate_init=1.0, max_iter=2).fit(X, y)  # which makes it worse
    assert estimator.n_iter_ == 2
    assert len(estimator.validation_scores_) == 22
    assert max(estimator.validation_scores_[20:]) < best == estimator.best_validation_score_
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_a_warm_start_may_go_on_to_hold_rows_out(curved):
    estimator = LightningMLPRegressor(**FULL, warm_start=True).fit(*curved)
    before = len(estimator.loss_curve_)
    estimator.set_params(early_stopping=True, max_iter=2).fit(*curved)
    assert len(estimator.validation_scores_) == 2
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)
    assert len(estimator.loss_curve_) == before + 2
    assert estimator.set_params(early_stopping=False).fit(*curved).validation_scores_ is None


def test_a_warm_start_that_has_stalled_ends_with_its_first_epoch(curved):
    estimator = LightningMLPRegressor((8,), tol=1e9, n_iter_no_change=3, warm_start=True)
    assert [estimator.fit(*curved).n_iter_ for _ in range(2)] == [4, 1]


def test_a_warm_start_with_other_layers_is_refused(curved):
    estimator = LightningMLPRegressor(**SMALL, warm_start=True).fit(*curved)
    before = estimator.predict(curved[0])
    with pytest.raises(ValueError, match=r"hidden_layer_sizes is \[4\], but .* has \[8\]; give"):
        estimator.set_params(hidden_layer_sizes=4).fit(*curved)
    np.testing.assert_array_equal(estimator.predict(curved[0]), before)


def test_several_targets_are_refused(curved):
    X, y = curved
    with pytest.raises(ValueError, match="y has 2 columns, but this estimator has one target"):
        LightningMLPRegressor(**SMALL).fit(X, np.column_stack([y, y]))
    several = MultiOutputRegressor(LightningMLPRegressor(**SMALL)).fit(X, np.column_stack([y, y]))
    assert several.predict(X).shape == (600, 2)


def test_units_of_the_features_do_not_matter(curved):
    X, y = curved
    scores = LightningMLPRegressor(**SMALL).fit(X, y).predict(X)
    points = LightningMLPRegressor(**SMALL).fit(1024 * X, y).predict(1024 * X)
    np.testing.assert_array_equal(scores, points)


def test_early_stopping_keeps_the_best_epoch(curved):
    X, y = curved
    noisy = y + np.random.default_rng(0).normal(0, 5, len(y))
    estimator = LightningMLPRegressor(
        (64,), learning_rate_init=0.02, early_stopping=True, validation_fraction=0.2, random_state=3
    ).fit(X, noisy)
    scores = estimator.validation_scores_
    assert estimator.n_iter_ == len(scores) == len(estimator.loss_curve_) < estimator.max_iter
    assert estimator.best_validation_score_ == max(scores) > scores[-1]
    assert estimator.best_loss_ is None
    _, X_val, _, y_val = train_test_split(X, noisy, test_size=0.2, random_state=3)
    assert r2_score(y_val, estimator.predict(X_val)) == pytest.approx(max(scores), abs=1e-6)


@pytest.mark.parametrize(("patience", "epochs"), [(3, 4), (np.inf, 6)])
def test_training_ends_when_it_stalls(curved, patience, epochs):
    estimator = LightningMLPRegressor((8,), tol=1e9, max_iter=6, n_iter_no_change=patience)
    estimator.fit(*curved)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == epochs
    assert estimator.loss_ == estimator.loss_curve_[-1]
    assert estimator.best_loss_ == min(estimator.loss_curve_)
    assert estimator.validation_scores_ is estimator.best_validation_score_ is None


def test_losses_are_means_over_the_rows_whatever_the_batches(curved):
    X, y = curved
    estimator = LightningMLPRegressor((8,), batch_size=500, learning_rate_init=1e-9, max_iter=1)
    (loss,) = estimator.fit(X, y).loss_curve_
    assert loss == pytest.approx(mean_squared_error(y, estimator.predict(X)), rel=1e-5)


def test_the_best_loss_need_not_be_the_last(curved):
    estimator = LightningMLPRegressor((8,), dropout=0.5, tol=0, n_iter_no_change=1, random_state=0)
    estimator.fit(*curved)  # ends with the first epoch that is no better
    assert estimator.best_loss_ == min(estimator.loss_curve_) < estimator.loss_


def test_tolerance_is_in_squared_units_of_the_target(curved):
    settings = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
    whole = LightningMLPRegressor(**settings, n_iter_no_change=np.inf).fit(*curved)
    first, second, *_ = whole.loss_curve_
    for share, counts in ((0.9, True), (1.1, False)):
        tolerance = {"tol": share * (first - second), "n_iter_no_change": 1}
        stopped = LightningMLPRegressor(**settings, **tolerance).fit(*curved)
        assert (stopped.n_iter_ > 2) == counts


def test_tolerance_is_in_units_of_the_score_with_early_stopping(curved):
    X, y = curved
    estimator = LightningMLPRegressor(
        (8,), tol=0.9, max_iter=6, n_iter_no_change=2, early_stopping=True, random_state=0
    )
    assert estimator.fit(X, 100 * y).n_iter_ == 3


def test_grids_and_curves(curved):
    X, y = curved
    grid = {
        "hidden_layer_sizes": [(8,), (16, 8)],
        "dropout": [0, 0.2],
        "penalty_weight": [0, 0.1],
    }
    search = GridSearchCV(LightningMLPRegressor(**SMALL, penalty="l2"), grid, cv=2).fit(X, y)
    assert set(search.best_params_) == set(grid)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    estimator = LightningMLPRegressor(**SMALL)
    powers = {"param_name": "learning_rate_init", "param_range": np.logspace(-3, -2, 2)}
    for scores in validation_curve(estimator, X, y, **powers, cv=2):
        assert scores.shape == (2, 2)
        assert np.isfinite(scores).all()
    sizes, *both = learning_curve(estimator, X, y, train_sizes=[10, 100], cv=2)
    assert sizes.tolist() == [10, 100]
    assert np.isfinite(both).all()


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_several_fits_at_a_time_give_what_one_after_another_do(curved, backend):
    estimator = LightningMLPRegressor(**SMALL, dropout=0.2)
    expected = cross_val_score(estimator, *curved, cv=4)
    with parallel_config(backend, n_jobs=2):
        scores = cross_val_score(estimator, *curved, cv=4)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_it_leaves_no_trace(curved, workplace: Path, capfd, caplog, recwarn):
    caplog.set_level(logging.INFO)
    level = logging.getLogger("lightning.pytorch").level
    before = random_states.collect()
    LightningMLPRegressor(**SMALL, dropout=0.1, early_stopping=True).fit(*curved)
    after = random_states.collect()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"]["state"]["key"], after["numpy"]["state"]["key"])
    assert before["python"] == after["python"]
    assert logging.getLogger("lightning.pytorch").level == level
    assert not [*workplace.iterdir()]
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not recwarn.list


def test_verbose_prints_the_losses(curved, capsys):
    LightningMLPRegressor(**SMALL, early_stopping=True, verbose=True).fit(*curved)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Epoch 1: train_loss = ")
    assert ", val_loss = " in last


def test_random_state_decides(curved):
    X, y = curved

    def prediction(random_state):
        estimator = LightningMLPRegressor((8,), max_iter=1, random_state=random_state)
        return estimator.fit(X, y).predict(X)

    np.testing.assert_array_equal(prediction(5), prediction(np.int64(5)))
    generator = np.random.RandomState(5)
    first, second = prediction(generator), prediction(generator)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, prediction(np.random.RandomState(5)))


@pytest.mark.parametrize(
    ("rows", "features", "changes"),
    [
        (20, 1, {}),
        (5, 50, {}),
        (2, 3, {}),
        (3, 2, {"early_stopping": True}),
        (20, 3, {"batch_size": "full"}),
        (20, 3, {"hidden_layer_sizes": 4}),
        (20, 3, {"hidden_layer_sizes": np.array([4, 2])}),
        (20, 3, {"hidden_layer_sizes": ()}),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_tables_of_any_shape(rows, features, changes, constant):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(rows, features)), random.normal(size=rows)
    if constant:
        X[:, 0], y[:] = 3, 2
    estimator = LightningMLPRegressor(**{**SMALL, **changes}).fit(X, y)
    predictions = estimator.predict(X)
    assert predictions.shape == (rows,)
    alone = estimator.predict(X[:1])
    assert alone.shape == (1,)
    assert alone == pytest.approx(predictions[:1])
    assert predictions.dtype == np.float64
    assert np.isfinite(predictions).all()


def test_linear_regression_is_learnt():
    X = np.random.default_rng(0).normal(550, 100, size=(200, 3))
    y = 2 + X @ [0.001, -0.002, 0.003]
    estimator = LightningMLPRegressor((), learning_rate_init=0.05, tol=0, random_state=0)
    np.testing.assert_allclose(estimator.fit(X, y).predict(X), y, atol=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_layer_sizes": (8, 0)},
        {"dropout": 1},
        {"penalty": "l3"},
        {"penalty_weight": -1},
        {"batch_size": 0},
        {"max_iter": 0},
        {"learning_rate_init": 0},
        {"validation_fraction": 1.0},
        {"n_iter_no_change": 0},
    ],
)
def test_parameters_out_of_range_are_refused(curved, wrong):
    with pytest.raises(ValueError, match="|".join([*wrong, "every layer needs"])):
        LightningMLPRegressor(**{**SMALL, **wrong}).fit(*curved)


def test_a_diverging_training_is_reported(curved):
    X, y = curved
    estimator = LightningMLPRegressor(**SMALL)
    with pytest.raises(ValueError, match="the training loss is not finite at epoch 0, step 0"):
        estimator.fit(X, 1e30 * y)
    with pytest.raises(NotFittedError):
        estimator.predict(X)
