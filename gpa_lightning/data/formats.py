"""The files that a table is read from: CSV, packed or not, Parquet, folders of it, and Excel."""

from __future__ import annotations

import io
import logging
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

import pandas as pd
import pyarrow as pa

from gpa_lightning.data.csv_file import CsvFile
from gpa_lightning.data.file_errors import explain_errors
from gpa_lightning.data.parquet_files import ParquetFile, ParquetFolder
from gpa_lightning.data.table import DataError, list_names

TableFile: TypeAlias = CsvFile | ParquetFile | ParquetFolder

STANDARD_INPUT = "-"

log = logging.getLogger(__name__)


@contextmanager
def open_table(file: Path, location: str) -> Iterator[TableFile]:
    """Open a file, or a folder of Parquet files; errors of reading it become a DataError."""
    with explain_errors(location):
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            yield ParquetFolder(file, location)
        elif not stat.S_ISREG(mode):
            raise DataError(f"{location}: is not a regular file")
        else:
            with file.open("rb") as handle:
                yield _open_by_name(handle, location, file.name.lower())
    pa.default_memory_pool().release_unused()  # it keeps the largest row group's otherwise


def warn_of_remarks(table: TableFile, location: str) -> None:
    """Log what a reader has found out about its table by guessing."""
    for remark in table.remarks:
        log.warning("%s: %s", location, remark)


def _open_by_name(handle: IO[bytes], location: str, name: str) -> CsvFile | ParquetFile:
    packed = name.endswith(".gz")
    if name.endswith(".parquet"):
        return ParquetFile(handle, location)
    if name.endswith((".csv", ".csv.gz")):
        return CsvFile(handle, location, packed)
    if name.endswith((".tsv", ".tsv.gz")):
        return CsvFile(handle, location, packed, expected="\t")
    if name.endswith(".xlsx"):
        return _workbook(handle, location)
    raise DataError(f"{location}: is not named .csv, .tsv, .csv.gz, .tsv.gz, .parquet or .xlsx")


@contextmanager
def open_input(location: str) -> Iterator[TableFile]:
    """Open a table as `open_table` does, or for ``-`` the CSV or Parquet of standard input."""
    if location != STANDARD_INPUT:
        with open_table(Path(location), location) as table:
            yield table
        return
    with explain_errors("standard input"), tempfile.TemporaryFile() as handle:
        shutil.copyfileobj(sys.stdin.buffer, handle)
        handle.seek(0)
        kind = ".parquet" if handle.read(4) == b"PAR1" else ".csv"
        handle.seek(0)
        yield _open_by_name(handle, "standard input", kind)


LARGEST_RATIO = 100
"""How many times larger than a workbook its content may be; real ones unpack to ten times."""


def _workbook(handle: IO[bytes], location: str) -> CsvFile:
    """Read the first sheet of an Excel workbook, as the CSV file that it would be saved as."""
    try:
        with zipfile.ZipFile(handle) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > max(2**26, LARGEST_RATIO * handle.seek(0, io.SEEK_END)):
            raise DataError(f"{location}: unpacks to {size:,} bytes; save it as .csv")
        with pd.ExcelFile(handle, engine="openpyxl") as book:
            first, *others = book.sheet_names
            sheet = book.parse(first, header=None, dtype=object, keep_default_na=False)
    except ImportError as error:
        raise DataError(
            f"{location}: reading Excel's files needs openpyxl: pip install openpyxl"
        ) from error
    except DataError:
        raise
    except Exception as error:  # what openpyxl raises for a file that is none is anything
        raise DataError(f"{location}: is no Excel workbook, or a damaged one") from error
    # a row of no cells is no row, as a blank line is none
    text = re.sub(r"(?m)^,+$", "", sheet.to_csv(index=False, header=False))
    table = CsvFile(io.BytesIO(text.encode()), location, original=handle)
    if others:
        table.remarks.append(f"read is the first sheet, {first!r}, and not {list_names(others)}")
    return table
