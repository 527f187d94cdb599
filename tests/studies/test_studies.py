"""What the studies measure and conclude, where the tiny versions are too small to tell."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import explanations

from gpa_lightning.data.split import Split
from gpa_lightning.studies import (
    Settings,
    capacity,
    double_descent,
    early_stopping,
    full_batch,
    mini_batch,
    more_data,
    overfitting_curve,
    polynomial,
    regularization,
)
from gpa_lightning.studies.drawing import TEST, draw_band, new_axes
from gpa_lightning.studies.runs import Outcome, Run


@pytest.fixture
def settings(table: Path, tmp_path: Path) -> Settings:
    return Settings({"path": str(table)}, "cpu", seeds=[0, 1], output=tmp_path)


def performed(outcome: Callable[..., Outcome]) -> Callable[..., list[Outcome]]:
    """Return what stands in for `perform`: outcomes that are known, by the runs' arguments."""

    def perform(name: str, runs: Sequence[Run], settings: Settings) -> list[Outcome]:
        return [outcome(**run.arguments) for run in runs]

    return perform


WHOLE = {
    capacity: {"hidden": [1024, 512, 128], "epochs": 30, "folds": 5},
    double_descent: {"width": 4096, "rows": 214, "steps": 6000},
    early_stopping: {"hidden": [1024, 512, 128], "epochs": 100, "patience": 10},
    full_batch: {"hidden": [1024, 512, 128], "epochs": 100, "seed": 1},
    mini_batch: {"hidden": [1024, 512, 128], "epochs": 100, "seed": 1},
    more_data: {"hidden": [1024, 512, 128], "rows": 429, "steps": 3500},
    regularization: {"hidden": [1024, 512, 128], "epochs": 20, "strength": 0.1},
}
COUNTS = {
    capacity: 9,
    double_descent: 2 * (13 + 16),
    early_stopping: 2 * 5,
    full_batch: 2,
    mini_batch: 2 * 2,
    more_data: 2 * 3,
    regularization: 2 * (1 + sum(map(len, regularization.GRIDS.values()))),
}


@pytest.mark.parametrize("module", WHOLE)
def test_the_whole_of_a_study_is_the_lectures_training(module, settings, monkeypatch):
    done = []

    def perform(name: str, runs: Sequence[Run], settings: Settings) -> list[Outcome]:
        done.extend(run.arguments for run in runs)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "perform", perform)
    with pytest.raises(KeyboardInterrupt):
        module.study(settings)
    assert len(done) == COUNTS[module]
    assert any(WHOLE[module].items() <= arguments.items() for arguments in done)


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
    result = overfitting_curve.study(settings)
    assert explanations(result.figure) == ["training", "test", "lowest: 0.7000 after 1.0 epochs"]
    both, early = result.claims
    assert both.holds
    assert "the test loss rises by 0.2000" in both.numbers
    assert "the training loss falls by 0.4000" in both.numbers
    assert early.holds
    assert "lowest after 1.0 epochs" in early.numbers


def test_overfitting_that_begins_late_is_marked_in_the_whole_training_alone(settings, monkeypatch):
    evaluations = [[0.5, 1.0, 0.9], [3, 0.9, 0.8], [6, 0.8, 0.7], [9, 0.4, 0.9]]
    known = performed(lambda **_: {"evaluations": evaluations})
    monkeypatch.setattr(overfitting_curve, "perform", known)
    result = overfitting_curve.study(settings)
    early, whole = (
        [line.get_label() for line in axes.lines if line.get_label().startswith("lowest")]
        for axes in result.figure.axes
    )
    assert (early, whole) == ([], ["lowest: 0.7000 after 6.0 epochs"])
    assert not result.claims[1].holds


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
    *avoided, l1, l2 = regularization.study(settings).claims
    assert all(claim.holds for claim in avoided)
    assert (l1.holds, l2.holds) == (False, False)  # the norms are alike


def test_a_regularization_that_helps(settings, monkeypatch):
    def outcome(strategy: str, strength: float, seed: int, **_: object) -> Outcome:
        worse = 0.1 if strategy == "dropout" and seed == 1 else 0
        losses = {"val_loss": 1 - strength, "test_loss": 1 - min(strength, 0.5) + worse}
        return {**losses, "train_loss": 0.5, "l1_norm": 9 - strength, "l2_norm": 9 + strength}

    monkeypatch.setattr(regularization, "perform", performed(outcome))
    result = regularization.study(settings)
    strongest = [max(strengths) for strengths in regularization.GRIDS.values()]
    assert result.summary["best strength"].tolist() == [0, *strongest]
    gains = result.summary.set_index("strategy")["less than without"]
    assert gains["dropout"] == pytest.approx(min(max(regularization.GRIDS["dropout"]), 0.5) - 0.05)
    assert set(result.summary["seeds with less"][1:]) == {"2 of 2"}
    assert explanations(result.figure) == ["training", "test", "test, unregularised"]
    scales = [axes.get_xscale() for axes in result.figure.axes]
    assert scales == ["log", "log", "linear", "log"]  # the third is dropout's
    assert [claim.holds for claim in result.claims] == [True] * 4 + [True, False]


@pytest.mark.parametrize("overfits", [True, False])
def test_capacity(overfits, settings, monkeypatch):
    def outcome(hidden: list[int], folds: int, **_: object) -> Outcome:
        fitted = sum(hidden) / 10_000  # how much less the loss is than a line's
        above = 3 * fitted + 0.001 if overfits else -fitted + 0.01
        losses = 0.6 - fitted + np.linspace(-0.01, 0.01, folds)
        return {"train_loss": [*losses], "held_out_loss": [*(losses + above)]}

    monkeypatch.setattr(capacity, "perform", performed(outcome))
    result = capacity.study(settings)
    line, *_, largest = result.summary.itertuples()
    assert (line.hidden_sizes, line.parameters) == ("none: a line", 10)
    assert (largest.hidden_sizes, largest.parameters) == ("1024-512-128", 600_833)
    assert line.gap == pytest.approx(0.001 if overfits else 0.01)
    assert largest.gap == pytest.approx(0.5002 if overfits else -0.1564, abs=1e-4)
    assert [claim.holds for claim in result.claims] == [overfits, True, overfits]
    assert explanations(result.figure) == ["training folds", "fold held out"]


@pytest.mark.parametrize("where", ["at the threshold", "elsewhere", "nowhere"])
def test_double_descent(where, settings, monkeypatch):
    rows = 429 // 2
    peaks = {"at the threshold": (16, rows), "elsewhere": (4, round(1.3 * rows))}

    def outcome(width: int, steps: int = 0, **_: object) -> Outcome:
        network, features = peaks.get(where, (None, None))
        at_peak = width == (network if steps else features)
        return {"train_loss": 0.1, "test_loss": 30.0 if at_peak else 1 + 1 / width}

    monkeypatch.setattr(double_descent, "perform", performed(outcome))
    result = double_descent.study(settings)
    falls, large, near, falls_again, large_again, exact = (c.holds for c in result.claims)
    assert falls == falls_again == (where != "nowhere")
    assert large
    assert large_again
    assert near == exact == (where == "at the threshold")
    # 213 of 214 rows: a unit of one of nine features has eleven weights
    assert "at width 19 " in result.claims[2].numbers
    (marked, _), (at_rows, _) = (axes.lines[-1].get_xdata() for axes in result.figure.axes)
    assert marked == pytest.approx(213 / 11)
    assert at_rows == rows
    texts = [text.get_text() for axes in result.figure.axes for text in axes.texts]
    assert texts == ([] if where == "nowhere" else ["peak: 30", "peak: 30"])
    if where == "nowhere":
        assert explanations(result.figure) == ["training", "test", "interpolation threshold"]


@pytest.mark.parametrize("better", [True, False])
def test_more_data(better, settings, monkeypatch):
    def outcome(rows: int, **_: object) -> Outcome:
        change = 1 / rows if better else -1 / rows
        return {"train_loss": 0.5 - change, "test_loss": 0.6 + change}

    monkeypatch.setattr(more_data, "perform", performed(outcome))
    result = more_data.study(settings)
    assert result.summary["rows"].iloc[-1] == 429
    assert result.summary.gap.iloc[-1] == pytest.approx(0.1 + (2 if better else -2) / 429)
    assert [claim.holds for claim in result.claims] == [better, better]
    assert explanations(result.figure) == ["training", "test"]


def test_full_batch_trains_on_the_cpu_and_on_a_gpu_if_there_is_one(table, tmp_path, monkeypatch):
    def perform(name: str, runs: Sequence[Run], settings: Settings) -> list[Outcome]:
        raise KeyboardInterrupt({run.arguments["device"] for run in runs})

    monkeypatch.setattr(full_batch, "perform", perform)
    with pytest.raises(KeyboardInterrupt) as devices:
        full_batch.study(Settings({"path": str(table)}, output=tmp_path))
    assert devices.value.args[0] == ({"cpu", "gpu"} if torch.cuda.is_available() else {"cpu"})


def losses(lecture: Sequence[float], away: float) -> list[float]:
    """The lecture's losses, and on the way between them, changed by so much from epoch 50 on."""
    between = np.interp(range(100), range(0, 100, 10), lecture)
    between[50:] += away
    return [*between]


@pytest.mark.parametrize(("away", "holds"), [(0.02, True), (-0.02, True), (0.04, False)])
def test_full_batch_is_compared_with_the_lecture(away, holds, settings, monkeypatch):
    def outcome(seed: int, **_: object) -> Outcome:
        trained = losses(full_batch.LECTURE_LOSSES["cpu"], away)
        return {"losses": trained, "test_loss": 0.5778 + away, "seconds": 10.0 + seed}

    monkeypatch.setattr(full_batch, "perform", performed(outcome))
    result = full_batch.study(settings)
    assert [claim.holds for claim in result.claims] == [holds, holds]
    here = result.summary["here, CPU"].tolist()
    assert here[:5] == pytest.approx(full_batch.LECTURE_LOSSES["cpu"][:5])
    assert here[-2:] == pytest.approx([0.5778 + away, 10.0])
    assert f": {abs(away):.4f} (asked for: at most 0.03" in result.claims[0].numbers
    test = f"test at the end: {0.5778 + away:.4f}"
    assert explanations(result.figure) == ["training, CPU", "lecture, CPU", test]


@pytest.mark.parametrize(
    ("test_loss", "away", "holds"),
    [(0.7, 0.02, [True, True, True, True]), (0.6, 0.05, [False, False, False, False])],
)
def test_mini_batch_is_compared_with_the_lecture(test_loss, away, holds, settings, monkeypatch):
    def outcome(device: str = "", **_: object) -> Outcome:
        if device:
            return {"losses": [0.58], "test_loss": 0.57, "seconds": 1.0}
        trained = losses(mini_batch.LECTURE, away)
        baselines = {"linear regression": 0.59, "predicting the mean": 0.68}
        return {"losses": trained, "test_loss": test_loss, "baselines": baselines}

    monkeypatch.setattr(mini_batch, "perform", performed(outcome))
    result = mini_batch.study(settings)
    assert [claim.holds for claim in result.claims] == holds
    assert f": {away:.4f} (asked for: at most 0.03" in result.claims[0].numbers
    here = result.summary.set_index("epoch")["here"]
    assert here["90/100"] == pytest.approx(0.4282 + away)
    assert here["test loss"] == test_loss
    assert here["test loss of linear regression"] == 0.59
    assert explanations(result.figure) == ["here", "lecture", "lecture"]
    bars = {text.get_text() for text in result.figure.axes[1].texts}
    assert bars == {f"{test_loss:.4f}", "0.5700", "0.5900", "0.6800"}


@pytest.mark.parametrize("stops", [True, False])
def test_early_stopping(stops, settings, monkeypatch):
    def outcome(patience: int | None, blind: bool, seed: int, **_: object) -> Outcome:
        epochs = 2 * patience if patience and stops else 100
        weights = f"{patience}, {blind if seed and not stops else False}"
        tested = {} if blind else {"test_loss": 0.5 + epochs / 1000, "best_test_loss": 0.5}
        return {"epochs": epochs, "seconds": epochs / 10, "weights": weights, **tested}

    monkeypatch.setattr(early_stopping, "perform", performed(outcome))
    result = early_stopping.study(settings)
    assert [claim.holds for claim in result.claims] == [stops, stops, stops]
    saved = result.summary.set_index("patience")["time saved"]
    assert saved["3"] == pytest.approx(0.94 if stops else 0)
    below, saves, unseen = (claim.numbers for claim in result.claims)
    assert ("0.0980 with patience 1" if stops else "nothing with patience 1") in below
    assert ("saves 94% of the time" if stops else "does not stop within 100 epochs") in saves
    assert f"{2 if stops else 1} of 2 trainings" in unseen
    patiences = [*(f"patience {p}" for p in (1, 3, 10)), "patience none, 100 epochs"]
    kept = "weights of the best epoch: 0.5000"
    if stops:
        assert explanations(result.figure) == [*patiences, kept]
        (axes,) = result.figure.axes
        assert axes.xaxis.get_major_formatter()(10) == "10"
        assert [line.get_xdata()[0] for line in axes.lines[:4]] == [2, 6, 20, 100]


def test_a_band_lies_around_the_median_from_the_lowest_run_to_the_highest():
    _, (axes,) = new_axes()
    runs = pd.DataFrame({"width": [1, 1, 1, 2, 2, 2], "loss": [1, 2, 9, 4, 3, 8]})
    draw_band(axes, runs, "width", "loss", TEST)
    assert axes.lines[0].get_xydata().tolist() == [[1, 2], [2, 4]]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {(1, 1), (1, 9), (2, 3), (2, 8)} == {tuple(corner) for corner in corners}
    draw_band(axes, runs, "width", "loss", TEST, middle="mean")
    assert axes.lines[1].get_ydata().tolist() == [4, 5]


def test_the_simplest_polynomial_is_a_line_through_two_points():
    result = polynomial.study(Settings(size="tiny"), degree=1, points=2, noise=0)
    assert result.table.expected_test_mse.max() < 1e-9


def test_the_polynomials_picture_has_the_points_and_both_curves():
    figure = polynomial.study(Settings(size="tiny"), points=5, degree=4).figure
    (axes,) = figure.axes
    curves = {line.get_label(): len(line.get_xdata()) for line in axes.get_lines()}
    assert curves == {"training points": 5, "line": 1000, "degree 4": 1000}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*curves]
    bottom, top = axes.get_ylim()
    points = axes.get_lines()[0].get_ydata()
    assert bottom < min(points) < max(points) < top
    assert max(points) - min(points) > (top - bottom) / 3
