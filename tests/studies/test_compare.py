"""``scripts/compare.py``, through the function that it calls: tiny networks on a small table."""

import json
import signal
import subprocess
import sys
from argparse import ArgumentError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.image import imread
from pictures import explanations
from processes import HANGS, PROJECT, until
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpa_lightning.commands import compare
from gpa_lightning.commands.compare import main
from gpa_lightning.commands.run_names import short_name
from gpa_lightning.commands.train import train
from gpa_lightning.studies.comparison import Comparison

OUTPUT = Path("lightning_studies/compare")
CALLBACK = """
from lightning.pytorch import Callback


class Mine(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        {body}
"""


@pytest.fixture
def small(table: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags for a tiny network on a small table, in an empty current folder."""
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    network = ["--model.hidden_sizes", "[8]", "--model.learning_rate", "0.02"]
    return ["--data.path", str(table), *network, "--accelerator", "cpu", "--max_epochs", "2"]


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time."""
    monkeypatch.setattr("gpa_lightning.studies.comparison.save", lambda *_: None)


def results() -> pd.DataFrame:
    return pd.read_csv(OUTPUT / "results.csv")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


class TestSettings:
    def test_what_a_comparison_leaves_behind(self, small, capsys):
        Path("mine.py").write_text(CALLBACK.format(body="raise OSError('no more room')"))
        settings = ["", "--model.dropout 0.5", "--trainer.callbacks+=mine.Mine --max_epochs=3"]
        assert main([*settings, "--seeds", "2", *small]) == 0
        output = capsys.readouterr().out
        numbers = results()
        assert list(numbers.setting.unique()) == ["defaults", "dropout=0.5", "Mine-max_epochs=3"]
        assert list(numbers.seed) == [0, 1] * 3
        done = numbers[numbers.error.isna()].groupby("setting")
        assert list(done.groups) == ["defaults", "dropout=0.5"]
        assert (done.epochs.min() == 2).all()
        finished = numbers[numbers.error.isna()]
        assert (finished.split_seed == finished.seed).all()  # the same splits for all settings
        assert not Path("cache").exists()  # where a table goes that is downloaded, which none was

        report = (OUTPUT / "report.md").read_text()
        rows = [line.split("|")[1:-1] for line in report.splitlines() if line.startswith("| ")][2:]
        rows = [[cell.strip() for cell in row] for row in rows]
        means = done.test_loss.mean().sort_values()
        assert [row[0] for row in rows[:2]] == list(means.index)
        assert [row[4].split(" ± ")[0] for row in rows[:2]] == [f"{mean:.4f}" for mean in means]
        gaps = means - done.training_loss.mean()[means.index]
        assert [row[5] for row in rows[:2]] == [f"{gap:.4f}" for gap in gaps]
        assert rows[2][0] == "Mine-max_epochs=3"
        assert rows[2][-2] == "failed: no more room"
        assert "`--model.dropout 0.5`" in report
        assert "537 rows, SHA-256" in report
        for text in ("dropout=0.5", "no more room", "SHA-256", "saved in"):
            assert text in output

        picture = imread(OUTPUT / "figure.png")
        assert picture.shape[1] > picture.shape[0] > 400
        (run,) = OUTPUT.glob("runs/dropout=0.5-seed-1-*")
        for folder, tag in ((OUTPUT, "compare"), (run, "val_loss")):
            tags = EventAccumulator(str(folder)).Reload().Tags()
            assert tag in tags["images"] + tags["scalars"]

        # TensorBoard has two runs a setting, however many seeds: the means over them
        assert len(list(OUTPUT.glob("curves/*/*"))) == 2 * 2
        outcomes = [
            json.loads(f.read_text()) for f in OUTPUT.glob("runs/dropout=0.5-*/outcome.json")
        ]
        for which in ("training", "validation"):
            curve = EventAccumulator(str(OUTPUT / "curves/dropout=0.5" / which)).Reload()
            points = [(point.step, point.value) for point in curve.Scalars("Loss/by epoch")]
            both = [dict(outcome[f"{which}_curve"]) for outcome in outcomes]
            means = [(epoch, (both[0][epoch] + both[1][epoch]) / 2) for epoch in both[0]]
            assert points == [(epoch, pytest.approx(mean)) for epoch, mean in means]

    def test_a_table_that_changes_meanwhile_is_noticed(self, small, no_figure, tmp_path, capsys):
        table = Path("students.csv")
        table.write_bytes(Path(small[1]).read_bytes())
        body = f"Path({str(table.absolute())!r}).write_text('a,b\\n' + '1,2\\n2,1\\n' * 20)"
        Path("mine.py").write_text("from pathlib import Path\n" + CALLBACK.format(body=body))
        settings = ["--trainer.callbacks+=mine.Mine", ""]
        assert main([*settings, "--seeds", "1", "--data.path", str(table), *small[2:]]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert "students.csv: has changed meanwhile" in output

    def test_all_runs_have_the_table_that_the_first_has_found(self, small, monkeypatch):
        given = []

        def perform(name, runs, settings):
            given.extend(run.arguments["config"]["data"] for run in runs)
            raise KeyboardInterrupt

        monkeypatch.setattr(compare, "perform", perform)
        monkeypatch.setenv("GPA_CSV", small[1])
        assert main(["", "--dropout 0.1", "--seeds", "1", *small[2:]]) == 130
        assert [(each["source"], each["path"]) for each in given] == [("file", small[1])] * 2

    def test_a_run_is_that_of_train(self, small, no_figure):
        flags = ["--model.dropout", "0.3", "--lr_scheduler", "CosineAnnealingLR"]
        flags += ["--lr_scheduler.T_max", "3", "--trainer.callbacks+=LearningRateMonitor"]
        assert main([" ".join(flags), "--seeds", "2", *small]) == 0
        assert train([*small, *flags, "--seed_everything", "1"]) == 0
        (plain,) = Path("lightning_logs").glob("version_*")
        (compared,) = OUTPUT.glob("runs/*-seed-1-*")
        expected, found = weights(plain), weights(compared)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        expected, found = (json.loads((f / "outcome.json").read_text()) for f in (plain, compared))
        assert expected.pop("seconds") > 0
        assert found.pop("seconds") > 0
        assert found == expected

    @pytest.mark.slow
    def test_from_python(self, small, fits, no_figure, capsys):
        settings = ["", "--model.dropout 0.5"]
        comparison = compare.compare(settings, small, seeds=1)
        assert main([*settings, "--seeds", "1", *small]) == 0
        assert len(fits) == 2  # the command has found the function's runs
        output = capsys.readouterr().out
        assert list(comparison.runs.setting) == ["defaults", "dropout=0.5"]
        assert all(f"{loss:.4f}" in output for loss in comparison.runs.test_loss)
        with pytest.raises(ArgumentError, match="no_such_flag"):
            compare.compare(["--no_such_flag 1"], small)
        with pytest.raises(ArgumentError, match="give settings"):
            compare.compare([], small)

    def test_a_recipes_seed_gives_way_and_its_test_set_is_told(self, small, no_figure, capsys):
        recipe = "--config lecture-full-batch --max_epochs 1"
        assert main([recipe, "--seeds", "1", *small]) == 0
        output = capsys.readouterr()
        assert "the test set doubles as the validation set: lecture-full-batch" in output.out
        assert output.err == ""
        (config,) = OUTPUT.glob("runs/*/config.yaml")
        assert yaml.safe_load(config.read_text())["seed_everything"] == 0

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("--model.dropout 2", "dropout must be in [0, 1)"),
            ("--no_such_flag 1", "no_such_flag"),
            ("--model.dropout '0.5", "No closing quotation"),
            ("--data.path absent.csv", "absent.csv"),
            ("--model.learning_rate=0.020", "is the same as defaults"),
            ("--seed_everything 3", "--seeds"),
            ("--ckpt_path last", "ckpt_path"),
            ("--devices 2 --strategy ddp", "--devices"),
            ("--checkpoint.dirpath here", "--checkpoint.dirpath"),
        ],
    )
    def test_a_mistake_is_found_before_any_training(self, setting, message, small, fits, capsys):
        assert main([*[""] * ("same" in message), setting, *small]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f'error: setting "{setting}": ')
        assert message in error
        assert error.count("\n") == 1
        assert fits == []
        assert not Path("lightning_logs").exists()

    @pytest.mark.parametrize(
        "mistake",
        [
            [],
            ["--seeds", "2"],
            ["", "--seeds", "0"],
            ["", "--n_jobs", "-2"],
            ["", "--from", "a-file"],
            ["--from", "a-file"],
            ["--from", "."],
            ["--from", ".", "--max_epochs", "3"],
            ["--from", "damaged"],
            ["--from", "garbled"],
        ],
    )
    def test_a_mistake_is_one_line(self, mistake, workplace, capsys):
        Path("a-file").touch()
        Path("damaged/checkpoints").mkdir(parents=True)
        Path("damaged/checkpoints/last.ckpt").write_text("no checkpoint")
        Path("garbled").mkdir()
        Path("garbled/outcome.json").write_text("[]")
        assert main(mistake) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


class TestGoingOn:
    def test_finished_runs_are_kept(self, small, fits, no_figure):
        assert main(["--model.dropout 0.1", "--seeds", "2", *small]) == 0
        assert main(["--model.dropout 0.1", "--model.dropout 0.2", "--seeds", "1", *small]) == 0
        names = [fit.name.rpartition("-")[0] for fit in fits]
        assert names == ["dropout=0.1-seed-0", "dropout=0.1-seed-1", "dropout=0.2-seed-0"]

    @pytest.mark.slow
    def test_what_has_changed_is_done_again(self, small, fits, no_figure):
        Path("mine.py").write_text(CALLBACK.format(body="pass"))
        Path("mine.yaml").write_text("model:\n  dropout: 0.1\n")
        command = ["--config mine.yaml --trainer.callbacks+=mine.Mine", "--seeds", "1", *small]
        assert main(command) == 0
        Path("mine.yaml").write_text("model:\n  dropout: 0.2\n")
        assert main(command) == 0
        assert len(fits) == 2
        Path("mine.py").write_text(CALLBACK.format(body="return"))
        assert main(command) == 0
        assert len(fits) == 3

    def test_what_was_stopped_or_has_failed(self, small, fits, no_figure, monkeypatch, capsys):
        final_losses, troubles = compare.final_losses, [MemoryError, KeyboardInterrupt]

        def trouble(*given: object) -> object:
            if len(fits) == 3:
                return final_losses(*given)
            raise troubles[len(fits) - 1]

        monkeypatch.setattr(compare, "final_losses", trouble)
        command = ["", "--seeds", "1", *small]
        assert main(command) == 2
        assert "failed: MemoryError" in capsys.readouterr().out
        assert main(command) == 130
        assert "goes on from here" in capsys.readouterr().out
        assert not list(OUTPUT.glob("runs/*/outcome.json"))
        assert main(command) == 0
        assert len(list(OUTPUT.glob("runs/*"))) == 1


class TestFrom:
    def test_runs_of_train(self, small, capsys):
        flags = [[], ["--seed_everything", "1"], *[["--model.dropout", "0.5"]] * 2]
        for each in [*flags, ["--model.dropout", "0.6"]]:
            assert train([*small, *each]) == 0
        runs = sorted(Path("lightning_logs").glob("version_*"))
        (runs[4] / "outcome.json").unlink()
        capsys.readouterr()
        assert main(["--from", *map(str, runs)]) == 0
        assert "never tested" in capsys.readouterr().out
        numbers = results()
        # what differs in the seed alone is one setting, the same seed again is not
        assert [len(part) for _, part in numbers.groupby("setting", sort=False)] == [2, 1, 1, 1]
        assert numbers.setting[2:4].tolist() == [runs[2].name, runs[3].name]
        assert list(numbers.seed[:4]) == [0, 1, 0, 0]
        assert numbers.test_loss[:4].notna().all()
        # the run that was never tested is in the figure all the same
        report = (OUTPUT / "report.md").read_text()
        (row,) = (line for line in report.splitlines() if "never tested" in line)
        assert row.split("|")[2].strip() == "2.0"

    def test_a_damaged_outcome_is_refused_though_there_is_a_checkpoint(self, small, capsys):
        assert train([*small, "--name", "mine"]) == 0
        run = Path("lightning_logs/version_0-mine")
        (run / "outcome.json").write_text("{")
        capsys.readouterr()
        assert main(["--from", str(run)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --from {run}: outcome.json cannot be read: ")
        assert error.count("\n") == 1

    def test_runs_that_differ_in_their_seed_and_folder_are_of_one_setting(self, small):
        for seed in "01":
            flags = ["--seed_everything", seed, "--trainer.default_root_dir", f"seed-{seed}"]
            assert train([*small, *flags]) == 0
        assert main(["--from", *map(str, Path().glob("seed-?/lightning_logs/version_0*"))]) == 0
        assert len({*results().setting}) == 1
        assert {*results().seed} == {0, 1}

    def test_runs_of_other_splits_have_no_test_set_in_common(self, small, no_figure, capsys):
        for number in "34":
            assert train([*small, "--data.seed", number, "--name", number]) == 0
        capsys.readouterr()
        assert main(["--from", *map(str, sorted(Path("lightning_logs").glob("version_*")))]) == 0
        assert "no test set in common" in capsys.readouterr().out


def outcome(seed: int, test_loss: float, **more: object) -> dict[str, object]:
    data = {"kind": "synthetic", "location": "the twin", "rows": 9, "sha256": "0" * 64}
    facts = {"seed": seed, "split_seed": seed, "test_size": 0.2, "data": data, **more}
    return {**facts, "epochs": 3, "training_loss": 0.5, "test_loss": test_loss, "seconds": 1.0}


class TestDifference:
    @pytest.mark.parametrize(
        ("losses", "words"),
        [
            ((0.5, 0.42, 0.61), "all 3 agree: lower"),
            ((0.5, 0.42, 0.2), "all 3 agree: lower, may be chance"),
            ((0.5, 0.42, 0.73), "they disagree: lower with 2 of 3, may be chance"),
            ((0.7, 0.63, 0.8), "all 3 agree: higher"),
            ((0.6, 0.5, 0.7), "the same with all 3"),
            ((0.6, 0.4), "they disagree: lower with 1 of 2, may be chance"),
            ((0.5,), "lower, with a single seed: no interval"),
            ((), "no test set in common"),
        ],
    )
    def test_in_words(self, losses, words):
        first = [outcome(seed, loss) for seed, loss in enumerate((0.6, 0.5, 0.7))]
        second = [outcome(seed, loss) for seed, loss in enumerate(losses)]
        second += [outcome(5, 0.1), outcome(0, 0.1, test_size=0.3)]  # no partner
        table = Comparison({"a": first, "b": second}, {}).table.set_index("setting")
        assert table["the seeds"]["a"] == "compared with"
        assert table["the seeds"]["b"] == words

    def test_the_interval(self):
        a, b = np.array([0.6, 0.5, 0.7, 0.65]), np.array([0.57, 0.49, 0.71, 0.6])
        outcomes = {
            name: [outcome(seed, loss) for seed, loss in enumerate(losses)]
            for name, losses in (("a", a), ("b", b))
        }
        table = Comparison(outcomes, {}).table.set_index("setting")
        low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
        difference = table["difference to a"]["b"]
        assert difference == f"{(b - a).mean():+.4f} ({low:+.4f} to {high:+.4f})"
        assert table["test loss"]["b"] == f"{b.mean():.4f} ± {b.std(ddof=1):.4f}"

    def test_the_figure(self):
        training, validation = (0.9, 0.7, 0.6, 0.5, 0.45), (0.9, 0.72, 0.7, 0.71, 0.73)
        curves = {"training_curve": [*enumerate(training)]}
        curves["validation_curve"] = [*enumerate(validation)]
        outcomes = [outcome(seed, 0.6, **curves) for seed in range(2)]
        figure = Comparison({"a": outcomes, "b": outcomes}, {}).figure()
        assert explanations(figure) == ["a", "b", "training", "validation"]
        both, closer = ([tuple(line.get_ydata()) for line in axes.lines] for axes in figure.axes)
        assert both == [training, validation] * 2
        assert closer == [validation] * 2

    def test_a_synthetic_table_cannot_be_mistaken(self):
        (note,) = Comparison({"a": [outcome(0, 1.0)]}, {}).notes
        assert "SYNTHETIC" in note


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("", ""),
        ("--trainer.max_steps -1 --model.dropout .5", "max_steps=-1-dropout=.5"),
        ("--model.penalty=l1 --model.penalty_weight 0.001", "penalty=l1-penalty_weight=0.001"),
        ("--config C:\\my\\own.yaml --early_stopping null", "own-early_stopping=null"),
        ('--model.hidden_sizes "[8, 8]"', "hidden_sizes=8,8"),
        ("--trainer.callbacks+=mine.Mine --trainer.callbacks.a=../b", "Mine-a=b"),
        ("--optimizer torch.optim.AdamW --lr_scheduler 'a:b?'", "optimizer=AdamW-lr_scheduler=ab"),
        (f"--model.dropout 0.{'1' * 90}", f"dropout=0.{'1' * 66}"),
    ],
)
def test_names(setting, name):
    assert short_name(compare.words(setting)) == name


@pytest.mark.slow
def test_stopped_and_gone_on_with_in_two_processes(table, workplace, capfd):
    settings = ["--model.dropout 0", "--model.dropout 0.5", "--early_stopping null --max_epochs 30"]
    flags = ["--seeds", "3", "--data.path", str(table), "--accelerator", "cpu"]
    command = [*settings, *flags, "--model.hidden_sizes", "[64]", "--n_jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts/compare.py"), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: list(OUTPUT.glob("runs/*/outcome.json")), process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert b"goes on from here" in output
    assert b"Traceback" not in error
    kept = {path: path.read_bytes() for path in OUTPUT.glob("runs/*/outcome.json")}
    assert 1 <= len(kept) < 9
    assert not (OUTPUT / "results.csv").exists()

    assert main(command) == 0
    assert all(path.read_bytes() == content for path, content in kept.items())
    numbers = results()
    assert len(numbers) == 9
    assert numbers.test_loss.notna().all()

    runs = sorted(map(str, OUTPUT.glob("runs/*")))
    assert main(["--from", *runs, "--output", "again"]) == 0
    again = pd.read_csv("again/results.csv")
    key = ["setting", "seed"]
    expected = numbers.sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(again.sort_values(key, ignore_index=True), expected)
