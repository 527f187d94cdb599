"""Checkpoints that are found and read, and those that are refused."""

import os
import pickle
import random
import re
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from gpa_lightning import __version__
from gpa_lightning.resuming.checkpoint import (
    CHECKPOINT_FORMAT,
    DATA_KEY,
    PROJECT_KEY,
    CheckpointError,
    find_last,
    read_checkpoint,
    stamp,
)

WEIGHTS = torch.arange(64.0)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def content(**more) -> dict:
    checkpoint = {"state_dict": {"network.weight": WEIGHTS}, DATA_KEY: {"mean": WEIGHTS}, **more}
    stamp(checkpoint)
    return checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save(content(), path)
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_was_saved_is_read(path):
    checkpoint = read_checkpoint(str(path))
    assert checkpoint["state_dict"]["network.weight"].equal(WEIGHTS)
    assert checkpoint[PROJECT_KEY] == {"version": __version__, "format": CHECKPOINT_FORMAT}


def test_newest_last_checkpoint_is_found(tmp_path):
    with pytest.raises(CheckpointError, match=r"no last\.ckpt in any run below"):
        find_last(tmp_path)
    for age, run in enumerate(["version_3", "version_10", "version_5"]):
        checkpoint = tmp_path / run / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        os.utime(checkpoint, (1e9 - age, 1e9 - age))
    assert find_last(tmp_path) == tmp_path / "version_3" / "checkpoints" / "last.ckpt"


# What is not there, or damaged


def test_missing_file_is_refused(tmp_path):
    refused(tmp_path / "no.ckpt", "cannot be read: No such file")


def test_folder_is_refused(tmp_path):
    refused(tmp_path, "not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this platform")
def test_fifo_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.ckpt")
    refused(tmp_path / "fifo.ckpt", "not a regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users and permissions as in POSIX")
def test_unreadable_file_is_refused(path):
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # the superuser may read everything
    try:
        refused(path, "cannot be read: Permission denied")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_empty_and_truncated_files_are_refused(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "not a checkpoint, or a damaged one")


def test_text_is_refused(path):
    path.write_text("physics,biology,gpa\n")
    refused(path, "not a checkpoint, or a damaged one")


def test_flipped_bit_in_the_weights_is_refused(path):
    whole = path.read_bytes()
    number = WEIGHTS[63:].numpy().tobytes()
    path.write_bytes(whole.replace(number, bytes([number[0] ^ 1]) + number[1:]))
    refused(path, "not a checkpoint, or a damaged one")


def test_flipped_bit_anywhere_is_refused_or_harmless(path):
    """Some bits of the archive mean nothing, as those between its parts."""
    whole = path.read_bytes()
    as_saved = repr(read_checkpoint(path))
    refusals = 0
    for place in random.Random(0).sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert repr(read_checkpoint(path)) == as_saved
        except CheckpointError:
            refusals += 1
    assert refusals > 150


# What could run code


def test_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path):
    victim = tmp_path / "victim"
    torch.save(content(callbacks=Malicious(victim)), tmp_path / "evil.ckpt")
    refused(tmp_path / "evil.ckpt", "could run code")
    assert not victim.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert victim.exists(), "the test's own check: loaded as a pickle, it does create the file"


def test_malicious_pickle_is_refused_and_runs_nothing(tmp_path):
    victim = tmp_path / "victim"
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Malicious(victim)))
    refused(tmp_path / "evil.ckpt", "not a checkpoint, or a damaged one")
    torch.save(Malicious(victim), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.ckpt", "not a checkpoint, or a damaged one")
    assert not victim.exists()


# What is someone else's


def test_checkpoint_of_another_module_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
        trainer.strategy.connect(BoringModel())
        trainer.save_checkpoint(tmp_path / "boring.ckpt")
    refused(tmp_path / "boring.ckpt", "not a checkpoint of this project")


@pytest.mark.parametrize(
    "saved",
    [
        BoringModel().state_dict(),
        WEIGHTS,
        [1],
        {PROJECT_KEY: 1, DATA_KEY: {}},
        {PROJECT_KEY: {"format": CHECKPOINT_FORMAT}},
    ],
    ids=["state_dict", "tensor", "list", "odd stamp", "no data"],
)
def test_what_is_no_checkpoint_of_this_project_is_refused(path, saved):
    torch.save(saved, path)
    refused(path, "not a checkpoint of this project; give one that scripts/train.py wrote")


@pytest.mark.parametrize("number", [CHECKPOINT_FORMAT + 1, CHECKPOINT_FORMAT - 1, None])
def test_other_format_is_refused_with_the_version_that_reads_it(path, number):
    torch.save(content() | {PROJECT_KEY: {"version": "9.8.7", "format": number}}, path)
    refused(path, f"has format {number}, and gpa-lightning {__version__} reads format 1")
    refused(path, "use it with gpa-lightning '9.8.7', which wrote it, or train again")
