"""`FastTraining` changes how long a fit takes, and nothing else: what a user writes, holds.

Each case of `CASES` is fitted with the callback and plainly, and has to end with the same weights,
to the last bit, the same metrics and the same counters. A new case is one line.
"""

import copy
from collections import Counter

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar, StochasticWeightAveraging
from runs import NOTHING_BESIDE, weights
from torch import nn
from torch.nn.functional import l1_loss, mse_loss
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_full_backward_hook,
)

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.speed import FastTraining, training_loop
from gpa_lightning.speed.stack import FastForward

STEPS = 28  # 343 rows: 13 batches of 25 and one of 18, twice
FURTHER = 26  # but for each epoch's first, which is Lightning's own


class Regressor(GPARegressor):
    def __init__(self, **settings):
        super().__init__(**{"hidden_sizes": (64, 32), **settings})


class Textbook(LightningModule):
    """As any tutorial writes one, for a stack of the user's own; it logs nothing."""

    def __init__(self, *layers):
        super().__init__()
        hidden = layers or (nn.Linear(9, 64), nn.ReLU(), nn.Linear(64, 1))
        self.body = nn.Sequential(*hidden)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return mse_loss(self.body(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class WithoutIndex(Textbook):
    def training_step(self, batch):
        return super().training_step(batch, 0)


class ReturnsDictionary(Textbook):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": 1}


class Skips(Textbook):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx % 3 else None


class AnotherLoss(Textbook):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return l1_loss(self.body(x), y)


class AnotherLossLater(Textbook):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return (l1_loss if batch_idx > 5 else mse_loss)(self.body(x), y)


class OwnPenalty(Textbook):
    def training_step(self, batch, batch_idx):
        norm = sum(weight.abs().sum() for weight in self.parameters())
        return super().training_step(batch, batch_idx) + 1e-3 * norm


class FreezesMidway(Textbook):
    def training_step(self, batch, batch_idx):
        if self.global_step == 20:
            self.body[0].weight.requires_grad_(False)
        return super().training_step(batch, batch_idx)


class PrunesMidway(Textbook):
    def training_step(self, batch, batch_idx):
        if self.global_step == 20:
            nn.utils.prune.l1_unstructured(self.body[0], "weight", amount=0.5)
        return super().training_step(batch, batch_idx)


class HooksMidway(Textbook):
    def training_step(self, batch, batch_idx):
        if self.global_step == 20:
            self.body[0].register_full_backward_hook(lambda _, grads, __: (grads[0],))
            self.body[2].register_forward_hook(lambda _, __, output: 2 * output)
        return super().training_step(batch, batch_idx)


class Counts(Textbook):
    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.seen.append((batch_idx, self.global_step, self.trainer.is_last_batch, loss.item()))
        return loss


class SharedWeight(Textbook):
    def __init__(self):
        super().__init__(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 1))
        self.body[2].weight = self.body[0].weight


class UsedTwice(Textbook):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return mse_loss(self.body(x) - self.body(-x), y)


class GradientPenalty(Textbook):
    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.clone().requires_grad_()
        prediction = self.body(x)
        (slope,) = torch.autograd.grad(prediction.sum(), x, create_graph=True)
        return mse_loss(prediction, y) + 0.1 * slope.square().mean()


class FunctionalGradient(Textbook):
    def training_step(self, batch, batch_idx):
        x, y = batch
        slope = torch.func.vmap(torch.func.grad(lambda row: self.body(row[None]).sum()))(x)
        return mse_loss(self.body(x), y) + 0.1 * slope.square().mean()


class Logs(Textbook):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("mine", loss, on_step=False, on_epoch=True)
        return loss


class LogsLater(Textbook):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx >= 5:
            self.log("mine", loss, on_step=True, on_epoch=True)
        return loss


class OwnTrainingStep(Regressor):
    """Of a subclass, as a tutorial writes it: it logs what it logs."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = mse_loss(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


class AddsLog(Regressor):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("mine", loss, on_step=False, on_epoch=True)
        return loss


class WarmsUp(Regressor):
    """Changes the rate by hand at each step, as Lightning's documentation does."""

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        rate = 0.01 * min(1.0, (self.trainer.global_step + 1) / 20)
        self.optimizers().param_groups[0]["lr"] = rate


class ClipsByItself(Regressor):
    def configure_gradient_clipping(self, optimizer, *args, **kwargs):
        self.clip_gradients(optimizer, gradient_clip_val=1e-2)


class ScalesInBackward(Regressor):
    def backward(self, loss):
        (3 * loss).backward()


class SeesGradients(Regressor):
    def on_before_optimizer_step(self, optimizer):
        self.log("norm", self.network.layers.fc1.weight.grad.norm())


class ChangesBatches(Regressor):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0].flip(1), batch[1]]


class StartsBatches(Regressor):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 9 else None


class Manual(Textbook):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class TwoOptimizers(Manual):
    def configure_optimizers(self):
        return [
            torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (self.body[0], self.body[2])
        ]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(Textbook.training_step(self, batch, batch_idx))
        for optimizer in self.optimizers():
            optimizer.step()


class OutputTransformed(Regressor):
    def forward(self, x):
        return 4 * super().forward(x).sigmoid()


def optimized_by(make, **settings):
    class With(Regressor):
        def configure_optimizers(self):
            return make(self.parameters(), **settings)

    return With


class ClosureTwice(torch.optim.SGD):
    """Needs its closure, and calls it twice, as sharpness-aware minimisation does."""

    def step(self, closure):
        closure()
        super().step()
        return super().step(closure)


def with_layers(change):
    def make():
        model = Regressor()
        change(model.network.layers)
        return model

    return make


def lora(layers):
    class LoRA(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer.requires_grad_(False)
            self.down = nn.Linear(layer.in_features, 2, bias=False)
            self.up = nn.Linear(2, layer.out_features, bias=False)

        def forward(self, x):
            return self.layer(x) + self.up(self.down(x))

    layers.fc2 = LoRA(layers.fc2)


def own_forward(layers):
    forward = layers.fc2.forward
    layers.fc2.forward = lambda x: 0.5 * forward(x)


class ReadsLossAtEpochEnd(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.read = [
            *getattr(pl_module, "read", []),
            trainer.callback_metrics["train_loss"].item(),
        ]


class CountsBatches(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.read = [*getattr(pl_module, "read", []), (outputs["loss"].item(), batch_idx)]


class OwnProgressBar(ProgressBar):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.read = [*getattr(pl_module, "read", []), batch_idx]


class CountsHooks(Callback):
    def count(self, pl_module, hook):
        pl_module.read = getattr(pl_module, "read", Counter()) + Counter([hook])

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.count(pl_module, "zero_grad")

    def on_before_backward(self, trainer, pl_module, loss):
        self.count(pl_module, "backward")

    def on_after_backward(self, trainer, pl_module):
        self.count(pl_module, "after")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        pl_module.log("norm", pl_module.network.layers.fc1.bias.grad.norm(), on_epoch=True)
        self.count(pl_module, "step")


class DataWithHook(GPADataModule):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + 1, batch[1]] if self.trainer.training else batch


# what a user writes or sets; further keywords: the Trainer's; how many direct steps are taken
CASES = {
    "the project's regressor": (Regressor, {}, FURTHER),
    "dropout": (lambda: Regressor(dropout=0.3), {}, FURTHER),
    "linear regression": (lambda: Regressor(hidden_sizes=()), {}, FURTHER),
    "l1 penalty": (lambda: Regressor(penalty="l1", penalty_weight=0.01), {}, FURTHER),
    "l2 penalty": (lambda: Regressor(penalty="l2", penalty_weight=0.1), {}, FURTHER),
    "a textbook module": (Textbook, {}, FURTHER),
    "a step without batch index": (WithoutIndex, {}, FURTHER),
    "a step that returns a dictionary": (ReturnsDictionary, {}, FURTHER),
    "a step that skips batches": (Skips, {}, FURTHER),
    "a step with a list of its own": (Counts, {}, FURTHER),
    "another loss": (AnotherLoss, {}, FURTHER),
    "another loss on later batches": (AnotherLossLater, {}, FURTHER),
    "a penalty of the user's": (OwnPenalty, {}, FURTHER),
    "weights frozen on the way": (FreezesMidway, {}, FURTHER),
    "weights pruned on the way": (PrunesMidway, {}, FURTHER),
    "hooks added on the way": (HooksMidway, {}, FURTHER),
    "a shared weight": (SharedWeight, {}, FURTHER),
    "a stack used twice": (UsedTwice, {}, FURTHER),
    "a gradient penalty": (GradientPenalty, {}, FURTHER),
    "a functional gradient": (FunctionalGradient, {}, FURTHER),
    "a step that logs": (Logs, {}, 0),
    "a step that logs later": (LogsLater, {"logger": True}, 5),
    "a subclass with a step of its own": (OwnTrainingStep, {}, 0),
    "a subclass that adds a log": (AddsLog, {}, 0),
    "a warm-up in optimizer_step": (WarmsUp, {}, 0),
    "clipping of the user's": (ClipsByItself, {}, 0),
    "backward of the user's": (ScalesInBackward, {}, 0),
    "gradients logged in a hook": (SeesGradients, {}, 0),
    "a transfer hook": (ChangesBatches, {}, 0),
    "a batch hook": (StartsBatches, {}, 0),
    "manual optimisation": (Manual, {}, 0),
    "two optimisers": (TwoOptimizers, {}, 0),
    "a forward of the user's": (OutputTransformed, {}, FURTHER),
    "SGD": (optimized_by(torch.optim.SGD, lr=0.01, momentum=0.9), {}, FURTHER),
    "AdamW": (optimized_by(torch.optim.AdamW, fused=True, weight_decay=0.1), {}, FURTHER),
    "Adam, not fused": (optimized_by(torch.optim.Adam), {}, FURTHER),
    "LBFGS": (optimized_by(torch.optim.LBFGS, max_iter=3), {}, 0),
    "an optimiser that needs its closure": (optimized_by(ClosureTwice, lr=0.01), {}, 0),
    "tanh": (with_layers(lambda m: setattr(m, "relu1", nn.Tanh())), {}, FURTHER),
    "GELU": (with_layers(lambda m: setattr(m, "relu2", nn.GELU())), {}, FURTHER),
    "batch norm": (with_layers(lambda m: setattr(m, "relu1", nn.BatchNorm1d(64))), {}, FURTHER),
    "LoRA": (with_layers(lora), {}, FURTHER),
    "a layer's forward replaced": (with_layers(own_forward), {}, FURTHER),
    "a frozen layer": (with_layers(lambda m: m.fc1.requires_grad_(False)), {}, FURTHER),
    "orthogonal weights": (
        with_layers(lambda m: nn.utils.parametrizations.orthogonal(m.fc2)),
        {},
        FURTHER,
    ),
    "spectral norm": (
        with_layers(lambda m: nn.utils.parametrizations.spectral_norm(m.fc1)),
        {},
        FURTHER,
    ),
    "a callback that reads the epoch's loss": (
        Regressor,
        {"callbacks": [ReadsLossAtEpochEnd()]},
        FURTHER,
    ),
    "a callback with a hook for batches": (Regressor, {"callbacks": [CountsBatches()]}, 0),
    "a progress bar of the user's": (
        Regressor,
        {"callbacks": [OwnProgressBar()], "enable_progress_bar": True},
        0,
    ),
    "a callback with hooks within steps": (Regressor, {"callbacks": [CountsHooks()]}, 0),
    "weight averaging": (
        Regressor,
        {"callbacks": [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)]},
        FURTHER,
    ),
    "accumulated gradients": (Regressor, {"accumulate_grad_batches": 3}, 0),
    "clipping": (Regressor, {"gradient_clip_val": 1e-3}, 0),
    "bfloat16": (Regressor, {"precision": "bf16-mixed"}, FURTHER),
    "double precision": (Regressor, {"precision": "64-true"}, 0),
    "a profiler": (Regressor, {"profiler": "simple"}, 0),
    "validation within the epoch": (Regressor, {"val_check_interval": 0.25}, 18),
    "a limit of steps": (Regressor, {"max_steps": 17}, 15),
    "a limit of batches": (Regressor, {"limit_train_batches": 6}, 10),
    "a data module's hook": (Regressor, {"data": DataWithHook}, 0),
}


def fitted(make, path, *first, data=GPADataModule, callbacks=(), **flags):
    seed_everything(1)
    model = make()
    settings = {**NOTHING_BESIDE, "max_epochs": 2, "log_every_n_steps": 1}
    callbacks = [*first, *map(copy.deepcopy, callbacks)]
    trainer = Trainer(**{**settings, **flags}, callbacks=callbacks)
    trainer.fit(model, datamodule=data(path=str(path), batch_size=25, val_size=0.2))
    return model, trainer


@pytest.fixture
def direct_steps(monkeypatch):
    """The indices of the batches on which direct steps were taken."""
    taken = []
    step = training_loop.DirectStep.__call__

    def noted(direct_step, batch, index):
        taken.append(index)
        step(direct_step, batch, index)

    monkeypatch.setattr(training_loop.DirectStep, "__call__", noted)
    return taken


@pytest.mark.parametrize(("make", "flags", "expected"), CASES.values(), ids=CASES)
def test_a_fit_is_that_of_plain_lightning(make, flags, expected, table, workplace, direct_steps):
    plain, plain_trainer = fitted(make, table, **flags)
    assert direct_steps == []
    fast, trainer = fitted(make, table, FastTraining(), **flags)
    assert len(direct_steps) == expected
    for ours, theirs in zip(weights(fast), weights(plain), strict=True):
        assert (ours == theirs).all()
    assert trainer.global_step == plain_trainer.global_step
    assert trainer.fit_loop.batch_idx == plain_trainer.fit_loop.batch_idx
    assert trainer.callback_metrics.keys() == plain_trainer.callback_metrics.keys()
    for name, value in plain_trainer.callback_metrics.items():
        assert trainer.callback_metrics[name].item() == value.item(), name
    for noted in ("seen", "read"):
        assert getattr(fast, noted, None) == getattr(plain, noted, None)
    assert not any(isinstance(vars(m).get("forward"), FastForward) for m in fast.modules())


def test_hooks_for_all_modules_are_called(table):
    """Those that PyTorch calls for every module there is, as profilers and debuggers add them."""

    def calls(*callbacks):
        called = Counter()
        hooks = [
            register_module_forward_hook(lambda m, *_: called.update([f"forward {type(m)}"])),
            register_module_full_backward_hook(lambda m, *_: called.update([f"back {type(m)}"])),
        ]
        try:
            fitted(Regressor, table, *callbacks)
        finally:
            for hook in hooks:
                hook.remove()
        return called

    plain = calls()
    assert plain[f"back {nn.Linear}"] > 0
    assert calls(FastTraining()) == plain


def test_large_layers_train_to_float32s_rounding(table):
    (fast, _), (plain, _) = (
        fitted(lambda: Regressor(hidden_sizes=(512, 256)), table, *callbacks)
        for callbacks in ([FastTraining()], [])
    )
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class Notes(Callback):
    """Notes how the processor computes, and whether the stack has a fast forward pass."""

    def __init__(self, fails=False):
        self.fails = fails

    def on_train_epoch_start(self, trainer, pl_module):
        self.noted = state(pl_module)
        if self.fails:
            raise KeyError("on purpose")


def state(model):
    tiny = torch.full((2,), 1e-40) * 0.5
    return (
        torch.get_float32_matmul_precision(),
        bool((tiny != 0).all()),
        isinstance(vars(model.network.layers).get("forward"), FastForward),
    )


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_it_acts_in_a_fit_and_leaves_everything_as_it_was(table, precision, fails):
    model, notes = Regressor(), Notes(fails)
    trainer = Trainer(
        callbacks=[FastTraining(matmul_precision=precision), notes],
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    before = state(model)
    data = GPADataModule(path=str(table))
    if fails:
        with pytest.raises(KeyError):
            trainer.fit(model, datamodule=data)
    else:
        trainer.fit(model, datamodule=data)
    flushes = torch.set_flush_denormal(False)  # whether this processor can
    assert notes.noted == (precision, not flushes, True)
    assert state(model) == before


def test_flushing_that_was_on_before_a_fit_stays_on(table):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormal numbers")
    fitted(Regressor, table, FastTraining(), max_epochs=1)
    flushed = not state(Regressor())[1]
    torch.set_flush_denormal(False)
    assert flushed


@pytest.mark.parametrize("steps", [0, -1])
def test_a_round_has_at_least_one_step(steps):
    with pytest.raises(ValueError, match="steps_per_execution must be at least 1"):
        FastTraining(steps)
