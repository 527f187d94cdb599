"""Memory that a step frees is there for the next one."""

import ctypes
import os

import pytest
from processes import run

PROGRAM = """
import resource

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from gpa_lightning import FullyConnectedNetwork
from gpa_lightning.speed import FastTraining


class Counts(Callback):
    faults = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = FullyConnectedNetwork()

    def training_step(self, batch, index):
        return self.network(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), fused=True)


rows = torch.utils.data.TensorDataset(torch.randn(8000, 9))
loader = torch.utils.data.DataLoader(rows, batch_size=1000)
trainer = Trainer(
    max_epochs=4, callbacks=[FastTraining(), counts := Counts()], accelerator="cpu", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Module(), loader)
print("faults:", counts.faults[-1] - counts.faults[-2])
"""


def faults(**environment: str) -> int:
    """Page faults of eight steps at 1,000 rows, after those of three epochs."""
    result = run("-c", PROGRAM, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return int(result.stdout.rpartition("faults: ")[2])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_step_finds_the_memory_of_the_one_before_unless_the_user_has_decided_otherwise():
    assert faults() < faults(MALLOC_TRIM_THRESHOLD_="131072") / 4
