"""A target that is standardised to be learnt: every number that is told of it is in its units."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from runs import NOTHING_BESIDE, fit, run_folder, weights
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from gpa_lightning import FullyConnectedNetwork, GPADataModule, GPARegressor
from gpa_lightning.callbacks import OverfittingMonitor
from gpa_lightning.commands.predict import main as predict
from gpa_lightning.commands.train import TrainCLI, train

FLAGS = ["--model.hidden_sizes", "[8]", "--accelerator", "cpu", "--data.path", "houses.csv"]


@pytest.fixture(autouse=True)
def houses(workplace) -> pd.DataFrame:
    """A table of 300 houses, whose prices are far from zero, in the current folder."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(300, 3)), columns=["width", "height", "age"])
    frame["price"] = 250_000 + 40_000 * (frame["width"] - frame["age"] ** 2)
    frame.to_csv("houses.csv", index=False)
    return frame


def trained(epochs: int = 2, **settings: object) -> tuple[GPARegressor, GPADataModule, object]:
    torch.manual_seed(0)
    data = GPADataModule(**{"path": "houses.csv", "batch_size": 20, **settings})
    model = GPARegressor(in_features=3, hidden_sizes=(8,), learning_rate=0.01)
    return model, data, fit(model, data, OverfittingMonitor(verbose=False), epochs=epochs)


def assert_same(a: GPARegressor, b: GPARegressor) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_losses_metrics_and_predictions_are_in_the_targets_units():
    model, data, trainer = trained(30)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    (tested,) = trainer.test(model, data, verbose=False)
    sets = {name: data.dataset(name)[:] for name in data.rows}
    with torch.no_grad():
        found = {name: (y.numpy(), model.eval()(x).numpy()) for name, (x, y) in sets.items()}
    expected = {
        "test_loss": mean_squared_error(*found["test"]),
        "test_mae": mean_absolute_error(*found["test"]),
        "test_r2": r2_score(*found["test"]),
    }
    assert {name: tested[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert logged["val_loss"] == pytest.approx(mean_squared_error(*found["validation"]), rel=1e-4)
    assert logged["train_eval_loss"] == pytest.approx(mean_squared_error(*found["training"]))
    assert logged["train_loss"] == pytest.approx(logged["train_eval_loss"], rel=0.3)
    assert tested["test_r2"] > 0.5
    assert sets["test"][1].mean() > 150_000  # the data are as they are


def test_what_is_learnt_does_not_depend_on_the_units(houses):
    model, *_ = trained()
    for factor, shift in ((1e-9, 0), (3.0, -7e5)):
        houses.assign(price=houses["price"] * factor + shift).to_csv("other.csv", index=False)
        other, *_ = trained(path="other.csv")
        for mine, theirs in zip(weights(model), weights(other), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0.01, atol=1e-3)
        mean, scale = other.target_units.mean.item(), other.target_units.scale.item()
        own = model.target_units
        assert scale == pytest.approx(own.scale.item() * factor, rel=1e-5)
        assert mean == pytest.approx(own.mean.item() * factor + shift, rel=1e-5)


def test_the_courses_target_is_learnt_as_it_is_and_a_flag_decides_otherwise(table):
    course = {"path": str(table), "batch_size": 100}

    def units(**settings: object) -> object:
        data = GPADataModule(**{**course, **settings})
        data.prepare_data()
        data.setup()
        model = GPARegressor(in_features=data.in_features, hidden_sizes=(4,))
        fit(model, data, epochs=1, limit_train_batches=1)
        return model.target_units.mean

    assert units() is None
    assert units(drop="math") is None
    assert units(path="houses.csv", standardise_target=False) is None
    y = pd.read_csv(table)
    assert units(standardise_target=True).item() == pytest.approx(y["gpa"].mean(), abs=0.1)
    assert units(target="math").item() == pytest.approx(y["math"].mean(), abs=20)


class Own(LightningModule):
    """A user's module, which knows of no units but those of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FullyConnectedNetwork(3, (4,))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return (self.network(x) - (y - 200_000) / 50_000).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_a_module_of_the_users_own_is_left_alone():
    own = Own()
    fit(own, GPADataModule(path="houses.csv"), epochs=1, limit_val_batches=0)
    assert not hasattr(own, "target_units")


def test_fast_training_and_streaming_end_with_the_same_weights():
    model, *_ = trained()
    torch.manual_seed(0)
    plain = GPARegressor(in_features=3, hidden_sizes=(8,), learning_rate=0.01)
    trainer = Trainer(max_epochs=2, **NOTHING_BESIDE)
    trainer.fit(plain, datamodule=GPADataModule(path="houses.csv", batch_size=20))
    assert_same(model, plain)
    streamed, *_ = trained(in_memory=False, cache_dir="tables")
    assert_same(model, streamed)


def test_units_stay_those_that_the_weights_were_trained_in(houses, table):
    model, _, trainer = trained()
    trainer.save_checkpoint("houses.ckpt")
    houses.assign(price=houses["price"] / 1000).to_csv("other.csv", index=False)
    before = model.target_units.mean.item()
    other = GPADataModule(path="other.csv")
    fit(model, other, epochs=1)  # goes on learning
    assert model.target_units.mean.item() == before
    loaded = GPARegressor.load_from_checkpoint("houses.ckpt", weights_only=True)
    assert loaded.target_units.mean.item() == before
    raw, _, raw_trainer = trained(standardise_target=False)
    raw_trainer.save_checkpoint("raw.ckpt")
    fit(raw, GPADataModule(path="other.csv"), epochs=1)
    assert raw.target_units.mean is None
    loaded.load_state_dict(torch.load("raw.ckpt", weights_only=True)["state_dict"])
    assert loaded.target_units.mean is None
    loaded = GPARegressor.load_from_checkpoint("raw.ckpt", weights_only=True)
    fit(loaded, GPADataModule(path="other.csv"), epochs=1)
    assert loaded.target_units.mean is None


def test_a_run_goes_on_and_predicts_in_the_same_units(houses, capsys):
    flags = [*FLAGS, "--data.batch_size", "20", "--max_epochs"]
    assert train([*flags, "3"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^target +price, standardised to be learnt$", out, re.MULTILINE)
    assert "no better than the mean" not in out
    assert train([*flags, "2"]) == 0
    last = run_folder(1) / "checkpoints/last.ckpt"
    resumed = ["--ckpt_path", str(last)]
    assert train([*flags, "3", "--data.standardise_target", "false", *resumed]) == 2
    assert "--data.standardise_target is False, but" in capsys.readouterr().err
    assert train([*flags, "3", *resumed]) == 0
    whole, gone_on = (
        torch.load(run_folder(n) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for n in (0, 1)
    )
    for name, value in whole.items():
        assert torch.equal(value, gone_on[name]), name
    paths = ["--ckpt_path", str(last), "--input", "houses.csv", "--output", "out.csv"]
    assert predict(paths) == 0
    found = pd.read_csv("out.csv").iloc[:, -1]
    error = mean_squared_error(houses["price"], found)
    assert error < houses["price"].var()
    (loss,) = re.findall(r"^test MSE +(\S+)", capsys.readouterr().out + out, re.MULTILINE)[-1:]
    assert error == pytest.approx(float(loss), rel=0.5)


def test_a_run_that_is_worse_than_the_mean_says_so(capsys):
    flags = [*FLAGS, "--max_epochs", "1", "--data.standardise_target", "false"]
    assert train(flags) == 0
    out = capsys.readouterr().out
    assert "verdict" in out
    assert "the network predicts no better than the mean of the target does" in out
    assert re.search(r"^target +price$", out, re.MULTILINE)


@pytest.mark.parametrize(("rows", "batches"), [(300, 32), (50, 32), (5_000, 32), (9_000, 58)])
def test_a_small_table_has_batches_enough(houses, rows, batches):
    houses.sample(rows, replace=True, random_state=0).to_csv("other.csv", index=False)
    data = GPADataModule(path="other.csv", batch_size="auto")
    data.prepare_data()
    data.setup()
    found = data.train_dataloader()
    assert batches <= len(found) <= 2 * batches
    assert data.state_dict()["split"]["batch_size"] == len(next(iter(found))[0])


def test_the_recommended_recipe_takes_more_than_nine_steps_on_a_hundred_rows(houses, capsys):
    houses.head(100).to_csv("houses.csv", index=False)
    logs = ["--trainer.logger", "false", "--checkpoint", "null"]
    assert train(["--config", "recommended", *FLAGS, *logs]) == 0
    out = capsys.readouterr().out
    losses = {
        name: float(value)
        for name, value in re.findall(r"^ *(test MSE|predicting the mean) +(\S+)", out, re.M)
    }
    assert losses["test MSE"] < 0.8 * losses["predicting the mean"]
    assert re.search(r"^batch size +2$", out, re.M)  # of 64 rows


@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
def test_files_of_earlier_versions_train_as_they_did():
    Path("saved.yaml").write_text(
        "# lightning.pytorch==2.6.6\ndata: {path: houses.csv}\nmodel: {hidden_sizes: [4]}\n"
    )
    own = Path("own.yaml")
    own.write_text("data: {path: houses.csv}\nmodel: {hidden_sizes: [4]}\n")
    quick = ["--trainer.logger", "false", "--checkpoint", "null", "--max_epochs", "1"]
    for file, expected in (("saved.yaml", False), ("own.yaml", None)):
        cli = TrainCLI(
            ["--config", file, *quick], run=False, parser_kwargs={"exit_on_error": False}
        )
        assert cli.datamodule.standardise_target is expected
