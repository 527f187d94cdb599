"""Ctrl-C and SIGTERM, sent to a real training."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import PROJECT, run

SMALL = ("--model.hidden_sizes", "[16,8]", "--model.dropout", "0.2", "--early_stopping", "null")


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
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(by)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + by
    assert f"interrupted by {by.name}" in errors
    assert "--ckpt_path last" in errors
    assert "Traceback" not in errors

    epoch = torch.load(last, weights_only=True)["epoch"]
    result = run(*train, "--ckpt_path", "last", "--max_epochs", str(epoch + 3))
    assert result.returncode == 0, result.stderr
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 2
