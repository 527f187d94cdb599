"""A run that was stopped anywhere goes on as one that was never stopped, to the last bit."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from commands.test_train import SMALL, assert_equal_weights, events, last_weights, loss_curves
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from runs import fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import LossCurves
from gpa_lightning.commands.train import train
from gpa_lightning.speed import FastTraining

BATCHES = 14  # an epoch
SAVED = (1, 6, 7, 13, 14, 20)  # batches; validations come after 7 and 14


class Plain(GPARegressor):
    def __init__(self) -> None:
        super().__init__(hidden_sizes=(8,), dropout=0.3)


class OneCycle(Plain):
    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=0.01, momentum=0.9)
        schedule = OneCycleLR(optimizer, max_lr=0.02, total_steps=50)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Plateau(Plain):
    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=0.05)
        schedule = ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "val_loss"}


class LogsMore(Plain):
    """Logs values and metrics of its own, as a user may."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = MetricCollection({"train_mae": MeanAbsoluteError(), "train_r2": R2Score()})

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        x, y = batch
        self.mine(self(x), y)
        self.log_dict(self.mine, on_step=False, on_epoch=True)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss


class Fits:
    """Fits of two epochs, each with curves of its own."""

    def __init__(self, table: Path, folder: Path, model: type[GPARegressor], **flags: object):
        self.table, self.folder, self.model, self.flags = table, folder, model, flags
        self.workers = flags.pop("num_workers", 0)
        self.fast = [FastTraining(flags.pop("steps_per_execution", 256))]

    def __call__(self, name: str, *callbacks: object, ckpt_path: Path | None = None) -> list:
        torch.manual_seed(0)
        logger = TensorBoardLogger(self.folder, name, version="")
        trainer = fit(
            self.model(),
            GPADataModule(path=str(self.table), batch_size=25, num_workers=self.workers),
            *self.fast,
            LossCurves(),
            *callbacks,
            ckpt_path=ckpt_path,
            **{"logger": logger, "log_every_n_steps": 1, "val_check_interval": 0.5} | self.flags,
            **({"enable_checkpointing": True} if callbacks else {}),
        )
        losses = trainer.callback_metrics
        curves = next(each for each in trainer.callbacks if isinstance(each, LossCurves))
        return [trainer.global_step, trainer.lightning_module.state_dict(), losses, curves]

    def points(self, name: str, first_step: int) -> dict[str, set[tuple[int, float]]]:
        read = EventAccumulator(str(self.folder / name), size_guidance={"scalars": 0}).Reload()
        return {
            tag: {(point.step, point.value) for point in read.Scalars(tag) if point.step >= first}
            for tag in read.Tags()["scalars"]
            for first in [first_step]
        }


KINDS = {
    "dropout": (Plain, {}),
    "plain Lightning": (Plain, {"steps_per_execution": 1}),
    "schedule by steps": (OneCycle, {}),
    "plateau": (Plateau, {}),
    "own metrics": (LogsMore, {}),
    "workers": (Plain, {"num_workers": 2}),
    "validation across epochs": (Plain, {"val_check_interval": 9, "check_val_every_n_epoch": None}),
    "validation every second epoch": (
        Plain,
        {"val_check_interval": 1.0, "check_val_every_n_epoch": 2},
    ),
    "limited batches": (LogsMore, {"limit_train_batches": 10}),
    "limited steps": (Plain, {"max_steps": 25}),
    "clipping": (Plain, {"gradient_clip_val": 0.5}),
}


QUICK = ("dropout", "own metrics", "schedule by steps", "plateau")


def same_end(whole: list, resumed: list) -> bool:
    assert whole[0] == resumed[0]
    assert_equal_weights(whole[1], resumed[1])
    assert whole[2].keys() == resumed[2].keys()
    for name, value in whole[2].items():
        assert torch.equal(value, resumed[2][name]), name
    assert (whole[3].training, whole[3].validation) == (resumed[3].training, resumed[3].validation)
    return True


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS],
)
def test_a_run_goes_on_from_any_batch(kind, table, tmp_path):
    model, flags = KINDS[kind]
    fits = Fits(table, tmp_path, model, **flags)
    every = ModelCheckpoint(tmp_path / "every", every_n_train_steps=1, save_top_k=-1)
    whole = fits("whole", every)
    for step in SAVED:
        (saved,) = (tmp_path / "every").glob(f"*-step={step}.ckpt")
        assert same_end(whole, fits(f"after {step}", ckpt_path=saved))
        assert fits.points(f"after {step}", step - 1) == fits.points("whole", step - 1)


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_that_was_saved_by_time(table, tmp_path):
    fits = Fits(table, tmp_path, Plain)
    every = ModelCheckpoint(tmp_path / "every", train_time_interval=timedelta(0), save_top_k=-1)
    whole = fits("whole", every)
    for step in (6, 20):
        (saved,) = (tmp_path / "every").glob(f"*-step={step}.ckpt")
        assert same_end(whole, fits(f"after {step}", ckpt_path=saved))


@pytest.mark.slow
def test_a_run_goes_on_from_a_validation_within_an_epoch(table, tmp_path):
    fits = Fits(table, tmp_path, LogsMore)
    each = ModelCheckpoint(tmp_path / "each", save_top_k=-1, save_on_train_epoch_end=False)
    whole = fits("whole", each)
    for step in (7, 14, 21):
        (saved,) = (tmp_path / "each").glob(f"*-step={step}.ckpt")
        assert same_end(whole, fits(f"after {step}", ckpt_path=saved))
        assert fits.points(f"after {step}", step) == fits.points("whole", step)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_end"])
def test_a_run_goes_on_from_a_validation_that_was_not_over(hook, table, tmp_path):
    fits = Fits(table, tmp_path, Plain)

    def save(trainer, *_):
        if trainer.global_step == 21:
            trainer.save_checkpoint(tmp_path / "saved.ckpt")

    saves = ModelCheckpoint()
    setattr(saves, hook, save)
    whole = fits("whole", saves)
    assert same_end(whole, fits("resumed", ckpt_path=tmp_path / "saved.ckpt"))
    assert fits.points("resumed", 20) == fits.points("whole", 20)


@pytest.mark.slow
def test_gradients_that_are_being_accumulated_are_not_lost(table, tmp_path):
    fits = Fits(table, tmp_path, Plain, accumulate_grad_batches=4)

    class Saves(ModelCheckpoint):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 0 and batch_idx in (5, 6):
                trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")

    whole = fits("whole", Saves())
    for index in (5, 6):
        assert same_end(whole, fits(f"after {index}", ckpt_path=tmp_path / f"{index}.ckpt"))
        assert fits.points(f"after {index}", 2) == fits.points("whole", 2)


@pytest.fixture
def data(table: Path, workplace: Path) -> list[str]:
    return ["--data.path", str(table), *SMALL, "--data.batch_size", "25", "--model.dropout", "0.2"]


@pytest.mark.parametrize("steps", ["20", "14"])
def test_a_run_that_max_steps_has_stopped(data, steps, capsys):
    train([*data, "--max_epochs", "2"])
    train([*data, "--trainer.max_steps", steps])
    capsys.readouterr()
    assert train([*data, "--max_epochs", "2", "--ckpt_path", "last"]) == 0
    epoch = "1, after 6 batches" if steps == "20" else "0"
    assert f"last.ckpt, of epoch {epoch}\n" in capsys.readouterr().out
    assert_equal_weights(last_weights(0), last_weights(1))
    assert loss_curves(0) == loss_curves(1)
    for name in ("train_loss", "val_loss"):
        whole, resumed = (
            {(point.step, point.value) for point in events(version).Scalars(name)}
            for version in (0, 1)
        )
        assert whole == resumed


def test_a_run_that_a_limit_has_stopped_goes_on_to_another_limit(data):
    train([*data, "--trainer.max_steps", "40"])
    train([*data, "--trainer.max_steps", "14"])
    for steps in ("33", "36"):  # of the same epoch
        train([*data, "--trainer.max_steps", steps, "--ckpt_path", "last"])
    assert train([*data, "--trainer.max_steps", "40", "--ckpt_path", "last"]) == 0
    assert_equal_weights(last_weights(0), last_weights(1))
