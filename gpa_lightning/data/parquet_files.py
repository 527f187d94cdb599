"""A Parquet file, and a folder of such files that are one table."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from pyarrow import types as arrow_types

from gpa_lightning.data.file_errors import explain_errors
from gpa_lightning.data.table import (
    LARGEST,
    DataError,
    Rows,
    TextError,
    clean_names,
    list_names,
    quote,
    sha256_of,
)


class ParquetFile:
    """A Parquet file, with the attributes and methods of `CsvFile`.

    Raises:
        DataError: If it is meant to fill the memory, or its columns' names are not distinct.
    """

    LARGEST_RATIO = 100  # as for packed CSV: repeated values take next to no space
    NUMBERS = (
        *(arrow_types.is_integer, arrow_types.is_floating, arrow_types.is_decimal),
        *(arrow_types.is_boolean, arrow_types.is_null),  # 0 and 1; missing
    )

    named = True
    remarks: Sequence[str] = ()
    decimal = "."

    def __init__(self, handle: IO[bytes], location: str) -> None:
        self.handle = handle
        self.location = location
        self.file = parquet.ParquetFile(handle, pre_buffer=False, buffer_size=2**20)
        self.schema = self.file.schema_arrow
        self.columns = clean_names(self.schema.names, location)
        self.index: list[str] = [name for name in self.columns if not name]
        try:  # pandas puts an index behind the last column, where the target is looked for
            index = self.schema.pandas_metadata["index_columns"]
            self.index += [name for name in index if isinstance(name, str) and name in self.columns]
        except (KeyError, TypeError, ValueError, RecursionError):  # the metadata are anyone's
            pass
        self.ends = {*[name for name in self.columns if name not in self.index][-1:]}
        metadata = self.file.metadata
        self.num_rows: int = metadata.num_rows
        size = max(
            self.memory(),
            sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)),
        )
        if size > max(2**26, self.LARGEST_RATIO * handle.seek(0, io.SEEK_END)):
            raise DataError(f"{location}: unpacks to {size:,} bytes; save it as .csv")

    def memory(self) -> int:
        """Return the bytes of all values as float64."""
        return 8 * self.num_rows * len(self.columns)

    def rows(self, picked: Sequence[int]) -> Iterator[Rows]:
        """Yield blocks of rows of some columns, as `CsvFile.rows` does."""
        fields = [self.schema.field(i) for i in picked]
        other = [f for f in fields if not any(is_kind(f.type) for is_kind in self.NUMBERS)]
        if other:
            kinds = " and ".join(dict.fromkeys(str(field.type) for field in other))
            raise TextError(self.location, [field.name for field in other], kinds)
        first = 1
        for batch in self.file.iter_batches(2**16, columns=[field.name for field in fields]):

            def place(row: int, first: int = first) -> str:
                return f"row {first + row}"

            # selected again, as the batch has them in the file's order
            columns = batch.select([field.name for field in fields]).columns
            numbers = [column.cast(pa.float64(), safe=False) for column in columns]
            values = np.column_stack([n.to_numpy(zero_copy_only=False) for n in numbers])
            bad = np.abs(values) > LARGEST
            if bad.any():
                row, column = np.argwhere(bad)[0].tolist()
                raise DataError(
                    f"{self.location}, {place(row)}, column {quote(fields[column].name)}: "
                    f"{values[row, column]:g} is too large"
                )
            yield values, place
            first += len(batch)

    def frame(self) -> pd.DataFrame:
        """Return all columns, with the types they have in the file."""
        return self.file.read().replace_schema_metadata().to_pandas(types_mapper=pd.ArrowDtype)

    def sha256(self) -> str:
        """Hash the file's bytes."""
        return sha256_of([self.handle])


class ParquetFolder:
    """A folder of Parquet files with the same columns: one table, in the order of their names.

    Files may lie in folders such as ``year=2020``, as Hive and Spark write them; then ``year`` is
    a column, too. It has the attributes and methods of `CsvFile`; ``ends`` has the last column of
    each file.

    Raises:
        DataError: If its files are no one table.
    """

    named = True
    decimal = "."

    def __init__(self, folder: Path, location: str) -> None:
        self.folder = folder
        self.location = location
        entries = [path for path in folder.rglob("*") if not self._is_hidden(path)]
        files = sorted(path for path in entries if not path.is_dir())
        self.files = [
            path for path in files if path.name.lower().endswith(".parquet") and path.is_file()
        ]
        self.remarks = []
        if others := [str(path.relative_to(folder)) for path in files if path not in self.files]:
            self.remarks.append(f"left out what is not named .parquet: {list_names(others)}")
        if not self.files:
            raise DataError(f"{location}: is a folder without .parquet files")
        for path in entries:
            if path.is_dir() and "=" not in path.name:
                raise DataError(
                    f"{location}: holds the folder {quote(str(path.relative_to(folder)))}; the "
                    "Parquet files have to lie in it directly, or in folders such as 'year=2020'"
                )
        self.columns: list[str] = []
        self.index: list[str] = []
        self.ends: set[str] = set()
        self.num_rows = self._memory = 0
        for file in self.files:
            with self._open(file) as part:
                columns = clean_names([*self._folder_values(file), *part.columns], part.location)
                if not self.columns:
                    self.columns, self.index = columns, part.index
                self._check_columns(_column_numbers(columns), part.location)
                self.ends |= part.ends
                self.num_rows += part.num_rows
                self._memory += part.memory()

    def _is_hidden(self, path: Path) -> bool:
        """Tell whether a path is hidden or, as Spark's own files are, private to its writer."""
        return any(part.startswith((".", "_")) for part in path.relative_to(self.folder).parts)

    @contextmanager
    def _open(self, file: Path) -> Iterator[ParquetFile]:
        location = str(Path(self.location, file.relative_to(self.folder)))
        with explain_errors(location), file.open("rb") as handle:
            yield ParquetFile(handle, location)

    def _folder_values(self, file: Path) -> dict[str, str]:
        """Return the columns that a file's folders name, and the value that its rows have there."""
        pairs = (part.partition("=") for part in file.relative_to(self.folder).parts[:-1])
        return {unquote(key): unquote(value) for key, _, value in pairs}

    def _check_columns(self, places: dict[str, int], location: str) -> None:
        """Refuse a file that has other columns than the first."""
        mine, first = _column_numbers(self.columns), self.files[0].relative_to(self.folder)
        if missing := [name for name in self.columns if name.casefold() not in places]:
            raise DataError(f"{location}: lacks the column {list_names(missing)} of {first}")
        if more := [key for key in places if key not in mine]:
            raise DataError(f"{location}: has the column {list_names(more)}, which {first} lacks")

    def memory(self) -> int:
        """Return the bytes of all values as float64."""
        return self._memory

    def rows(self, picked: Sequence[int]) -> Iterator[Rows]:
        """Yield blocks of rows of some columns, as `CsvFile.rows` does."""
        names = [self.columns[i].casefold() for i in picked]
        for file in self.files:
            keys = {key.casefold(): value for key, value in self._folder_values(file).items()}
            fixed = {i: keys[name] for i, name in enumerate(names) if name in keys}
            numbers = {i: _to_number(value) for i, value in fixed.items()}
            if text := [i for i, number in numbers.items() if number is None]:
                columns = [self.columns[picked[i]] for i in text]
                raise TextError(self.location, columns, f"text ({quote(fixed[text[0]])})")
            others = [i for i in range(len(names)) if i not in fixed]
            with self._open(file) as part:
                places = _column_numbers(part.columns)
                for values, place in part.rows([places[names[i]] for i in others]):
                    whole = np.empty((len(values), len(names)))
                    whole[:, others] = values
                    whole[:, list(numbers)] = [number or 0.0 for number in numbers.values()]

                    def place_in_file(
                        row: int,
                        name: str = str(file.relative_to(self.folder)),
                        place: Callable[[int], str] = place,
                    ) -> str:
                        return f"{name}, {place(row)}"

                    yield whole, place_in_file

    def frame(self) -> pd.DataFrame:
        """Return all columns, with the types they have in the files; those of folders as text."""
        frames = []
        for file in self.files:
            with self._open(file) as part:
                frame = part.frame()
            for place, (key, value) in enumerate(self._folder_values(file).items()):
                frame.insert(place, key, value)
            order = _column_numbers([*self._folder_values(file), *part.columns])
            frame = frame.iloc[:, [order[name] for name in _column_numbers(self.columns)]]
            frames.append(frame.set_axis(self.columns, axis=1))
        return pd.concat(frames, ignore_index=True)

    def sha256(self) -> str:
        """Hash the files' bytes, one file after the other in the order of their names.

        In front of a file in folders, which are part of the data, come their names.
        """

        def parts() -> Iterator[IO[bytes] | bytes]:
            for file in self.files:
                folders = file.relative_to(self.folder).parts[:-1]
                yield "/".join(folders).encode()
                with file.open("rb") as handle:
                    yield handle

        return sha256_of(parts())


def _to_number(value: str) -> float | None:
    """Convert the value in a folder's name, None if it is text; Hive's missing value is NaN."""
    if value == "__HIVE_DEFAULT_PARTITION__":
        return float("nan")
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) <= LARGEST else None


def _column_numbers(columns: Sequence[str]) -> dict[str, int]:
    return {name.casefold(): i for i, name in enumerate(columns)}
