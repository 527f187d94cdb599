import hashlib
import os

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split

from gpa_lightning.data.twin import synthetic_twin

# mean and standard deviation of each column of the real table
REAL = pd.DataFrame(
    {
        "physics": (576.12, 115.15),
        "biology": (568.66, 101.44),
        "history": (580.83, 94.21),
        "English": (573.99, 86.87),
        "geography": (574.49, 90.76),
        "literature": (583.30, 92.90),
        "Portuguese": (551.04, 87.15),
        "math": (579.20, 114.68),
        "chemistry": (571.71, 112.17),
        "gpa": (2.7857, 0.8208),
    },
    index=["mean", "std"],
)


@pytest.fixture(scope="module")
def twin():
    return synthetic_twin()


def test_has_the_layout_of_the_real_table(twin):
    assert list(twin.columns) == list(REAL.columns)
    assert (twin.dtypes == np.float64).all()
    assert twin.shape == (43_303, 10)
    assert not twin.isna().any(axis=None)
    assert not twin.duplicated().any()


def test_values_lie_where_the_real_ones_do(twin):
    scores = twin.drop(columns="gpa")
    assert scores.to_numpy().min() > 150
    assert scores.to_numpy().max() < 1_100
    assert twin["gpa"].between(0, 4).all()
    assert (twin["gpa"] == 0).mean() == pytest.approx(0.0044, abs=0.001)
    assert (twin["gpa"] == 4).mean() == pytest.approx(0.0135, abs=0.001)
    # decimals of the real table
    pd.testing.assert_frame_equal(scores, scores.round(2), check_exact=True)
    pd.testing.assert_series_equal(twin["gpa"], twin["gpa"].round(5), check_exact=True)


def test_means_and_deviations_are_the_real_ones(twin):
    pd.testing.assert_frame_equal(twin.agg(["mean", "std"]), REAL, rtol=0.02)


@pytest.mark.parametrize(
    ("model", "real_mse"),
    [
        (DummyRegressor(), 0.6755),
        (LinearRegression(), 0.5847),
        (HistGradientBoostingRegressor(max_iter=200, learning_rate=0.05), 0.5743),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_is_as_predictable_as_the_real_table(twin, model, real_mse):
    X, y = twin.drop(columns="gpa").to_numpy(), twin["gpa"].to_numpy()
    losses = []
    for seed in range(5):
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=seed)
        losses.append(mean_squared_error(y_test, model.fit(X_train, y_train).predict(X_test)))
    assert np.mean(losses) == pytest.approx(real_mse, rel=0.02)


def test_values_are_the_same_on_every_platform(twin):
    values = twin.to_numpy().astype("<f8").tobytes()
    assert hashlib.sha256(values).hexdigest() == (
        "ffa0195903e591729ac7c9f0a8644b0b7131aae939b3043dc2b736ba6d7b51cb"
    )


def test_same_seed_same_table(twin):
    pd.testing.assert_frame_equal(synthetic_twin(), twin, check_exact=True)


def test_another_seed_gives_other_students_of_the_same_population(twin):
    other = synthetic_twin(seed=1)
    assert not (other == twin).all(axis=1).any()
    pd.testing.assert_frame_equal(other.agg(["mean", "std"]), twin.agg(["mean", "std"]), rtol=0.02)


@pytest.mark.parametrize("rows", [1, 2_000])
def test_a_shorter_table_is_the_beginning_of_a_longer_one(twin, rows):
    pd.testing.assert_frame_equal(synthetic_twin(rows), twin.head(rows), check_exact=True)


def test_a_table_longer_than_the_real_one_starts_with_the_twin(twin):
    longer = synthetic_twin(150_000)
    assert len(longer) == 150_000
    pd.testing.assert_frame_equal(longer.head(len(twin)), twin, check_exact=True)
    assert not longer.duplicated().any()


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_must_be_positive(rows):
    with pytest.raises(ValueError, match=f"rows must be at least 1, got {rows}"):
        synthetic_twin(rows)


def test_seed_must_not_be_negative():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        synthetic_twin(seed=-1)


@pytest.mark.real_data
@pytest.mark.skipif("GPA_CSV" not in os.environ, reason="GPA_CSV, the real table's path, is unset")
def test_statistics_are_those_of_the_real_file(twin):
    real = pd.read_csv(os.environ["GPA_CSV"])
    pd.testing.assert_frame_equal(twin.agg(["mean", "std"]), real.agg(["mean", "std"]), rtol=0.02)
    pd.testing.assert_frame_equal(twin.corr(), real.corr(), atol=0.03, rtol=0)
    assert twin.merge(real, on=list(REAL.columns[:9])).empty  # no real student
