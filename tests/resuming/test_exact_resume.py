"""What a checkpoint holds for a run that is resumed, and which checkpoints there are when."""

import shutil
from pathlib import Path
from threading import Lock

import pytest
import torch
from commands.test_train import SMALL, assert_equal_weights, last_weights, run_folder
from lightning.pytorch.plugins import AsyncCheckpointIO
from runs import fit
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands.train import train
from gpa_lightning.resuming import BestAndLastCheckpoint, WholeCheckpoints
from gpa_lightning.resuming.checkpoint import CheckpointError
from gpa_lightning.resuming.whole_file import OutputError


@pytest.fixture
def data(table: Path, workplace: Path) -> list[str]:
    return ["--data.path", str(table), *SMALL, "--model.dropout", "0.2"]


def test_a_superseded_checkpoint_stays_until_the_next_is_written(tmp_path):
    files = WholeCheckpoints()
    first, better, last = (tmp_path / "checkpoints" / name for name in ("1", "2", "last"))
    files.save_checkpoint({"epoch": 1}, first)
    files.save_checkpoint({"epoch": 2}, better)
    files.remove_checkpoint(first)
    assert first.exists()
    files.save_checkpoint({"epoch": 2}, last)
    assert {path.name for path in first.parent.iterdir()} == {"2", "last"}
    files.remove_checkpoint(better)
    files.teardown()
    assert [path.name for path in first.parent.iterdir()] == ["last"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)
    before = path.read_bytes()
    path.with_name("file").touch()
    with pytest.raises(Exception, match="pickle"):
        WholeCheckpoints().save_checkpoint({"epoch": Lock()}, path)
    with pytest.raises((OutputError, OSError)):
        WholeCheckpoints().save_checkpoint({"epoch": 2}, path.with_name("file") / "last.ckpt")
    assert path.read_bytes() == before


@pytest.mark.parametrize("plugins", [None, [AsyncCheckpointIO()]])
def test_checkpoints_are_whole_unless_another_way_is_asked_for(plugins, table):
    data = GPADataModule(path=str(table))
    trainer = fit(GPARegressor(hidden_sizes=(4,)), data, epochs=1, plugins=plugins)
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints) == (plugins is None)


def test_where_files_cannot_have_two_names_the_last_is_a_copy_of_the_best(
    table, tmp_path, monkeypatch
):
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    torch.manual_seed(0)
    keeping = BestAndLastCheckpoint(tmp_path, "best", "val_loss", save_last=True)
    flags = {"epochs": 3, "enable_checkpointing": True}  # each of which improves
    fit(GPARegressor(hidden_sizes=(4,)), GPADataModule(path=str(table)), keeping, **flags)
    best, last = (Path(path) for path in (keeping.best_model_path, keeping.last_model_path))
    assert best.read_bytes() == last.read_bytes() > b""
    assert not best.samefile(last)


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(data):
    train([*data, "--max_epochs", "4"])
    train([*data, "--max_epochs", "2"])
    path = run_folder(1) / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["end_of_epoch"]
    (checkpoint["random_states"],) = checkpoint["random_states"]
    torch.save(checkpoint, path)
    assert train([*data, "--max_epochs", "4", "--ckpt_path", "last"]) == 0
    assert_equal_weights(last_weights(0), last_weights(1))


@pytest.mark.parametrize("learning_rate", ["0.001", "1"])  # the second epoch is better, or worse
def test_a_run_resumed_after_its_first_epoch_ends_with_the_same_checkpoint(data, learning_rate):
    data = [*data, "--model.learning_rate", learning_rate]
    train([*data, "--max_epochs", "2"])
    train([*data, "--max_epochs", "1"])
    assert train([*data, "--max_epochs", "2", "--ckpt_path", "last"]) == 0
    whole, resumed = (
        torch.load(run_folder(version) / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
        for version in (0, 1)
    )
    for name, state in whole.items():
        expected = repr(state).replace(run_folder(0).name, run_folder(1).name)
        assert repr(resumed[name]) == expected


def test_epochs_that_are_made_again_take_the_place_of_those_that_were_lost(data):
    """A kill between the best checkpoint and the last leaves the best of an epoch that is lost."""
    flags = [*data, "--early_stopping", "null", "--checkpoint.save_top_k=-1", "--max_epochs", "3"]
    assert train(flags) == 0
    folder = run_folder() / "checkpoints"
    files = sorted(path.name for path in folder.iterdir())
    shutil.copy(folder / "best-epoch-0.ckpt", folder / "last.ckpt")
    assert train([*flags, "--ckpt_path", "last"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == files


def test_a_run_that_has_stopped_early_goes_on_only_without_early_stopping(data, capsys, recwarn):
    flags = [*data, "--model.learning_rate", "1", "--max_epochs", "40"]
    assert train([*flags, "--early_stopping.patience", "1"]) == 0
    stopped = capsys.readouterr().out
    path = run_folder() / "checkpoints/last.ckpt"
    before = torch.load(path, weights_only=True)["epoch"]
    flags += ["--ckpt_path", "last"]
    assert train([*flags, "--early_stopping.patience", "1"]) == 0
    again = capsys.readouterr().out
    for text in (stopped, again):
        assert "stopped early: val_loss did not improve for 1 epochs" in text
        assert f"epochs run             {before + 1}; " in text
    assert torch.load(path, weights_only=True)["epoch"] == before
    assert train([*flags, "--early_stopping", "null", "--max_epochs", str(before + 3)]) == 0
    assert torch.load(path, weights_only=True)["epoch"] == before + 2
    assert not [each for each in recwarn if "callbacks used to create" in str(each.message)]


def test_another_setting_within_a_schedule_of_schedules_is_refused(table, tmp_path):
    class WarmsUp(GPARegressor):
        def __init__(self, epochs: int) -> None:
            super().__init__(hidden_sizes=(4,))
            self.epochs = epochs

        def configure_optimizers(self):
            adam = Adam(self.parameters())
            parts = [LinearLR(adam, total_iters=2), CosineAnnealingLR(adam, self.epochs)]
            return [adam], [SequentialLR(adam, parts, milestones=[2])]

    fit(WarmsUp(5), GPADataModule(path=str(table)), epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    fit(WarmsUp(5), GPADataModule(path=str(table)), epochs=2, ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="T_max of SequentialLR is 9, but the checkpoint was"):
        fit(WarmsUp(9), GPADataModule(path=str(table)), epochs=2, ckpt_path=tmp_path / "a.ckpt")
