"""What the studies measure and conclude, where the tiny versions are too small to tell."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpa_lightning.data.split import Split
from gpa_lightning.studies import (
    Settings,
    early_stopping,
    mini_batch,
    more_data,
    overfitting_curve,
    regularization,
)
from gpa_lightning.studies.runs import Outcome, Run


@pytest.fixture
def settings(table: Path, tmp_path: Path) -> Settings:
    return Settings({"path": str(table)}, "cpu", seeds=[0, 1], output=tmp_path)


def performed(outcome: Callable[..., Outcome]) -> Callable[..., list[Outcome]]:
    """Return what stands in for `perform`: outcomes that are known, by the runs' arguments."""

    def perform(name: str, runs: Sequence[Run], settings: Settings) -> list[Outcome]:
        return [outcome(**run.arguments) for run in runs]

    return perform


@pytest.mark.parametrize(("rows_of_table", "of"), [(537, 429), (43_303, 34_642)])
def test_a_smaller_training_set_has_as_many_rows_as_asked_for(rows_of_table, of):
    for rows in range(2, 428):
        split = Split(0.2, more_data.val_size(rows, of), seed=0)
        assert split.sizes(rows_of_table, "table")[0] == rows


def test_mini_batch_evaluates_often_in_the_first_epochs_alone(settings, tmp_path):
    outcome = mini_batch.run(settings, tmp_path / "run", seed=0, hidden=[4], epochs=7)
    epochs = [epoch for epoch, _, _ in outcome["evaluations"]]
    assert epochs == pytest.approx([*np.arange(1, 26) / 5, 6, 7])  # of five batches each


def test_overfitting_begins_where_the_test_loss_is_lowest(settings, monkeypatch):
    evaluations = [[0.5, 1.0, 0.9], [1, 0.8, 0.7], [2, 0.4, 0.9]]
    known = performed(lambda **_: {"evaluations": evaluations})
    monkeypatch.setattr(overfitting_curve, "perform", known)
    both, early = overfitting_curve.study(settings).claims
    assert both.holds
    assert "the test loss rises by 0.2000" in both.numbers
    assert "the training loss falls by 0.4000" in both.numbers
    assert early.holds
    assert "lowest after 1.0 epochs" in early.numbers


def test_the_weights_that_early_stopping_keeps_are_those_of_the_best_epoch(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "noise.csv"
    pd.DataFrame(random.normal(size=(60, 5)), columns=list("abcde")).to_csv(path, index=False)
    settings = Settings({"path": str(path)}, "cpu")
    arguments = {"seed": 0, "patience": None, "blind": False, "hidden": [256], "epochs": 60}
    outcome = early_stopping.run(settings, tmp_path / "run", **arguments)
    assert outcome["best_test_loss"] < outcome["test_loss"]


def test_the_best_strength_is_chosen_by_the_validation_loss(settings, monkeypatch):
    def outcome(strategy: str, strength: float, **_: object) -> Outcome:
        losses = {"val_loss": 1 + strength, "test_loss": 1 - strength / 10, "train_loss": 0.5}
        return {**losses, "l1_norm": 1.0, "l2_norm": 1.0}

    monkeypatch.setattr(regularization, "perform", performed(outcome))
    summary = regularization.study(settings).summary.set_index("strategy")
    for strategy, strengths in regularization.GRIDS.items():
        assert summary["best strength"][strategy] == strengths[0]
        assert summary["test loss"][strategy] == pytest.approx(1 - strengths[0] / 10)
