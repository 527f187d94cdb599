"""Tables other than the course's: what is read of them, and what is said of it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpa_lightning import GPADataModule
from gpa_lightning.commands.train import TrainCLI, train
from gpa_lightning.data.sources import load_table
from gpa_lightning.data.table import FEATURES, DataError, Selection, Table

GPA1 = "age,colGPA,hsGPA,football\n21,3.0,3.0,0\n20,3.4,3.2,1\n19,3.9,3.6,0\n24,2.9,3.1,1\n"


def load(text: str, *drop: str, target: str | None = None, name: str = "table.csv") -> Table:
    Path(name).write_text(text)
    return load_table("file", name, Selection(target, drop))


@pytest.fixture(autouse=True)
def here(workplace):
    """Read the tables from an empty current folder."""


# Which columns


def test_the_target_is_the_last_column_or_the_one_that_is_named():
    assert load(GPA1).target_name == "football"
    found = load(GPA1, target="colgpa")
    assert found.target_name == "colGPA"
    assert found.feature_names == ("age", "hsGPA", "football")
    assert found.target.tolist() == [3.0, 3.4, 3.9, 2.9]
    assert found.features[1].tolist() == [20, 3.2, 1]


def test_dropped_columns_are_neither_read_nor_judged():
    text = GPA1.replace("21,", "?,").replace("20,", ",")
    found = load(text, "AGE", "football", target="colGPA")
    assert found.feature_names == ("hsGPA",)
    assert found.features[:, 0].tolist() == [3.0, 3.2, 3.6, 3.1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_exam_of_the_course_is_dropped_and_the_others_keep_their_order(table, suffix):
    frame = pd.read_csv(table)
    rest = [name for name in FEATURES if name != "math"]
    shuffled = frame[[*frame.columns[::-1]]].assign(male=1, id=7)
    path = f"students.{suffix}"
    shuffled.to_csv(path, index=False) if suffix == "csv" else shuffled.to_parquet(path)
    found = load_table("file", path, Selection(drop=("math", "id")))
    assert found.feature_names == tuple(rest)
    assert found.target_name == "gpa"
    np.testing.assert_array_equal(found.features, frame[rest])


def test_the_target_of_the_course_may_be_named_or_be_an_exam(table):
    course = load_table("file", table)
    named = load_table("file", table, Selection("GPA"))
    assert (named.feature_names, named.target_name) == (FEATURES, "gpa")
    np.testing.assert_array_equal(named.features, course.features)
    math = load_table("file", table, Selection("math"))
    assert math.feature_names == (*(name for name in FEATURES if name != "math"), "gpa")
    np.testing.assert_array_equal(math.target, course.features[:, FEATURES.index("math")])


def test_the_synthetic_twin_is_selected_from_alike():
    found = load_table("synthetic", None, Selection(drop=("physics",)))
    whole = load_table("synthetic")
    assert found.feature_names == FEATURES[1:]
    np.testing.assert_array_equal(found.features, whole.features[:, 1:])
    assert found.provenance == whole.provenance


REFUSED = {
    "a target that is not there": (
        {"target": "colgap"},
        "no column 'colgap' (did you mean 'colGPA'?); there are 'age', 'colGPA', 'hsGPA'",
    ),
    "a dropped column that is not there": ({"drop": ("ag",)}, "no column 'ag' (did you mean 'age'"),
    "a target that is dropped": (
        {"target": "age", "drop": ("age",)},
        "the target 'age' is dropped; name another with --data.target",
    ),
    "the last column dropped": ({"drop": ("football",)}, "the target 'football' is dropped"),
    "no feature left": ({"drop": ("age", "colGPA", "hsGPA")}, "'football' is the only column"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("in_memory", [True, False])
def test_what_cannot_be_selected_is_refused(settings, message, in_memory):
    Path("table.csv").write_text(GPA1)
    data = GPADataModule(path="table.csv", in_memory=in_memory, cache_dir="tables", **settings)
    with pytest.raises(DataError, match=re.escape(message)):
        data.prepare_data()


def test_a_dropped_gpa_leaves_the_course_without_a_target(table):
    with pytest.raises(DataError, match="the target 'gpa' is dropped; name another"):
        load_table("file", table, Selection(drop=("gpa",)))


def test_unexpected_columns_beside_the_exams_come_with_the_flag_that_drops_them(table):
    pd.read_csv(table).assign(**{"home town": 1, "id": 2}).to_csv("more.csv", index=False)
    with pytest.raises(DataError, match=r"'home town', 'id'; leave it out with --data\.drop 'home"):
        load_table("file", "more.csv")
    found = load_table("file", "more.csv", Selection("gpa"))
    assert found.feature_names == (*FEATURES, "home town", "id")


@pytest.mark.parametrize("values", [range(1, 7), range(60, 0, -10), [0.5 * i for i in range(6)]])
def test_a_target_that_counts_the_rows_is_warned_of(values, caplog):
    load("a,n\n" + "".join(f"{i % 4},{n}\n" for i, n in enumerate(values)))
    assert "the target 'n' only counts the rows, by" in caplog.text
    caplog.clear()
    load("a,n\n" + "".join(f"{i % 4},{n}\n" for i, n in enumerate([*values, 900])))
    load("a,n\n1,3\n2,3\n3,3\n")
    assert not caplog.text


# The flags


@pytest.mark.parametrize(
    ("words", "features"),
    [
        (["--data.drop", "age"], ("home town", "2012", "x")),
        (["--data.drop=age"], ("home town", "2012", "x")),
        (["--data.drop", "age", "home town", "2012"], ("x",)),
        (["--data.drop", "[age, x]"], ("home town", "2012")),
        (["--data.drop+=x"], ("age", "home town", "2012")),
    ],
)
@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
def test_names_follow_the_flag(words, features):
    Path("table.csv").write_text("age,home town,2012,2013,x\n" + "1,2,3,4,5\n" * 9)
    flags = [*words, "--data.target", "2013", "--data.path", "table.csv", "--max_epochs", "1"]
    cli = TrainCLI(flags, run=False, parser_kwargs={"exit_on_error": False})
    assert cli.datamodule.feature_names == features
    assert cli.datamodule.target_name == "2013"
    assert cli.model.network.layers.fc1.in_features == len(features)


def test_a_run_says_what_it_predicts_from_what_and_goes_on_with_nothing_else(table, capsys):
    flags = ["--data.path", str(table), "--model.hidden_sizes", "[4]", "--accelerator", "cpu"]
    dropping = [*flags, "--data.drop", "math", "physics", "--max_epochs"]
    assert train([*dropping, "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^target +gpa$", out, re.MULTILINE)
    rest = ", ".join(name for name in FEATURES if name not in ("math", "physics"))
    assert re.search(rf"^features +{rest}$", out, re.MULTILINE)
    (run,) = Path("lightning_logs").iterdir()
    assert run.name == "version_0-hidden_sizes=4-drop=math,physics-max_epochs=1"
    last = ["--ckpt_path", str(run / "checkpoints/last.ckpt")]
    for other in (["--max_epochs"], ["--data.drop", "math", "biology", "--max_epochs"]):
        assert train([*flags, *other, "2", *last]) == 2
        error = capsys.readouterr().err
        assert "but the checkpoint was trained on 'biology', 'history'" in error
        assert error.count("\n") == 1
    swapped = ["--data.drop", "math", "gpa", "--data.target", "physics", "--max_epochs"]
    assert train([*flags, *swapped, "2", *last]) == 2
    assert "the target is 'physics', but the checkpoint" in capsys.readouterr().err
    assert list(Path("lightning_logs").iterdir()) == [run]
    assert train([*dropping, "2", *last]) == 0


def test_in_memory_and_streamed_take_the_same_columns(table):
    settings = {"path": str(table), "drop": ["math", "history"], "target": "physics"}
    modules = [
        GPADataModule(**settings),
        GPADataModule(**settings, in_memory=False, cache_dir="tables"),
        GPADataModule(path=str(table), drop="math", in_memory=False, cache_dir="tables"),
    ]
    for data in modules:
        data.prepare_data()
        data.setup()
    whole, mapped, other = modules
    assert whole.target_name == mapped.target_name == "physics"
    assert whole.feature_names == mapped.feature_names
    for mine, theirs in zip(whole.dataset("test")[:], mapped.dataset("test")[:], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert other.dataset("test")[:][0].shape[1] == 8
