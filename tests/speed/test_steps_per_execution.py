"""`steps_per_execution` is about time alone: every value gives the same run."""

from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from runs import fit, weights
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import EpochProgressBar
from gpa_lightning.speed import FastTraining


class Recorder(Callback):
    """Notes what a run looks like from the outside."""

    def __init__(self):
        self.validations = []
        self.epochs = []

    def on_validation_end(self, trainer, pl_module):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        loss = trainer.callback_metrics["val_loss"].item()
        self.validations.append((trainer.global_step, trainer.fit_loop.batch_idx, rate, loss))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append((trainer.current_epoch, trainer.global_step))


class CountingTimer(Timer):
    """A timer of the user's, who wants to see every batch."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, *args, **kwargs):
        self.batches += 1


class Rounds(CountingTimer):
    """Counts the rounds of Lightning's loop, as Lightning's own timer does."""

    def on_train_batch_end(self, *args, **kwargs):
        super().on_train_batch_end()

    on_train_batch_end.__module__ = Timer.__module__


def trained(table, steps, model_class=GPARegressor, callbacks=(), model=None, data=None, **flags):
    seed_everything(1)
    model = {"hidden_sizes": (16, 8), **(model or {})}
    regressor = model_class(**model)
    recorder, rounds = Recorder(), Rounds()
    module = GPADataModule(path=str(table), **{"batch_size": 25, "val_size": 0.2, **(data or {})})
    watching = (recorder, rounds, *(make() for make in callbacks))
    trainer = fit(regressor, module, FastTraining(steps), *watching, **flags)
    recorder.rounds = rounds.batches
    return regressor, trainer, recorder


def assert_same(table, steps=(1, 4, 64), expect_fewer_rounds=True, **settings):
    runs = [trained(table, count, **settings) for count in steps]
    expected_model, expected_trainer, expected = runs[0]
    for model, trainer, recorder in runs[1:]:
        for a, b in zip(weights(expected_model), weights(model), strict=True):
            np.testing.assert_array_equal(a, b)
        assert trainer.global_step == expected_trainer.global_step
        assert recorder.validations == expected.validations
        assert recorder.epochs == expected.epochs
        for name, value in expected_trainer.callback_metrics.items():
            assert trainer.callback_metrics[name].item() == value.item(), name
        assert (recorder.rounds < expected.rounds) == expect_fewer_rounds
    return runs


class WithSchedule(GPARegressor):
    """Steps a schedule after each batch, as one-cycle does."""

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=0.01, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class WithEpochSchedule(GPARegressor):
    def configure_optimizers(self):
        optimizer = Adam(self.parameters(), lr=0.01)
        return [optimizer], [CosineAnnealingLR(optimizer, T_max=3)]


class WithPlateau(GPARegressor):
    def configure_optimizers(self):
        optimizer = Adam(self.parameters(), lr=1.0)
        schedule = ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
        }


def test_weights_counts_and_losses_are_bit_identical(table):
    runs = assert_same(table, steps=(1, 2, 5, 14, 64))
    _, trainer, recorder = runs[0]
    assert trainer.global_step == 28  # 343 rows: 13 batches of 25 and one of 18, twice
    assert recorder.validations[0][:2] == (14, 13)
    assert [each.rounds for _, _, each in runs] == [28, 14, 6, 2, 2]


@pytest.mark.parametrize(
    "model", [{"dropout": 0.3}, {"penalty": "l1"}, {"penalty": "l2", "penalty_weight": 0.1}]
)
def test_dropout_and_penalties(table, model):
    assert_same(table, model=model)


def test_layers_that_are_large_enough_for_onednn(table):
    assert_same(table, model={"hidden_sizes": (512, 128)})


@pytest.mark.parametrize("model_class", [WithSchedule, WithEpochSchedule, WithPlateau])
def test_schedules_per_step_per_epoch_and_on_a_plateau(table, model_class):
    runs = assert_same(table, model_class=model_class, epochs=5)
    rates = {rate for _, _, rate, _ in runs[0][2].validations}
    assert len(rates) > 1


@pytest.mark.parametrize("val_check_interval", [0.25, 0.5, 5])
def test_validation_within_the_epoch_comes_at_the_same_steps(table, val_check_interval):
    (_, _, recorder), *_ = assert_same(table, val_check_interval=val_check_interval)
    assert len(recorder.validations) > 2


def test_validation_every_n_batches_across_epochs(table):
    assert_same(table, val_check_interval=9, check_val_every_n_epoch=None, epochs=3)


@pytest.mark.parametrize(
    "flags",
    [{"max_steps": 17, "epochs": -1}, {"limit_train_batches": 6}, {"precision": "bf16-mixed"}],
)
def test_limits_and_precision(table, flags):
    assert_same(table, **flags)


def test_early_stopping_and_averaging(table):
    assert_same(
        table,
        epochs=8,
        callbacks=[
            lambda: EarlyStopping("val_loss", patience=1),
            lambda: StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2),
        ],
    )


class CountsBatches(Callback):
    def __init__(self):
        self.batches = 0

    def on_train_batch_end(self, *args):
        self.batches += 1


@pytest.mark.parametrize(
    ("flags", "callbacks"),
    [
        ({"accumulate_grad_batches": 3}, []),
        ({}, [CountsBatches]),
        ({}, [CountingTimer]),
        ({"logger": True}, [lambda: LearningRateMonitor("step")]),
    ],
)
def test_what_acts_between_batches_gets_every_batch(table, flags, callbacks, workplace):
    runs = assert_same(table, expect_fewer_rounds=False, callbacks=callbacks, **flags)
    for _, trainer, _ in runs:
        own = (c for c in trainer.callbacks if type(c) in (CountsBatches, CountingTimer))
        assert [each.batches for each in own] in ([], [28])


@pytest.mark.parametrize("callback", [EpochProgressBar, TQDMProgressBar, ModelCheckpoint])
def test_what_shows_or_saves_by_epochs_lets_rounds_be(table, callback, workplace, capsys):
    flags = {"enable_progress_bar": True, "enable_checkpointing": True}
    assert_same(table, callbacks=[callback], **flags)


class CountsHooks(Callback):
    """Has every hook within a step."""

    def __init__(self):
        self.calls = Counter()

    def on_before_zero_grad(self, *args):
        self.calls["zero_grad"] += 1

    def on_before_backward(self, *args):
        self.calls["before_backward"] += 1

    def on_after_backward(self, *args):
        self.calls["after_backward"] += 1

    def on_before_optimizer_step(self, *args):
        self.calls["step"] += 1


def test_hooks_within_a_step_are_called_at_every_step(table):
    for _, trainer, _ in assert_same(table, callbacks=[CountsHooks]):
        (counts,) = (c.calls for c in trainer.callbacks if isinstance(c, CountsHooks))
        assert counts == {"zero_grad": 28, "before_backward": 28, "after_backward": 28, "step": 28}


class CountsZeroGrad(SGD):
    calls = 0

    def zero_grad(self, set_to_none=True):
        type(self).calls += 1
        super().zero_grad(set_to_none)


class WithCountsZeroGrad(GPARegressor):
    def configure_optimizers(self):
        return CountsZeroGrad(self.parameters(), lr=0.01)


def test_an_optimizer_of_the_users_clears_gradients_in_its_own_way(table):
    trained(table, 64, WithCountsZeroGrad)
    assert CountsZeroGrad.calls == 28


def test_clipping_is_done_at_every_step(table):
    clipped = assert_same(table, gradient_clip_val=1e-3)
    free, *_ = trained(table, 1)
    assert not np.array_equal(weights(clipped[0][0])[0], weights(free)[0])


def test_checkpoints_within_the_epoch(table, tmp_path):
    def saved(steps):
        folder = tmp_path / str(steps)
        checkpoint = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=5)
        trained(table, steps, callbacks=[lambda: checkpoint], enable_checkpointing=True)
        return sorted(path.name for path in folder.glob("*.ckpt"))

    names = saved(1)
    assert saved(64) == names
    assert len(names) == 5


def test_logged_curves_have_the_same_x_axis(table, tmp_path):
    def logged(steps):
        logger = CSVLogger(tmp_path / str(steps))
        trained(table, steps, logger=logger, epochs=3)
        return (tmp_path / str(steps) / "lightning_logs/version_0/metrics.csv").read_text()

    assert logged(64) == logged(1)
    assert "13," in logged(64)


def test_a_full_batch_is_one_step(table):
    (_, trainer, _), *_ = assert_same(table, data={"batch_size": "full"}, expect_fewer_rounds=False)
    assert trainer.global_step == 2


def test_mini_batches_of_several_pieces(table, monkeypatch):
    monkeypatch.setattr("gpa_lightning.losses.CHUNK_ROWS", 20)
    assert_same(table)


def test_full_batch_training_in_pieces_is_full_batch_training(table, monkeypatch):
    whole, *_ = trained(table, 1, data={"batch_size": "full"}, epochs=5)
    monkeypatch.setattr("gpa_lightning.losses.CHUNK_ROWS", 50)
    pieces, *_ = trained(table, 1, data={"batch_size": "full"}, epochs=5, gradient_clip_val=10.0)
    for a, b in zip(weights(whole), weights(pieces), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_plain_loop_gives_the_same_weights(table):
    """What all of this must come to: forward, backward, Adam, batch by batch."""
    model, *_ = trained(table, 64)
    data = GPADataModule(path=str(table), batch_size=25)
    data.setup()
    seed_everything(1)
    plain = GPARegressor(hidden_sizes=(16, 8))
    optimizer = Adam(plain.parameters(), fused=True)
    loader = data.train_dataloader()
    torch.set_flush_denormal(True)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(plain(x), y).backward()
            optimizer.step()
    torch.set_flush_denormal(False)
    for a, b in zip(weights(model), weights(plain), strict=True):
        np.testing.assert_array_equal(a, b)
