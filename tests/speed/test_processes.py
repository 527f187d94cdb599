"""Direct steps in two processes: the weights that Lightning's own steps lead to."""

import json
import os
from pathlib import Path

import pytest
import torch
from processes import PROJECT, run
from torch import distributed, nn

from gpa_lightning.speed.processes import SharedGradients, SharedMemory

PROGRAM = """
import gc
import json
import os

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gpa_lightning import FullyConnectedNetwork
from gpa_lightning.speed import FastTraining, training_loop


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = FullyConnectedNetwork(9, (32, 16), dropout=0.2)

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.mse_loss(self.network(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01, fused=True)


class Frozen(Plain):
    def __init__(self):
        super().__init__()
        self.network.layers[0].requires_grad_(False)


class BatchNorm(Plain):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


class Skips(Plain):
    def training_step(self, batch, index):
        return super().training_step(batch, index) if index < 5 else None


class Counted(training_loop.DirectStep):
    steps = 0

    def __call__(self, batch, index):
        Counted.steps += 1
        super().__call__(batch, index)


training_loop.DirectStep = Counted
messages = []
all_reduce = torch.distributed.all_reduce


def noted_all_reduce(tensor, *args, **settings):
    messages.append(tensor.numel())
    return all_reduce(tensor, *args, **settings)


torch.distributed.all_reduce = noted_all_reduce
seed_everything(0)
x = torch.randn(400, 9)
rows = TensorDataset(x, x.sum(1, keepdim=True))
CASES = {
    "plain": (Plain, {}),
    "a frozen layer": (Frozen, {}),
    "batch norm": (BatchNorm, {}),
    "bfloat16": (Plain, {"precision": "bf16-mixed"}),
    "unused weights allowed": (Plain, {"strategy": "ddp_find_unused_parameters_true"}),
    "memory that one cannot share": (Plain, {}),
}
for name, (module, flags) in CASES.items():
    fitted = []
    if name == "memory that one cannot share" and os.environ.get("LOCAL_RANK") == "1":
        del os.memfd_create  # as on macOS
    for callbacks in ([], [FastTraining()]):
        seed_everything(1, verbose=False)
        Counted.steps = 0
        messages.clear()
        trainer = Trainer(
            **{"strategy": "ddp", **flags}, devices=2, accelerator="cpu", max_epochs=2,
            callbacks=callbacks, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )
        trainer.fit(module(), DataLoader(rows, batch_size=20, shuffle=True))
        fitted.append(trainer.lightning_module.state_dict())
    plain, fast = fitted
    difference = max((plain[key] - fast[key]).abs().max().item() for key in plain)
    message = max(messages, default=0)
    rank, steps = trainer.global_rank, Counted.steps
    del trainer
    gc.collect()
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    print(json.dumps([rank, name, steps, difference, message, files]), flush=True)
for callbacks in ([], [FastTraining()]):
    trainer = Trainer(
        strategy="ddp", devices=2, accelerator="cpu", max_epochs=1, callbacks=callbacks,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )
    try:
        trainer.fit(Skips(), DataLoader(rows, batch_size=20))
    except RuntimeError as error:
        if trainer.is_global_zero:
            print("refused:", error)
"""
WEIGHTS = 9 * 32 + 32 + 32 * 16 + 16 + 16 + 1
FURTHER = 2 * (400 // 2 // 20 - 1)  # batches but the first of each epoch


@pytest.mark.slow
def test_the_weights_are_those_of_lightnings_steps(tmp_path):
    Path(tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = run(tmp_path / "program.py", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    for process in (0, 1):
        taken = {name: steps for rank, name, steps, *_ in found if rank == process}
        assert taken == {
            **dict.fromkeys(["plain", "a frozen layer", "batch norm", "bfloat16"], FURTHER),
            "unused weights allowed": 0,
            "memory that one cannot share": FURTHER,
        }
    for rank, name, _, difference, message, files in found:
        assert difference < 1e-6, name
        assert files == next(each for first, *_, each in found if first == rank), name
        # Lightning sends one number; gradients go by memory if that can be
        assert message == (WEIGHTS if "cannot" in name else 1)
    refusals = [line for line in result.stdout.splitlines() if line.startswith("refused: ")]
    assert len(refusals) == 2
    assert all("returning None in distributed training" in each for each in refusals)


def test_a_weight_that_takes_no_part_is_refused_with_what_to_do():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    layers[0](torch.ones(1, 2)).sum().backward()
    try:
        with pytest.raises(RuntimeError, match="ddp_find_unused_parameters_true lets some be"):
            SharedGradients(layers).average()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("lost", ["reading", "writing"])
def test_a_process_that_has_ended_is_missed_by_either_pipe(lost):
    reading, to_other = os.pipe()
    from_other, writing = os.pipe()
    memory = SharedMemory([], [to_other], [from_other])
    os.write(writing, b".")
    memory.wait_for_all()
    os.close(reading if lost == "reading" else writing)
    with pytest.raises(distributed.DistNetworkError, match="has ended"):
        memory.wait_for_all()
    os.close(writing if lost == "reading" else reading)
