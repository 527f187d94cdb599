import copy
import pickle

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from runs import fit
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.speed.cuda_graph import StepGraph

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")


class Losses(Callback):
    def __init__(self):
        self.curve = []

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch:
            metrics = trainer.callback_metrics
            self.curve.append((metrics["train_loss"].item(), metrics["val_loss"].item()))


class WithSchedule(GPARegressor):
    cycle_momentum = False

    def configure_optimizers(self):
        optimizer = Adam(self.parameters(), lr=1e-3, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, 5e-3, steps, cycle_momentum=self.cycle_momentum)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class WithMomentumToo(WithSchedule):
    cycle_momentum = True


def trained(table, steps, model_class=GPARegressor, **model):
    seed_everything(1)
    losses = Losses()
    regressor = model_class(steps_per_execution=steps, **model)
    data = GPADataModule(path=str(table), batch_size=25, val_size=0.2)  # 13 batches and a short one
    trainer = fit(regressor, data, losses, epochs=6, accelerator="gpu", devices=1)
    return losses.curve, trainer


@pytest.fixture
def replays(monkeypatch):
    """How many steps were replayed or recorded, and how many had to be taken otherwise."""
    counts = {"replayed": 0, "not": 0}
    original = StepGraph.replay

    def spy(graph, step, x, y):
        mse = original(graph, step, x, y)
        counts["not" if mse is None else "replayed"] += 1
        return mse

    monkeypatch.setattr(StepGraph, "replay", spy)
    return counts


@needs_gpu
@pytest.mark.parametrize(
    ("model_class", "model"),
    [(GPARegressor, {}), (GPARegressor, {"hidden_sizes": (16,)}), (WithSchedule, {})],
)
def test_replayed_steps_train_as_ordinary_ones_do(table, replays, model_class, model, recwarn):
    ordinary, _ = trained(table, 1, model_class, **model)
    assert replays == {"replayed": 0, "not": 0}
    replayed, trainer = trained(table, 64, model_class, **model)
    assert trainer.global_step == 84
    assert replays == {"replayed": 72, "not": 6}  # each epoch's first step is Lightning's
    assert not [str(each.message) for each in recwarn if "CUDA graph" in str(each.message)]
    torch.testing.assert_close(torch.tensor(replayed), torch.tensor(ordinary), rtol=1e-3, atol=1e-4)


@needs_gpu
def test_what_changes_at_every_step_is_recorded_no_more_than_once(table, replays):
    ordinary, _ = trained(table, 1, WithMomentumToo)
    curve, _ = trained(table, 64, WithMomentumToo)
    assert replays == {"replayed": 1, "not": 77}
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(ordinary), rtol=1e-3, atol=1e-4)


@needs_gpu
def test_dropout_draws_anew_at_every_replay(table, replays):
    curve, _ = trained(table, 64, dropout=0.5)
    again, _ = trained(table, 64, dropout=0.5)
    assert replays["replayed"] == 2 * 72
    assert curve == again
    ordinary, _ = trained(table, 1, dropout=0.5)
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(ordinary), rtol=0.1, atol=0.05)


@needs_gpu
def test_a_second_fit_and_a_larger_batch_are_recorded_anew(table, replays):
    model = GPARegressor()
    for batch_size, expected in ((25, 24), (50, 34)):
        data = GPADataModule(path=str(table), batch_size=batch_size, val_size=0.2)
        fit(model, data, epochs=2, accelerator="gpu", devices=1)
        assert replays["replayed"] == expected
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_copy_is_empty():
    model = GPARegressor(hidden_sizes=(4,))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(copied._step_graph, StepGraph)
        assert copied._step_graph is not model._step_graph
