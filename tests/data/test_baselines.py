"""What a result is compared with."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from gpa_lightning import GPADataModule
from gpa_lightning.data import split
from gpa_lightning.data.baselines import baseline_losses


@pytest.mark.parametrize("columns", ["few", "dependent", "more than rows"])
def test_baselines_are_scikit_learns(columns, table, tmp_path, monkeypatch):
    monkeypatch.setattr("gpa_lightning.data.baselines.BLOCK_ROWS", 50)
    monkeypatch.setattr(split, "BLOCK_ROWS", 50)
    frame = pd.read_csv(table).rename(columns={"physics": "speed", "gpa": "points"})
    frame = frame[["speed", "math", "English", "points"]]
    if columns == "dependent":
        frame.insert(0, "twice", 2 * frame["math"])
        frame.insert(0, "constant", 1.0)
    elif columns == "more than rows":
        random = np.random.default_rng(0)
        more = pd.DataFrame(random.normal(size=(60, 100))).add_prefix("x")
        frame = pd.concat([more, frame["points"].head(60)], axis=1)
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False)
    data = GPADataModule(path=str(path))
    data.setup()
    (x, y), (x_test, y_test) = (
        (tensor.double().numpy() for tensor in data.dataset(name)[:])
        for name in ("training", "test")
    )
    linear = LinearRegression().fit(x, y).predict(x_test)
    assert baseline_losses(data) == pytest.approx(
        {
            "predicting the mean": ((y_test - y.mean()) ** 2).mean(),
            "linear regression": ((y_test - linear) ** 2).mean(),
        },
        rel=1e-5,
    )


def test_a_column_that_others_add_up_to_changes_nothing(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(300, [50, 90, 4], size=(60, 3)), columns=["a", "b", "c"])
    frame["points"] = 3 * frame["a"] - frame["b"] + random.normal(size=60)
    total = frame.assign(total=frame["a"] + frame["b"])[["total", *frame.columns]]
    losses = []
    for table in (frame, total):
        path = tmp_path / "points.csv"
        table.to_csv(path, index=False)
        data = GPADataModule(path=str(path))
        data.setup()
        losses.append(baseline_losses(data)["linear regression"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
