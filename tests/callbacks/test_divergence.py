"""A training that leaves the finite numbers ends at once, and says where."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import StopOnDivergence
from gpa_lightning.callbacks.divergence import DivergenceError
from gpa_lightning.commands.train import train
from gpa_lightning.speed import FastTraining

SMALL = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--data.batch_size", "25"]


class NotesLosses(GPARegressor):
    """Notes each step's loss, one by one."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.noted = [*getattr(self, "noted", []), loss.item()]
        return loss


class Spoils(Callback):
    """Makes the weights useless in an epoch, at the hook of a given name."""

    def __init__(self, hook: str, epoch: int, value: float) -> None:
        def spoil(trainer, pl_module, *args):
            if trainer.current_epoch == epoch:
                with torch.no_grad():
                    pl_module.network.layers.fc1.weight.mul_(value)

        setattr(self, hook, spoil)


def error_of(model, table, *callbacks, **flags) -> str:
    data = GPADataModule(path=str(table), batch_size=25)
    with pytest.raises(DivergenceError) as caught:
        fit(model, data, *callbacks, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def finite(path: Path) -> bool:
    weights = torch.load(path, weights_only=True)["state_dict"].values()
    return all(bool(weight.isfinite().all()) for weight in weights)


@pytest.mark.parametrize("steps", [1, 5, 64, 1000])
@pytest.mark.parametrize("learning_rate", [1e6, 1e9])
def test_the_step_is_named_exactly_however_many_run_at_once(steps, learning_rate, table):
    torch.manual_seed(0)
    model = NotesLosses(hidden_sizes=(16, 8, 8), learning_rate=learning_rate)
    message = error_of(model, table, FastTraining(steps), epochs=30)
    first = int(np.flatnonzero(~np.isfinite(model.noted))[0])
    assert f"the training loss is not finite at epoch {first // 14}, step {first} (" in message
    assert f"a smaller learning rate than {learning_rate:g}" in message
    assert len(model.noted) <= first + 64 + steps


def test_the_step_is_named_exactly_where_each_loss_is_looked_at(table):
    torch.manual_seed(0)
    model = NotesLosses(hidden_sizes=(16, 8, 8), learning_rate=1e6)
    message = error_of(model, table, StopOnDivergence(check_every_n_steps=1), epochs=30)
    first = int(np.flatnonzero(~np.isfinite(model.noted))[0])
    assert first % 14 >= 1  # so that a finite loss of the same epoch was looked at before
    assert f"the training loss is not finite at epoch {first // 14}, step {first} (" in message


class FailsAtStep8(GPARegressor):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (
            float("nan") if self.trainer.global_step == 8 else 1
        )


def test_the_step_is_named_where_a_run_goes_on_within_an_epoch(table, tmp_path):
    data = GPADataModule(path=str(table), batch_size=25)
    path = tmp_path / "step-5.ckpt"
    fit(FailsAtStep8(hidden_sizes=(8,)), data, max_steps=5).save_checkpoint(path)
    message = error_of(FailsAtStep8(hidden_sizes=(8,)), table, ckpt_path=path)
    assert "the training loss is not finite at epoch 0, step 8 (" in message


def test_accumulated_batches_are_one_step(table):
    torch.manual_seed(0)
    model = NotesLosses(hidden_sizes=(16, 8, 8), learning_rate=1e9)
    message = error_of(model, table, epochs=30, accumulate_grad_batches=2)
    first = int(np.flatnonzero(~np.isfinite(model.noted))[0])
    assert f"step {first // 2} (" in message


def test_another_metric_of_the_validation_may_be_watched(table):
    class LogsMore(GPARegressor):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("mine", torch.tensor(torch.inf))

    model = LogsMore(hidden_sizes=(4,))
    fit(model, GPADataModule(path=str(table)), epochs=1)
    message = error_of(model, table, StopOnDivergence(monitor="mine"), epochs=1)
    assert message.startswith("the validation loss is not finite at epoch 0")


def test_huge_learning_rate(table, workplace, capsys):
    flags = ["--model.learning_rate", "1e6", "--max_epochs", "50", "--early_stopping", "null"]
    assert (
        train(["--data.path", str(table), *SMALL, "--model.hidden_sizes", "[64,64,64,64]", *flags])
        == 2
    )
    error = capsys.readouterr().err
    assert re.search(r"^error: .* not finite at epoch \d+, step \d+ ", error)
    assert "smaller learning rate than 1e+06" in error
    assert error.count("\n") == 1
    assert all(map(finite, Path("lightning_logs").glob("**/*.ckpt")))


def test_huge_targets(table, workplace, capsys, caplog):
    pd.read_csv(table).assign(gpa=1e30).to_csv("huge.csv", index=False)
    assert train(["--data.path", "huge.csv", *SMALL]) == 2
    error = capsys.readouterr().err
    assert "a GPA of 1e+30 is outside 0 to 4" in caplog.text
    assert "the training loss is not finite at epoch 0, step 0 (counted from 0)" in error
    assert error.endswith("look for huge values in the table; there is no checkpoint yet\n")


@pytest.mark.parametrize(
    ("hook", "value", "what", "step"),
    [
        ("on_train_epoch_start", torch.inf, "the training loss is", 28),
        ("on_validation_start", torch.inf, "the validation loss is", 42),
        ("on_train_epoch_end", torch.nan, "the weights are", 42),
    ],
)
def test_checkpoints_stay_finite(hook, value, what, step, table, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "best", "val_loss", save_last=True)
    torch.manual_seed(0)
    message = error_of(
        GPARegressor(hidden_sizes=(16, 8)),
        table,
        Spoils(hook, epoch=2, value=value),
        checkpoint,
        epochs=5,
        enable_checkpointing=True,
    )
    assert message.startswith(f"{what} not finite at epoch 2, step {step} (")
    assert f"the best weights are in {tmp_path / 'best.ckpt'}" in message
    for name in ("best", "last"):
        assert finite(tmp_path / f"{name}.ckpt")
        assert torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["epoch"] == 1


def test_a_checkpoint_that_diverged_can_still_be_looked_at(table):
    model = GPARegressor(hidden_sizes=(16, 8))
    torch.nn.init.constant_(model.network.layers.fc1.weight, torch.nan)
    data = GPADataModule(path=str(table))
    trainer = fit(GPARegressor(hidden_sizes=(16, 8)), data, epochs=0)
    for evaluate, name in ((trainer.validate, "val_loss"), (trainer.test, "test_loss")):
        (metrics,) = evaluate(model, datamodule=data, verbose=False)
        assert np.isnan(metrics[name])
