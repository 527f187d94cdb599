"""The command line, through the functions that the scripts call."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from runs import fit, run_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands.cli import main
from gpa_lightning.commands.train import train
from gpa_lightning.data.table import DataError

SMALL = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--max_epochs", "3"]


@pytest.fixture
def data(table: Path, workplace: Path) -> list[str]:
    """Flags for a small table, in an empty current folder."""
    return ["--data.path", str(table), *SMALL]


def events(version: int = 0, curve: str = "") -> EventAccumulator:
    """Read the curves of a run, whose files' names do not tell their order within a second."""
    files = (run_folder(version) / curve).glob("events*")
    written = sorted(files, key=lambda path: path.stat().st_mtime_ns)
    with TemporaryDirectory() as folder:
        for number, path in enumerate(written):
            shutil.copy(path, Path(folder) / f"events.out.tfevents.{number}")
        return EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()


def last_weights(version: int = 0) -> dict[str, torch.Tensor]:
    path = run_folder(version) / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def loss_curves(version: int) -> dict[str, list[tuple[int, float]]]:
    path = run_folder(version) / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["callbacks"]["LossCurves"]


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, weight in a.items():
        assert torch.equal(weight, b[name]), name


class TestTrain:
    def test_the_summary_says_what_was_trained_and_how_good_it_is(self, data, table, capsys):
        assert train(data) == 0
        output = capsys.readouterr().out
        assert str(table.name) in output
        assert "537 rows" in output
        assert "343 training, 86 validation, 108 test" in output
        assert "9-16-8-1" in output
        assert "3; stopped at max_epochs 3" in output
        for text in ("training MSE", "validation MSE", "test MSE", "checkpoint", "curves"):
            assert text in output
        mean, linear = (
            float(re.search(rf"{name}\s+([\d.]+)", output)[1])
            for name in ("predicting the mean", "linear regression")
        )
        assert 0 < linear < mean

    def test_the_losses_are_those_of_the_best_checkpoint(self, data, capsys):
        flags = ["--model.learning_rate", "0.05", "--data.batch_size", "10"]
        train([*data, *flags, "--max_epochs", "8"])
        output = capsys.readouterr().out
        best = int(re.search(r"best epoch\s+(\d+) \(val_loss", output)[1])
        validation = [event.value for event in events().Scalars("val_loss")]
        assert best == int(np.argmin(validation)) < 7  # the last epoch's would be others
        shown = float(re.search(r"validation MSE\s+([\d.]+)", output)[1])
        assert shown == pytest.approx(min(validation), abs=1e-4)
        assert len(list(run_folder().glob(f"checkpoints/best-epoch-{best}.ckpt"))) == 1

    def test_the_same_command_gives_the_same_run(self, data):
        train(data)
        train(data)
        assert_equal_weights(last_weights(0), last_weights(1))
        assert [e.value for e in events(0).Scalars("train_loss")] == [
            e.value for e in events(1).Scalars("train_loss")
        ]

    def test_another_seed_gives_another_run(self, data):
        train(data)
        train([*data, "--seed_everything", "1"])
        weight = "network.layers.fc1.weight"
        assert not torch.equal(last_weights(0)[weight], last_weights(1)[weight])

    def test_short_flags_are_the_long_ones(self, data):
        train([*data, "--max_epochs", "1", "--devices=1", "--precision", "bf16-mixed"])
        config = yaml.safe_load((run_folder() / "config.yaml").read_text())
        assert config["trainer"]["max_epochs"] == 1
        assert config["trainer"]["devices"] in (1, "1")
        assert config["trainer"]["precision"] == "bf16-mixed"

    @pytest.mark.parametrize("flags", [["--config", "{}"], ["-c", "{}"], ["--config={}"]])
    def test_a_recipe_by_name(self, flags, workplace, capsys):
        with pytest.raises(SystemExit):
            train([*(flag.format("lecture-full-batch") for flag in flags), "--print_config"])
        assert "batch_size: full" in capsys.readouterr().out

    def test_a_saved_configuration_repeats_the_run(self, data):
        train([*data, "--model.dropout", "0.2", "--data.batch_size", "30"])
        train(["--config", str(run_folder() / "config.yaml")])
        assert_equal_weights(last_weights(0), last_weights(1))

    def test_the_network_follows_the_data(self, workplace, capsys):
        rows = "\n".join(f"{i},{i * 7 % 13},{i % 5}" for i in range(60))
        Path("houses.csv").write_text(f"width,height,price\n{rows}\n")
        assert train(["--data.path", "houses.csv", *SMALL]) == 0
        assert "2-16-8-1" in capsys.readouterr().out

    def test_a_run_on_the_twin_cannot_be_mistaken(self, workplace, capsys):
        flags = ["--data.source", "synthetic", *SMALL, "--max_epochs", "1"]
        assert train(flags) == 0
        assert "SYNTHETIC" in capsys.readouterr().out
        checkpoint = torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["GPADataModule"]["provenance"]["kind"] == "synthetic"

    def test_optimizer_and_schedule_by_flags(self, data, capsys):
        flags = ["--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max", "3"]
        train([*data, *flags])  # a schedule alone acts on the model's own Adam
        flags += ["--optimizer", "AdamW", "--optimizer.weight_decay", "0.1"]
        train([*data, *flags])
        for version, weight_decay in ((0, 0), (1, 0.1)):
            checkpoint = torch.load(run_folder(version) / "checkpoints/last.ckpt")
            (group,) = checkpoint["optimizer_states"][0]["param_groups"]
            assert group["lr"] == pytest.approx(0)
            assert group["fused"]
            assert group["weight_decay"] == weight_decay

    def test_nothing_is_asked_of_the_user_and_nothing_deprecated(self, data, capfd):
        train(data)
        assert capfd.readouterr().err == ""


class TestCallbacks:
    """The three examples of the README, and what else can be done to the defaults."""

    def test_the_best_checkpoint_and_the_last(self, data):
        assert train([*data, "--max_epochs", "2"]) == 0  # which gets better
        folder = run_folder(0) / "checkpoints"
        assert (folder / "best-epoch-1.ckpt").samefile(folder / "last.ckpt")  # written once
        assert train([*data, "--model.learning_rate", "1", "--max_epochs", "4"]) == 0
        folder = run_folder(1) / "checkpoints"
        epochs = {p.name: torch.load(p, weights_only=True)["epoch"] for p in folder.iterdir()}
        assert epochs == {"best-epoch-0.ckpt": 0, "last.ckpt": 3}

    @pytest.mark.parametrize(("flags", "epochs"), [([], 10), (["--early_stopping.patience=1"], 1)])
    def test_patience(self, data, flags, epochs, capsys):
        train([*data, *flags, "--model.learning_rate", "1", "--max_epochs=40"])
        stopped = f"stopped early: val_loss did not improve for {epochs} epochs"
        assert stopped in capsys.readouterr().out

    def test_stochastic_weight_averaging(self, data):
        flags = ["--trainer.callbacks.swa_lrs=0.01", "--trainer.callbacks.swa_epoch_start=1"]
        assert train([*data, "--trainer.callbacks+=StochasticWeightAveraging", *flags]) == 0
        checkpoint = torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)
        assert {"LossCurves", "StochasticWeightAveraging"} <= set(checkpoint["callbacks"])
        assert checkpoint["callbacks"]["StochasticWeightAveraging"]["n_averaged"] > 0

    def test_exponential_moving_average(self, data, capsys):
        flags = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
        assert train([*data, *flags]) == 0
        checkpoint = torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)
        trained, averaged = checkpoint["current_model_state"], checkpoint["state_dict"]
        assert not torch.equal(
            trained["network.layers.fc1.weight"], averaged["network.layers.fc1.weight"]
        )
        # the averaged weights are those that are tested, as they are those that were validated
        summary = capsys.readouterr().out
        best = re.search(r"best epoch.*val_loss (\S+)\)", summary).group(1)
        assert re.search(r"validation MSE\s+(\S+)", summary).group(1) == best

    def test_gradient_accumulation_by_epoch(self, data):
        flags = ["--trainer.callbacks+=GradientAccumulationScheduler"]
        flags += ["--trainer.callbacks.scheduling", "{1: 4}", "--data.batch_size", "25"]
        assert train([*data, *flags]) == 0
        steps = [event.step + 1 for event in events().Scalars("train_loss")]
        assert steps == [14, 14 + 4, 14 + 4 + 4]

    def test_learning_rate_monitor(self, data):
        flags = ["--trainer.callbacks+=LearningRateMonitor"]
        flags += ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"]
        assert train([*data, *flags]) == 0
        rates = [event.value for event in events().Scalars("lr-Adam")]
        assert rates == pytest.approx([1e-3, 1e-4, 1e-5])

    def test_learning_rate_finder(self, data, workplace):
        flags = ["--trainer.callbacks+=LearningRateFinder"]
        flags += ["--trainer.callbacks.num_training_steps=30", "--data.batch_size", "10"]
        flags += ["--model.learning_rate", "1e-6"]
        assert train([*data, *flags]) == 0
        checkpoint = torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)
        found = checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]
        assert 1e-4 < found < 1
        assert checkpoint["hyper_parameters"]["learning_rate"] == found
        assert list(workplace.glob(".lr_find*")) == []

    def test_pruning(self, data):
        flags = ["--trainer.callbacks+=ModelPruning", "--trainer.callbacks.amount=0.5"]
        flags += ["--trainer.callbacks.pruning_fn=l1_unstructured"]
        flags += ["--trainer.callbacks.use_lottery_ticket_hypothesis=false"]
        assert train([*data, *flags]) == 0
        weights = last_weights()
        zeros = sum((weight == 0).sum().item() for weight in weights.values())
        # half of what is left, after each of the three epochs
        assert zeros / sum(map(torch.numel, weights.values())) == pytest.approx(7 / 8, abs=0.01)

    def test_no_early_stopping(self, data, capsys):
        train([*data, "--early_stopping", "null", "--model.learning_rate", "1", "--max_epochs=22"])
        summary = capsys.readouterr().out
        assert "22; stopped at max_epochs 22" in summary
        assert re.findall(r"\[(\d+)/22\]", summary) == ["0", "10", "20", "21"]

    def test_so_many_steps(self, data, capsys):
        assert train([*data, "--trainer.max_steps", "6"]) == 0
        assert "2; stopped at max_steps 6" in capsys.readouterr().out

    def test_from_yaml(self, data, capsys):
        Path("mine.yaml").write_text(
            "early_stopping: null\n"
            "checkpoint: null\n"
            "trainer:\n"
            "  callbacks:\n"
            "    - class_path: LearningRateMonitor\n"
        )
        assert train([*data, "--config", "mine.yaml"]) == 0
        assert not (run_folder() / "checkpoints").exists()
        assert not (run_folder() / "loss_curves.png").exists()
        assert "lr-Adam" in events().Tags()["scalars"]

    def test_replaced_by_another_class(self, data, capsys):
        flags = ["--progress_bar", "TQDMProgressBar", "--progress_bar.refresh_rate", "0"]
        assert train([*data, *flags]) == 0


class TestTensorBoard:
    def test_both_losses_in_one_chart(self, data):
        train(data)
        tensor = events().Tensors("custom_scalars__config__")[0].tensor_proto
        layout = layout_pb2.Layout.FromString(tensor.string_val[0])
        (chart,) = layout.category[0].chart
        patterns = list(chart.multiline.tag)
        tags = events().Tags()["scalars"]
        for name in ("train_loss", "val_loss"):
            assert name in tags
            assert any(re.match(pattern, name) for pattern in patterns)

    def test_hyperparameters_with_the_final_test_loss(self, data, table):
        train([*data, "--optimizer", "AdamW", "--optimizer.lr", "0.01"])
        metadata = events().summary_metadata
        start = plugin_data_pb2.HParamsPluginData.FromString(
            metadata["_hparams_/session_start_info"].plugin_data.content
        ).session_start_info.hparams
        assert start["optimizer"].string_value == "AdamW"
        assert start["learning_rate"].number_value == pytest.approx(0.01)  # not the model's own
        assert start["data/kind"].string_value == "file"
        assert not {"data/location", "data/path", "data/cache_dir"} & start.keys()
        assert len(start["data/sha256"].string_value) == 64
        assert not any("_instantiator" in name for name in start)
        metrics = [tag for tag in events().Tags()["scalars"] if "test" in tag and "/test_" in tag]
        assert sorted(metrics) == [f"test/test_{name}" for name in ("loss", "mae", "r2", "rmse")]

    @pytest.mark.parametrize(
        ("checkpoint", "epoch"), [([], "best"), (["--checkpoint=null"], "last")]
    )
    def test_the_final_losses_say_which_epoch_they_are_of(self, data, checkpoint, epoch):
        # a learning rate at which the validation loss rises again
        train([*data, "--model.learning_rate", "0.3", "--max_epochs", "4", *checkpoint])
        logged = events()
        losses = [point.value for point in logged.Scalars("val_loss")]
        assert min(losses) < losses[-1]
        group = f"Loss of the {epoch} epoch"
        (validation,) = logged.Scalars(f"{group}/validation")
        assert validation.value == (min(losses) if epoch == "best" else losses[-1])
        (test,) = logged.Scalars(f"{group}/test")
        assert test.value == logged.Scalars("test/test_loss")[0].value
        # TensorBoard's table has the metrics in Python's order
        assert min(logged.Tags()["scalars"]).startswith(group)
        assert group < "Loss/by epoch"

    @pytest.mark.parametrize(("batch_size", "steps"), [("25", 14), ("full", 1)])
    def test_the_x_axis_counts_optimiser_steps(self, data, batch_size, steps):
        train([*data, "--data.batch_size", batch_size])
        for name in ("train_loss", "val_loss"):
            last_steps = [event.step for event in events().Scalars(name)]
            assert last_steps == [steps * epoch - 1 for epoch in (1, 2, 3)]


class TestResuming:
    @pytest.mark.parametrize(
        "flags",
        [
            [],
            ["--model.dropout", "0.3", "--data.batch_size", "25"],
            ["--data.batch_size", "full"],
            ["--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max", "4"],
        ],
    )
    def test_a_resumed_run_is_bit_identical(self, data, flags):
        train([*data, *flags, "--max_epochs", "4"])
        train([*data, *flags, "--max_epochs", "2"])
        assert train([*data, *flags, "--max_epochs", "4", "--ckpt_path", "last"]) == 0
        assert_equal_weights(last_weights(0), last_weights(1))
        for name in ("train_loss", "val_loss"):
            whole, resumed = (
                [(event.step, event.value) for event in events(version).Scalars(name)]
                for version in (0, 1)
            )
            assert whole == resumed
        whole, resumed = (loss_curves(version) for version in (0, 1))
        assert whole == resumed
        assert not run_folder(2).exists()

    def test_last_without_a_checkpoint(self, data, capsys):
        assert train([*data, "--ckpt_path", "last"]) == 2
        assert "no last.ckpt in any run" in capsys.readouterr().err
        assert not Path("lightning_logs").exists()

    @pytest.mark.parametrize(
        ("flags", "difference"),
        [
            (["--data.batch_size", "50"], "--data.batch_size is 50"),
            (["--data.seed", "9"], "--data.seed is 9"),
            (["--model.hidden_sizes", "[8]"], "--model.hidden_sizes is [8]"),
            (["--model.dropout", "0.5"], "--model.dropout is 0.5"),
        ],
    )
    def test_what_differs_is_named(self, data, flags, difference, capsys):
        train([*data, "--max_epochs", "1"])
        assert train([*data, "--ckpt_path", "last", *flags]) == 2
        error = capsys.readouterr().err
        assert difference in error
        assert error.count("\n") == 1

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--model.learning_rate", "0.01"], "lr of Adam is 0.01, but the checkpoint was"),
            (["--optimizer", "SGD", "--optimizer.lr", "1"], "optimiser is SGD, but the checkpoint"),
            (["--optimizer", "Adam", "--optimizer.betas", "[0.5,0.9]"], "betas of Adam is (0.5, "),
            (
                ["--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max", "9"],
                "optimiser is Adam with CosineAnnealingLR, but the checkpoint was",
            ),
        ],
    )
    def test_settings_that_the_checkpoint_would_overrule_are_refused(
        self, data, flags, message, capsys
    ):
        train([*data, "--max_epochs", "1"])
        capsys.readouterr()
        assert train([*data, "--ckpt_path", "last", *flags]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_another_setting_of_a_schedule_is_refused(self, data, capsys):
        schedule = ["--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max"]
        train([*data, "--max_epochs", "1", *schedule, "5"])
        assert train([*data, "--ckpt_path", "last", *schedule, "9"]) == 2
        assert "T_max of CosineAnnealingLR is 9" in capsys.readouterr().err
        assert train([*data, "--ckpt_path", "last", *schedule, "5"]) == 0

    def test_more_patience_than_before(self, data, capsys):
        flags = [*data, "--model.learning_rate", "1", "--max_epochs", "12"]
        train([*flags, "--early_stopping.patience", "1"])
        capsys.readouterr()
        assert train([*flags, "--early_stopping.patience", "9", "--ckpt_path", "last"]) == 0
        assert "12; stopped at max_epochs 12" in capsys.readouterr().out

    def test_the_subcommand_goes_on_as_well(self, data, capsys):
        train([*data, "--max_epochs", "4"])
        main(["fit", *data, "--max_epochs", "2"])
        assert main(["fit", *data, "--max_epochs", "4", "--ckpt_path", "last"]) == 0
        assert "going on from lightning_logs/version_1-" in capsys.readouterr().out
        assert_equal_weights(last_weights(0), last_weights(1))
        assert not run_folder(2).exists()

    def test_without_a_logger(self, data):
        train([*data, "--max_epochs", "4"])
        train([*data, "--max_epochs", "2"])
        flags = ["--max_epochs", "4", "--trainer.logger", "false", "--ckpt_path", "last"]
        assert train([*data, *flags]) == 0
        weights = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert_equal_weights(last_weights(0), weights)


class TestNames:
    """The folder of a run says what was changed."""

    @pytest.mark.parametrize(
        ("flags", "name"),
        [
            ([], "version_0-hidden_sizes=16,8-max_epochs=1"),
            (["--model.dropout=0.5"], "version_0-hidden_sizes=16,8-max_epochs=1-dropout=0.5"),
            (["--name", "overfit"], "version_0-overfit"),
            (["--trainer.logger.version", "mine"], "mine"),
        ],
    )
    def test_a_name(self, table, workplace, flags, name):
        given = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--max_epochs", "1"]
        assert train(["--data.path", str(table), *given, *flags]) == 0
        assert [path.name for path in Path("lightning_logs").iterdir()] == [name]

    def test_numbers_go_on(self, data):
        Path("lightning_logs/version_9-penalty=l1").mkdir(parents=True)
        train([*data, "--max_epochs", "1", "--name", "next"])
        main(["test", *data[:2], "--ckpt_path", str(run_folder(10) / "checkpoints/last.ckpt")])
        names = {path.name for path in Path("lightning_logs").iterdir()}
        assert names == {"version_9-penalty=l1", "version_10-next", "version_11-test"}

    def test_a_configuration_of_a_run_makes_another_run(self, data):
        train([*data, "--max_epochs", "1"])
        train([*data, "--max_epochs", "2", "--ckpt_path", "last"])
        config = run_folder() / "config.yaml"
        assert train(["--config", str(config), "--ckpt_path", "null"]) == 0
        assert run_folder(1).name == "version_1-config"

    def test_the_progress_bar_names_no_version(self, data, capsys):
        train([*data, "--max_epochs", "1"])
        assert "v_num" not in capsys.readouterr().out


class TestLossByEpoch:
    """The curves that TensorBoard shows first."""

    @staticmethod
    def curve(version: int, name: str) -> dict[int, float]:
        points = events(version, name).Scalars("Loss/by epoch")
        return {point.step: point.value for point in points}

    def test_is_what_the_run_has_logged(self, data):
        train([*data, "--data.batch_size", "20"])
        for name, metric in (("train", "train_loss"), ("validation", "val_loss")):
            values = [point.value for point in events().Scalars(metric)]
            assert self.curve(0, name) == dict(enumerate(values))
        assert "epoch" not in events().Tags()["scalars"]

    def test_of_a_resumed_run_is_that_of_one_that_was_never_stopped(self, data):
        flags = [*data, "--data.batch_size", "20"]
        train([*flags, "--max_epochs", "4"])
        train([*flags, "--trainer.max_steps", "40"])
        train([*flags, "--max_epochs", "4", "--ckpt_path", "last"])
        for name in ("train", "validation"):
            assert self.curve(0, name) == self.curve(1, name)


class TestReports:
    """What is said and kept of a run is true, whenever it validates."""

    def test_validation_every_second_epoch(self, data, capsys):
        train([*data, "--max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"])
        rows = re.findall(r"\[(\d)/4\] │ +([\d.]+) │ +([\d.]*) ", capsys.readouterr().out)
        assert [epoch for epoch, _, held_out in rows if held_out] == ["1", "3"]
        assert [epoch for epoch, _ in loss_curves(0)["validation"]] == [1, 3]
        assert len(events().Scalars("val_loss")) == 2

    def test_the_best_of_several_validations_in_an_epoch(self, data, capsys):
        flags = ["--model.learning_rate", "0.3", "--data.batch_size", "20", "--max_epochs", "2"]
        train([*data, *flags, "--trainer.val_check_interval", "0.25"])
        losses = [(point.value, point.step) for point in events().Scalars("val_loss")]
        best, step = min(losses)
        assert losses[-1][0] > best
        output = capsys.readouterr().out
        assert float(re.search(r"validation MSE\s+([\d.]+)", output)[1]) == pytest.approx(
            best, abs=1e-4
        )
        epoch, batches = re.search(r"best epoch\s+(\d), after (\d+) batches", output).groups()
        assert int(epoch) * 18 + int(batches) == step + 1

    def test_why_it_stopped(self, data, capsys):
        train([*data, "--early_stopping.stopping_threshold", "20"])
        assert (
            "1; stopped early: Stopping threshold reached: val_loss = " in capsys.readouterr().out
        )
        flags = ["--model.learning_rate", "1", "--trainer.val_check_interval", "0.5"]
        train([*data, *flags, "--early_stopping.patience", "1"])
        assert "did not improve for 1 validations" in capsys.readouterr().out

    def test_other_loggers_know_as_much(self, data, table, capsys):
        train([*data, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv"])
        (path,) = Path("csv").glob("**/hparams.yaml")
        known = yaml.safe_load(path.read_text())
        assert (known["seed"], known["optimizer"], known["val_size"]) == (0, "Adam", 0.2)
        assert known["data/sha256"] in capsys.readouterr().out

    def test_tensorboard_is_spoken_of_only_if_it_is_there(self, data, capsys):
        train([*data, "--max_epochs", "1"])
        train([*data, "--max_epochs", "1", "--trainer.logger", "false"])
        assert capsys.readouterr().out.count("make tensorboard") == 1


class TestSplitOfACheckpoint:
    """A checkpoint is tested on the rows that it was not trained on."""

    @pytest.fixture
    def trained(self, data, capsys) -> tuple[Path, float]:
        """A checkpoint of another split than the default, and its test loss."""
        train([*data, "--seed_everything", "1", "--data.test_size", "0.3"])
        output = capsys.readouterr().out
        (best,) = (run_folder() / "checkpoints").glob("best*.ckpt")
        return best, float(re.search(r"test MSE\s+([\d.]+)", output)[1])

    @pytest.mark.parametrize("seed", [[], ["--seed_everything", "7"]])
    def test_from_the_command_line(self, trained, data, seed, capsys, caplog):
        checkpoint, loss = trained
        arguments = ["--data.path", data[1], "--ckpt_path", str(checkpoint), *seed]
        assert main(["test", *arguments]) == 0
        assert f"{loss:.4f}"[:5] in capsys.readouterr().out
        assert "The split is the checkpoint's: test_size 0.3, val_size 0.2, seed 1." in caplog.text

    @pytest.mark.parametrize("command", ["test", "validate"])
    @pytest.mark.parametrize("flag", [["--data.seed", "0"], ["--data.test_size", "0.2"]])
    def test_another_split_is_refused(self, trained, data, command, flag, capsys):
        arguments = ["--data.path", data[1], "--ckpt_path", str(trained[0])]
        before = sorted(Path("lightning_logs").rglob("*"))
        assert main([command, *arguments, *flag]) == 2
        assert sorted(Path("lightning_logs").rglob("*")) == before
        error = capsys.readouterr().err
        assert f"{flag[0]} is {flag[1]}, but the checkpoint was trained with" in error
        assert error.count("\n") == 1

    def test_from_python(self, trained, table):
        checkpoint, loss = trained
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        model, data = GPARegressor(hidden_sizes=(16, 8)), GPADataModule(path=str(table))
        for evaluate in (trainer.test, trainer.validate, trainer.test):
            (results,) = evaluate(model, datamodule=data, ckpt_path=checkpoint, verbose=False)
            if "test_loss" in results:
                assert results["test_loss"] == pytest.approx(loss, abs=1e-4)
        assert data.hparams["seed"] == 1
        other = GPADataModule(path=str(table), seed=3)
        with pytest.raises(DataError, match="seed is 3, but the checkpoint was trained"):
            trainer.test(model, datamodule=other, ckpt_path=checkpoint)

    def test_training_goes_on_with_it(self, trained, data):
        assert train([*data, "--max_epochs", "4", "--ckpt_path", str(trained[0])]) == 0
        state = torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)
        assert state["GPADataModule"]["split"]["seed"] == 1

    def test_rows_of_another_table_are_not_known(self, trained, tmp_path, data, caplog):
        lines = Path(data[1]).read_text().splitlines(keepends=True)
        Path("other.csv").write_text("".join(lines[:300]))
        main(["test", "--data.path", "other.csv", "--ckpt_path", str(trained[0])])
        assert "other.csv is not the table that the checkpoint was trained on" in caplog.text


class TestErrors:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--data.path", "absent.csv"], "absent.csv"),
            (["--data.batch_size", "many"], "data.batch_size"),
            (["--data.val_size", "1.5"], "--data.val_size"),
            (["--model.dropout", "2"], "dropout must be in [0, 1)"),
            (["--model.penalty", "l3"], "model.penalty"),
            (["--config", "no-such-recipe"], "no-such-recipe"),
            (["--no_such_flag", "1"], "no_such_flag"),
            (["--ckpt_path", "absent.ckpt"], "absent.ckpt: cannot be read: No such file"),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_code_2(self, data, flags, message, capsys):
        assert train([*data, *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
        assert not Path("lightning_logs").exists()

    def test_a_metric_that_does_not_exist(self, data, capsys):
        assert train([*data, "--early_stopping.monitor", "val_lost"]) == 2
        error = capsys.readouterr().err
        assert "val_lost" in error
        assert error.count("\n") == 1

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu(self, data, capsys):
        assert train([*data, "--accelerator", "gpu"]) == 2
        error = capsys.readouterr().err
        assert "gpu" in error
        assert "--accelerator cpu" in error
        assert error.count("\n") == 1


class TestSubcommands:
    def test_fit_validate_test_predict(self, data, capsys):
        assert main(["fit", *data]) == 0
        checkpoint = str(run_folder() / "checkpoints/last.ckpt")
        for subcommand in ("validate", "test", "predict"):
            # the network is the checkpoint's, whose sizes need not be given again
            flags = ["--accelerator", "cpu", "--ckpt_path", checkpoint]
            assert main([subcommand, *data[:2], *flags]) == 0
        assert "test_loss" in capsys.readouterr().out

    def test_a_mistake_is_one_line_and_exit_code_2(self, data, capsys):
        assert main(["fit", *data, "--data.batch_size", "many"]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    @pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
    def test_a_damaged_checkpoint_is_refused(self, subcommand, data, capsys):
        Path("damaged.ckpt").write_bytes(b"PK\x03\x04 no more")
        assert main([subcommand, *data, "--ckpt_path", "damaged.ckpt"]) == 2
        error = capsys.readouterr().err
        assert "damaged.ckpt: not a checkpoint, or a damaged one" in error
        assert error.count("\n") == 1

    def test_a_checkpoint_of_other_columns_is_refused(self, data, capsys):
        main(["fit", *data])
        rows = "\n".join(f"{i},{i * 7 % 13},{i % 5}" for i in range(60))
        Path("houses.csv").write_text(f"width,height,price\n{rows}\n")
        module = GPADataModule(path="houses.csv")
        module.setup()
        state = torch.load(run_folder() / "checkpoints/last.ckpt", weights_only=True)
        with pytest.raises(DataError, match="'width', 'height', but the checkpoint was trained on"):
            module.load_state_dict(state["GPADataModule"])

    def test_a_checkpoint_of_another_split_keeps_its_own_units(self, data, table):
        main(["fit", *data, "--seed_everything", "5"])
        checkpoint = run_folder() / "checkpoints/last.ckpt"
        model = GPARegressor.load_from_checkpoint(checkpoint, weights_only=True)
        other = GPADataModule(path=str(table))
        trainer = fit(GPARegressor(hidden_sizes=(16, 8)), other, epochs=0)
        trainer.test(model, datamodule=other, ckpt_path=str(checkpoint), weights_only=True)
        state = torch.load(checkpoint, weights_only=True)["GPADataModule"]
        assert torch.equal(other.state_dict()["mean"], state["mean"])
