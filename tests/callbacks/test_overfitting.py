import json
import re
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from runs import fit, run_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.callbacks import OverfittingMonitor, WeightNorms
from gpa_lightning.callbacks.overfitting_monitor import Evaluation
from gpa_lightning.callbacks.tensorboard import LOSS
from gpa_lightning.commands.cli import main
from gpa_lightning.commands.train import train
from gpa_lightning.losses import evaluation_mse


@pytest.fixture
def data(table: Path) -> GPADataModule:
    return GPADataModule(path=str(table), batch_size=50)


def logged(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


class TestOverfittingMonitor:
    def test_both_losses_are_of_the_same_weights_in_evaluation_mode(self, data):
        model = GPARegressor(hidden_sizes=(64,), dropout=0.5, learning_rate=0.02)
        monitor = OverfittingMonitor()
        trainer = fit(model, data, monitor, epochs=6)
        assert [each.epoch for each in monitor.history] == [1, 2, 3, 4, 5, 6]
        last = monitor.history[-1]
        x, y = data.dataset("training").tensors
        assert last.train_loss == pytest.approx(evaluation_mse(model.network, x, y), rel=1e-6)
        assert last.val_loss == trainer.callback_metrics["val_loss"].item()
        # dropout acts on the average that the model logs, and not on this
        assert trainer.callback_metrics["train_loss"] > 1.1 * last.train_loss

    def test_what_it_logs(self, data, tmp_path):
        monitor = OverfittingMonitor()
        model = GPARegressor(hidden_sizes=(64,), learning_rate=0.05)
        logger = TensorBoardLogger(tmp_path)
        trainer = fit(model, data, monitor, epochs=8, logger=logger, log_every_n_steps=1)
        curves = logged(trainer.log_dir)
        lowest, at = float("inf"), 0.0
        for i, each in enumerate(monitor.history):
            if each.val_loss < lowest:
                lowest, at = each.val_loss, each.epoch
            expected = {
                "train_eval_loss": each.train_loss,
                "generalisation_gap": each.val_loss - each.train_loss,
                "best_val_loss": lowest,
                "epochs_since_best": each.epoch - at,
            }
            for name, value in expected.items():
                step, found = curves[name][i]
                assert step == curves["val_loss"][i][0]
                assert found == pytest.approx(value, abs=1e-6)

    def test_several_evaluations_an_epoch(self, data):
        monitor = OverfittingMonitor()
        fit(GPARegressor(hidden_sizes=(8,)), data, monitor, epochs=1, val_check_interval=2)
        assert [each.epoch for each in monitor.history] == pytest.approx([2 / 7, 4 / 7, 6 / 7])

    def test_it_changes_nothing(self, data):
        with_monitor, without = (
            self.weights_after(data, *callbacks) for callbacks in ([OverfittingMonitor()], [])
        )
        assert torch.equal(with_monitor, without)

    @staticmethod
    def weights_after(data: GPADataModule, *callbacks: OverfittingMonitor) -> torch.Tensor:
        torch.manual_seed(0)
        model = GPARegressor(hidden_sizes=(8,), dropout=0.2)
        fit(model, data, *callbacks)
        return model.network.layers.fc1.weight

    def test_it_says_when_overfitting_began(self, data, capsys):
        monitor = OverfittingMonitor()
        model = GPARegressor(hidden_sizes=(256, 64), learning_rate=0.01)
        fit(model, data, monitor, epochs=60)
        output = capsys.readouterr().out
        assert output.count("Overfitting began after") == 1
        assert f"after epoch {monitor.best.epoch - 1:g}:" in output
        assert f"{monitor.best.val_loss:.4f}" in output

    def test_it_says_when_there_is_none(self, data, capsys):
        fit(GPARegressor(hidden_sizes=()), data, OverfittingMonitor())
        fit(GPARegressor(hidden_sizes=()), data, OverfittingMonitor(verbose=False))
        assert capsys.readouterr().out.count("No overfitting in 2 epochs") == 1

    def test_a_training_that_gets_worse_on_both_sets_does_not_overfit(self):
        monitor = OverfittingMonitor()
        monitor.history = [Evaluation(1, 0.50, 0.50), Evaluation(2, 0.60, 0.60)]
        assert monitor.verdict().startswith("No overfitting in 2 epochs")

    def test_within_an_epoch_it_says_how_far(self):
        monitor = OverfittingMonitor()
        monitor.history = [Evaluation(4.3, 0.50, 0.50), Evaluation(5, 0.40, 0.60)]
        assert monitor.verdict().startswith("Overfitting began after 30 % of epoch 4:")

    def test_its_metrics_can_be_monitored(self, data):
        stopping = EarlyStopping("epochs_since_best", patience=2)
        model = GPARegressor(hidden_sizes=(8,))
        trainer = fit(model, data, OverfittingMonitor(), stopping, epochs=9)
        assert trainer.current_epoch == 3  # it stays at 0, which is no improvement

    def test_a_resumed_run_has_the_whole_history(self, data, tmp_path):
        whole = OverfittingMonitor()
        torch.manual_seed(0)
        trainer = fit(GPARegressor(hidden_sizes=(8,)), data, whole)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        resumed = OverfittingMonitor()
        model = GPARegressor(hidden_sizes=(8,))
        fit(model, data, resumed, epochs=3, ckpt_path=tmp_path / "half.ckpt")
        assert resumed.history[:2] == whole.history
        assert [each.epoch for each in resumed.history] == [1, 2, 3]

    def test_a_model_that_logs_no_validation_loss_is_refused(self, data):
        class Silent(GPARegressor):
            def validation_step(self, batch, batch_idx):
                pass

        with pytest.raises(MisconfigurationException, match="needs a model that logs val_loss"):
            fit(Silent(hidden_sizes=(4,)), data, OverfittingMonitor())

    def test_other_loaders_are_refused(self, data):
        data.setup()
        batches = DataLoader([tuple(data.dataset("training").tensors)], batch_size=None)
        data.train_dataloader = lambda: batches
        with pytest.raises(MisconfigurationException, match="needs a training loader over"):
            fit(GPARegressor(hidden_sizes=(8,)), data, OverfittingMonitor())


class TestWeightNorms:
    def test_norms_of_each_layer_and_of_all(self, data, tmp_path):
        model = GPARegressor(hidden_sizes=(8,))
        trainer = fit(model, data, WeightNorms(), logger=TensorBoardLogger(tmp_path))
        curves = logged(trainer.log_dir)
        everything = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert curves["l1_norm/all"][-1][1] == pytest.approx(everything.abs().sum().item())
        assert curves["l2_norm/all"][-1][1] == pytest.approx(everything.norm().item())
        layers = {"l2_norm/network.layers.fc1", "l2_norm/network.layers.fc2"}
        assert {name for name in curves if "l2_norm" in name} == {"l2_norm/all", *layers}
        squares = sum(curves[layer][-1][1] ** 2 for layer in layers)
        assert squares == pytest.approx(everything.norm().item() ** 2)
        assert len(curves["l1_norm/all"]) == 2

    def test_a_penalty_pushes_on_them(self, data):
        norms = {}
        for weight in (0.0, 0.1):
            torch.manual_seed(0)
            model = GPARegressor(hidden_sizes=(8,), penalty="l1", penalty_weight=weight)
            trainer = fit(model, data, WeightNorms(), epochs=5)
            norms[weight] = trainer.callback_metrics["l1_norm/all"].item()
        assert norms[0.1] < norms[0.0]


OVERFITS = ["--hidden_sizes=256,64", "--learning_rate=0.01", "--early_stopping=null"]


@pytest.mark.parametrize("monitored", [True, False])
def test_an_epoch_has_one_number_everywhere(monitored, table, workplace, capsys):
    flags = [*OVERFITS, "--max_epochs=30", "--data.path", str(table), "--accelerator=cpu"]
    flags += ["--trainer.callbacks+=OverfittingMonitor"] * monitored
    assert train(flags) == 0
    output = capsys.readouterr().out
    number, loss = re.search(r"best epoch +(\d+) \(val_loss ([\d.]+)\)", output).groups()
    assert 0 < int(number) < 29
    (began,) = re.findall(r"Overfitting began after epoch (\d+): .*? from ([\d.]+) to", output)
    assert began == (number, loss)
    assert output.startswith("Overfitting began") == monitored  # once, not in the summary too
    run = run_folder()
    assert [path.name for path in run.glob("**/best*")] == [f"best-epoch-{number}.ckpt"]
    outcome = json.loads((run / "outcome.json").read_text())
    drawn = {epoch: f"{value:.4f}" for epoch, value in outcome["validation_curve"]}
    charted = {epoch: f"{value:.4f}" for epoch, value in logged(run / "validation")[LOSS]}
    assert drawn[int(number)] == charted[int(number)] == loss
    assert min(drawn, key=drawn.get) == int(number)
    assert f"epochs run             {len(drawn)}; " in output  # how many, not which


def test_there_is_no_verdict_without_validation(table, workplace, capsys):
    flags = ["--hidden_sizes=8", "--max_epochs=2", "--data.path", str(table), "--accelerator=cpu"]
    off = ["--trainer.limit_val_batches=0", "--early_stopping=null", "--checkpoint=null"]
    assert train([*flags, *off, "--trainer.callbacks+=OverfittingMonitor"]) == 0
    assert "verfitting" not in capsys.readouterr().out.replace("OverfittingMonitor", "")


@pytest.mark.parametrize("command", [train, lambda args: main(["fit", *args])])
def test_both_by_flags(command, table, workplace, capsys):
    Path("watch.yaml").write_text(
        "trainer:\n"
        "  callbacks:\n"
        "    - class_path: gpa_lightning.callbacks.WeightNorms\n"
        "    - class_path: gpa_lightning.callbacks.OverfittingMonitor\n"
        "      init_args: {verbose: true}\n"
    )
    flags = ["--data.path", str(table), "--model.hidden_sizes", "[8]", "--max_epochs", "2"]
    assert command(["--config", "watch.yaml", *flags, "--accelerator", "cpu"]) == 0
    verdicts = re.findall(r"^(?:No overfitting|Overfitting began)", capsys.readouterr().out, re.M)
    assert len(verdicts) == 1
    curves = logged(run_folder())
    assert {"l1_norm/all", "generalisation_gap", "epochs_since_best"} <= set(curves)


def test_before_a_fit_there_is_nothing_to_judge():
    assert OverfittingMonitor().verdict() == "Nothing has been evaluated yet."
