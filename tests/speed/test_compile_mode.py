"""`torch.compile` for the time of a fit: the same training to rounding, and plain PyTorch after."""

import shutil

import pytest
import torch
import torch._inductor.config
from lightning.pytorch import LightningModule, Trainer, seed_everything
from runs import NOTHING_BESIDE, weights
from torch import nn
from torch.nn.functional import mse_loss

from gpa_lightning import GPADataModule
from gpa_lightning.commands.train import train
from gpa_lightning.speed import FastTraining


class Body(nn.Sequential):
    """Counts its calls by Python, of which a translated one is none."""

    calls = 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            Body.calls += 1
        return super().forward(x)


class Textbook(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = Body(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return mse_loss(self.body(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fitted(table, **settings):
    seed_everything(0, verbose=False)
    module = Textbook()
    trainer = Trainer(max_epochs=2, callbacks=[FastTraining(**settings)], **NOTHING_BESIDE)
    Body.calls = 0
    trainer.fit(module, datamodule=GPADataModule(path=table, batch_size=100))
    return module


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_weights_are_those_of_a_plain_fit(table):
    plain = fitted(table)
    assert Body.calls > 0
    translated = fitted(table, compile_mode="reduce-overhead")
    assert Body.calls == 0
    for ours, theirs in zip(weights(translated), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    translated.body(torch.zeros(1, 9))
    assert Body.calls == 1
    assert not vars(translated.body).get("forward")


def test_a_forward_pass_of_the_users_own_is_there_again_afterwards(table):
    module = Textbook()
    own = module.body.forward = torch.zeros_like
    callbacks = [FastTraining(compile_mode="default")]
    trainer = Trainer(max_epochs=0, callbacks=callbacks, **NOTHING_BESIDE)
    trainer.fit(module, datamodule=GPADataModule(path=table))
    assert module.body.forward is own


@pytest.mark.slow
def test_no_compiler_is_one_line(table, workplace, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(workplace / "nothing translated before"))
    flags = ["--data.path", str(table), "--max_epochs", "1", "--hidden_sizes", "4"]
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/compiler")}):
        code = train([*flags, "--accelerator", "cpu", "--fast_training.compile_mode", "default"])
    assert code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        "error: torch.compile: InvalidCxxCompiler: No working C++ compiler found"
    )
