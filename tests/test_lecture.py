"""The lecture's tables and the recipes, on the real students, by the commands of the README."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from processes import PROJECT, run
from runs import run_folder
from sklearn.ensemble import HistGradientBoostingRegressor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpa_lightning import GPADataModule
from gpa_lightning.commands.train import train

EPOCHS = range(10, 100, 10)
FULL_BATCH = dict(
    zip(
        EPOCHS,
        (1.3681, 0.9073, 0.7348, 0.7225, 0.6655, 0.6407, 0.6143, 0.5949, 0.5819),
        strict=True,
    )
)
MINI_BATCH = dict(
    zip(
        EPOCHS,
        (0.5707, 0.5621, 0.5527, 0.5417, 0.5260, 0.5058, 0.4798, 0.4524, 0.4282),
        strict=True,
    )
)


def trained(recipe: str, path: str, folder: Path) -> tuple[dict[int, float], list[float], float]:
    """The printed training losses, the logged ones, and the printed test loss."""
    flags = ("--config", recipe, "--data.path", path)
    result = run(PROJECT / "scripts/train.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"\[(\d+)/100\] │\s+([\d.]+) │", result.stdout)
    test_loss = float(re.search(r"test MSE\s+([\d.]+)", result.stdout)[1])
    events = EventAccumulator(str(run_folder(0, folder)))
    events.Reload()
    logged = [event.value for event in events.Scalars("train_loss")]
    shutil.rmtree(folder / "lightning_logs")
    return {int(epoch): float(loss) for epoch, loss in rows}, logged, test_loss


def assert_lectures_table(printed: dict[int, float], logged: list[float], lecture: dict) -> None:
    assert len(logged) == 100
    for epoch, expected in lecture.items():
        assert printed[epoch] == pytest.approx(logged[epoch], abs=1e-4)
        assert printed[epoch] == pytest.approx(expected, abs=0.03 if epoch >= 50 else 0.2)


def test_the_mini_batch_recipe_begins_as_the_lectures_run(workplace):
    """On the twin, since it is always there, and no longer than it takes to see."""
    flags = ("--data.source", "synthetic", "--max_epochs", "1", "--progress_bar=null")
    assert train(["--config", "lecture-mini-batch", *flags]) == 0
    events = EventAccumulator(str(run_folder())).Reload()
    (loss,) = [event.value for event in events.Scalars("train_loss")]
    assert loss == pytest.approx(0.7102, abs=0.03)


@pytest.mark.slow
@pytest.mark.minutes
def test_full_batch(real_table, tmp_path):
    printed, logged, test_loss = trained("lecture-full-batch", real_table, tmp_path)
    assert_lectures_table(printed, logged, FULL_BATCH)
    assert test_loss == pytest.approx(0.5778, abs=0.02)


@pytest.mark.slow
@pytest.mark.minutes
def test_mini_batch_overfits(real_table, tmp_path):
    printed, logged, test_loss = trained("lecture-mini-batch", real_table, tmp_path)
    assert_lectures_table(printed, logged, MINI_BATCH)
    assert printed[90] < 0.45
    assert 0.66 < test_loss < 0.76


@pytest.mark.slow
@pytest.mark.minutes
def test_recommended_beats_gradient_boosting(real_table, workplace, capsys):
    ours, boosting = [], []
    for seed in range(3):
        flags = ["--data.path", real_table, "--seed_everything", str(seed), "--progress_bar=null"]
        assert train(["--config", "recommended", *flags]) == 0
        output = capsys.readouterr().out
        ours.append(float(re.search(r"test MSE\s+([\d.]+)", output)[1]))
        data = GPADataModule(path=real_table, seed=seed)
        data.setup()
        (x, y), (x_test, y_test) = (
            (tensor.numpy() for tensor in data.dataset(name).tensors)
            for name in ("training", "test")
        )
        model = HistGradientBoostingRegressor(max_iter=200, learning_rate=0.05, random_state=0)
        predicted = model.fit(x, y[:, 0]).predict(x_test)
        boosting.append(float(((predicted - y_test[:, 0]) ** 2).mean()))
    assert np.mean(ours) < np.mean(boosting)
