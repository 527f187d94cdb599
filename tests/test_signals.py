"""Ctrl-C and SIGTERM, sent to a real training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import PROJECT, run

SLOW = """
import time
from pathlib import Path

from lightning.pytorch import Callback


class Slow(Callback):
    def on_exception(self, trainer, pl_module, exception):
        Path("stopping").touch()
        time.sleep(600)
"""
SMALL = ("--model.hidden_sizes", "[16,8]", "--model.dropout", "0.2", "--early_stopping", "null")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(by, table, workplace):
    train = [str(PROJECT / "scripts/train.py"), "--data.path", str(table), *SMALL]
    process = subprocess.Popen(
        [sys.executable, *train, "--max_epochs", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    last = Path("lightning_logs/version_0/checkpoints/last.ckpt")
    wait_for(last)
    process.send_signal(by)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + by
    assert f"interrupted by {by.name}" in errors
    assert "--ckpt_path last" in errors
    assert "Traceback" not in errors

    epoch = torch.load(last, weights_only=True)["epoch"]
    result = run(*train, "--ckpt_path", "last", "--max_epochs", str(epoch + 3))
    assert result.returncode == 0, result.stderr
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 2


def test_a_second_ctrl_c_ends_at_once(table, workplace):
    (workplace / "slow.py").write_text(SLOW)
    flags = ["--data.path", str(table), *SMALL, "--trainer.callbacks+=slow.Slow"]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts/train.py"), *flags, "--max_epochs", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(workplace)},
    )
    last = workplace / "lightning_logs/version_0/checkpoints/last.ckpt"
    wait_for(last)
    process.send_signal(signal.SIGINT)
    wait_for(workplace / "stopping")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)  # the first one would take 600
    assert process.returncode == 130
    assert "Traceback" not in errors
    torch.load(last, weights_only=True)
