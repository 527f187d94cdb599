"""A CSV file: what stands between its columns, its header line, and its rows as numbers.

It is read in blocks of a few megabytes, each parsed at full speed by pyarrow and looked at closely
only when that fails. So a good file costs little more than its parsing, memory stays near the size
of the table, and a bad file is reported with its line and column.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, islice, pairwise
from typing import IO, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import types as arrow_types

from gpa_lightning.data.table import (
    FEATURES,
    LARGEST,
    MISSING,
    SEX,
    TARGET,
    DataError,
    Rows,
    TextError,
    clean_names,
    quote,
    sha256_of,
)

NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}  # of what is between columns
BLANKS = {" ": "blanks"}  # only in R's own form, as names may have blanks in them


class CsvFile:
    """A CSV file, perhaps packed, with a header line or in the published layout without one.

    Args:
        handle: The file.
        location: What messages call it.
        packed: Whether it is packed by gzip.
        expected: What stands between the columns unless it says otherwise.
        original: The file that it was made from, if there is another.

    Raises:
        DataError: If the columns cannot be told.

    Attributes:
        columns: The columns' names; that of the first may be missing, and empty.
        index: Names of columns that only name the rows.
        ends: Name of the last column.
        named: Whether the file has a line of names.
        remarks: What to tell of how it is read.
        decimal: What stands in front of decimals: a point, or a comma.
    """

    BLOCK = 4 * 2**20  # bytes parsed at a time, and the longest row
    SAMPLE = 2**16  # bytes looked at before anything is read
    # exam scores pack to a half or a third; whatever packs far better is meant to fill the memory
    PACKED_UNSUSPICIOUS, PACKED_RATIO, PACKED_TYPICAL = 64 * 2**20, 10, 3
    NUMBER = re.compile(r"[ \t]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t]*", re.ASCII)
    NUMERIC = (
        *(arrow_types.is_integer, arrow_types.is_floating),
        *(arrow_types.is_boolean, arrow_types.is_null),  # 0 and 1; missing
    )
    HIGHEST_SCORE, HIGHEST_GPA = 2_000, 4  # of the published layout; its own scores end at 1,072
    HEADERLESS: ClassVar = {
        len(columns): list(columns)
        for columns in (
            FEATURES,
            (*FEATURES, TARGET),
            (*SEX, *FEATURES),
            (*SEX, *FEATURES, TARGET),
        )
    }
    FOREIGN: ClassVar = {  # how files begin that are something else, whatever their suffix says
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

    num_rows: None = None  # to be found out by reading them

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
        self.remarks: list[str] = []
        self.named = True
        if packed:
            self.limit = max(self.PACKED_UNSUSPICIOUS, self.PACKED_RATIO * self._size())
            self.handle = gzip.GzipFile(fileobj=handle)  # type: ignore[assignment]
        self.delimiter, self.decimal = ",", "."
        self.columns, self.start, self.line = self._header(expected)
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
        """Yield the picked columns as numbers, in the order of ``picked``; NaN is missing.

        Raises:
            TextError: If columns hold no numbers.
            DataError: If a value is none, or out of the range of single precision.
        """
        keys = [str(i) for i in picked]
        for line, block in self._blocks():
            try:
                table = self._parse(block, keys, dict.fromkeys(keys, pa.float64()))
            except pa.ArrowInvalid:
                table = self._looked_at(line, block, picked)
            numbers = [column.cast(pa.float64(), safe=False) for column in table.columns]
            values = np.column_stack([column.to_numpy() for column in numbers])
            too_large = (np.abs(values) > LARGEST).any(axis=0)
            if too_large.any():
                raise self._mistake(line, block, [*compress(picked, too_large)])

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

    # What it says of itself

    def _header(self, expected: str) -> tuple[list[str], int, int]:
        """Return the columns' names, and at which byte and in which line the rows begin."""
        head = self.handle.read(self.BLOCK)
        start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        beginning = head[start : start + 1024].lstrip()
        for signature, what in self.FOREIGN.items():
            if beginning.startswith(signature):
                raise DataError(f"{self.location}: is not CSV but {what}")
        if b"\0" in head:
            raise DataError(f"{self.location}: is not CSV, it holds NUL bytes (UTF-16 text?)")
        lines = list(islice(re.compile(rb"[^\r\n]+").finditer(head, start), 2))
        if not lines:
            raise DataError(f"{self.location}: is empty")
        first, following = lines[0], lines[-1][0].decode(errors="replace")
        line = 1 + head.count(b"\n", 0, first.start())
        where = f"{self.location}, line {line}"
        sample = head[first.start() : first.start() + self.SAMPLE]
        try:
            text = first[0].decode()
            self._find_delimiter(text, following, sample, expected)
            cells = next(csv.reader([text], delimiter=self.delimiter, strict=True))
        except UnicodeDecodeError:
            raise DataError(f"{where}: is not UTF-8 text") from None
        except csv.Error as error:
            raise DataError(f"{where}: is not CSV: {error}") from None
        if len(cells) == 1:
            self._compare_with_next(text, following, where)
        if self._leaves_out_row_names(text, following, self.delimiter):
            cells = ["", *cells]
        numbers = [cell for cell in cells if self._is_number(cell)]
        valued = len(numbers) + sum(cell.strip() in MISSING for cell in cells)
        # pandas names columns without names by their numbers, and the column of those not at all
        by_pandas = cells == ["", *map(str, range(len(cells) - 1))]
        # years, say, behind the names of other columns or none
        steps = {round(b - a, 9) for a, b in pairwise(map(self._number, numbers))}
        behind_others = valued < len(cells) or not cells[0].strip()
        counting = behind_others and len(numbers) > 2 and len(steps) == 1 and min(steps) > 0
        names = [cell for cell in cells if cell.strip()]
        if len(names) == 1 < len(cells) - 1 and not numbers:
            raise DataError(
                f"{where}: only one of {len(cells):,} columns has a name, {quote(names[0])}; "
                "a title above the columns' names has to go"
            )
        if 2 * valued <= len(cells) or not numbers or by_pandas or counting:
            return clean_names(cells, where), first.end(), line
        if not self._looks_published(line, sample, len(cells)):
            more = ", ..." if len(numbers) > 3 else ""
            raise DataError(
                f"{where}: holds {len(numbers)} numbers and not the columns' names "
                f"({', '.join(map(quote, numbers[:3]))}{more}); without names only the published "
                "layout is understood: male and female (0 or 1) or neither, nine scores up to "
                f"{self.HIGHEST_SCORE:,}, and the GPA up to {self.HIGHEST_GPA}"
            )
        self.named = False
        names = self.HEADERLESS[len(cells)]
        self.remarks.append(
            f"line {line} holds no names, so the columns are those of the published layout: "
            f"{', '.join(names)}"
        )
        return names, first.start(), line

    def _find_delimiter(self, text: str, following: str, sample: bytes, expected: str) -> None:
        """Find out what stands between the columns and in front of decimals, from two lines."""
        comma = r"(?<!\d),|,(?!\d)"  # and not a decimal one
        commas = expected == "," and re.search(comma, text)
        fields = {each: _count_fields(text, each) for each in NAMES}
        fitting = [d for d, n in fields.items() if 1 < n == _count_fields(following, d)]
        if not fitting:
            likely = (
                d for d in {**NAMES, **BLANKS} if self._leaves_out_row_names(text, following, d)
            )
            fitting = [*likely][:1]
        others = [each for each in fitting if each != ","]
        if expected in fitting and (not others or (commas and re.search(comma, following))):
            self.delimiter = expected
        elif others:
            self.delimiter = expected if expected in others else others[0]
        elif not commas:
            there = [each for each in (expected, *NAMES) if each in text.strip()]
            self.delimiter = next((each for each in there if each != ","), ",")
        cells = re.split(rf"[{self.delimiter}\r\n]", sample.decode(errors="replace"))
        numbers = [cell.strip(' "') for cell in cells]
        of_commas = sum(bool(re.fullmatch(r"[+-]?\d+,\d+", each)) for each in numbers)
        of_points = sum(bool(re.fullmatch(r"[+-]?\d+\.\d+", each)) for each in numbers)
        if self.delimiter != "," and of_commas > of_points:
            self.decimal = ","
        if self.delimiter != expected or self.decimal == ",":
            in_front = "commas" if self.decimal == "," else "points"
            self.remarks.append(
                f"read with {(NAMES | BLANKS)[self.delimiter]} between its columns and {in_front} "
                "in decimals"
            )

    def _leaves_out_row_names(self, text: str, following: str, delimiter: str) -> bool:
        """Tell whether a line of names has none for the rows' names, as R's `write.table` has not.

        Then each row has a field more. That a number was written with a comma in it looks alike,
        but for the quotes or letters of a name.
        """
        cells = _fields(following, delimiter)
        if not 1 < _count_fields(text, delimiter) == len(cells) - 1 or not cells[-1]:
            return False
        numbers = [self.NUMBER.fullmatch(cell.replace(",", ".")) for cell in cells]
        named = delimiter != "," or following.startswith('"') or not numbers[0]
        return named and any(numbers[1:])

    def _compare_with_next(self, text: str, following: str, where: str) -> None:
        """Refuse a line of one field above lines of several."""
        fields = max(_count_fields(following, each) for each in NAMES)
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

    def _looks_published(self, line: int, sample: bytes, width: int) -> bool:
        """Tell whether the first rows can be students in the published layout."""
        if width not in self.HEADERLESS:
            return False
        names = self.HEADERLESS[width]
        highest = {**dict.fromkeys(SEX, 1), TARGET: self.HIGHEST_GPA}
        for _, cells in self._lines(line, sample):
            for name, cell in zip(names, cells, strict=False):
                number = self._number(cell) if self._is_number(cell) else 0.0
                whole = name not in SEX or number.is_integer()
                if not (0 <= number <= highest.get(name, self.HIGHEST_SCORE) and whole):
                    return False
        return True

    def _is_number(self, cell: str) -> bool:
        if self.decimal == ",":
            cell = cell.translate(str.maketrans(",.", ".x"))
        return self.NUMBER.fullmatch(cell) is not None

    @staticmethod
    def _number(cell: str) -> float:
        return float(cell.replace(",", "."))

    # Its rows

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
        """Return where the last line break is that is not in a quoted text."""
        end = block.rfind(b"\n") + 1
        if block.count(b'"', 0, end) % 2 == 0:
            return end
        data = np.frombuffer(block, np.uint8)
        quoted = np.logical_xor.accumulate(data == ord('"'))
        ends = np.flatnonzero((data == ord("\n")) & ~quoted)
        return int(ends[-1]) + 1 if ends.size else 0

    def _parse(self, block: bytes, keys: list[str], types: Mapping[str, pa.DataType]) -> pa.Table:
        """Parse the columns whose places are the ``keys``, at full speed."""
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

    def _looked_at(self, line: int, block: bytes, picked: Sequence[int]) -> pa.Table:
        """Parse a block in which not all is a number: truth values, or blanks where one is missing.

        Raises:
            DataError: If there is anything else.
        """
        try:
            table, other = self._inferred(block, picked)
            if other:
                between = re.escape(self.delimiter).encode()
                words = b"|".join(re.escape(each).encode() for each in MISSING if each)
                missing = rb'(?<![^%b\r\n])("?) *(?:(?:%b) *)?\1(?=[%b\r\n]|\Z)'
                block_of_less = re.sub(missing % (between, words, between), b"", block)
                table, other = self._inferred(block_of_less, picked)
        except pa.ArrowInvalid as error:
            raise self._mistake(line, block, picked) from error
        if other:
            raise self._text(line, block, other) or self._mistake(line, block, other)
        return table

    def _inferred(self, block: bytes, picked: Sequence[int]) -> tuple[pa.Table, list[int]]:
        """Parse a block to the types that pyarrow finds, and say which columns are no numbers."""
        table = self._parse(block, [str(i) for i in picked], {})
        kinds = zip(picked, table.schema.types, strict=True)
        return table, [i for i, kind in kinds if not any(each(kind) for each in self.NUMERIC)]

    def _text(self, line: int, block: bytes, picked: Sequence[int]) -> DataError | None:
        """Return which columns of a block are text for the most part, if any are."""
        counts, rows, example = dict.fromkeys(picked, 0), 0, ""
        for start, cells in self._lines(line, block):
            rows += 1
            for i in picked:
                if not (self._is_number(cells[i]) or cells[i].strip() in MISSING):
                    counts[i] += 1
                    example = example or f"{quote(cells[i])} in line {start}"
        names = [self.columns[i] for i, count in counts.items() if 2 * count > rows]
        return TextError(self.location, names, f"text ({example})") if names else None

    def _lines(self, line: int, block: bytes) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's cells with the number of its line, slowly; blank lines are no rows."""
        text = io.StringIO(block.decode(errors="replace"), newline="")
        reader = csv.reader(text, delimiter=self.delimiter)
        start = line
        try:
            for cells in reader:
                if cells:
                    yield start, cells
                start = line + reader.line_num
        except csv.Error as error:
            raise DataError(f"{self.location}, line {start}: {error}") from None

    def _mistake(self, line: int, block: bytes, picked: Sequence[int]) -> DataError:
        """Return what is wrong with a block that could not be parsed."""
        for start, cells in self._lines(line, block):
            where = f"{self.location}, line {start}"
            if len(cells) != len(self.columns):
                advice = " (commas within numbers?)" if len(cells) > len(self.columns) else ""
                return DataError(
                    f"{where}: has {len(cells):,} fields instead of {len(self.columns):,}{advice}"
                )
            for i in picked:
                reason = self._objection(cells[i])
                if reason:
                    return DataError(f"{where}, column {quote(self.columns[i])}: {reason}")
        return DataError(f"{self.location}, line {line} or later: quotes are out of order")

    def _objection(self, cell: str) -> str | None:
        """Return what keeps a cell from being a number in the range of single precision."""
        if cell.strip() in MISSING:
            return None
        if not self._is_number(cell):
            written = "1234,5" if self.decimal == "," else "1234.5"
            advice = f", write it as {written}" if re.search(r"\d[.,]\d", cell) else ""
            return f"{quote(cell)} is not a number{advice}"
        return None if abs(self._number(cell)) <= LARGEST else f"{quote(cell)} is too large"


def _fields(text: str, delimiter: str) -> list[str]:
    """Return a line's fields between delimiters, none if they cannot be told."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _count_fields(text: str, delimiter: str) -> int:
    return len(_fields(text, delimiter))
