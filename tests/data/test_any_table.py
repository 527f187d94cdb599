"""Tables other than the course's: what is read of them, and what is said of it."""

import gzip
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpa_lightning import GPADataModule
from gpa_lightning.commands.train import TrainCLI, train
from gpa_lightning.data.sources import load_table, read_scores
from gpa_lightning.data.table import FEATURES, DataError, Selection, Table

GPA1 = "age,colGPA,hsGPA,football\n21,3.0,3.0,0\n20,3.4,3.2,1\n19,3.9,3.6,0\n24,2.9,3.1,1\n"


def load(text: str, *drop: str, name: str = "table.csv", **settings: str) -> Table:
    Path(name).write_bytes(text.encode())
    return load_table("file", name, Selection(drop=drop, **settings))


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


@pytest.mark.parametrize(
    ("name", "values", "warned"),
    [
        ("id", (7, 3, 9, 4), True),
        ("ID", (7, 3, 3, 4), True),
        ("patient_id", (7, 3, 9, 4), True),
        ("PassengerId", (7, 3, 9, 4), True),
        ("Subject", (1, 2, 1, 2), True),
        ("townid", (1, 1, 2, 5), True),  # whose words are not told apart, but which never falls
        ("paid", (40, 20, 90, 70), False),
        ("id", (0.5, 0.2, 0.9, 0.7), False),
        ("cases", (7, 8, 11, 40), False),
    ],
)
def test_a_target_that_is_named_like_an_id_is_warned_of(name, values, warned, caplog):
    load(f"a,{name}\n" + "".join(f"{i % 3},{n}\n" for i, n in enumerate(values)))
    said = f"the target {name!r} seems to name rows or groups of them, not to measure anything"
    assert (said in caplog.text) == warned
    assert bool(caplog.text) == warned


# Forms that other programs write


def cells(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


FORMS = {  # the text, what is read of it, and what is said
    "R's row names": ('"","a","b"\n"Mazda",1,2\n"Fiat",3,5\n', cells([1, 2], [3, 5]), "no name"),
    "R's row names without a name": (
        '"a","b"\n"Mazda",1,2\n"Fiat",3,5\n',
        cells([1, 2], [3, 5]),
        "no name",
    ),
    "R's row numbers, quoted": ('"a","b"\n"1",1,2\n"2",3,5\n', cells([1, 2], [3, 5]), "no name"),
    "R's row names, not quoted": ("a,b\nMazda,1,2\nFiat,3,5\n", cells([1, 2], [3, 5]), "no name"),
    "R's row numbers and tabs": ("a\tb\n1\t1\t2\n2\t3\t5\n", cells([1, 2], [3, 5]), "no name"),
    "R's own form": (
        '"a" "b c"\n"Mazda RX4" 1.5 TRUE\n"Fiat" 3 FALSE\n',
        cells([1.5, 1], [3, 0]),
        "read with blanks between its columns and points in decimals",
    ),
    "R's own form, not quoted": ("a b\n1 1 2\n2 3 5\n", cells([1, 2], [3, 5]), "with blanks"),
    "R's form and decimal commas": (
        '"a";"b"\n"1";1,5;2,5\n"2";3;5\n',
        cells([1.5, 2.5], [3, 5]),
        "no name",
    ),
    "pandas' index": (",a,b\n0,1,2\n1,3,5\n", cells([1, 2], [3, 5]), "no name"),
    "pandas' numbers for names": (",0,1\n0,1,2\n1,3,5\n", cells([1, 2], [3, 5]), "no name"),
    "Excel's semicolons": (
        "a;b\n1,5;2\n3;5,25\n",
        cells([1.5, 2], [3, 5.25]),
        "read with semicolons between its columns and commas in decimals",
    ),
    "semicolons and points": (
        "a;b\n1.5;2\n3;5.25\n",
        cells([1.5, 2], [3, 5.25]),
        "read with semicolons between its columns and points in decimals",
    ),
    "semicolons and whole numbers": ("a;b\n1;2\n3;5\n", cells([1, 2], [3, 5]), "points in dec"),
    "a comma in a name": ("wage, net;b\n1,5;2\n3,5;5\n", cells([1.5, 2], [3.5, 5]), "semicolons"),
    "a semicolon in a name": ("a;x,b\n1,2\n3,5\n", cells([1, 2], [3, 5]), ""),
    "tabs": ("a\tb\n1\t2\n3\t5\n", cells([1, 2], [3, 5]), "read with tabs"),
    "bars": ("a|b\n1|2\n3|5\n", cells([1, 2], [3, 5]), "read with bars"),
    "quoted decimal commas": (
        'a;b\n"1,5";"2"\n"3";"5"\n',
        cells([1.5, 2], [3, 5]),
        "commas in dec",
    ),
    "truth values of R": ("a,b\nTRUE,2\nFALSE,5\n", cells([1, 2], [0, 5]), ""),
    "truth values of pandas": ("a,b\nTrue,2\nFalse,5\n", cells([1, 2], [0, 5]), ""),
    "truth values, semicolons": ("a;b\ntrue;2,5\nfalse;5\n", cells([1, 2.5], [0, 5]), "semicolons"),
    "a truth value to predict": ("a,b\n1,true\n2,false\n", cells([1, 1], [2, 0]), ""),
    "names that are years": ("name,y,2011\n1,2,3\n2,4,7\n", cells([1, 2, 3], [2, 4, 7]), ""),
    "names that are equally spaced, of R": (
        '"","1.3","1.5","1.7"\n"Food",22.2,44.5,59.6\n"Health",3.5,5.8,9.7\n',
        cells([22.2, 44.5, 59.6], [3.5, 5.8, 9.7]),
        "no name",
    ),
    "names that are mostly years": (
        "id,2010,2011,2012\n7,2,3,4\n9,4,7,5\n",
        cells([7, 2, 3, 4], [9, 4, 7, 5]),
        "",
    ),
}


@pytest.mark.parametrize(("text", "expected", "said"), FORMS.values(), ids=FORMS)
def test_a_form_of_another_program_is_read(text, expected, said, caplog):
    found = load(text)
    np.testing.assert_array_equal(np.column_stack([found.features, found.target]), expected)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)
    assert (
        read_scores("table.csv", found.feature_names).features.tolist() == found.features.tolist()
    )


@pytest.mark.parametrize("name", ["wages.tsv", "WAGES.TSV", "wages.tsv.gz"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_tsv_is_read_without_a_word_unless_its_decimals_are_commas(name, decimal, caplog):
    text = "a\tb, net\n1.5\t2\n3\t5.25\n".replace(".", decimal)
    content = text.encode()
    Path(name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = load_table("file", name)
    assert found.feature_names == ("a",)
    assert (found.features.tolist(), found.target.tolist()) == ([[1.5], [3]], [2, 5.25])
    assert ("commas in decimals" in caplog.text) == (decimal == ",")


def test_semicolons_within_the_cells_of_tsv_part_nothing():
    text = "kind;sort\ta\tb\nred;small\t1\t2\nblue;large\t3\t5\n"
    found = load(text, "kind;sort", name="table.tsv")
    assert (found.features.tolist(), found.target.tolist()) == ([[1], [3]], [2, 5])


def test_an_index_of_parquet_is_left_out_unless_it_is_the_target(caplog):
    frame = pd.DataFrame({"a": [1.0, 2], "b": [3.0, 5]}, index=pd.Index([7, 4], name="student"))
    frame.to_parquet("table.parquet")
    found = load_table("file", "table.parquet")
    assert (found.feature_names, found.target_name) == (("a",), "b")
    assert "the index 'student' is taken for the rows' names and left out" in caplog.text
    found = load_table("file", "table.parquet", Selection("student"))
    assert (found.feature_names, found.target.tolist()) == (("a", "b"), [7, 4])


def test_truth_values_of_parquet_are_numbers():
    pd.DataFrame({"a": [True, False], "b": [2, 5]}).to_parquet("table.parquet")
    assert load_table("file", "table.parquet").features.tolist() == [[1], [0]]


def test_a_workbook_is_read_as_the_csv_that_it_would_be_saved_as(caplog):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"name": ["Ada", "Bob", "Eve"], "a": [1.5, 2, 0.1]})
    frame = frame.assign(seen=[True, False, True], b=[3, 5, 9])
    with pd.ExcelWriter("wages.xlsx") as book:
        frame.to_excel(book, sheet_name="wages")
        frame.to_excel(book, sheet_name="notes")
    found = load_table("file", "wages.xlsx", Selection(drop=("name",)))
    assert found.feature_names == ("a", "seen")
    np.testing.assert_array_equal(found.features, frame[["a", "seen"]].astype(float))
    assert "the first column, which has no name, is taken for the rows' names" in caplog.text
    assert "read is the first sheet, 'wages', and not 'notes'" in caplog.text
    frame.reindex([0, 1, 7, 2]).to_excel("wages.xlsx", index=False)
    assert load_table("file", "wages.xlsx", Selection(drop=("name",))).target.tolist() == [3, 5, 9]
    frame.loc[1, "a"] = None
    frame.to_excel("wages.xlsx", index=False)
    with pytest.raises(DataError, match=r"wages\.xlsx, line 3, column 'a': a value is missing"):
        load_table("file", "wages.xlsx", Selection(drop=("name",)))
    with pytest.raises(DataError, match=r"column 'name': holds text \('Ada' in line 2\)"):
        load_table("file", "wages.xlsx")
    Path("wages.xlsx").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"wages\.xlsx: is no Excel workbook, or a damaged one"):
        load_table("file", "wages.xlsx")


def test_a_workbook_with_large_pictures_is_no_bomb():
    pd.DataFrame({"a": [1, 2, 3], "b": [2, 4, 6]}).to_excel("wages.xlsx", index=False)
    with zipfile.ZipFile("wages.xlsx", "a") as archive:
        archive.writestr("xl/media/picture.png", np.random.default_rng(0).bytes(2**26))
    assert load_table("file", "wages.xlsx").target.tolist() == [2, 4, 6]


def test_a_workbook_without_its_reader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with zipfile.ZipFile("wages.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    with pytest.raises(DataError, match="needs openpyxl: pip install openpyxl"):
        load_table("file", "wages.xlsx")


# What is no table


STRANGE = {
    "names that are years": (
        ",".join(map(str, range(2011, 2021))) + "\n" + "1,2,3,4,5,6,7,8,9,10\n" * 3,
        "line 1: holds 10 numbers and not the columns' names ('2011', '2012', '2013', ...)",
    ),
    "twelve numbers, the first no sex": (
        ",".join(["5", "1", *["500"] * 9, "3"]) + "\n",
        "line 1: holds 12 numbers and not the columns' names ('5', '1', '500', ...)",
    ),
    "ten numbers, the last no GPA": (
        ",".join([*["500"] * 9, "3"]) + "\n" + ",".join([*["500"] * 9, "30"]) + "\n",
        "line 1: holds 10 numbers",
    ),
    "ten numbers, of which one is no score": (
        ",".join([*["500"] * 8, "-500", "3"]),
        "line 1: holds 10 numbers",
    ),
    "a first row with a gap": ("1,NA,2\n3,4,5\n", "line 1: holds 2 numbers and not the columns'"),
    "a title": (
        "Wages of 2024\nage,wage\n1,2\n",
        "line 1: 'Wages of 2024' is one field, but the next line has 2; a title above",
    ),
    "a title in a cell": (
        "Wages of 2024;;\nage;size;wage\n1;2;3\n",
        "line 1: only one of 3 columns has a name, 'Wages of 2024'; a title above the columns'",
    ),
    "blanks": ("age wage\n1 2\n", "line 1: seems to have blanks between its columns; save it with"),
    "text": (
        "name,a,home town,b\nAda,1,Bath,2\nBob,2,Rome,3\n",
        "column 'name', 'home town': holds text ('Ada' in line 2), not numbers; leave out with "
        "--data.drop name 'home town'",
    ),
    "dates": ("day,a\n2024-01-01,1\n2024-01-02,2\n", "column 'day': holds text ('2024-01-01' in"),
    "one text among numbers": ("a,b\n1,2\n?,3\n3,4\n", "line 3, column 'a': '?' is not a number"),
    "points and decimal commas": (
        "a;b\n1.234,5;2\n3,5;4\n5,5;6\n",
        "line 2, column 'a': '1.234,5' is not a number, write it as 1234,5",
    ),
    "decimal commas between commas": (
        "a,b\n1,5,2\n3,5,4\n",
        "line 2: has 3 fields instead of 2 (commas within numbers?)",
    ),
    "a delimiter at the end of each row": ("a;b\n1;2;\n", "line 2: has 3 fields instead of 2"),
    "a title in two fields": ("Wages, 2024\nage,size,wage\n1,2,3\n", "line 2: has 3 fields inst"),
    "only row names": (",\n1,\n", "line 1: column 2 of 2 has no name"),
}


@pytest.mark.parametrize(("text", "message"), STRANGE.values(), ids=STRANGE)
def test_a_strange_table_is_refused_with_what_was_seen(text, message):
    with pytest.raises(DataError) as caught:
        load(text)
    assert str(caught.value).removeprefix("table.csv").lstrip(":, ").startswith(message)


def test_the_published_layout_without_names_is_told(caplog):
    row = ",".join([*["512.5"] * 9, "3"])
    assert load(f"0,1,{row}\n1,0,{row}\n").feature_names == FEATURES
    assert "line 1 holds no names, so the columns are those of the published layout: male" in (
        caplog.text
    )


# Rows that lack a value

GAPS = "a,b,c\n1,2,3\nNA,5,6\n7,,9\n8, n/a ,7\n4,4,5\n"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_that_lack_a_value_are_refused_with_their_number_or_left_out(
    suffix, in_memory, caplog
):
    rows = "".join(f"{i},{i * i % 7},{i % 5}\n" for i in range(30))
    Path("table.csv").write_text(GAPS + rows)
    frame = pd.read_csv("table.csv", skipinitialspace=True, na_values=["n/a "])
    frame.to_parquet("table.parquet")
    settings = {"path": f"table.{suffix}", "in_memory": in_memory, "cache_dir": "tables"}
    place = "line 3" if suffix == "csv" else "row 2"
    with pytest.raises(
        DataError,
        match=rf"{place}, column 'a': a value is missing, as in 3 of 35 rows, in 2 of 3 columns "
        r"\('a', 'b'\); --data.missing drop leaves out such rows$",
    ):
        GPADataModule(**settings).prepare_data()
    data = GPADataModule(**settings, missing="drop")
    data.prepare_data()
    data.setup()
    assert data.provenance.rows == 32
    kept = frame.dropna()
    found = np.concatenate([data.dataset(name)[:][1][:, 0] for name in data.rows])
    assert sorted(found) == sorted(kept["c"])
    assert "3 of 35 rows lack a value, in 2 of 3 columns ('a', 'b'), and are left out; the" in (
        caplog.text
    )
    assert f"the first is {place}, column 'a'" in caplog.text
    with pytest.raises(DataError, match="a value is missing"):  # whatever is in the cache
        GPADataModule(**settings).prepare_data()


def test_a_column_without_a_value_leaves_no_row():
    with pytest.raises(DataError, match=r"leaves out such rows, --data\.drop a such columns$"):
        load("a,b,c\n,1,2\n,2,3\n", missing="drop")
    with pytest.raises(DataError, match="as in 2 of 2 rows, in 1 of 2 columns"):
        load("a,b\n,1\n,2\n", missing="drop")
    assert load("a,b,c\n,1,2\n,2,3\n", "a").features.tolist() == [[1], [2]]


def test_places_count_the_rows_that_were_left_out(caplog):
    assert load("hours,gpa\n1,\n2,9\n3,4\n", missing="drop").target.tolist() == [9, 4]
    assert "table.csv, line 3, column 'gpa': a GPA of 9 is outside 0 to 4" in caplog.text


# Folders


@pytest.fixture
def folder() -> Path:
    """A folder of two Parquet files in folders of their own, as Spark writes them."""
    for year, factor in ((2020, 1), (2021, 3)):
        part = Path(f"wages/year={year}/region=1")
        part.mkdir(parents=True)
        frame = pd.DataFrame({"age": [20.0, 30, 45], "wage": [10.0, 20, 15]}) * factor
        frame.to_parquet(part / "part-0.parquet")
    Path("wages/_SUCCESS").touch()
    return Path("wages")


@pytest.mark.parametrize("in_memory", [True, False])
def test_names_of_folders_are_columns(folder, in_memory, caplog):
    data = GPADataModule(
        path="wages", in_memory=in_memory, cache_dir="tables", val_size=0, test_size=0.34
    )
    data.prepare_data()
    data.setup()
    assert data.feature_names == ("year", "region", "age")
    assert data.target_name == "wage"
    assert "left out" not in caplog.text
    found = load_table("file", "wages")
    assert found.features[:, 0].tolist() == [2020] * 3 + [2021] * 3
    assert found.target.tolist() == [10, 20, 15, 30, 60, 45]
    scores = read_scores("wages", ("age", "year"))
    assert scores.features.tolist() == [[*row] for row in found.features[:, [2, 0]]]
    assert [*scores.frame.columns] == ["year", "region", "age", "wage"]


def test_names_of_folders_that_are_text_are_refused_or_dropped(folder):
    (folder / "year=2021").rename(folder / "year=north%20sea")
    with pytest.raises(DataError, match=r"column 'year': holds text \('north sea'\), not numbers"):
        load_table("file", "wages")
    assert load_table("file", "wages", Selection(drop=("year",))).features.shape == (6, 2)
    for number in ("inf", "-1e39"):
        next(folder.glob("year=[!2]*")).rename(folder / f"year={number}")
        with pytest.raises(DataError, match=f"column 'year': holds text \\('{number}'\\), not num"):
            load_table("file", "wages")


def test_a_missing_value_in_a_folders_name(folder):
    (folder / "year=2021").rename(folder / "year=__HIVE_DEFAULT_PARTITION__")
    with pytest.raises(DataError, match="column 'year': a value is missing, as in 3 of 6 rows"):
        load_table("file", "wages")
    assert load_table("file", "wages", Selection(missing="drop")).target.tolist() == [10, 20, 15]


def test_what_a_folder_holds_besides_and_how_its_files_differ_is_told(caplog):
    Path("wages").mkdir()
    frame = pd.DataFrame({"age": [20.0, 30], "wage": [10.0, 20]})
    frame.to_parquet("wages/a.parquet")
    frame[["wage", "age"]].to_parquet("wages/b.parquet")
    Path("wages/c.csv").write_text("age,wage\n1,2\n")
    Path("wages/_SUCCESS").touch()
    found = load_table("file", "wages")
    assert found.target.tolist() == [10, 20, 10, 20]
    assert caplog.messages == [
        "wages: the target is 'wage', the last column of the first file; others end in 'age'; "
        "another is named with --data.target",
        "wages: left out what is not named .parquet: 'c.csv'",
    ]
    caplog.clear()
    load_table("file", "wages", Selection("age"))
    assert len(caplog.messages) == 1
    frame.rename(columns={"wage": "pay"}).to_parquet("wages/b.parquet")
    with pytest.raises(DataError, match=r"wages/b\.parquet: lacks the column 'wage' of a\.parquet"):
        load_table("file", "wages")
    frame.assign(pay=1.0).to_parquet("wages/b.parquet")
    with pytest.raises(DataError, match=r"has the column 'pay', which a\.parquet lacks"):
        load_table("file", "wages")


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
