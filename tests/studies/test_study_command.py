"""``scripts/study.py``, through the function that it calls: tiny versions on a small table."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from processes import PROJECT, Program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpa_lightning.commands.study import main, study_parser
from gpa_lightning.data.table import DataError
from gpa_lightning.studies import STUDIES, Result, Settings, mini_batch
from gpa_lightning.studies.runs import Outcome, Run, perform

NAMES = list(STUDIES)


@pytest.fixture
def tiny(table: Path, tmp_path: Path) -> list[str]:
    flags = ["--tiny", "--accelerator", "cpu", "--data.path", str(table)]
    return [*flags, "--output", str(tmp_path)]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_study_leaves_behind(everything, table, name):
    folder = everything / name
    picture = imread(folder / "figure.png")
    assert picture.shape[1] > picture.shape[0] > 400
    assert picture[..., :3].std() > 0.01
    assert "<svg" in (folder / "figure.svg").read_text()
    numbers = pd.read_csv(folder / "results.csv")
    assert not numbers.columns.str.startswith("Unnamed").any()
    losses = [column for column in numbers if "loss" in column or "mse" in column]
    assert losses
    assert (numbers[losses].min() >= 0).all()
    report = (folder / "report.md").read_text()
    assert "QUICK VERSION" in report
    assert "not judged (quick)" in report
    assert "**holds**" not in report
    assert ("537 rows, SHA-256" in report) == (name != "polynomial")
    assert table.name in report or name == "polynomial"
    assert str(table.parent) not in report
    events = EventAccumulator(str(folder))
    events.Reload()
    (image,) = events.Images(name)
    assert (image.height, image.width) == picture.shape[:2]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "polynomial"])
def test_each_training_is_a_run_of_tensorboard(everything, name):
    runs = list((everything / name / "runs").iterdir())
    assert len(runs) >= 2
    trainings = [run for run in runs if not run.name.startswith("features-")]
    for run in trainings:
        json.loads((run / "outcome.json").read_text())
        events = EventAccumulator(str(run))
        events.Reload()
        assert "train_loss" in events.Tags()["scalars"], run


def test_few_random_features_predict_the_test_set_better_than_its_mean_does(everything, table):
    numbers = pd.read_csv(everything / "double-descent" / "results.csv")
    few = numbers[numbers.model == "random features"].groupby("width").test_loss.median().iloc[0]
    assert few < pd.read_csv(table).gpa.var()


def test_the_claims_are_printed_with_their_numbers(workplace, capsys):
    assert main(["polynomial"]) == 0
    output = capsys.readouterr().out
    assert output.count("holds: ") == 3
    assert "does not" not in output
    assert "not judged" not in output
    numbers = pd.read_csv("lightning_studies/polynomial/results.csv")
    line, polynomial = (numbers[numbers.model == name] for name in ("line", "polynomial"))
    assert len(line) == len(polynomial) == 1000
    assert polynomial.train_mse.max() < 1e-10
    assert line.expected_test_mse.min() >= 1
    assert line.expected_test_mse.median() == pytest.approx(1.16, abs=0.02)
    assert polynomial.expected_test_mse.median() > 100
    assert Path("lightning_studies/polynomial/report.md").read_text().count("**holds**") == 3


def test_a_quick_look_shows_the_point_and_says_that_it_is_none_of_the_results(tmp_path, capsys):
    noise = np.random.default_rng(0).normal(size=(60, 5))
    pd.DataFrame(noise, columns=list("abcde")).to_csv(tmp_path / "noise.csv", index=False)
    flags = ["--quick", "--accelerator", "cpu", "--data.path", str(tmp_path / "noise.csv")]
    assert main(["overfitting-curve", *flags, "--output", str(tmp_path)]) == 0
    output, report = capsys.readouterr().out, tmp_path / "overfitting-curve" / "report.md"
    for text in (output, report.read_text()):
        assert "quick look: one seed, 60 rows; not a result" in text
        assert text.count("not judged (quick)") == 2
        assert "nan" not in text
        rise = re.search(r"the test loss rises by (\d\.\d+) .* loss falls by (\d\.\d+)", text)
        assert float(rise[1]) > 0.01
        assert float(rise[2]) > 0.01


def test_a_quick_look_takes_a_sample_of_a_large_table(tmp_path):
    settings = Settings({"source": "synthetic"}, output=tmp_path, size="quick")
    data, again = (settings.data_module(0, val_size=0.0) for _ in range(2))
    assert data.rows == {"training": 4000, "validation": 1000, "test": 1000}
    assert torch.equal(data.dataset("test").tensors[0], again.dataset("test").tensors[0])
    whole = Settings({"source": "synthetic"}, output=tmp_path)
    (run,) = mini_batch.runs(settings)
    assert run.arguments == mini_batch.runs(whole)[0].arguments
    assert run.key(settings) != run.key(whole)  # or the one would be taken for the other


def test_a_table_that_changes_between_the_runs_is_refused(table, tmp_path):
    copy = tmp_path / "students.csv"
    copy.write_bytes(table.read_bytes())
    settings = Settings({"path": str(copy)})
    settings.data_module(0)
    copy.write_text("a,b\n" + "1,2\n2,1\n" * 20)
    with pytest.raises(DataError, match="is not the table that the study began with"):
        settings.data_module(1)


@pytest.mark.parametrize("name", NAMES)
def test_no_claim_of_a_tiny_version_is_empty(everything, name):
    claims = (everything / name / "report.md").read_text().partition("## Numbers")[0]
    assert "nan" not in claims.replace("NaN", "")
    assert "rises by 0.0000" not in claims


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("polynomial --points 1", "--points must be at least 2, for a line, got 1"),
        ("polynomial --noise -1", "--noise must be a finite number and not negative, got -1.0"),
        ("polynomial --noise .inf", "--noise must be a finite number and not negative, got inf"),
        ("polynomial --degree 0", "--degree must be from 1 to 1000, got 0"),
        ("polynomial --degree x", "--degree takes a whole number or null, not x"),
        ("more-data --degree 3", "--degree belongs to polynomial, not to more-data"),
        ("all --noise 2", "--noise belongs to polynomial, not to all"),
    ],
)
def test_other_polynomials_have_to_make_sense(flags, line, workplace, capsys):
    assert main(flags.split()) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_other_polynomials(workplace, capsys):
    flags = ["--degree", "3", "--points", "50", "--noise", "0.5"]
    assert main(["polynomial", *flags]) == 0
    output = capsys.readouterr().out
    assert "50 points, a line and a polynomial of degree 3" in output
    assert "does not hold: The model perfectly predicts" in output
    numbers = pd.read_csv("lightning_studies/polynomial/results.csv")
    # each weight costs a 50th of the noise's variance, and the training loss gains as much
    train, test = numbers.groupby("model")[["train_mse", "expected_test_mse"]].median().T.to_numpy()
    assert train == pytest.approx([0.25 * 48 / 50, 0.25 * 46 / 50], rel=0.05)
    assert test == pytest.approx([0.25 * 52 / 50, 0.25 * 54 / 50], rel=0.05)
    report = Path("lightning_studies/polynomial/report.md").read_text()
    assert "command: scripts/study.py polynomial --degree 3 --points 50 --noise 0.5\n" in report


def test_without_noise_there_is_nothing_to_overfit(workplace, capsys):
    assert main(["polynomial", "--noise", "0", "--points", "20"]) == 0
    output = capsys.readouterr().out
    assert "does not hold: The model will have significant error" in output
    assert "holds: We can't overfit this data using a line!" in output


def count_threads(settings: Settings, folder: Path, seed: int) -> Outcome:
    return {"threads": torch.get_num_threads()}


def test_runs_one_after_another_have_all_threads(table, tmp_path):
    settings, threads = Settings({"path": str(table)}, output=tmp_path), torch.get_num_threads()
    (outcome,) = perform("threads", [Run("one", count_threads, {"seed": 0})], settings)
    assert outcome["threads"] == threads


def test_settings_in_python_are_those_of_the_command_line():
    flags = study_parser().get_defaults()
    own = Settings()
    assert (own.n_jobs, own.dask, own.accelerator) == (flags.n_jobs, flags.dask, flags.accelerator)
    assert [*own.seeds] == flags.seeds
    assert str(own.output) == flags.output


def test_list_is_in_the_lectures_order(capsys):
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def test_finished_runs_are_kept(everything, tiny, tmp_path, fits):
    folder = shutil.copytree(everything / "more-data", tmp_path / "more-data")
    results = folder / "results.csv"
    before = results.read_bytes()
    results.unlink()
    assert main(["more-data", *tiny]) == 0
    assert fits == []
    assert results.read_bytes() == before
    _, second, *others = sorted(folder.glob("runs/*/outcome.json"))
    assert len(others) == 4
    second.unlink()
    assert main(["more-data", *tiny]) == 0
    assert fits == [second.parent]
    assert results.read_bytes() == before


def test_a_study_that_was_stopped_goes_on(tiny, tmp_path, fits, monkeypatch, capsys):
    def stop(*args: object) -> None:
        if len(fits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("gpa_lightning.studies.runs.evaluation_mse", lambda *_: stop() or 1.0)
    assert main(["more-data", *tiny]) == 130
    assert "goes on from here" in capsys.readouterr().out
    assert not (tmp_path / "more-data" / "results.csv").exists()
    monkeypatch.undo()
    assert len(list(tmp_path.glob("more-data/runs/*/outcome.json"))) == 2
    assert main(["more-data", *tiny]) == 0
    runs = list((tmp_path / "more-data" / "runs").iterdir())
    assert len(runs) == 6
    # nothing of the run that was stopped is left beside what was done in its place
    assert len({len(list(run.glob("events*"))) for run in runs}) == 1


@pytest.mark.slow
def test_ctrl_c(table, workplace):
    flags = ["--data.path", table, "--accelerator", "cpu", "--output", "studies"]
    process = Program(PROJECT / "scripts/study.py", "double-descent", *flags)
    try:
        while process.poll() is None and not list(Path("studies").glob("*/runs/*/events*")):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)  # while the first run trains
        output, error = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "goes on from here" in output
    assert "Traceback" not in error


def test_other_settings_are_other_runs(tiny, tmp_path, fits, monkeypatch):
    monkeypatch.setattr(Result, "save", lambda *_: tmp_path)  # figures take most of the time
    assert main(["overfitting-curve", *tiny, "--seeds", "3"]) == 0
    assert main(["overfitting-curve", *tiny, "--seeds", "4"]) == 0
    assert main(["overfitting-curve", *tiny, "--seeds", "4", "--data.test_size", "0.3"]) == 0
    table = tmp_path / "other.csv"
    original = Path(tiny[tiny.index("--data.path") + 1])
    table.write_text("\n".join(original.read_text().splitlines()[:400]) + "\n")
    assert main(["overfitting-curve", *tiny, "--seeds", "4", "--data.path", str(table)]) == 0
    assert len(fits) == 4
    # what another study has done need not be done again
    assert main(["mini-batch", *tiny, "--seeds", "3"]) == 0
    assert [fit.name.partition("-")[0] for fit in fits[4:]] == ["cpu"]


@pytest.mark.slow
def test_runs_in_parallel_give_the_same(tiny, tmp_path, everything):
    threads = torch.get_num_threads()
    assert main(["more-data", *tiny, "--n_jobs", "2"]) == 0
    assert torch.get_num_threads() == threads
    parallel, serial = (f / "more-data" / "results.csv" for f in (tmp_path, everything))
    pd.testing.assert_frame_equal(pd.read_csv(parallel), pd.read_csv(serial))


@pytest.mark.parametrize(
    "mistake",
    [
        ["nonsense"],
        [],
        ["polynomial", "--seeds", "-1"],
        ["polynomial", "--seeds"],
        ["polynomial", "--n_jobs", "0"],
        ["polynomial", "--nonsense", "1"],
        ["polynomial", "--accelerator", "abacus"],
        ["more-data", "--tiny", "--data.path", "nowhere.csv"],
        ["more-data", "--tiny", "--data.test_size", "2"],
        ["more-data", "--quick", "--data.path", "small.csv", "--data.in_memory", "false"],
        ["polynomial", "--quick", "--output", "a-file"],
        ["more-data", "--tiny", "--data.source", "synthetic", "--output", "a-file"],
    ],
)
def test_a_mistake_is_one_line(mistake, workplace, capsys):
    Path("a-file").touch()
    Path("small.csv").write_text("a,b\n" + "1,2\n2,1\n" * 20)
    assert main(mistake) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(table, workplace, capsys):
    flags = ["--tiny", "--data.path", str(table), "--accelerator", "gpu"]
    assert main(["overfitting-curve", *flags]) == 2
    assert capsys.readouterr().err.startswith("error: ")
