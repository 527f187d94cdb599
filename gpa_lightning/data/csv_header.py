"""The header of a CSV file: its columns' names, delimiter and decimal separator."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from gpa_lightning.data.table import FEATURES, MISSING, SEX, TARGET, DataError, clean_names, quote

SAMPLE = 2**16  # bytes that are looked at
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}  # of delimiters
BLANKS = {" ": "blanks"}  # only in R's own form, as names may have blanks in them
NUMBER = re.compile(r"[ \t]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t]*", re.ASCII)
HIGHEST_SCORE, HIGHEST_GPA = 2_000, 4  # of the published layout; its own scores end at 1,072
PUBLISHED = {
    len(columns): list(columns)
    for columns in (FEATURES, (*FEATURES, TARGET), (*SEX, *FEATURES), (*SEX, *FEATURES, TARGET))
}
"""Columns of the published layout, which has no names, by their number."""
FOREIGN = {  # how files begin that are something else, whatever their suffix says
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "an Excel workbook (name it .xlsx?) or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (save it as .xlsx)",
    b"\x1f\x8b": "gzip (name it .csv.gz?)",
    b"PAR1": "Parquet (name it .parquet?)",
    b"\xff\xfe": "UTF-16 text (save it as UTF-8)",
    b"\xfe\xff": "UTF-16 text (save it as UTF-8)",
    b"<": "a web page (HTML)",
}


class Header(NamedTuple):
    """The header of a CSV file.

    Attributes:
        columns: Names of the columns. The first may have none, and is empty then.
        named: Whether the file has a line of names.
        start: Number of the byte at which the rows begin.
        line: Number of the line of names, or of the first row without one.
        delimiter: Character between the columns.
        decimal: Decimal separator, ``.`` or ``,``.
        remarks: What to tell the user of how the file is read.
    """

    columns: list[str]
    named: bool
    start: int
    line: int
    delimiter: str
    decimal: str
    remarks: list[str]


def is_number(cell: str, decimal: str) -> bool:
    """Tell whether a cell is a number, given the decimal separator."""
    if decimal == ",":
        cell = cell.translate(str.maketrans(",.", ".x"))
    return NUMBER.fullmatch(cell) is not None


def to_number(cell: str) -> float:
    """Convert a cell that is a number, with either decimal separator."""
    return float(cell.replace(",", "."))


def read_cells(
    text: str, line: int, delimiter: str, location: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row with the number of its line; blank lines are no rows.

    Raises:
        DataError: If quotes are out of order.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    start = line
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = line + reader.line_num
    except csv.Error as error:
        raise DataError(f"{location}, line {start}: {error}") from None


def read_header(head: bytes, location: str, expected: str) -> Header:
    """Read the columns' names, and find the delimiter and the decimal separator.

    Args:
        head: Beginning of the file.
        location: Name of the file for messages.
        expected: Delimiter, unless the lines say otherwise.

    Raises:
        DataError: If the file is not CSV, or its columns cannot be told.
    """
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    beginning = head[start : start + 1024].lstrip()
    for signature, what in FOREIGN.items():
        if beginning.startswith(signature):
            raise DataError(f"{location}: is not CSV but {what}")
    if b"\0" in head:
        raise DataError(f"{location}: is not CSV, it holds NUL bytes (UTF-16 text?)")
    lines = list(islice(re.compile(rb"[^\r\n]+").finditer(head, start), 2))
    if not lines:
        raise DataError(f"{location}: is empty")
    first, following = lines[0], lines[-1][0].decode(errors="replace")
    line = 1 + head.count(b"\n", 0, first.start())
    where = f"{location}, line {line}"
    sample = head[first.start() : first.start() + SAMPLE].decode(errors="replace")
    try:
        text = first[0].decode()
        delimiter = _find_delimiter(text, following, expected)
        cells = next(csv.reader([text], delimiter=delimiter, strict=True))
    except UnicodeDecodeError:
        raise DataError(f"{where}: is not UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{where}: is not CSV: {error}") from None
    decimal = _find_decimal(sample, delimiter)
    remarks = []
    if delimiter != expected or decimal == ",":
        separators = "commas" if decimal == "," else "points"
        between = (NAMES | BLANKS)[delimiter]
        remarks.append(f"read with {between} between its columns and {separators} in decimals")
    if len(cells) == 1:
        _check_single_column(text, following, where)
    if _lacks_name_of_index(text, following, delimiter):
        cells = ["", *cells]
    _check_title(cells, decimal, where)
    if _are_names(cells, decimal):
        columns = clean_names(cells, where)
        return Header(columns, True, first.end(), line, delimiter, decimal, remarks)
    rows = (cells for _, cells in read_cells(sample, line, delimiter, location))
    if not _are_published(rows, len(cells), decimal):
        numbers = _numbers(cells, decimal)
        more = ", ..." if len(numbers) > 3 else ""
        raise DataError(
            f"{where}: holds {len(numbers)} numbers and not the columns' names "
            f"({', '.join(map(quote, numbers[:3]))}{more}); without names only the published "
            "layout is understood: male and female (0 or 1) or neither, nine scores up to "
            f"{HIGHEST_SCORE:,}, and the GPA up to {HIGHEST_GPA}"
        )
    columns = PUBLISHED[len(cells)]
    remarks.append(
        f"line {line} holds no names, so the columns are those of the published layout: "
        f"{', '.join(columns)}"
    )
    return Header(columns, False, first.start(), line, delimiter, decimal, remarks)


def _find_delimiter(text: str, following: str, expected: str) -> str:
    """Find the delimiter, from the line of names and the next."""
    comma = r"(?<!\d),|,(?!\d)"  # and not a decimal one
    commas = expected == "," and re.search(comma, text)
    fields = {each: len(_fields(text, each)) for each in NAMES}
    fitting = [d for d, n in fields.items() if 1 < n == len(_fields(following, d))]
    if not fitting:
        likely = (d for d in {**NAMES, **BLANKS} if _lacks_name_of_index(text, following, d))
        fitting = [*likely][:1]
    others = [each for each in fitting if each != ","]
    if expected in fitting and (not others or (commas and re.search(comma, following))):
        return expected
    if others:
        return expected if expected in others else others[0]
    if commas:
        return ","
    there = [each for each in (expected, *NAMES) if each in text.strip()]
    return next((each for each in there if each != ","), ",")


def _find_decimal(sample: str, delimiter: str) -> str:
    """Find the decimal separator: the one that more numbers are written with."""
    cells = [cell.strip(' "') for cell in re.split(rf"[{delimiter}\r\n]", sample)]
    with_comma = sum(bool(re.fullmatch(r"[+-]?\d+,\d+", each)) for each in cells)
    with_point = sum(bool(re.fullmatch(r"[+-]?\d+\.\d+", each)) for each in cells)
    return "," if delimiter != "," and with_comma > with_point else "."


def _lacks_name_of_index(text: str, following: str, delimiter: str) -> bool:
    """Tell whether a line of names has none for the rows' names, as R's `write.table` has not.

    Then each row has a field more. That a number was written with a comma in it looks alike,
    but for the quotes or letters of a name.
    """
    cells = _fields(following, delimiter)
    if not 1 < len(_fields(text, delimiter)) == len(cells) - 1 or not cells[-1]:
        return False
    numbers = [NUMBER.fullmatch(cell.replace(",", ".")) for cell in cells]
    named = delimiter != "," or following.startswith('"') or not numbers[0]
    return named and any(numbers[1:])


def _check_single_column(text: str, following: str, where: str) -> None:
    """Refuse a line of one field above lines of several."""
    fields = max(len(_fields(following, each)) for each in NAMES)
    if fields > 1:
        raise DataError(
            f"{where}: {quote(text)} is one field, but the next line has {fields:,}; a title "
            "above the columns' names has to go"
        )
    if " " in text.strip() and " " in following.strip():
        raise DataError(
            f"{where}: seems to have blanks between its columns; "
            "save it with commas, and with points in decimals"
        )


def _check_title(cells: Sequence[str], decimal: str, where: str) -> None:
    """Refuse a line of which only one field is not empty."""
    names = [cell for cell in cells if cell.strip()]
    if len(names) == 1 < len(cells) - 1 and not _numbers(cells, decimal):
        raise DataError(
            f"{where}: only one of {len(cells):,} columns has a name, {quote(names[0])}; "
            "a title above the columns' names has to go"
        )


def _are_names(cells: Sequence[str], decimal: str) -> bool:
    """Tell whether the cells of a line are names of columns, and not a row of numbers."""
    numbers = _numbers(cells, decimal)
    valued = len(numbers) + sum(cell.strip() in MISSING for cell in cells)
    if 2 * valued <= len(cells) or not numbers:
        return True
    # pandas names columns without names by their numbers, and the column of those not at all
    if cells == ["", *map(str, range(len(cells) - 1))]:
        return True
    # years, say, behind the names of other columns or none
    steps = {round(b - a, 9) for a, b in pairwise(map(to_number, numbers))}
    behind_others = valued < len(cells) or not cells[0].strip()
    return behind_others and len(numbers) > 2 and len(steps) == 1 and min(steps) > 0


def _are_published(rows: Iterator[list[str]], width: int, decimal: str) -> bool:
    """Tell whether rows can be students in the published layout."""
    if width not in PUBLISHED:
        return False
    highest = {**dict.fromkeys(SEX, 1), TARGET: HIGHEST_GPA}
    for cells in rows:
        for name, cell in zip(PUBLISHED[width], cells, strict=False):
            number = to_number(cell) if is_number(cell, decimal) else 0.0
            whole = name not in SEX or number.is_integer()
            if not (0 <= number <= highest.get(name, HIGHEST_SCORE) and whole):
                return False
    return True


def _numbers(cells: Sequence[str], decimal: str) -> list[str]:
    return [cell for cell in cells if is_number(cell, decimal)]


def _fields(text: str, delimiter: str) -> list[str]:
    """Return a line's fields between delimiters, none if they cannot be told."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []
