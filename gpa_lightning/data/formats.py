"""The files that a table is read from: CSV, packed or not, Parquet, and folders of Parquet files.

A file is read in blocks of a few megabytes, each parsed at full speed and looked at closely only
when that fails or finds something odd. So a good file costs little more than its parsing, memory
stays near the size of the table, and a bad file is reported with its line and column.
"""

import codecs
import csv
import gzip
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import types as arrow_types
from pyarrow.parquet import ParquetFile

from gpa_lightning.data.table import FEATURES, SEX, TARGET, Array, DataError, listed, quoted

LARGEST = float(np.finfo(np.float32).max)  # training is in single precision

# some rows of a table, shape (rows, columns), and what to call the row of a given index
Rows: TypeAlias = tuple[Array, Callable[[int], str]]
TrainingFile: TypeAlias = "_Csv | _Parquet | _Folder"


@contextmanager
def opened(file: Path, location: str) -> Iterator["_Csv | _Parquet"]:
    """Open a table, and turn whatever goes wrong with its file into a DataError."""
    with _explained(location):
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{location}: is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise DataError(f"{location}: is not a regular file")
        with file.open("rb") as handle:
            name = file.name.lower()
            if name.endswith(".parquet"):
                yield _Parquet(handle, location)
            elif name.endswith((".csv", ".csv.gz")):
                yield _Csv(handle, location, packed=name.endswith(".gz"))
            else:
                raise DataError(f"{location}: is not named .csv, .csv.gz or .parquet")


@contextmanager
def opened_training(file: Path, location: str) -> Iterator[TrainingFile]:
    """Open a table as `opened` does; it may be a folder of Parquet files, too."""
    with _explained(location):
        if file.is_dir():
            yield _Folder(file, location)
        else:
            with opened(file, location) as table:
                yield table
    pa.default_memory_pool().release_unused()  # it keeps the largest row group's otherwise


@contextmanager
def _explained(location: str) -> Iterator[None]:
    """Turn whatever goes wrong with a table's file into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{location}: there is no such file") from None
    except PermissionError:
        raise DataError(f"{location}: you have no permission to read it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{location}: is no gzip file, or a damaged or incomplete one") from None
    except MemoryError:
        raise DataError(f"{location}: does not fit into memory") from None
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{location}: cannot be read: {reason.splitlines()[0]}") from error


def _sha256(handle: IO[bytes]) -> str:
    digest = hashlib.sha256()
    _update(digest, handle)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", handle: IO[bytes]) -> None:
    handle.seek(0)
    while part := handle.read(2**20):
        digest.update(part)


def _distinct(columns: Sequence[str], where: str) -> list[str]:
    """Return the names without blanks around them; they have to differ in more than case."""
    names: dict[str, str] = {}
    for place, name in enumerate(map(str.strip, columns), start=1):
        if not name:
            raise DataError(f"{where}: column {place} of {len(columns)} has no name")
        if name.casefold() in names:
            raise DataError(f"{where}: column {quoted(name)} is there twice")
        names[name.casefold()] = name
    return list(names.values())


class _Csv:
    """A CSV file, perhaps packed, with a header line or in the published layout without one."""

    BLOCK = 4 * 2**20  # bytes parsed at a time, and the longest row
    # exam scores pack to a half or a third; whatever packs far better is meant to fill the memory
    PACKED_UNSUSPICIOUS, PACKED_RATIO, PACKED_TYPICAL = 64 * 2**20, 10, 3
    DELIMITERS: ClassVar = {";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
    NUMBER = re.compile(r"[ \t]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t]*", re.ASCII)
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
        b"PK\x03\x04": "an Excel workbook or a ZIP archive",
        b"\xd0\xcf\x11\xe0": "an Excel workbook",
        b"\x1f\x8b": "gzip (name it .csv.gz?)",
        b"PAR1": "Parquet (name it .parquet?)",
        b"\xff\xfe": "UTF-16 text (save it as UTF-8)",
        b"\xfe\xff": "UTF-16 text (save it as UTF-8)",
        b"<": "a web page (HTML)",
    }

    index: Sequence[str] = ()
    num_rows: None = None  # to be found out by reading them

    def __init__(self, handle: IO[bytes], location: str, packed: bool) -> None:
        self.location = location
        self.file = handle
        self.limit = float("inf")
        self.handle = handle
        if packed:
            size = os.fstat(handle.fileno()).st_size
            self.limit = max(self.PACKED_UNSUSPICIOUS, self.PACKED_RATIO * size)
            self.handle = gzip.GzipFile(fileobj=handle)  # type: ignore[assignment]
        self.columns, self.start, self.line = self._header()

    def memory(self) -> int:
        """Estimate the bytes of all values as float64: a number has about eight characters."""
        size = os.fstat(self.file.fileno()).st_size
        return size if self.handle is self.file else self.PACKED_TYPICAL * size

    def rows(self, picked: Sequence[int]) -> Iterator[Rows]:
        """Yield the picked columns as numbers, in the order of ``picked``."""
        for line, block in self._blocks():
            try:
                table = self._parse(block, pa.float64(), [str(i) for i in picked])
            except pa.ArrowInvalid as error:
                raise self._mistake(line, block, picked) from error
            values = np.column_stack([column.to_numpy() for column in table.columns])
            if not np.all(np.abs(values) <= LARGEST):  # NaN compares false
                raise self._mistake(line, block, picked)

            def place(row: int, line: int = line, block: bytes = block) -> str:
                return f"line {next(islice(self._lines(line, block), row, None))[0]}"

            yield values, place

    def frame(self) -> pd.DataFrame:
        """Return all columns as the text they are."""
        tables = []
        for line, block in self._blocks():
            try:
                block.decode()
            except UnicodeDecodeError as error:
                line += block.count(b"\n", 0, error.start)
                raise DataError(f"{self.location}, line {line}: is not UTF-8 text") from None
            keys = [str(i) for i in range(len(self.columns))]
            tables.append(self._parse(block, pa.string(), keys))
        table = pa.concat_tables(tables).rename_columns(self.columns)
        return table.to_pandas(types_mapper=pd.ArrowDtype)

    def sha256(self) -> str:
        return _sha256(self.file)

    def _header(self) -> tuple[list[str], int, int]:
        """Return the columns' names, and at which byte and in which line the rows begin."""
        head = self.handle.read(self.BLOCK)
        start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        beginning = head[start : start + 1024].lstrip()
        for signature, what in self.FOREIGN.items():
            if beginning.startswith(signature):
                raise DataError(f"{self.location}: is not CSV but {what}")
        if b"\0" in head:
            raise DataError(f"{self.location}: is not CSV, it holds NUL bytes (UTF-16 text?)")
        first = re.compile(rb"[^\r\n]+").search(head, start)
        if first is None:
            raise DataError(f"{self.location}: is empty")
        line = 1 + head.count(b"\n", 0, first.start())
        where = f"{self.location}, line {line}"
        try:
            text = first[0].decode()
            cells = next(csv.reader([text], strict=True))
        except UnicodeDecodeError:
            raise DataError(f"{where}: is not UTF-8 text") from None
        except csv.Error as error:
            raise DataError(f"{where}: is not CSV: {error}") from None
        if not re.search(r"(?<!\d),|,(?!\d)", text):  # a comma, and not a decimal one
            for delimiter, name in self.DELIMITERS.items():
                if delimiter in text.strip():
                    raise DataError(
                        f"{where}: seems to have {name} between its columns; "
                        "save it with commas, and with points in decimals"
                    )
        if 2 * sum(self.NUMBER.fullmatch(cell) is not None for cell in cells) <= len(cells):
            return _distinct(cells, where), first.end(), line
        if len(cells) not in self.HEADERLESS:
            raise DataError(
                f"{where}: holds {len(cells)} numbers and not the columns' names, "
                "without which only the published layout of 10 or 12 columns is understood"
            )
        return self.HEADERLESS[len(cells)], first.start(), line

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

    def _parse(self, block: bytes, kind: pa.DataType, keys: list[str]) -> pa.Table:
        """Parse the columns whose places are the ``keys``, at full speed."""
        return arrow_csv.read_csv(
            pa.py_buffer(block),
            arrow_csv.ReadOptions(
                # not the names, which pyarrow would have to find distinct
                column_names=[str(i) for i in range(len(self.columns))],
                use_threads=False,
                block_size=2 * len(block),
            ),
            arrow_csv.ParseOptions(newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(keys, kind), include_columns=keys, null_values=[]
            ),
        )

    def _lines(self, line: int, block: bytes) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's cells with the number of its line, slowly; blank lines are no rows."""
        text = io.StringIO(block.decode(errors="replace"), newline="")
        reader = csv.reader(text)
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
                    return DataError(f"{where}, column {quoted(self.columns[i])}: {reason}")
        return DataError(f"{self.location}, line {line} or later: quotes are out of order")

    def _objection(self, cell: str) -> str | None:
        """Return what keeps a cell from being a number in the range of single precision."""
        if not cell.strip():
            return "is empty"
        if not self.NUMBER.fullmatch(cell):
            advice = ", write it as 1234.5" if re.search(r"\d,\d", cell) else ""
            return f"{quoted(cell)} is not a number{advice}"
        return None if abs(float(cell)) <= LARGEST else f"{quoted(cell)} is too large"


class _Parquet:
    """A Parquet file."""

    LARGEST_RATIO = 100  # as for packed CSV: repeated values take next to no space
    NUMBERS = (arrow_types.is_integer, arrow_types.is_floating, arrow_types.is_decimal)

    def __init__(self, handle: IO[bytes], location: str) -> None:
        self.handle = handle
        self.location = location
        self.file = ParquetFile(handle, pre_buffer=False, buffer_size=2**20)
        self.schema = self.file.schema_arrow
        self.columns = _distinct(self.schema.names, location)
        try:  # pandas puts an index behind the last column, where the target is looked for
            index = self.schema.pandas_metadata["index_columns"]
            self.index = [name for name in index if isinstance(name, str)]
        except (KeyError, TypeError, ValueError, RecursionError):  # the metadata are anyone's
            self.index = []
        metadata = self.file.metadata
        self.num_rows: int = metadata.num_rows
        size = max(
            self.memory(),
            sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)),
        )
        if size > max(2**26, self.LARGEST_RATIO * os.fstat(handle.fileno()).st_size):
            raise DataError(f"{location}: unpacks to {size:,} bytes; save it as .csv")

    def memory(self) -> int:
        """Return the bytes of all values as float64."""
        return 8 * self.num_rows * len(self.columns)

    def rows(self, picked: Sequence[int]) -> Iterator[Rows]:
        """Yield the picked columns as numbers, in the order of ``picked``."""
        fields = [self.schema.field(i) for i in picked]
        for field in fields:
            if not any(is_kind(field.type) for is_kind in self.NUMBERS):
                raise DataError(
                    f"{self.location}, column {quoted(field.name)}: holds {field.type}, not numbers"
                )
        first = 1
        for batch in self.file.iter_batches(2**16, columns=[field.name for field in fields]):

            def place(row: int, first: int = first) -> str:
                return f"row {first + row}"

            # selected again, as the batch has them in the file's order
            columns = batch.select([field.name for field in fields]).columns
            numbers = [column.cast(pa.float64(), safe=False) for column in columns]
            values = np.column_stack([n.to_numpy(zero_copy_only=False) for n in numbers])
            bad = ~(np.abs(values) <= LARGEST)  # what is missing is NaN, which compares false
            if bad.any():
                row, column = np.argwhere(bad)[0].tolist()
                value, name = values[row, column], fields[column].name
                reason = "is missing or NaN" if np.isnan(value) else f"{value:g} is too large"
                raise DataError(f"{self.location}, {place(row)}, column {quoted(name)}: {reason}")
            yield values, place
            first += len(batch)

    def frame(self) -> pd.DataFrame:
        """Return all columns, with the types they have in the file."""
        return self.file.read().replace_schema_metadata().to_pandas(types_mapper=pd.ArrowDtype)

    def sha256(self) -> str:
        return _sha256(self.handle)


class _Folder:
    """A folder of Parquet files with the same columns: one table, in the order of their names."""

    def __init__(self, folder: Path, location: str) -> None:
        entries = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
        if inner := [entry.name for entry in entries if entry.is_dir()]:
            raise DataError(
                f"{location}: holds the folder {quoted(inner[0])}; the Parquet files have to lie "
                "in it directly"
            )
        self.files = [entry for entry in entries if entry.name.lower().endswith(".parquet")]
        if not self.files:
            raise DataError(f"{location}: is a folder without .parquet files")
        self.location = location
        self.columns: Sequence[str] = ()
        self.index: Sequence[str] = ()
        self.num_rows = self._memory = 0
        for file in self.files:
            with self._opened(file) as part:
                if not self.columns:
                    self.columns, self.index = part.columns, part.index
                elif _places(part.columns).keys() != _places(self.columns).keys():
                    raise DataError(
                        f"{part.location}: has the columns {listed(part.columns)}, but "
                        f"{self.files[0].name} has {listed(self.columns)}"
                    )
                self.num_rows += part.num_rows or 0
                self._memory += part.memory()

    def _opened(self, file: Path) -> AbstractContextManager["_Csv | _Parquet"]:
        return opened(file, str(Path(self.location, file.name)))

    def memory(self) -> int:
        """Return the bytes of all values as float64."""
        return self._memory

    def rows(self, picked: Sequence[int]) -> Iterator[Rows]:
        """Yield the picked columns as numbers, in the order of ``picked``."""
        names = [self.columns[i].casefold() for i in picked]
        for file in self.files:
            with self._opened(file) as part:
                places = _places(part.columns)
                for values, place in part.rows([places[name] for name in names]):

                    def place_in_file(
                        row: int, name: str = file.name, place: Callable[[int], str] = place
                    ) -> str:
                        return f"{name}, {place(row)}"

                    yield values, place_in_file

    def sha256(self) -> str:
        """Hash the files' bytes, one file after the other in the order of their names."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as handle:
                _update(digest, handle)
        return digest.hexdigest()


def _places(columns: Sequence[str]) -> dict[str, int]:
    return {name.casefold(): i for i, name in enumerate(columns)}
