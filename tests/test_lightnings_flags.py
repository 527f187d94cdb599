"""What Lightning documents for every project works in this one: its flags, finders and orders."""

import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.tuner import Tuner
from runs import NOTHING_BESIDE, run_folder, weights
from torch.utils.data import DataLoader, TensorDataset

from gpa_lightning import GPADataModule, GPARegressor, default_callbacks
from gpa_lightning.commands.train import train


@pytest.fixture
def data(table: Path, workplace: Path) -> list[str]:
    """Flags for a small table, in an empty current folder."""
    small = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--max_epochs", "2"]
    return ["--data.path", str(table), *small]


def trainer(*callbacks, **flags):
    settings = {**NOTHING_BESIDE, "max_epochs": 2, **flags}
    return Trainer(**settings, callbacks=list(callbacks))


def regressor():
    seed_everything(1)
    return GPARegressor(hidden_sizes=(16, 8))


def last_checkpoint():
    return torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)


def assert_trained_alike(one, other):
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        assert (ours == theirs).all()


class TestOverfitBatches:
    @pytest.mark.parametrize("batches", [1, 2, 99])
    @pytest.mark.parametrize("workers", [0, 1])
    def test_it_learns_those_batches_as_plain_lightning_does(self, batches, workers, table):
        flags = {"overfit_batches": batches, "max_epochs": 3}
        module = GPADataModule(path=str(table), batch_size=50, num_workers=workers)
        ours = regressor()
        fitted = trainer(*default_callbacks(), **flags)
        fitted.fit(ours, datamodule=module)

        def loader(name, rows, **settings):
            return DataLoader(TensorDataset(*module.dataset(name).tensors), rows, **settings)

        theirs = regressor()
        plain = trainer(**flags)
        plain.fit(theirs, loader("training", 50, shuffle=True), loader("validation", 2048))
        assert_trained_alike(ours, theirs)
        assert fitted.global_step == plain.global_step == 3 * min(batches, 7)
        assert fitted.callback_metrics["train_loss"] == plain.callback_metrics["train_loss"]

    def test_from_the_command_line(self, data):
        assert train([*data, "--trainer.overfit_batches", "2", "--max_epochs", "40"]) == 0
        assert last_checkpoint()["global_step"] == 80


def test_a_loader_of_the_users_own_takes_row_by_row(table):
    module = GPADataModule(path=str(table))
    module.setup()
    ours, theirs = regressor(), regressor()
    for model, dataset in (
        (ours, module.dataset("training")),
        (theirs, TensorDataset(*module.dataset("training").tensors)),
    ):
        torch.manual_seed(0)
        trainer().fit(model, DataLoader(dataset, batch_size=50, shuffle=True))
    assert_trained_alike(ours, theirs)


@pytest.mark.parametrize("precision", ["64-true", "64", "bf16-true", "bf16-mixed", "32"])
def test_a_precision_is_that_of_the_summary_too(precision, data, capsys):
    flags = ["--precision", precision, "--trainer.callbacks+=OverfittingMonitor"]
    assert train([*data, *flags]) == 0
    summary = capsys.readouterr().out
    logged = float(re.search(r"best epoch .*val_loss (\S+)\)", summary)[1])
    shown = float(re.search(r"validation MSE\s+(\S+)", summary)[1])
    assert shown == pytest.approx(logged, rel=0.03 if "bf16" in precision else 1e-4)
    dtypes = {"64": torch.float64, "bf16-true": torch.bfloat16}
    weight = last_checkpoint()["state_dict"]["network.layers.fc1.weight"]
    assert weight.dtype == dtypes.get(precision.replace("64-true", "64"), torch.float32)


class TestFinders:
    @pytest.mark.slow
    @pytest.mark.parametrize(("mode", "found"), [("power", 16), ("binsearch", 15)])
    @pytest.mark.parametrize("callbacks", [default_callbacks, list])
    def test_a_batch_size_that_is_found_is_that_of_the_loader(
        self, callbacks, mode, found, table, workplace
    ):
        tuned, model, module = (
            trainer(*callbacks()),
            regressor(),
            GPADataModule(path=str(table), seed=0),
        )
        settings = {"mode": mode, "max_trials": 3, "init_val": 4}
        assert Tuner(tuned).scale_batch_size(model, datamodule=module, **settings) == found
        assert module.batch_size == module.hparams.batch_size == found
        tuned.fit(model, datamodule=module)
        assert len(next(iter(tuned.train_dataloader))[0]) == found
        assert tuned.global_step == 2 * -(-343 // found)
        expected = regressor()
        trainer().fit(expected, datamodule=GPADataModule(path=str(table), batch_size=found, seed=0))
        assert_trained_alike(model, expected)
        assert list(workplace.iterdir()) == []

    def test_a_batch_size_by_flags(self, data, capsys):
        flags = ["--trainer.callbacks+=BatchSizeFinder", "--trainer.callbacks.max_trials=4"]
        assert train([*data, *flags]) == 0
        checkpoint = last_checkpoint()
        assert checkpoint["GPADataModule"]["split"]["batch_size"] == 16
        assert checkpoint["global_step"] == 2 * 22
        assert train([*data, *flags, "--data.batch_size", "full"]) == 2
        assert "BatchSizeFinder begins with a number" in capsys.readouterr().err

    @pytest.mark.parametrize("callbacks", [default_callbacks, list])
    def test_a_learning_rate_that_is_found_is_that_of_the_optimiser(self, callbacks, table):
        tuned, module = trainer(*callbacks()), GPADataModule(path=str(table), batch_size=10, seed=0)
        model = regressor()
        finder = Tuner(tuned).lr_find(model, datamodule=module, num_training=30)
        tuned.fit(model, datamodule=module)
        found = finder.suggestion()
        assert tuned.optimizers[0].param_groups[0]["lr"] == found == model.learning_rate
        assert tuned.global_step == 70
        expected = regressor()
        expected.learning_rate = found
        trainer().fit(expected, datamodule=GPADataModule(path=str(table), batch_size=10, seed=0))
        assert_trained_alike(model, expected)


def validated_first(fitted, model, module):
    fitted.validate(model, datamodule=module, verbose=False)
    fitted.fit(model, datamodule=module)
    fitted.validate(model, datamodule=module, verbose=False)


def with_a_test_between_fits(fitted, model, module):
    fitted.fit(model, datamodule=module)
    fitted.test(model, datamodule=module, verbose=False)
    fitted.predict(model, datamodule=module)
    fitted.fit_loop.max_epochs = 4
    fitted.fit(model, datamodule=module)


def fitted_twice(fitted, model, module):
    fitted.fit(model, datamodule=module)
    fitted.fit(model, datamodule=module)


def another_module_then(fitted, model, module):
    fitted.fit(regressor(), datamodule=module)
    fitted.fit_loop.max_epochs = 3
    fitted.fit(model, datamodule=module)


def another_trainer_first(fitted, model, module):
    trainer(max_epochs=1).fit(model, datamodule=module)
    trainer().test(model, datamodule=module, verbose=False)
    fitted.fit(model, datamodule=module)
    fitted.test(model, datamodule=module, verbose=False)


def loaders_by_hand(fitted, model, module):
    module.setup()
    fitted.fit(model, module.train_dataloader(), module.val_dataloader())
    fitted.test(model, module.test_dataloader(), verbose=False)


ORDERS = (validated_first, with_a_test_between_fits, fitted_twice, another_module_then)
ORDERS += (another_trainer_first, loaders_by_hand)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"inference_mode": False}, {"num_sanity_val_steps": 2}])
@pytest.mark.parametrize("order", ORDERS)
def test_whatever_is_called_in_whatever_order_gives_what_plain_lightning_gives(order, flags, table):
    done = []
    for callbacks in (default_callbacks(), []):
        fitted, model = trainer(*callbacks, **flags), regressor()
        order(fitted, model, GPADataModule(path=str(table), batch_size=50))
        metrics = {name: value.item() for name, value in fitted.callback_metrics.items()}
        done.append((model, metrics, fitted.global_step, fitted.current_epoch))
    (ours, *our_numbers), (theirs, *their_numbers) = done
    assert_trained_alike(ours, theirs)
    assert our_numbers == their_numbers


class OwnLogger(Logger):
    """As MLflow's and Weights & Biases': a `save_dir` for all runs, and a version for each."""

    runs: ClassVar[list[str]] = []

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__()
        self._save_dir, self._version = save_dir, f"run{len(self.runs)}"
        self.runs.append(self._version)

    @property
    def name(self):
        return "project"

    @property
    def version(self):
        return self._version

    @property
    def save_dir(self):
        return self._save_dir

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, params, *args, **kwargs): ...


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["runs", "null"])
def test_the_files_of_two_runs_are_apart_whatever_the_logger(folder, data, monkeypatch):
    monkeypatch.setattr(OwnLogger, "runs", [])
    flags = ["--trainer.logger", "test_lightnings_flags.OwnLogger"]
    flags += ["--trainer.logger.save_dir", folder]
    assert train([*data, *flags]) == 0
    assert train([*data, *flags, "--model.dropout", "0.1"]) == 0
    own = Path("runs" if folder == "runs" else ".") / "project"
    for run, dropout in (("run0", 0), ("run1", 0.1)):
        assert (own / run / "loss_curves.png").is_file()
        assert (own / run / "checkpoints/last.ckpt").is_file()
        config = yaml.safe_load((own / run / "config.yaml").read_text())
        assert config["model"]["dropout"] == dropout
    assert {path.name for path in own.parent.iterdir()} <= {"project", "lightning_logs"}


def test_without_a_logger_no_file_of_the_users_is_written_over(data):
    Path("config.yaml").write_text("model:\n  dropout: 0.1\n")
    flags = ["--config", "config.yaml", "--trainer.logger", "false"]
    assert train([*data, *flags]) == 0
    assert Path("config.yaml").read_text() == "model:\n  dropout: 0.1\n"


def test_a_run_of_one_batch_leaves_nothing_behind(data):
    assert train([*data, "--trainer.fast_dev_run", "true"]) == 0
    assert [path.name for path in Path().iterdir() if path.is_file()] == []


@pytest.mark.slow
def test_a_further_checkpoint_does_not_change_what_is_tested(data, capsys):
    rate = ["--model.learning_rate", "1", "--max_epochs", "4"]
    summaries = []
    for further in ("ModelCheckpoint", "OnExceptionCheckpoint", None):
        flags = [f"--trainer.callbacks+={further}", "--trainer.callbacks.dirpath=further"]
        assert train([*data, *rate, *(flags if further else [])]) == 0
        lines = capsys.readouterr().out.splitlines()
        summaries.append([line for line in lines if " MSE " in line])
    assert summaries[0] == summaries[1] == summaries[2]


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.max_steps", "3"],
        ["--trainer.limit_val_batches", "0"],
        ["--trainer.val_check_interval", "00:00:00:30"],
        [
            *("--trainer.val_check_interval", "00:00:00:01", "--max_epochs", "100000"),
            *("--early_stopping.min_delta", "100", "--patience", "1"),
        ],
        ["--early_stopping.monitor", "train_loss", "--trainer.val_check_interval", "0.5"],
        ["--trainer.barebones", "true"],
        ["--optimizer", "Adam", "--optimizer.foreach", "true"],
        ["--progress_bar", "null", "--trainer.callbacks+=RichProgressBar"],
        ["--checkpoint", "null", "--trainer.callbacks+=ModelCheckpoint"],
    ],
)
def test_it_simply_runs(flags, data, capsys):
    assert train([*data, *flags]) == 0
    assert "test MSE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--data.seed", "-1"], "--data.seed must not be negative"),
        (["--data.num_workers", "-1"], "--data.num_workers must not be negative"),
        (["--seed_everything", "-1"], "-1 is not in bounds"),
        (["--model.learning_rate", "-1"], "learning_rate must not be negative"),
        (["--trainer.val_check_interval", "30"], "`val_check_interval` (30)"),
        (["--trainer.val_check_interval", "0"], "--trainer.val_check_interval must be above 0"),
        (["--trainer.check_val_every_n_epoch", "0"], "--trainer.check_val_every_n_epoch must"),
        (["--trainer.accumulate_grad_batches", "-1"], "--trainer.accumulate_grad_batches must"),
        (["--strategy", "ddp_fork"], "--strategy ddp trains in as many"),
        (["--accelerator", "tpu"], "torch_xla"),
        (["--trainer.callbacks+=BackboneFinetuning"], "no attribute 'backbone'"),
        (["--trainer.callbacks+=SpikeDetection"], "'SpikeDetection' object"),
    ],
)
def test_it_is_refused_in_one_line(flags, named, data, capsys):
    assert train([*data, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1


class Wrong(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        raise ValueError("of the user's own")


def test_a_mistake_in_the_users_own_code_keeps_its_traceback(data):
    with pytest.raises(ValueError, match="of the user's own"):
        train([*data, "--trainer.callbacks+=test_lightnings_flags.Wrong"])
