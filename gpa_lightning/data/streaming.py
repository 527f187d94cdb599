"""Tables larger than memory: standardised once into a file, of which batches map what they need.

The rows go to disk twice. First, the rows of each block of the table are written, in double
precision, to those blocks of the split's order that they belong to. Then, block by block, the rows
are put in order, standardised, and rounded to single precision. So everything is read and written
in sequence, few blocks are in memory, and the numbers are those of a table in memory, bit for bit.

The result lies in a cache, in a folder that is named after what it was made from. The folder
appears whole or not at all, and stays for the next run and for the other processes of the machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from platformdirs import user_cache_dir
from torch import Tensor

from gpa_lightning.data.columns import training_columns
from gpa_lightning.data.file_lock import file_lock
from gpa_lightning.data.formats import open_table, warn_of_remarks
from gpa_lightning.data.loaders import TableDataset
from gpa_lightning.data.rows import count_rows, training_rows
from gpa_lightning.data.split import (
    MeanAndScale,
    RowNumbers,
    Split,
    SplitRows,
    blocks,
    fit_scaler,
    standardise,
)
from gpa_lightning.data.table import Array, DataError, Provenance, Selection, Table

IN_MEMORY_SHARE = 0.25
"""Share of the machine's memory that a table's values may take before it is streamed."""

_LAYOUT = 2  # of the cache's files
_WORTH_A_WARNING = 10**8  # bytes
_FEATURES, _TARGET, _DESCRIPTION = "features.f32", "target.f32", "table.json"

log = logging.getLogger(__name__)


class MappedTable(NamedTuple):
    """A standardised table in the cache.

    Attributes:
        folder: Folder of its files.
        provenance: Data that it was made from.
        training: Number of training rows, which come first.
        validation: Number of validation rows, which come next, before the test rows.
        scaler: ``mean`` and ``scale`` of the features, float64 of shape ``(in_features,)``.
        target_units: Mean and deviation of the target's training values.
    """

    folder: Path
    provenance: Provenance
    training: int
    validation: int
    scaler: dict[str, Tensor]
    target_units: MeanAndScale

    def dataset(self, rows: slice) -> MappedDataset:
        """Return consecutive rows of the table."""
        start, stop, _ = rows.indices(self.provenance.rows)
        return MappedDataset(self.folder, len(self.scaler["mean"]), start, stop)


class MappedDataset(TableDataset):
    """Consecutive rows of a standardised table in the cache, in memory only while in use.

    Args:
        folder: The table's folder in the cache.
        in_features: Number of feature columns.
        start: Number of the first row.
        stop: Number of the row after the last.
    """

    def __init__(self, folder: Path, in_features: int, start: int, stop: int) -> None:
        self._arguments = (folder, in_features, start, stop)
        features, target = folder / _FEATURES, folder / _TARGET
        self._columns = _MappedRows(features, in_features), _MappedRows(target, 1)
        super().__init__(*(each.mapped[start:stop] for each in self._columns))
        self._start = start
        self._units: tuple[Tensor, Tensor] | None = None

    def __getitem__(self, rows: Tensor | slice | int) -> tuple[Tensor, ...]:
        """Return the rows of the given numbers, a slice of rows, or one."""
        if not isinstance(rows, Tensor) or not hasattr(os, "pread"):  # Windows
            for each in self._columns:
                each.release()
            x, y = super().__getitem__(rows)
        else:
            # one by one: touching a single row of a map may bring in 2 MB around it
            x, y = (each.read(rows.long() + self._start) for each in self._columns)
        if self._units is not None:
            factor, shift = self._units
            x = x * factor + shift
        return x, y

    def rescale(self, factor: Tensor, shift: Tensor) -> None:
        """Multiply the features by ``factor`` and add ``shift`` whenever rows are taken."""
        self._units = (factor, shift)

    def __reduce__(self) -> tuple[Any, ...]:
        # to another process goes where the rows are, not the rows
        return MappedDataset, self._arguments, {"_units": self._units}


class _MappedRows:
    """A file of rows of float32.

    Attributes:
        mapped: The rows, shape ``(rows, width)``, for reading only.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            # that it must not be written to; a writable map would have to fit into memory
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            self.mapped = torch.frombuffer(self._map, dtype=torch.float32).view(-1, width)

    def read(self, numbers: Tensor) -> Tensor:
        """Return the rows of the given numbers."""
        width = self.mapped.shape[1]
        offsets = (numbers * 4 * width).tolist()
        rows = map(os.pread, repeat(self._descriptor), repeat(4 * width), offsets)
        values = np.frombuffer(bytearray().join(rows), np.float32)
        return torch.from_numpy(values.reshape(len(numbers), width))

    def release(self) -> None:
        """Take the map out of this process's memory; the system keeps it while it has room."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)


def fits_into_memory(file: Path, location: str) -> bool:
    """Tell whether a table's values, in double precision, take at most `IN_MEMORY_SHARE`.

    Raises:
        DataError: If it cannot be read.
    """
    with open_table(file, location) as table:
        memory: int = psutil.virtual_memory().total
        return table.memory() <= IN_MEMORY_SHARE * memory


class StreamedTable:
    """A file or folder of Parquet files that is never in memory as a whole.

    Args:
        file: The file or folder.
        location: Name of it for messages.
        selection: Columns and rows to train on.

    Raises:
        DataError: If it cannot be read, or has not the columns of a table to train on.

    Attributes:
        feature_names: Names of the feature columns.
        target_name: Name of the target column.
    """

    def __init__(self, file: Path, location: str, selection: Selection) -> None:
        self.file = file
        self.location = location
        self._selection = selection
        with open_table(file, location) as table:
            warn_of_remarks(table, location)
            self._columns = training_columns(table, selection, location)
        *features, self.target_name = self._columns.names
        self.feature_names = tuple(features)

    @cached_property
    def _sha256(self) -> str:
        with open_table(self.file, self.location) as table:
            return table.sha256()

    def standardise(
        self,
        cache_dir: str | Path | None,
        split: Split,
        scaler: dict[str, Tensor],
        table: Table | None = None,
    ) -> MappedTable:
        """Return the standardised table from the cache, written there if it is not yet.

        Args:
            cache_dir: Folder of the cache, by default the user's.
            split: Split into sets.
            scaler: Mean and scale of the features; if empty, those of the training rows.
            table: Content of the file, if this process has it in memory.

        Raises:
            DataError: If the table is not valid or too short for the split, or if the cache cannot
                be written.
        """
        folder = self._folder(cache_dir, split, scaler)
        with _create_once(folder) as temporary:
            if temporary:
                rows = self._count_rows() if table is None else len(table.target)
                drawn = split.draw(rows, self.location)
                scattered = temporary / "rows.f64"
                if table is None:
                    self._announce_stream(folder, rows)
                    self._scatter_rows(drawn.order, scattered)
                    width = len(self._columns.names)
                    read_ordered = partial(_read_scattered, scattered, drawn.order, width)
                else:
                    self._announce_sharing(folder, rows)
                    read_ordered = partial(_read_in_memory, table, drawn.order)
                _write_standardised(temporary, drawn, scaler, read_ordered)
                scattered.unlink(missing_ok=True)
        return self._open(folder)

    def _folder(
        self, cache_dir: str | Path | None, split: Split, scaler: dict[str, Tensor]
    ) -> Path:
        units = {name: values.tolist() for name, values in scaler.items()}
        data = {"data": self._sha256, "columns": self._columns.names}
        data["missing"] = self._selection.missing
        settings = {"layout": _LAYOUT, **data, "split": asdict(split), "units": units}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]
        cache = Path(cache_dir or Path(user_cache_dir("gpa-lightning", appauthor=False), "tables"))
        return cache / key

    def _open(self, folder: Path) -> MappedTable:
        try:
            found = json.loads((folder / _DESCRIPTION).read_text())
            scaler = {
                name: torch.tensor(found[name], dtype=torch.float64) for name in ("mean", "scale")
            }
            mean, deviation = map(float, found["target"])
            for name, width in ((_FEATURES, len(self.feature_names)), (_TARGET, 1)):
                if (folder / name).stat().st_size != 4 * width * found["rows"]:
                    raise ValueError(name)
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{folder}: is damaged, delete it") from None
        provenance = Provenance("file", self.location, found["rows"], self._sha256)
        sizes = found["training"], found["validation"]
        return MappedTable(folder, provenance, *sizes, scaler, (mean, deviation))

    def _blocks(self) -> Iterator[Array]:
        """Yield the rows of the table, the target last, in blocks of any length."""
        with open_table(self.file, self.location) as table:
            for values, _ in training_rows(table, self._columns, self._selection, self.location):
                yield values

    def _count_rows(self) -> int:
        with open_table(self.file, self.location) as table:
            return count_rows(table, self._columns, self._selection)

    def _announce_stream(self, folder: Path, rows: int) -> None:
        cache, values = folder.parent, rows * len(self._columns.names)
        free = shutil.disk_usage(cache).free
        if free < 12 * values:
            raise DataError(
                f"{cache}: streaming {self.location} takes {_size(12 * values)} there, of which "
                f"{_size(4 * values)} stay, but only {_size(free)} are free; "
                "name a folder on another disk with --data.cache_dir"
            )
        log.warning(
            "%s: %s rows are not taken into memory but streamed, once, to %s: %s, and %s more "
            "while they are written. Later runs find them there; delete them when you are done.",
            *(self.location, f"{rows:,}", folder, _size(4 * values), _size(8 * values)),
        )

    def _announce_sharing(self, folder: Path, rows: int) -> None:
        size = 4 * rows * len(self._columns.names)
        log.log(
            logging.WARNING if size >= _WORTH_A_WARNING else logging.INFO,
            "%s: the processes of this machine share its rows in %s: %s. Later runs find "
            "them there; delete them when you are done.",
            *(self.location, folder, _size(size)),
        )

    def _scatter_rows(self, order: RowNumbers, path: Path) -> None:
        """Write each row to the block of ``order`` that it is in; within it, in table order."""
        ends = np.array([block.start for block in blocks(len(order))])
        block_of = np.empty(len(order), np.min_scalar_type(len(ends)))
        for number, block in enumerate(blocks(len(order))):
            block_of[order[block]] = number
        first = 0
        with path.open("wb") as file:
            for values in self._blocks():
                numbers = block_of[first : first + len(values)]
                first += len(values)
                if first > len(order):
                    break
                present, counts = np.unique(numbers, return_counts=True)
                parts = np.split(values[np.argsort(numbers, kind="stable")], np.cumsum(counts)[:-1])
                for number, part in zip(present, parts, strict=True):
                    file.seek(int(ends[number]) * part[0].nbytes)
                    file.write(part.tobytes())
                ends[present] += counts
        if first != len(order):
            raise DataError(f"{self.location}: was changed while it was read")


def _read_scattered(path: Path, order: RowNumbers, width: int) -> Iterator[Array]:
    """Yield the rows that `_scatter_rows` has written, in order, block by block."""
    with path.open("rb") as file:
        for block in blocks(len(order)):
            rows = order[block]
            values = np.empty((len(rows), width))
            values[np.argsort(rows)] = np.fromfile(file, count=values.size).reshape(-1, width)
            yield values


def _read_in_memory(table: Table, order: RowNumbers) -> Iterator[Array]:
    """Yield a table's rows in order, block by block."""
    for block in blocks(len(order)):
        rows = order[block]
        yield np.column_stack([table.features[rows], table.target[rows]])


def _write_standardised(
    folder: Path,
    split: SplitRows,
    scaler: dict[str, Tensor],
    read_ordered: Callable[[], Iterator[Array]],
) -> None:
    """Fit the scaler, and write the rows that ``read_ordered`` yields, standardised by it."""
    order, training, validation = split
    fitted, target_units = fit_scaler(
        values[: block.stop - block.start]
        for block, values in zip(blocks(training), read_ordered(), strict=False)
    )
    scaler = scaler or fitted
    with (folder / _FEATURES).open("wb") as features, (folder / _TARGET).open("wb") as target:
        for values in read_ordered():
            features.write(standardise(values[:, :-1], scaler).tobytes())
            target.write(values[:, -1].astype(np.float32).tobytes())
        for file in (features, target):
            file.flush()
            os.fsync(file.fileno())
    units = {name: scaler[name].tolist() for name in ("mean", "scale")} | {"target": target_units}
    sizes = {"rows": len(order), "training": training, "validation": validation}
    (folder / _DESCRIPTION).write_text(json.dumps(sizes | units))


@contextmanager
def _create_once(folder: Path) -> Iterator[Path | None]:
    """Yield a temporary folder, to be renamed to the given one; None if that is there already."""
    cache = folder.parent
    try:
        if folder.exists():
            yield None
            return
        with file_lock(cache):
            for left_behind in cache.glob("*.partial"):  # by a process that was killed
                shutil.rmtree(left_behind)
            if folder.exists():  # made meanwhile
                yield None
                return
            temporary = folder.with_suffix(".partial")
            temporary.mkdir()
            try:
                yield temporary
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{cache}: cannot be written: {error.strerror or error}; "
            "name another folder with --data.cache_dir"
        ) from error


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
