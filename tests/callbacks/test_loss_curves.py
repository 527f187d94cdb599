from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from matplotlib.image import imread
from pictures import explanations
from runs import NOTHING_BESIDE, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import EpochTensorBoardLogger, HyperparameterTable, LossCurves
from gpa_lightning.callbacks.loss_curves import readable_range


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


def test_the_picture_shows_both_losses_and_the_lowest(data, tmp_path, monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda *args, **more: figures.append(save(*args, **more) or args[0])
    )
    curves = LossCurves()
    fit(GPARegressor(hidden_sizes=(8,)), data, curves, epochs=5, logger=TensorBoardLogger(tmp_path))
    training, validation, lowest = explanations(figures[-1])
    assert training.startswith("training")
    assert validation.startswith("validation")
    epoch, loss = min(curves.validation, key=lambda point: point[1])
    assert lowest == f"lowest: {loss:.4f}, epoch {epoch}"


def test_the_picture_is_beside_the_curves_of_its_logger(data, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="gpa", version="mine", sub_dir="curves")
    fit(GPARegressor(hidden_sizes=(8,)), data, LossCurves(), logger=logger)
    (picture,) = tmp_path.rglob("loss_curves.png")
    assert picture.parent == tmp_path / "gpa" / "mine" / "curves"
    assert list(picture.parent.glob("events.out.tfevents.*"))


def test_a_loss_that_comes_without_an_epoch_is_logged_by_steps_alone(tmp_path):
    logger = EpochTensorBoardLogger(tmp_path)
    logger.log_metrics({"val_loss": 0.5}, step=3)
    logger.save()
    curves = EventAccumulator(logger.log_dir).Reload()
    (point,) = (each for tag in curves.Tags()["scalars"] for each in curves.Scalars(tag))
    assert (point.step, point.value) == (3, 0.5)
    assert list(Path(logger.log_dir).glob("*/events*")) == []


class Notes(Logger):
    """A logger as other projects have it."""

    name, version = "notes", None

    def __init__(self, version):
        self.version = version

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass


@pytest.mark.parametrize(("version", "folder"), [(3, "version_3"), ("third", "third")])
def test_beside_another_projects_logger_it_is_beside_the_checkpoints(
    data, tmp_path, version, folder
):
    flags = {"default_root_dir": tmp_path, "logger": Notes(version), "enable_checkpointing": True}
    fit(GPARegressor(hidden_sizes=(8,)), data, LossCurves(), **flags)
    (picture,) = tmp_path.rglob("loss_curves.png")
    assert picture.parent == tmp_path / "notes" / folder
    assert list(picture.parent.glob("checkpoints/*.ckpt"))


def test_of_several_validations_in_an_epoch_the_curve_has_the_last(data):
    curves = LossCurves()
    trainer = fit(GPARegressor(hidden_sizes=(8,)), data, curves, val_check_interval=0.5)
    losses = [loss for _, loss in curves.validation]
    assert [epoch for epoch, _ in curves.validation] == [0, 1]
    assert losses[-1] == trainer.callback_metrics["val_loss"].item()


class OwnData(LightningDataModule):
    def __init__(self, data):
        super().__init__()
        self.data = data
        data.setup()

    def train_dataloader(self):
        return self.data.train_dataloader()

    def val_dataloader(self):
        return self.data.val_dataloader()


@pytest.mark.parametrize("own", [True, False])
def test_another_projects_data_have_a_row_of_hyperparameters_too(own, data, tmp_path):
    logger, module = TensorBoardLogger(tmp_path, default_hp_metric=False), OwnData(data)
    given = {"datamodule": module} if own else {"train_dataloaders": module.train_dataloader()}
    settings = {**NOTHING_BESIDE, "logger": logger, "callbacks": [HyperparameterTable()]}
    Trainer(max_epochs=1, **settings).fit(GPARegressor(hidden_sizes=(8,), dropout=0.25), **given)
    (events,) = Path(logger.log_dir).rglob("events*")
    found = EventAccumulator(str(events)).Reload().SummaryMetadata("_hparams_/session_start_info")
    row = HParamsPluginData.FromString(found.plugin_data.content).session_start_info.hparams
    assert row["dropout"].number_value == 0.25
    assert row["optimizer"].string_value == "Adam"
    assert not [name for name in row if name.startswith("data/")]


def test_a_test_without_a_checkpoint_is_of_the_last_epoch(data, tmp_path):
    logger, best = TensorBoardLogger(tmp_path), ModelCheckpoint(tmp_path, monitor="val_loss")
    flags = {"logger": logger, "enable_checkpointing": True}
    model = GPARegressor(hidden_sizes=(8,))
    trainer = fit(model, data, HyperparameterTable(), best, **flags)
    trainer.test(model, data, verbose=False)
    tags = EventAccumulator(logger.log_dir).Reload().Tags()["scalars"]
    assert "Loss of the last epoch/test" in tags
    assert "Loss of the best epoch/test" not in tags


def test_what_a_run_begins_with_does_not_flatten_its_picture():
    full_batch = [8.7, 5.6, 1.2, 2.7, 1.0, 0.8, 0.7, 0.66, 0.62, 0.60, 0.58, 0.57]
    bottom, top = readable_range(full_batch, [loss + 0.01 for loss in full_batch])
    assert 0.5 < bottom < 0.57
    assert 1.0 < top < 1.5
    overfitted = [0.7, 0.6, 0.9, 1.5, 4.0, 9.0]
    assert readable_range(overfitted, overfitted[::-1][:1])[1] > 9.0
    bottom, top = readable_range([1.0, 1.0])
    assert bottom < 1.0 < top


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
