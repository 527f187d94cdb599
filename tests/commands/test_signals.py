"""Ctrl-C and SIGTERM, sent to a real training."""

import signal

import pytest
import torch
from processes import PROJECT, Program, until
from runs import run_folder

from gpa_lightning.commands.train import train

SLOW = """
import time
from pathlib import Path

from lightning.pytorch import Callback


class Slow(Callback):
    def on_exception(self, trainer, pl_module, exception):
        Path("stopping").touch()
        time.sleep(36000)
"""
SMALL = ("--model.hidden_sizes", "[16,8]", "--model.dropout", "0.2", "--early_stopping", "null")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(by, table, workplace):
    flags = ["--data.path", str(table), *SMALL]
    process = Program(PROJECT / "scripts/train.py", *flags, "--max_epochs", "100000")
    until(lambda: (run_folder() / "checkpoints/last.ckpt").exists(), process)
    last = run_folder() / "checkpoints/last.ckpt"
    process.send_signal(by)
    _, errors = process.communicate()
    assert process.returncode == 128 + by
    assert f"interrupted by {by.name}" in errors
    assert "--ckpt_path last" in errors
    assert "Traceback" not in errors

    epoch = torch.load(last, weights_only=True)["epoch"]
    assert train([*flags, "--ckpt_path", "last", "--max_epochs", str(epoch + 3)]) == 0
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 2


def test_a_second_ctrl_c_ends_at_once(table, workplace, monkeypatch):
    (workplace / "slow.py").write_text(SLOW)
    flags = ["--data.path", str(table), *SMALL, "--trainer.callbacks+=slow.Slow"]
    monkeypatch.syspath_prepend(workplace)
    process = Program(PROJECT / "scripts/train.py", *flags, "--max_epochs", "100000")
    until(lambda: (run_folder() / "checkpoints/last.ckpt").exists(), process)
    last = run_folder() / "checkpoints/last.ckpt"
    process.send_signal(signal.SIGINT)
    until((workplace / "stopping").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()  # the first one would take ten times as long
    assert process.returncode == 130
    assert "Traceback" not in errors
    torch.load(last, weights_only=True)
