"""A CSV file, whose rows are read as numbers.

It is read in blocks of a few megabytes, each parsed at full speed by pyarrow and looked at closely
only when that fails. So a good file costs little more than its parsing, memory stays near the size
of the table, and a bad file is reported with its line and column.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, islice
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import types as arrow_types

from gpa_lightning.data.csv_header import is_number, read_cells, read_header, to_number
from gpa_lightning.data.table import LARGEST, MISSING, DataError, Rows, TextError, quote, sha256_of


class CsvFile:
    """A CSV file, perhaps packed, with a header line or in the published layout without one.

    Args:
        handle: The file.
        location: Name of it for messages.
        packed: Whether it is packed by gzip.
        expected: Delimiter of the columns, unless the file says otherwise.
        original: The file that this one was made from, if there is another.

    Raises:
        DataError: If the columns cannot be told.

    Attributes:
        columns: Names of the columns. The first may have none, and is empty then.
        index: Names of columns that only name the rows.
        ends: Name of the last column.
        named: Whether the file has a line of names.
        remarks: What to tell the user of how it is read.
        decimal: Decimal separator, ``.`` or ``,``.
        num_rows: Number of rows, or None if it takes reading them.
    """

    BLOCK = 4 * 2**20  # bytes parsed at a time, and the longest row
    # exam scores pack to a half or a third; whatever packs far better is meant to fill the memory
    PACKED_UNSUSPICIOUS, PACKED_RATIO, PACKED_TYPICAL = 64 * 2**20, 10, 3
    NUMERIC = (
        *(arrow_types.is_integer, arrow_types.is_floating),
        *(arrow_types.is_boolean, arrow_types.is_null),  # 0 and 1; missing
    )
    num_rows: None = None

    def __init__(
        self,
        handle: IO[bytes],
        location: str,
        packed: bool = False,
        expected: str = ",",
        original: IO[bytes] | None = None,
    ) -> None:
        self.location = location
        self.file = original or handle
        self.limit = float("inf")
        self.handle = handle
        if packed:
            self.limit = max(self.PACKED_UNSUSPICIOUS, self.PACKED_RATIO * self._size())
            self.handle = gzip.GzipFile(fileobj=handle)  # type: ignore[assignment]
        header = read_header(self.handle.read(self.BLOCK), location, expected)
        self.columns, self.named, self.remarks = header.columns, header.named, header.remarks
        self.start, self.line = header.start, header.line
        self.delimiter, self.decimal = header.delimiter, header.decimal
        self.index = [name for name in self.columns if not name]
        self.ends = {self.columns[-1]}

    def _size(self) -> int:
        place = self.file.tell()
        size = self.file.seek(0, io.SEEK_END)
        self.file.seek(place)
        return size

    def memory(self) -> int:
        """Estimate the bytes of all values as float64: a number has about eight characters."""
        size = self._size()
        return size if self.handle is self.file else self.PACKED_TYPICAL * size

    def rows(self, picked: Sequence[int]) -> Iterator[Rows]:
        """Yield blocks of rows of some columns; NaN is a missing value.

        Args:
            picked: Numbers of the columns, in the order that they are wanted in.

        Raises:
            TextError: If columns hold no numbers.
            DataError: If a value is none, or out of the range of single precision.
        """
        keys = [str(i) for i in picked]
        for line, block in self._blocks():
            try:
                table = self._parse(block, keys, dict.fromkeys(keys, pa.float64()))
            except pa.ArrowInvalid:
                table = self._parse_closely(line, block, picked)
            numbers = [column.cast(pa.float64(), safe=False) for column in table.columns]
            values = np.column_stack([column.to_numpy() for column in numbers])
            too_large = (np.abs(values) > LARGEST).any(axis=0)
            if too_large.any():
                raise self._find_mistake(line, block, [*compress(picked, too_large)])

            def place(row: int, line: int = line, block: bytes = block) -> str:
                return f"line {next(islice(self._lines(line, block), row, None))[0]}"

            yield values, place

    def frame(self) -> pd.DataFrame:
        """Return all columns as the text they are."""
        tables = []
        keys = [str(i) for i in range(len(self.columns))]
        for line, block in self._blocks():
            try:
                block.decode()
            except UnicodeDecodeError as error:
                line += block.count(b"\n", 0, error.start)
                raise DataError(f"{self.location}, line {line}: is not UTF-8 text") from None
            tables.append(self._parse(block, keys, dict.fromkeys(keys, pa.string())))
        table = pa.concat_tables(tables).rename_columns(self.columns)
        return table.to_pandas(types_mapper=pd.ArrowDtype)

    def sha256(self) -> str:
        """Hash the file's bytes."""
        return sha256_of([self.file])

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield all rows in blocks of whole ones, each with the number of its first line."""
        self.handle.seek(self.start)
        size, line, rest = self.start, self.line, b""
        while part := self.handle.read(self.BLOCK):
            size += len(part)
            if size > self.limit:
                raise DataError(
                    f"{self.location}: unpacks to over {self.limit:,} bytes; "
                    "if that is right, unpack it yourself"
                )
            block = rest + part
            last = len(part) < self.BLOCK
            end = len(block) if last else self._end_of_rows(block)
            if len(block) - end > self.BLOCK:
                line += block.count(b"\n", 0, end)
                raise DataError(
                    f"{self.location}, line {line}: "
                    f"is longer than {self.BLOCK:,} bytes, or a quote does not end"
                )
            if end:
                yield line, block[:end]
                line += block.count(b"\n", 0, end)
            rest = block[end:]
        if rest:
            yield line, rest

    @staticmethod
    def _end_of_rows(block: bytes) -> int:
        """Return the end of the last whole row: a line break that is not in a quoted text."""
        end = block.rfind(b"\n") + 1
        if block.count(b'"', 0, end) % 2 == 0:
            return end
        data = np.frombuffer(block, np.uint8)
        quoted = np.logical_xor.accumulate(data == ord('"'))
        ends = np.flatnonzero((data == ord("\n")) & ~quoted)
        return int(ends[-1]) + 1 if ends.size else 0

    def _parse(self, block: bytes, keys: list[str], types: Mapping[str, pa.DataType]) -> pa.Table:
        """Parse some columns, named by the ``keys`` (their numbers), at full speed."""
        return arrow_csv.read_csv(
            pa.py_buffer(block),
            arrow_csv.ReadOptions(
                # not the names, which pyarrow would have to find distinct
                column_names=[str(i) for i in range(len(self.columns))],
                use_threads=False,
                block_size=2 * len(block),
            ),
            arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=keys,
                null_values=MISSING,
                decimal_point=self.decimal,
            ),
        )

    def _parse_closely(self, line: int, block: bytes, picked: Sequence[int]) -> pa.Table:
        """Parse a block in which not all is a number: truth values, or blanks where one is missing.

        Raises:
            DataError: If there is anything else.
        """
        try:
            table, other = self._infer(block, picked)
            if other:
                between = re.escape(self.delimiter).encode()
                words = b"|".join(re.escape(each).encode() for each in MISSING if each)
                missing = rb'(?<![^%b\r\n])("?) *(?:(?:%b) *)?\1(?=[%b\r\n]|\Z)'
                block_of_less = re.sub(missing % (between, words, between), b"", block)
                table, other = self._infer(block_of_less, picked)
        except pa.ArrowInvalid as error:
            raise self._find_mistake(line, block, picked) from error
        if other:
            raise self._find_text(line, block, other) or self._find_mistake(line, block, other)
        return table

    def _infer(self, block: bytes, picked: Sequence[int]) -> tuple[pa.Table, list[int]]:
        """Parse a block to the types that pyarrow finds, and say which columns are no numbers."""
        table = self._parse(block, [str(i) for i in picked], {})
        kinds = zip(picked, table.schema.types, strict=True)
        return table, [i for i, kind in kinds if not any(each(kind) for each in self.NUMERIC)]

    def _find_text(self, line: int, block: bytes, picked: Sequence[int]) -> DataError | None:
        """Return the error for columns that are text in most rows of a block, if there are any."""
        counts, rows, example = dict.fromkeys(picked, 0), 0, ""
        for start, cells in self._lines(line, block):
            rows += 1
            for i in picked:
                if not (is_number(cells[i], self.decimal) or cells[i].strip() in MISSING):
                    counts[i] += 1
                    example = example or f"{quote(cells[i])} in line {start}"
        names = [self.columns[i] for i, count in counts.items() if 2 * count > rows]
        return TextError(self.location, names, f"text ({example})") if names else None

    def _lines(self, line: int, block: bytes) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's cells with the number of its line, slowly."""
        return read_cells(block.decode(errors="replace"), line, self.delimiter, self.location)

    def _find_mistake(self, line: int, block: bytes, picked: Sequence[int]) -> DataError:
        """Return the error for the first mistake in a block that could not be parsed."""
        for start, cells in self._lines(line, block):
            where = f"{self.location}, line {start}"
            if len(cells) != len(self.columns):
                advice = " (commas within numbers?)" if len(cells) > len(self.columns) else ""
                return DataError(
                    f"{where}: has {len(cells):,} fields instead of {len(self.columns):,}{advice}"
                )
            for i in picked:
                reason = self._explain_cell(cells[i])
                if reason:
                    return DataError(f"{where}, column {quote(self.columns[i])}: {reason}")
        return DataError(f"{self.location}, line {line} or later: quotes are out of order")

    def _explain_cell(self, cell: str) -> str | None:
        """Say why a cell is not a number in the range of single precision; None if it is."""
        if cell.strip() in MISSING:
            return None
        if not is_number(cell, self.decimal):
            written = "1234,5" if self.decimal == "," else "1234.5"
            advice = f", write it as {written}" if re.search(r"\d[.,]\d", cell) else ""
            return f"{quote(cell)} is not a number{advice}"
        return None if abs(to_number(cell)) <= LARGEST else f"{quote(cell)} is too large"
