import pytest
import torch
from lightning.pytorch import Trainer
from runs import NOTHING_BESIDE, fit
from sklearn.metrics import (
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)

from gpa_lightning import GPADataModule, GPARegressor


def test_metrics_are_scikit_learns(table):
    data = GPADataModule(path=str(table))
    model = GPARegressor(hidden_sizes=(8,), dropout=0.5)
    trainer = fit(model, data, epochs=1)
    for name, prefix, evaluate in (
        ("validation", "val", trainer.validate),
        ("test", "test", trainer.test),
    ):
        (metrics,) = evaluate(model, data, verbose=False)
        x, y = data.dataset(name).tensors
        with torch.no_grad():
            predicted = model.eval()(x)
        expected = {
            "loss": mean_squared_error,
            "rmse": root_mean_squared_error,
            "mae": mean_absolute_error,
            "r2": r2_score,
        }
        assert metrics == pytest.approx(
            {f"{prefix}_{key}": metric(y, predicted) for key, metric in expected.items()}, rel=1e-4
        )


def test_a_trainer_that_has_validated_can_fit(table):
    """A validation leaves metrics in PyTorch's inference mode, in which nothing is trained."""
    data, model = GPADataModule(path=str(table)), GPARegressor(hidden_sizes=(8,))
    trainer = Trainer(**NOTHING_BESIDE, max_epochs=1, num_sanity_val_steps=0)
    trainer.validate(model, data, verbose=False)
    trainer.fit(model, data)
    assert trainer.callback_metrics["val_loss"].isfinite()
