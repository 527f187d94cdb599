"""One training in several processes: what it comes to is what a single process comes to."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock, Timeout
from processes import HANGS, PROJECT, Program, run, until
from runs import long, run_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpa_lightning.commands.cli import main
from gpa_lightning.commands.train import train

TRAIN = PROJECT / "scripts/train.py"
SMALL = ["--accelerator", "cpu", "--model.hidden_sizes", "[16,8]", "--model.learning_rate", "0.01"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT)}
TWO = ["--devices", "2", "--strategy", "ddp"]


def made_table(path: Path, rows: int) -> Path:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3))
    y = 2 + x @ [0.5, -0.3, 0.1] + random.normal(0, 0.1, rows)
    pd.DataFrame(x, columns=list("abc")).assign(y=y).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose 401 training rows make four batches of 100 and one of a single row."""
    return made_table(tmp_path_factory.mktemp("data") / "uneven.csv", 628)


def losses(version: int, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run_folder(version)))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def checkpoint(version: int, name: str = "last") -> dict:
    path = run_folder(version) / f"checkpoints/{name}.ckpt"
    return torch.load(path, weights_only=True)


def assert_same_run(version: int, other: int) -> None:
    """Assert that two runs agree in float32, in their curves and in their last weights."""
    for name in ("train_loss", "val_loss"):
        steps, values = zip(*losses(version, name), strict=True)
        other_steps, other_values = zip(*losses(other, name), strict=True)
        assert steps == other_steps
        np.testing.assert_allclose(values, other_values, rtol=2e-5)
    weights, other_weights = (checkpoint(v)["state_dict"] for v in (version, other))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, other_weights[name], rtol=1e-4, atol=1e-5)


def in_two_processes(*flags: str | Path) -> None:
    result = run(TRAIN, *flags, *TWO)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("Summary") == 1


@pytest.fixture
def port() -> Iterator[str]:
    """A port that is this test's alone: below those that the system gives away, and locked."""
    for number in range(20_000, 30_000):
        lock = FileLock(Path(gettempdir()) / f"gpa-lightning-test-port-{number}")
        with suppress(Timeout, OSError), lock.acquire(blocking=False):
            with socket.socket() as free:
                free.bind(("127.0.0.1", number))
            yield str(number)
            return


def on_machines(port: str, *flags: list[str]) -> list[tuple[int, str]]:
    """Start a process on a machine for each list of flags; return exit codes and error output."""
    machines = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    nodes = ["--num_nodes", str(len(flags)), "--devices", "1", "--strategy", "ddp"]
    processes = [
        Program(TRAIN, *each, *nodes, env={**os.environ, "NODE_RANK": str(rank), **machines})
        for rank, each in enumerate(flags)
    ]
    try:
        errors = [process.communicate()[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def together(port: str, *flags: str | Path, processes: int = 2) -> None:
    """Train in several processes, each started by itself: faster than Lightning's own way."""
    commands = [[*map(str, flags)]] * processes
    assert on_machines(port, *commands) == [(0, "")] * processes


def test_two_processes_train_like_one(port, uneven, workplace):
    """With half the batch each; the early stop is decided alike, and comes at the same epoch."""
    flags = ["--data.path", str(uneven), *SMALL, "--early_stopping.patience", "1"]
    flags += ["--model.penalty", "l2", "--model.penalty_weight", "0.001"]
    together(port, *flags, "--data.batch_size", "50")
    assert train([*flags, "--data.batch_size", "100"]) == 0
    assert_same_run(0, 1)
    epochs = len(losses(0, "val_loss"))
    assert 3 < epochs < 100
    assert losses(0, "train_loss")[-1][0] == 5 * epochs - 1


@pytest.mark.slow
def test_three_processes_train_like_one(port, uneven, workplace):
    flags = ["--data.path", str(uneven), *SMALL, "--max_epochs", "4"]
    together(port, *flags, "--data.batch_size", "25", processes=3)
    assert train([*flags, "--data.batch_size", "75"]) == 0
    assert_same_run(0, 1)


@pytest.fixture
def dropping(uneven: Path) -> list[str]:
    """Flags of a training of two processes in which chance has a part."""
    flags = ["--data.path", str(uneven), *SMALL, "--data.batch_size", "50"]
    return [*flags, "--model.dropout", "0.3", "--seed_everything", "3", "--max_epochs", "3"]


def assert_same_end(version: int, other: int) -> None:
    """Assert that two runs of two processes end alike, to the last bit."""
    before, after = checkpoint(version), checkpoint(other)
    for name, weight in before["state_dict"].items():
        assert torch.equal(weight, after["state_dict"][name]), name
    for ours, theirs in zip(before["random_states"], after["random_states"], strict=True):
        assert torch.equal(ours["torch"], theirs["torch"])


def test_two_processes_go_on_from_within_an_epoch_bit_for_bit(port, dropping, workplace, capsys):
    together(port, *dropping)
    states = checkpoint(0)["random_states"]
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    together(port, *dropping, "--trainer.max_steps", "7")
    assert train([*dropping, "--data.batch_size", "100", "--ckpt_path", "last"]) == 2
    assert "taken within an epoch, with 2 processes" in capsys.readouterr().err
    together(port, *dropping, "--ckpt_path", "last")
    assert set(losses(0, "train_loss")) == set(losses(1, "train_loss"))
    assert_same_end(0, 1)


@pytest.mark.slow
def test_two_processes_go_on_from_an_epochs_end_and_test(port, dropping, uneven, workplace, capsys):
    """Bit for bit; and a test takes the rows of the run's own split."""
    together(port, *dropping)
    together(port, *dropping, "--checkpoint.save_top_k=-1")
    (run_folder(1) / "checkpoints/last.ckpt").unlink()
    together(port, *dropping, "--ckpt_path", run_folder(1) / "checkpoints/best-epoch-1.ckpt")
    assert_same_end(0, 1)

    last = run_folder(0) / "checkpoints/last.ckpt"
    arguments = ["test", "--data.path", str(uneven), "--ckpt_path", str(last)]
    devices = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    in_two = run("-m", "gpa_lightning", *arguments, *devices, env=ENVIRONMENT).stdout
    assert main(arguments) == 0
    single = capsys.readouterr().out
    results = [re.search(r"test_loss.*?([\d.]+)", each)[1] for each in (in_two, single)]
    assert results[0][:6] == results[1][:6]


@pytest.mark.slow
def test_one_process_of_a_machine_reads_the_table(uneven, workplace):
    """As the warning tells that reading it gives rise to; its rows are those of one process."""
    table = pd.read_csv(uneven).assign(constant=1)[["a", "b", "c", "constant", "y"]]
    table.to_csv("constant.csv", index=False)
    flags = ["--data.path", "constant.csv", *SMALL, "--max_epochs", "2"]
    result = run(TRAIN, *flags, *TWO, "--data.batch_size", "50", "--data.cache_dir", "shared")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("nothing to learn from constant column 'constant'") == 1
    assert len([entry for entry in Path("shared").iterdir() if entry.is_dir()]) == 1
    assert train([*flags, "--data.batch_size", "100"]) == 0
    assert_same_run(0, 1)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_processes(uneven, workplace):
    flags = ["--data.path", str(uneven), *SMALL]
    one, two = (["--data.batch_size", size] for size in ("100", "50"))
    assert train([*flags, *one, "--max_epochs", "4"]) == 0
    in_two_processes(*flags, *two, "--max_epochs", "2")
    assert train([*flags, *one, "--max_epochs", "4", "--ckpt_path", "last"]) == 0
    assert_same_run(0, 1)
    assert train([*flags, *one, "--max_epochs", "2"]) == 0
    in_two_processes(*flags, *two, "--max_epochs", "4", "--ckpt_path", "last")
    assert_same_run(0, 2)


# Lightning kills a training that has lost a process; with this it looks not every five seconds
# whether it has, but all the time.
IMPATIENT = """
import runpy, sys
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

_ChildProcessObserver.__init__.__defaults__ = (0.01,)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def started(flags: list[str], *options: str) -> subprocess.Popen:
    command = [sys.executable, *options, str(TRAIN), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_machines_take_one_full_batch_in_pieces(port, tmp_path, workplace):
    """Of 7,903 rows, and validate on 4,097: one process has a batch more of them than the other."""
    table = made_table(tmp_path / "large.csv", 15_000)
    flags = ["--data.path", str(table), *SMALL, "--data.batch_size", "full", "--max_epochs", "4"]
    flags += ["--data.val_size", "0.3414166"]
    assert on_machines(port, flags, flags) == [(0, ""), (0, "")]
    assert train(flags) == 0
    assert_same_run(0, 1)
    assert losses(0, "train_loss")[-1][0] == 3


@pytest.mark.parametrize(
    "rank", [pytest.param(1, marks=pytest.mark.slow), pytest.param(0, marks=pytest.mark.long)]
)
def test_a_killed_process_ends_the_training_which_can_go_on(rank, uneven, workplace):
    flags = ["--data.path", str(uneven), *SMALL, "--early_stopping", "null"]
    two = [*flags, *TWO, "--data.batch_size", "50", "--max_epochs", "100000"]
    process = started(two, "-c", IMPATIENT)
    until(lambda: (run_folder() / "checkpoints/last.ckpt").exists(), process)
    last = run_folder() / "checkpoints/last.ckpt"
    (child,) = psutil.Process(process.pid).children()
    (child if rank else process).kill()
    _, errors = process.communicate(timeout=HANGS)  # until the last process has closed it
    assert process.returncode == (1 if rank else -signal.SIGKILL)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert f"process {1 - rank} has lost another process of the training" in errors
    assert "--ckpt_path last" in errors
    assert "Traceback" not in errors

    epoch = torch.load(last, weights_only=True)["epoch"]
    flags += ["--data.batch_size", "100", "--ckpt_path", "last", "--max_epochs", str(epoch + 3)]
    assert train(flags) == 0
    assert checkpoint(0)["epoch"] == epoch + 2


@pytest.mark.long
def test_sigterm_ends_all_processes(uneven, workplace):
    flags = ["--data.path", str(uneven), *SMALL, "--early_stopping", "null", *TWO]
    for attempt in range(long(4)):  # where it arrives within a step is a matter of luck
        process = started([*flags, "--data.batch_size", "50", "--max_epochs", "100000"])
        logs = Path("lightning_logs")
        until(lambda: len([*logs.glob("*/checkpoints/last.ckpt")]) == attempt + 1, process)  # noqa: B023
        process.terminate()
        try:
            _, errors = process.communicate(timeout=HANGS)
        finally:
            process.kill()
        assert process.returncode == 128 + signal.SIGTERM
        assert "interrupted by SIGTERM" in errors
        assert "Traceback" not in errors


def test_processes_that_see_different_tables_refuse_to_train(port, uneven, tmp_path, workplace):
    other = made_table(tmp_path / "other.csv", 600)
    mine, others = (["--data.path", str(path), *SMALL] for path in (uneven, other))
    outcomes = on_machines(port, mine, others)
    assert [code for code, _ in outcomes] == [2, 2]
    for _, error in outcomes:
        assert error.startswith("error: process 1 differs from process 0 in the table")
        assert "uneven.csv; file: " in error
        assert error.count("\n") == 1
