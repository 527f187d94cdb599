from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import HyperparameterTable, LossCurves


@pytest.fixture
def data(table: Path) -> GPADataModule:
    return GPADataModule(path=str(table))


def test_loss_curves_are_those_that_were_logged(data, tmp_path):
    curves = LossCurves()
    logger = TensorBoardLogger(tmp_path)
    trainer = fit(GPARegressor(hidden_sizes=(8,)), data, curves, epochs=4, logger=logger)
    assert [epoch for epoch, _ in curves.training] == [0, 1, 2, 3]
    assert [epoch for epoch, _ in curves.validation] == [0, 1, 2, 3]
    assert curves.training[-1][1] == trainer.callback_metrics["train_loss"].item()
    assert curves.validation[-1][1] == trainer.callback_metrics["val_loss"].item()
    picture = imread(Path(trainer.log_dir) / "loss_curves.png")
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture[..., :3].std() > 0.01


def test_loss_curves_without_validation_or_logger(data, tmp_path):
    curves = LossCurves()
    fit(GPARegressor(hidden_sizes=(8,)), data, curves, limit_val_batches=0)
    assert len(curves.training) == 2
    assert curves.validation == []
    curves.save(tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_callbacks_need_no_tensorboard(data, workplace):
    fit(GPARegressor(hidden_sizes=(8,)), data, LossCurves(), HyperparameterTable())
    assert list(workplace.iterdir()) == []
