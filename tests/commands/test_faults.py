"""Disks that fill up, turn read-only or vanish under a training, really mounted for the purpose."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from processes import HANGS, PROJECT, Program, run, until
from runs import long

from gpa_lightning.commands.train import train

TRAIN = PROJECT / "scripts/train.py"
FLAGS = (
    "--accelerator",
    "cpu",
    "--model.hidden_sizes",
    "[64,32]",
    "--early_stopping",
    "null",
    "--name",
    "fault",
)
LAST = Path("lightning_logs/version_0-fault/checkpoints/last.ckpt")
SIZES = (64, 4, 8, 12, 16, 24, 32, 48, 96, 128, 192, 256, 384)  # of disks, in KiB


@pytest.fixture
def disk(workplace) -> Iterator[Callable[[str], Path]]:
    """Mount a small disk at lightning_logs; return how to."""
    folder = workplace / "lightning_logs"
    folder.mkdir()
    mounted = []

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs the right to mount a disk")
        mounted.append(folder)
        return folder

    yield mount
    for each in mounted:
        subprocess.run(["umount", "--lazy", str(each)], check=True)


def started(table: Path) -> Program:
    """Start a training without end, and wait until it has saved something."""
    process = Program(TRAIN, "--data.path", table, *FLAGS, "--max_epochs", "1000000")
    until(LAST.exists, process)
    return process


def one_line(process: Program) -> str:
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1, errors
    return errors


def goes_on(table: Path) -> None:
    epoch = torch.load(LAST, weights_only=True)["epoch"]
    flags = ("--ckpt_path", "last", "--max_epochs", epoch + 2)
    result = run(TRAIN, "--data.path", table, *FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    assert torch.load(LAST, weights_only=True)["epoch"] == epoch + 1


def test_a_disk_that_fills_up(disk, table):
    folder = disk("2m")
    process = started(table)
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.strerror == "No space left on device"  # noqa: PT017
    assert "cannot be written: No space left on device" in one_line(process)
    filler.unlink()
    goes_on(table)


@pytest.mark.slow
def test_a_disk_that_turns_read_only(disk, table):
    folder = disk("4m")
    process = started(table)
    remount = ["mount", "-o", "remount,ro", str(folder)]
    while subprocess.run(remount, check=False, capture_output=True).returncode:
        assert process.poll() is None, "the disk is busy while a file on it is being written"
    before = LAST.read_bytes()
    assert "cannot be written: Read-only file system" in one_line(process)
    assert LAST.read_bytes() == before
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    goes_on(table)


def test_a_folder_that_vanishes(table, workplace):
    process = started(table)
    while torch.load(LAST, weights_only=True)["epoch"] < 3:
        assert process.poll() is None
    shutil.move(LAST.parents[1], "elsewhere")
    assert "cannot be written: No such file or directory" in one_line(process)
    torch.load("elsewhere/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(table, workplace):
    resource = pytest.importorskip("resource")
    flags = ("--data.path", table, *FLAGS, "--max_epochs", "3")
    result = subprocess.run(
        [sys.executable, TRAIN, *flags],
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
        # Python would write the first bytes of its bytecode files, and trust them ever after
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert result.returncode == 2
    error = result.stderr.splitlines()[-1]  # matplotlib may complain about its cache of fonts
    assert error.startswith("error: ")
    assert error.endswith("best-epoch-0.ckpt: cannot be written: File too large")
    assert "Traceback" not in result.stderr
    assert not list(LAST.parent.iterdir())


def test_a_place_where_nothing_can_be_written(table, workplace, capsys):
    Path("lightning_logs").touch()
    assert train(["--data.path", str(table), *FLAGS, "--max_epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert "lightning_logs: cannot be written: File exists" in error
    assert error.count("\n") == 1


def test_curves_that_do_not_fit_on_the_disk(table, workplace, monkeypatch, capsys):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", full)
    assert train(["--data.path", str(table), *FLAGS, "--max_epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: events: cannot be written: No space left on device; ")
    assert error.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("kilobytes", SIZES[:: len(SIZES) // long(len(SIZES))])
def test_every_file_of_a_run_may_be_the_one_that_does_not_fit(kilobytes, disk, table):
    disk(f"{kilobytes}k")
    result = run(TRAIN, "--data.path", table, *FLAGS, "--max_epochs", "3")
    assert result.returncode in (0, 2)
    if result.returncode:
        assert "No space left on device" in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    for checkpoint in LAST.parent.glob("*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    assert not list(Path().glob("**/.unfinished*"))
    print(f"{kilobytes} KiB: {result.stderr.strip() or 'enough'}")
