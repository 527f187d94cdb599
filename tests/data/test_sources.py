"""Tables that are read, and mistakes in tables that are explained."""

import gzip
import hashlib
import os
import re
import string
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PROJECT, run_anew

from gpa_lightning.data.csv_file import CsvFile
from gpa_lightning.data.sources import (
    FEATURES,
    TARGET,
    DataError,
    Provenance,
    Scores,
    Table,
    load_table,
    read_scores,
)
from gpa_lightning.data.streaming import fits_into_memory
from gpa_lightning.data.table import LARGEST

REAL = os.environ.get("GPA_CSV")
COURSE = "physics,biology,history,English,geography,literature,Portuguese,math,chemistry,gpa"


def student(number: int) -> str:
    """Return one row in the course's layout; no two students have the same."""
    return (
        ",".join(f"{400 + number + exam / 10:.1f}" for exam in range(9)) + f",{number % 400 / 100}"
    )


def table(rows: int) -> str:
    """Return a valid table in the course's layout."""
    return "\n".join([COURSE, *map(student, range(rows)), ""])


LINES = [student(number) for number in range(20)]


def load(path: Path) -> Table:
    return load_table("file", path)


def scores(path: Path) -> Scores:
    return read_scores(path, FEATURES)


def expected(rows: int = 20) -> np.ndarray:
    return np.array([[float(cell) for cell in student(i).split(",")] for i in range(rows)])


# Good tables


def in_columns(order: list[int], lines: list[str]) -> str:
    cells = [line.split(",") for line in lines]
    return "\n".join(",".join(row[i] for i in order) for row in cells) + "\n"


GOOD = {
    "as published": table(20),
    "without the last newline": table(20)[:-1],
    "CRLF": table(20).replace("\n", "\r\n"),
    "CR": table(20).replace("\n", "\r"),
    "byte order mark": "\ufeff" + table(20),
    "byte order mark, no header": "\ufeff" + "\n".join(LINES),
    "blank lines": "\n\n" + table(20).replace("\n", "\n\n"),
    "quoted": re.sub(r"[^,\n]+", r'"\g<0>"', table(20)),
    "blanks around": table(20).replace(",", " , "),
    "other letter case": table(20).swapcase(),
    "exponents": table(20).replace(".", "00.e-200,").replace("00.e-200,", "."),
    "other order": in_columns([9, 3, 1, 4, 0, 5, 8, 2, 6, 7], [COURSE, *LINES]),
    "no header": "\n".join(LINES),
    "male and female": "\n".join(f"{i % 2},{1 - i % 2},{line}" for i, line in enumerate(LINES)),
    "male, female and a header": "\n".join(
        [f"male,female,{COURSE}", *(f"0,1,{line}" for line in LINES)]
    ),
    "semicolons": table(20).replace(",", ";"),
    "tabs": table(20).replace(",", "\t"),
    "bars": table(20).replace(",", "|"),
    "semicolons and decimal commas": table(20).replace(",", ";").replace(".", ","),
    "the same without header": "\n".join(LINES).replace(",", ";").replace(".", ","),
    "tabs and decimal commas": table(20).replace(",", "\t").replace(".", ","),
    "an index in front": "," + table(20).replace("\n", "\n1,")[:-2],
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_course_table_is_read_in_every_published_and_harmless_form(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "GPA.csv"
    path.write_bytes(text.encode())
    found = load(path)
    assert found.feature_names == FEATURES
    assert found.target_name == TARGET
    np.testing.assert_array_equal(found.features, expected()[:, :-1])
    np.testing.assert_array_equal(found.target, expected()[:, -1])
    np.testing.assert_array_equal(scores(path).features, expected()[:, :-1])


def test_packed_and_parquet_tables_are_read_alike(tmp_path: Path) -> None:
    plain, packed, parquet = (tmp_path / f"GPA{end}" for end in (".csv", ".CSV.gz", ".parquet"))
    plain.write_text(table(50))
    packed.write_bytes(
        gzip.compress(plain.read_bytes()[:700]) + gzip.compress(plain.read_bytes()[700:])
    )
    pd.read_csv(plain).to_parquet(parquet)
    for path in (plain, packed, parquet):
        found = load(path)
        np.testing.assert_array_equal(found.features, expected(50)[:, :-1])
        np.testing.assert_array_equal(found.target, expected(50)[:, -1])
        np.testing.assert_array_equal(scores(path).features, expected(50)[:, :-1])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.provenance == Provenance("file", str(path), 50, digest)


def test_the_last_column_of_any_other_table_is_the_target(tmp_path: Path) -> None:
    path = tmp_path / "houses.csv"
    path.write_text("rooms, area ,price\n2,50.5,100\n3,70,150\n")
    found = load(path)
    assert found.feature_names == ("rooms", "area")
    assert found.target_name == "price"
    assert found.features.tolist() == [[2, 50.5], [3, 70]]
    assert found.target.tolist() == [100, 150]


def test_integers_decimals_and_half_precision_of_parquet_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    columns = {
        "a": pa.array([1, 2**60 + 1], pa.uint64()),
        "b": pa.array([1.5, 2.5], pa.float16()),
        "c": pa.array([1, 2], pa.decimal128(10, 2)),
    }
    pa.parquet.write_table(pa.table(columns), path)
    assert load(path).features.tolist() == [[1, 1.5], [2.0**60, 2.5]]


def test_ten_thousand_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    names = ",".join(f"x{i}" for i in range(10_000))
    row = ",".join(map(str, range(10_000)))
    path.write_text(f"{names}\n{row}\n{row}0\n")
    assert load(path).features.shape == (2, 9_999)
    columns = {f"x{i}": [i, 10 * i] for i in range(10_000)}
    pa.parquet.write_table(pa.table(columns), path.with_suffix(".parquet"))
    np.testing.assert_array_equal(load(path.with_suffix(".parquet")).target, [9_999, 99_990])
    assert read_scores(path, ["x77", "X3"]).features.tolist() == [[77, 3], [77, 3]]


def test_many_blocks_join_to_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text(table(300))
    monkeypatch.setattr(CsvFile, "BLOCK", 200)
    np.testing.assert_array_equal(load(path).features, expected(300)[:, :-1])
    path.write_text(table(300).replace(LINES[7], LINES[7] + "?"))
    with pytest.raises(DataError, match=r"line 9, column 'gpa': '0\.07\?' is not a number"):
        load(path)


def test_memory_stays_near_the_size_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text(COURSE + "\n" + "\n".join(LINES * 15_000))
    tracemalloc.start()
    try:
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        found = load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.features.base is not None
    table_bytes = found.features.base.nbytes
    assert table_bytes == 300_000 * 10 * 8
    # the parts are freed while they are joined; tracemalloc counts the untouched part of the whole
    assert peak < 2.2 * table_bytes + 4 * CsvFile.BLOCK
    assert pool.bytes_allocated() == before


WITHOUT_MEMORY = """
import resource, sys
from gpa_lightning.data.sources import DataError, load_table

load_table("file", sys.argv[1])  # brings all that it needs
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**26
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
try:
    load_table("file", sys.argv[2])
except DataError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory in /proc")
def test_a_table_that_does_not_fit_into_memory_is_explained(tmp_path: Path) -> None:
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    small.write_text("a,b\n1,2\n3,4\n")
    large.write_text("a,b,c,d\n" + "1,2,3,4\n1,2,4,5\n" * 1_500_000)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = run_anew("-c", WITHOUT_MEMORY, small, large, env=environment)
    assert result.stdout == f"{large}: does not fit into memory\n", result.stderr


# Odd tables that are read with a warning


def test_constant_features_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text("a,b,c,y\n1,5,2,1\n1,6,2,2\n")
    assert load(path).features.shape == (2, 3)
    assert caplog.messages == [f"{path}: nothing to learn from constant column 'a', 'c'"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_first_gpa_outside_0_to_4_is_named(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text("hours,GPA\n1,4\n\n2,4.5\n3,-1\n")
    row = "line 4"
    if suffix == ".parquet":
        pd.read_csv(path).to_parquet(path := path.with_suffix(suffix))
        row = "row 2"
    assert load(path).target.tolist() == [4, 4.5, -1]
    assert caplog.messages == [f"{path}, {row}, column 'GPA': a GPA of 4.5 is outside 0 to 4"]


def test_gpa_among_the_features_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text("gpa,hours\n1,4\n2,5\n")
    assert load(path).feature_names == ("gpa",)
    assert "the target is the last column, 'hours'" in caplog.text


# Bad tables: what is wrong is said in one line


def with_line(number: int, line: str, rows: int = 20) -> str:
    """Return a good table in which one line, counted from 1, is replaced."""
    lines = table(rows).splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


def with_cell(number: int, cell: str, rows: int = 20) -> str:
    """Return a good table with another score in math in one line."""
    cells = student(number - 2).split(",")
    return with_line(number, ",".join([*cells[:7], cell, *cells[8:]]), rows)


def pack(path: Path, start: bytes, block: bytes, size: int) -> None:
    """Write a packed file of ``start`` and then ``size`` bytes of a repeated block, fast."""
    packer = zlib.compressobj(wbits=31)
    # after a full flush nothing refers to earlier data, so that packed blocks can be repeated
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block *= 2**20 // len(block)
    body = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(head + body * (size // len(block)))


BOTH = {  # wrong for training and for predicting
    "empty": ("", "is empty"),
    "only newlines": ("\n\r\n\n", "is empty"),
    "only a byte order mark": ("\ufeff", "is empty"),
    "header only": (COURSE, "there are no rows"),
    "header and blank lines": (COURSE + "\n\n\n", "there are no rows"),
    "blanks": (table(5).replace(",", " "), "line 1: seems to have blanks between its columns"),
    "decimal commas": (table(5).replace(".", ","), "line 2: has 20 fields instead of 10"),
    "quoted decimal comma": (
        with_cell(5, '"550,5"'),
        "line 5, column 'math': '550,5' is not a number, write it as 1234.5",
    ),
    "quoted thousands separator": (
        with_cell(5, '"1,550"'),
        "line 5, column 'math': '1,550' is not a number, write it as 1234.5",
    ),
    "thousands separator": (with_cell(5, "1,550"), "line 5: has 11 fields instead of 10"),
    "text": (with_cell(3, "abc"), "line 3, column 'math': 'abc' is not a number"),
    "text in the first row": (with_cell(2, "?"), "line 2, column 'math': '?' is not a number"),
    "text in the 40,000th row": (
        with_cell(40_001, "abc", 43_303),
        "line 40001, column 'math': 'abc' is not a number",
    ),
    "the first of many": (
        with_cell(5, "1e309") + "x\n",
        "line 5, column 'math': '1e309' is too large",
    ),
    "text after a blank line": (
        table(5).replace("\n", "\r\n\r\n") + student(6).replace("406.7", "x"),
        "line 13, column 'math': 'x' is not a number",
    ),
    "text without header": (
        "\n".join([*LINES[:5], LINES[6].replace("406.7", "x")]),
        "line 6, column 'math': 'x' is not a number",
    ),
    "text in the first row without header": (
        "\n".join([LINES[6].replace("406.7", "x"), *LINES[:5]]),
        "line 1, column 'math': 'x' is not a number",
    ),
    "a long text": (with_cell(3, "y" * 9_000), f"line 3, column 'math': '{'y' * 40}...' is not"),
    "a date": (with_cell(3, "2024-03-01"), "line 3, column 'math': '2024-03-01' is not a number"),
    "hexadecimal": (with_cell(3, "0x1F"), "line 3, column 'math': '0x1F' is not a number"),
    "underscores": (with_cell(3, "1_000"), "line 3, column 'math': '1_000' is not a number"),
    "other digits": (with_cell(3, "٣"), "line 3, column 'math': '٣' is not a number"),
    "a true value": (with_cell(3, "true"), "line 3, column 'math': 'true' is not a number"),
    "a formula": (with_cell(3, "#DIV/0!"), "line 3, column 'math': '#DIV/0!' is not a number"),
    "terminal codes": (with_cell(3, "\x1b[2J"), r"line 3, column 'math': '\x1b[2J' is not a"),
    "infinity": (with_cell(3, "inf"), "line 3, column 'math': 'inf' is not a number"),
    "minus infinity": (
        with_cell(3, "-Infinity"),
        "line 3, column 'math': '-Infinity' is not a number",
    ),
    "1e308": (with_cell(3, "1e308"), "line 3, column 'math': '1e308' is too large"),
    "1e999": (with_cell(3, "1e999"), "line 3, column 'math': '1e999' is too large"),
    "an integer beyond float32": (
        with_cell(3, "9" * 40),
        "line 3, column 'math': '9999999999999999999999999999999999999999' is too large",
    ),
    "a missing column": (
        in_columns([0, 1, 2, 3, 4, 5, 6, 8, 9], [COURSE, *LINES]),
        "there is no column 'math'",
    ),
    "missing columns": (
        in_columns([0, 2, 3, 4, 6, 8, 9], [COURSE, *LINES]),
        "there is no column 'biology', 'literature', 'math'",
    ),
    "a duplicate column": (
        in_columns([0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9], [COURSE, *LINES]),
        "line 1: column 'math' is there twice",
    ),
    "a duplicate but for its case": (
        table(5).replace("biology", "MATH", 1),
        "line 1: column 'math' is there twice",
    ),
    "trailing commas": (table(5).replace("\n", ",\n"), "line 1: column 11 of 11 has no name"),
    "trailing commas below the header": (
        table(5).replace("\n", ",\n").replace("gpa,", "gpa"),
        "line 2: has 11 fields instead of 10",
    ),
    "a short row": (with_line(4, "1,2,3"), "line 4: has 3 fields instead of 10"),
    "a long row": (with_line(4, LINES[0] + ",5"), "line 4: has 11 fields instead of 10"),
    "a row cut off": (table(5) + LINES[6][:20], "line 7: has 4 fields instead of 10"),
    "a comment": (with_line(4, "# these are new"), "line 4: has 1 fields instead of 10"),
    "a title": (
        "Students of 2024\n" + table(5),
        "line 1: 'Students of 2024' is one field, but the next line has 10; a title above",
    ),
    "an open quote": (with_cell(4, '"550'), "line 4: has 8 fields instead of 10"),
    "an open quote in the header": (
        table(5).replace("physics", '"physics'),
        "line 1: is not CSV: unexpected end of data",
    ),
    "a line break in a number": (with_cell(4, '"5\n5"'), r"line 4, column 'math': '5\n5' is not"),
    "NUL bytes": (with_cell(4, "5\0"), "is not CSV, it holds NUL bytes"),
    "UTF-16": (table(5).encode("utf-16"), r"is not CSV but UTF-16 text (save it as UTF-8)"),
    "UTF-16 without mark": (table(5).encode("utf-16-le"), "is not CSV, it holds NUL bytes"),
    "Latin-1 in the header": (
        table(5).replace("math", "matemática").encode("latin-1"),
        "line 1: is not UTF-8 text",
    ),
    "Latin-1 in a number": (
        with_cell(4, "é").encode("latin-1"),
        "line 4, column 'math': '�' is not a number",
    ),
    "HTML": ("\n <!DOCTYPE html>\n<html></html>", r"is not CSV but a web page (HTML)"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not CSV but a PNG image"),
    "Excel": (b"PK\x03\x04" + bytes(99), "is not CSV but an Excel workbook"),
    "other binary": (bytes(range(256)) * 9, "is not CSV, it holds NUL bytes"),
    "gzip with a wrong name": (gzip.compress(b"1"), r"is not CSV but gzip (name it .csv.gz"),
    "Parquet with a wrong name": (b"PAR1" + bytes(50), "is not CSV but Parquet"),
    "numbers without header": ("1,2,3\n4,5,6\n", "line 1: holds 3 numbers and not the columns'"),
    "one number": ("5", "line 1: holds 1 numbers and not the columns' names"),
    "ten thousand unnamed columns": (",".join("1" * 10_000), "line 1: holds 10000 numbers"),
    "ten thousand empty names": ("," * 9_999, "line 1: column 2 of 10000 has no name"),
    "a long cell": (with_cell(4, "1" * 200_000), "line 4: field larger than field limit"),
    "a long line": ("1" * (5 * 2**20), "line 1: is not CSV: field larger than field limit"),
}


@pytest.mark.parametrize("read", [load, scores])
@pytest.mark.parametrize(("content", "message"), BOTH.values(), ids=BOTH)
def test_mistake_is_explained_in_one_line(
    content: str | bytes, message: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "GPA.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(read, path, message)


def refused(read: Callable[[Path], object], path: Path, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert said.removeprefix(str(path)).lstrip(":, ").startswith(message)
    assert said.isprintable()
    assert len(said) < len(str(path)) + 250


TRAINING = {  # wrong for training only
    "no target": (in_columns([*range(9)], [COURSE, *LINES]), "there is no column 'gpa'"),
    "no target, no header": (
        in_columns([*range(9)], LINES),
        "holds 9 numbers a line and no columns' names",
    ),
    "an empty cell": (with_cell(3, ""), "line 3, column 'math': a value is missing, as in 1 of 20"),
    "a blank cell": (with_cell(3, "  "), "line 3, column 'math': a value is missing, as in 1 of"),
    "a quoted blank": (with_cell(3, '" "'), "line 3, column 'math': a value is missing, as in 1"),
    "NA": (with_cell(3, "NA"), "line 3, column 'math': a value is missing, as in 1 of 20 rows"),
    "NaN": (with_cell(3, "NaN"), "line 3, column 'math': a value is missing, as in 1 of 20 rows"),
    "a line of commas": (table(5) + "," * 9, "line 7, column 'physics': a value is missing, as in"),
    "other target": (table(5).replace("gpa", "GPA 2024"), "there is no column 'gpa'"),
    "an extra column": (
        "id," + table(5).replace("\n", "\n7,")[:-2],
        "unexpected column 'id'; leave it out",
    ),
    "text column of another table": (
        "name,hours,points\nAda,1,2\n",
        "column 'name': holds text ('Ada' in line 2), not numbers; leave out with --data.drop name",
    ),
    "one column": ("hours\n1\n2\n", "'hours' is the only column"),
}


@pytest.mark.parametrize(("content", "message"), TRAINING.values(), ids=TRAINING)
def test_mistake_in_a_training_table_is_explained(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text(content)
    refused(load, path, message)


FIRST_ROWS = {exam: [500.0, 600.0] for exam in FEATURES} | {TARGET: [1.0, 2.0]}
NOT_NUMBERS = {
    "text": (["500", "600"], "column 'math': holds string, not numbers"),
    "lists": ([[500.0], [600.0]], "column 'math': holds list<element: double>, not numbers"),
    "structs": ([{"a": 5}, {"a": 6}], "column 'math': holds struct<a: int64>, not numbers"),
    "infinity": ([-np.inf, 500.0], "row 1, column 'math': -inf is too large"),
    "1e308": ([1.0, 1e308], "row 2, column 'math': 1e+308 is too large"),
}


GAPS = {  # wrong for training only
    "nothing": ([None, None], "row 1, column 'math': a value is missing, as in 2 of 2 rows"),
    "a gap": ([500.0, None], "row 2, column 'math': a value is missing, as in 1 of 2 rows"),
    "NaN": ([500.0, np.nan], "row 2, column 'math': a value is missing, as in 1 of 2 rows"),
}


@pytest.mark.parametrize(("values", "message"), GAPS.values(), ids=GAPS)
def test_a_gap_in_parquet_is_explained(values: list[object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "GPA.parquet"
    pa.parquet.write_table(pa.table(FIRST_ROWS | {"math": values}), path)
    refused(load, path, message)
    found = scores(path).features[:, FEATURES.index("math")]
    np.testing.assert_array_equal(found, np.array(values, float))


@pytest.mark.parametrize("read", [load, scores])
@pytest.mark.parametrize(("values", "message"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_mistake_in_parquet_is_explained(
    values: list[object], message: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "GPA.parquet"
    pa.parquet.write_table(pa.table(FIRST_ROWS | {"math": values}), path)
    refused(read, path, message)


@pytest.mark.parametrize("read", [load, scores])
def test_row_of_a_mistake_deep_in_parquet_is_named(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "GPA.parquet"
    columns = {name: np.ones(150_000) for name in FIRST_ROWS}
    columns["math"][140_000] = np.inf
    pa.parquet.write_table(pa.table(columns), path, row_group_size=40_000)
    refused(read, path, "row 140001, column 'math': inf is too large")


@pytest.mark.parametrize("read", [load, scores])
def test_damaged_parquet_is_explained(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "GPA.parquet"
    pa.parquet.write_table(pa.table(FIRST_ROWS), path)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", COURSE.encode(), whole[:-20], whole[:4] + whole[300:]):
        path.write_bytes(content)
        refused(read, path, "cannot be read: ")
    pa.parquet.write_table(pa.table(FIRST_ROWS).slice(0, 0), path)
    refused(read, path, "there are no rows")
    pa.parquet.write_table(pa.table([[1.0], [2.0]], ["math", "Math"]), path)
    refused(read, path, "column 'Math' is there twice")


def test_index_is_not_taken_for_the_target(tmp_path: Path) -> None:
    path = tmp_path / "GPA.parquet"
    frame = pd.DataFrame({"hours": [1.0, 2.0], "points": [3.0, 4.0]}, index=pd.Index([5, 6]))
    frame.to_parquet(path)
    assert load(path).target_name == "points"
    frame.reset_index(drop=True).to_parquet(path)
    assert load(path).target_name == "points"


@pytest.mark.parametrize("read", [load, scores])
@pytest.mark.parametrize("name", ["GPA.csv", "GPA.csv.gz", "GPA.parquet"])
def test_what_is_no_readable_file_is_explained(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / name
    refused(read, path, "there is no such file")
    refused(read, path / "GPA.csv", "there is no such file")
    path.mkdir()
    refused(read, path, "is a folder without .parquet files")
    path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        refused(read, path, "is not a regular file")
        path.unlink()
        refused(read, Path("/dev/zero"), "is not a regular file")
    path.symlink_to(path)
    refused(read, path, "cannot be read: ")
    refused(read, tmp_path / ("x" * 300 + name), "cannot be read: ")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users and permissions as in POSIX")
@pytest.mark.parametrize("read", [load, scores])
def test_missing_permission_is_explained(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "GPA.csv"
    path.write_text(table(5))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # the superuser may read everything
    try:
        refused(read, path, "you have no permission to read it")
    finally:
        os.seteuid(user)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    for name in ("GPA", "GPA.xls", "GPA.csv.zip", "GPA.gz", "csv"):
        path = tmp_path / name
        path.write_text(table(5))
        refused(load, path, "is not named .csv, .tsv, .csv.gz, .tsv.gz, .parquet or .xlsx")


@pytest.mark.parametrize("read", [load, scores])
def test_damaged_gzip_is_explained(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "GPA.csv.gz"
    whole = gzip.compress(table(2_000).encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[: len(whole) // 2], whole[:-4], bytes(flipped), table(5).encode()):
        path.write_bytes(content)
        refused(read, path, "is no gzip file, or a damaged or incomplete one")
    path.write_bytes(b"")
    refused(read, path, "is empty")


HEADER = f"{COURSE}\n".encode()
BOMBS = {
    "NUL": (b"", b"\0", 10, "is not CSV, it holds NUL bytes"),
    "zeros": (b"", b"0", 10, "line 1: is not CSV: field larger than field limit"),
    "newlines": (b"", b"\n", 10, "is empty"),
    "zeros below a header": (HEADER, b"0", 10, "line 2: is longer than 4,194,304 bytes"),
    "an open quote": (HEADER + b'"', b"1\n", 10, "line 2: is longer than 4,194,304 bytes, or a"),
    "open quotes": (HEADER, b'"\n"', 10, "line 2: is longer than 4,194,304 bytes, or a quote"),
    "newlines below a header": (HEADER, b"\n", 1, "unpacks to over "),
    "short rows": (b"a,b\n", b"1,2\n", 1, "unpacks to over "),
    "rows": (HEADER, f"{LINES[0]}\n".encode(), 2, "unpacks to over "),
}


@pytest.mark.parametrize(("start", "block", "gigabytes", "message"), BOMBS.values(), ids=BOMBS)
def test_gigabytes_packed_small_are_refused_within_bounded_memory(
    start: bytes, block: bytes, gigabytes: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "GPA.csv.gz"
    pack(path, start, block, gigabytes * 2**30)
    tracemalloc.start()
    try:
        refused(load, path, message)
        assert tracemalloc.get_traced_memory()[1] < 2**30
    finally:
        tracemalloc.stop()


def test_parquet_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "GPA.parquet"
    pa.parquet.write_table(pa.table({name: np.zeros(10**7) for name in "ab"}), path)
    assert path.stat().st_size < 10**6
    refused(load, path, "unpacks to 160,000,000 bytes; save it as .csv")
    values = np.random.default_rng(0).random(2**22 + 1)  # of which compression makes little less
    pa.parquet.write_table(pa.table(dict.fromkeys("ab", values)), path)
    assert fits_into_memory(path, "GPA.parquet")


# Tables to predict from


def test_columns_are_found_by_name_among_any_others(tmp_path: Path) -> None:
    path = tmp_path / "students.csv"
    path.write_text(
        'id, Math ,name,"HISTORY",gpa,note\n'
        '007,500.50,"Ada, Countess",6e2,,"two\nlines"\n'
        "\n"
        '008," 510",Émilie,610,unknown,\n',
        encoding="utf-8-sig",
    )
    frame, features = read_scores(path, ["history", " math"])
    assert features.tolist() == [[600, 500.5], [610, 510]]
    assert [*frame.columns] == ["id", "Math", "name", "HISTORY", "gpa", "note"]
    assert [*frame["id"]] == ["007", "008"]
    assert frame.iloc[0].tolist() == ["007", "500.50", "Ada, Countess", "6e2", "", "two\nlines"]
    frame.to_csv(tmp_path / "written.csv", index=False)
    again, same = read_scores(tmp_path / "written.csv", ["history", "math"])
    pd.testing.assert_frame_equal(again, frame)
    np.testing.assert_array_equal(same, features)


@pytest.mark.parametrize("columns", [9, 10, 11, 12])
def test_every_published_layout_without_header_is_predicted_from(
    columns: int, tmp_path: Path
) -> None:
    path = tmp_path / "students.csv"
    front = "0,1," if columns > 10 else ""
    cut = None if columns % 2 == 0 else -1
    path.write_text("\n".join(front + ",".join(line.split(",")[:cut]) for line in LINES))
    frame, features = scores(path)
    np.testing.assert_array_equal(features, expected()[:, :-1])
    assert frame.shape == (20, columns)
    assert ("gpa" in frame) == (cut is None)


def test_parquet_keeps_its_columns_and_their_types(tmp_path: Path) -> None:
    path = tmp_path / "students.parquet"
    frame = pd.DataFrame(
        {"a.b": [1, 2], "names": [["Ada"], []], "seen": [True, False], "a": [{"b": 5}, {"b": 6}]},
        index=pd.Index(["x", "y"], name="student"),
    )
    frame.to_parquet(path)
    found, features = read_scores(path, ["a.b"])
    assert features.tolist() == [[1], [2]]
    assert [*found.columns] == [*frame.columns, "student"]
    assert found["seen"].tolist() == [True, False]
    assert found["student"].tolist() == ["x", "y"]


def test_text_columns_have_to_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "students.csv"
    path.write_bytes("name,math\nAda,500\n\nÉmilie,510\n".encode("latin-1"))
    refused(lambda path: read_scores(path, ["math"]), path, "line 4: is not UTF-8 text")


def test_quoted_lines_are_kept_together_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CsvFile, "BLOCK", 64)
    path = tmp_path / "students.csv"
    notes = ["", "\n", 'a "quoted"\n\nnote, and more', "\n" * 30, "last"] * 9
    pd.DataFrame({"note": notes, "math": range(45)}).to_csv(path, index=False)
    frame, features = read_scores(path, ["math"])
    assert [*frame["note"]] == notes
    assert features[:, 0].tolist() == [*range(45)]
    path.write_text(path.read_text() + "x,y\n")
    lines = path.read_text().count("\n")
    refused(lambda path: read_scores(path, ["math"]), path, f"line {lines}, column 'math': 'y'")


# Where the table comes from


def test_path_and_variable_name_the_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in {"one.csv": 5, "two.csv": 6, "data/GPA.csv": 7}.items():
        (nowhere / name).parent.mkdir(exist_ok=True)
        (nowhere / name).write_text(table(rows))
    assert load_table().provenance.rows == 7
    assert load_table().provenance.location == "data/GPA.csv"
    monkeypatch.setenv("GPA_CSV", "one.csv")
    assert load_table().provenance.rows == 5
    assert load_table("file").provenance.rows == 5
    assert load_table(path="two.csv").provenance.rows == 6
    assert load_table("file", "two.csv").provenance.rows == 6
    assert load_table("synthetic").provenance.kind == "synthetic"
    monkeypatch.setenv("GPA_CSV", "missing.csv")
    with pytest.raises(DataError, match=r"missing\.csv: there is no such file"):
        load_table()


def test_contradictions_are_refused(nowhere: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.source file: say which, with --data\.path FILE"):
        load_table("file")
    for source in ("download", "synthetic"):
        with pytest.raises(DataError, match=f"{source} reads no file: leave out --data.path a.csv"):
            load_table(source, "a.csv")
    with pytest.raises(DataError, match="none of auto, file, download, synthetic"):
        load_table("fiel")


def test_synthetic_table_says_what_it_is(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = load_table("synthetic")
    assert found.features.shape == (43_303, 9)
    assert found.feature_names == FEATURES
    assert found.provenance == load_table("synthetic").provenance
    assert asdict(found.provenance) == {
        "kind": "synthetic",
        "location": "the synthetic twin, seed 0",
        "rows": 43_303,
        "sha256": hashlib.sha256(
            np.column_stack([found.features, found.target]).tobytes()
        ).hexdigest(),
    }
    assert not caplog.messages  # it was asked for


@pytest.mark.real_data
@pytest.mark.skipif(not REAL, reason="needs the real GPA table (set GPA_CSV to its path)")
def test_real_table_is_read(caplog: pytest.LogCaptureFixture) -> None:
    found = load_table("file", REAL)
    assert found.features.shape == (43_303, 9)
    assert found.feature_names == FEATURES
    assert found.target.mean() == pytest.approx(2.7857, abs=5e-5)
    assert found.target.std(ddof=1) == pytest.approx(0.8208, abs=5e-5)
    means = [576.12, 568.66, 580.83, 573.99, 574.49, 583.30, 551.04, 579.20, 571.71]
    assert found.features.mean(axis=0) == pytest.approx(means, abs=0.005)
    np.testing.assert_array_equal(read_scores(REAL, FEATURES).features, found.features)
    frame = pd.read_csv(REAL, dtype=str)  # for Python to convert, which rounds correctly
    np.testing.assert_array_equal(found.features, frame[[*FEATURES]].to_numpy(float))
    assert not caplog.messages


# Any table


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "table.csv"


finite = st.floats(-LARGEST, LARGEST) | st.integers(-(10**30), 10**30).map(float)
names = st.lists(
    st.text(string.ascii_letters + "_ %äß", min_size=1).map(str.strip).filter(bool),
    min_size=2,
    max_size=6,
    unique_by=str.casefold,
)


@st.composite
def written(draw: st.DrawFn) -> tuple[list[str], np.ndarray, str]:
    """Draw a table, and one of the ways to write it down."""
    header = draw(names.filter(lambda names: "nan" not in map(str.casefold, names)))
    rows = draw(st.lists(st.lists(finite, min_size=len(header), max_size=len(header)), min_size=1))
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    quote = draw(st.sampled_from(["", '"']))
    blank = draw(st.sampled_from(["", " ", "\t"]))
    shape = draw(st.sampled_from(["{!r}", "{:.17e}", "{:+.17G}"]))
    cells = [header, *([shape.format(value) for value in row] for row in rows)]
    lines = [",".join(f"{quote}{blank}{cell}{blank}{quote}" for cell in row) for row in cells]
    return header, np.array(rows), draw(st.sampled_from(["", "\ufeff", end])) + end.join(lines)


@settings(deadline=None)
@given(written())
def test_any_written_table_is_read_exactly(
    scratch: Path, example: tuple[list[str], np.ndarray, str]
) -> None:
    header, values, text = example
    scratch.write_text(text, newline="")
    found = load(scratch)
    assert [*found.feature_names, found.target_name] == header
    np.testing.assert_array_equal(np.column_stack([found.features, found.target]), values)
    frame, features = read_scores(scratch, header[::-1])
    np.testing.assert_array_equal(features, values[:, ::-1])
    assert frame.shape == values.shape


almost_csv = st.text(st.sampled_from("0123456789.,;+-eE \t\n\r\"'ab\0é\ufeff")) | st.text()


@settings(deadline=None, max_examples=150)
@given(st.binary() | almost_csv.map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_read_or_explained(scratch: Path, content: bytes) -> None:
    content = b"a,b\n" + content
    scratch.write_bytes(content)
    try:
        found = load(scratch)
    except DataError:
        refused(load, scratch, "")
        return
    assert np.isfinite(found.features).all()
    frame, features = read_scores(scratch, ["a"])
    np.testing.assert_array_equal(features, found.features)
    assert len(frame) == len(found.target)
