"""Where a table of students comes from, and what makes it valid."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from platformdirs import user_cache_dir

from gpa_lightning.data.download import DownloadError, fetch
from gpa_lightning.data.file_lock import file_lock
from gpa_lightning.data.formats import Rows, TrainingFile, opened, opened_training
from gpa_lightning.data.table import (
    FEATURES,
    SEX,
    TARGET,
    Array,
    DataError,
    Provenance,
    Source,
    Table,
    listed,
    quoted,
)
from gpa_lightning.data.twin import synthetic_twin

STUDENTS = 43_303  # rows of the published table, in either layout
ADDRESSES = (
    "https://people.cs.umass.edu/~pthomas/courses/COMPSCI_389_Spring2024/GPA.csv",
    "https://raw.githubusercontent.com/seldonian-toolkit/Engine/main/static/datasets/supervised/GPA/gpa_regression_dataset.csv",
)

log = logging.getLogger(__name__)


class Scores(NamedTuple):
    """A table to predict from.

    Attributes:
        frame: The table as it was read, with every column; those of a CSV file are text, so that
            writing them out again changes nothing.
        features: The model's columns, float64 of shape (rows, n_features), in the model's order.
    """

    frame: pd.DataFrame
    features: Array


def load_table(source: Source = "auto", path: str | Path | None = None) -> Table:
    """Load a table to train on.

    Args:
        source: ``file`` reads ``path``; ``download`` takes the copy that an earlier download left
            in the user's cache folder, or downloads; ``synthetic`` generates the twin; ``auto``
            takes the first there is of ``path``, ``data/GPA.csv``, cache, download and twin, and
            logs a warning when that is the twin.
        path: A ``.csv``, ``.csv.gz`` or ``.parquet`` file, or a folder of Parquet files. The
            environment variable ``GPA_CSV`` stands in for it with ``file`` and ``auto``.

    Returns:
        The table. The course's columns are in the order of ``FEATURES``, whatever their order in
        the file; the target of any other table is its last column.

    Raises:
        DataError: If there is no such table or it is not valid.
    """
    file = training_file(source, path)
    if file:
        return _read_table(Path(file), "file", file)
    if source != "auto":
        return _downloaded() if source == "download" else _twin()
    try:
        return _downloaded()
    except DataError as error:
        log.warning(
            "TRAINING ON A SYNTHETIC TABLE: no student is in it, and no result on it is one about "
            "students. There is no data/GPA.csv, and %s. Give a table with --data.path FILE.",
            error,
        )
        return _twin()


def training_file(source: Source, path: str | Path | None) -> str | None:
    """Say which file or folder `load_table` reads, as the user wrote it; None for none.

    Args:
        source: As for `load_table`.
        path: As for `load_table`.

    Raises:
        DataError: If the two contradict each other.
    """
    if source not in get_args(Source):
        raise DataError(f"--data.source {source} is none of {', '.join(get_args(Source))}")
    if source in ("download", "synthetic"):
        if path:
            raise DataError(f"--data.source {source} reads no file: leave out --data.path {path}")
        return None
    path = path or os.environ.get("GPA_CSV")
    if source == "auto" and not path and os.path.exists("data/GPA.csv"):  # noqa: PTH110
        path = "data/GPA.csv"
    if source == "file" and not path:
        raise DataError("--data.source file: say which, with --data.path FILE")
    return str(path) if path else None


def read_scores(path: str | Path, feature_names: Sequence[str]) -> Scores:
    """Read a table to predict from, with or without a target column.

    Args:
        path: A ``.csv``, ``.csv.gz`` or ``.parquet`` file with the model's columns, in any order
            and among any others; letter case and blanks around a name are ignored. Without a
            header line, the course's nine exams, with or without male/female in front and the GPA
            behind.
        feature_names: The model's n_features columns.

    Returns:
        The table as it is in the file, and the model's columns as numbers.

    Raises:
        DataError: If the file cannot be read, one of the columns is missing, or a value in them is
            not a finite number within the range of single precision.
    """
    file, location = Path(path), str(path)
    with opened(file, location) as table:
        places = {name.casefold(): i for i, name in enumerate(table.columns)}
        wanted = [name.strip().casefold() for name in feature_names]
        missing = [n for n, key in zip(feature_names, wanted, strict=True) if key not in places]
        if missing:
            raise DataError(_absent(missing, table.columns, location))
        rows = table.rows([places[key] for key in wanted])
        features = _joined(rows, table.num_rows, len(wanted), location)
        return Scores(table.frame(), features)


def _twin() -> Table:
    values = synthetic_twin()[[*FEATURES, TARGET]].to_numpy(np.float64)
    sha256 = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
    provenance = Provenance("synthetic", "the synthetic twin, seed 0", len(values), sha256)
    return Table(values[:, :-1], values[:, -1], FEATURES, TARGET, provenance)


def _downloaded() -> Table:
    """Return the published table, from the cache or else from the network into the cache."""
    cache = Path(user_cache_dir("gpa-lightning", appauthor=False)) / "GPA.csv"
    try:
        return _read_published(cache, "cache", str(cache))
    except DataError as error:
        failures = [str(error)] if cache.exists() else []
    try:
        with file_lock(cache.parent) as waited:
            if waited:
                with suppress(DataError):
                    return _read_published(cache, "cache", str(cache))
                raise DataError("another process could not download the GPA table")
            for url in ADDRESSES:
                check = partial(_read_published, kind="download", location=url)
                try:
                    return fetch(url, cache, check)
                except (DataError, DownloadError) as error:
                    failures.append(str(error))
    except OSError as error:
        raise DataError(f"{cache.parent}: cannot be written: {error.strerror or error}") from error
    raise DataError(f"the GPA table cannot be downloaded ({'; '.join(failures)})")


def _read_published(file: Path, kind: Literal["cache", "download"], location: str) -> Table:
    """Read one of the two published layouts, which has to be whole."""
    table = _read_table(file, kind, location)
    if len(table.target) != STUDENTS or table.feature_names != FEATURES:
        raise DataError(f"{location}: is not the published table of {STUDENTS:,} students")
    return table


def _read_table(file: Path, kind: Literal["file", "cache", "download"], location: str) -> Table:
    """Read a table with a target; ``location`` is what messages call the file."""
    with opened_training(file, location) as table:
        columns = training_columns(table, location)
        rows = training_rows(table, columns, location)
        values = _joined(rows, table.num_rows, len(columns.names), location)
        provenance = Provenance(kind, location, len(values), table.sha256())
    *features, target = columns.names
    return Table(values[:, :-1], values[:, -1], tuple(features), target, provenance)


class Columns(NamedTuple):
    """The columns to train on.

    Attributes:
        places: Where the features and, last, the target stand in the file.
        names: Their names.
    """

    places: Sequence[int]
    names: tuple[str, ...]


def training_columns(table: TrainingFile, location: str) -> Columns:
    """Return which columns of an opened table are the features and the target.

    Raises:
        DataError: If the table has not the columns to train on.
    """
    if table.index:
        raise DataError(
            f"{location}: column {listed(table.index)} is an index of pandas, save without it"
        )
    columns = table.columns
    places = {name.casefold(): i for i, name in enumerate(columns)}
    course = {name.casefold(): name for name in (*FEATURES, TARGET)}
    if sum(name.casefold() in places for name in FEATURES) > len(FEATURES) // 2:
        if missing := [name for key, name in course.items() if key not in places]:
            raise DataError(_absent(missing, columns, location))
        if extra := [name for name in columns if name.casefold() not in (*course, *SEX)]:
            raise DataError(f"{location}: unexpected column {listed(extra)}, leave it out")
        return Columns([places[key] for key in course], tuple(course.values()))
    if len(columns) < 2:
        raise DataError(
            f"{location}: {quoted(columns[0])} is the only column; "
            "a table has features and, in its last column, the target"
        )
    if places.get(TARGET, len(columns)) < len(columns) - 1:
        log.warning(
            "%s: column %r counts as a feature, since the target is the last column, %s",
            *(location, TARGET, quoted(columns[-1])),
        )
    return Columns(range(len(columns)), tuple(columns))


def training_rows(table: TrainingFile, columns: Columns, location: str) -> Iterator[Rows]:
    """Yield the rows of an opened table, the target last, and warn of what is odd in them."""
    rows = table.rows(columns.places)
    if columns.names[-1].casefold() == TARGET:
        rows = _grades(rows, columns.names[-1], location)
    return _with_constants_named(rows, columns.names[:-1], location)


def _absent(missing: Sequence[str], columns: Sequence[str], location: str) -> str:
    return f"{location}: there is no column {listed(missing)}; there are {listed(columns)}"


# Rows of any format


def _grades(rows: Iterable[Rows], name: str, location: str) -> Iterator[Rows]:
    """Pass the rows on, with a warning at the first GPA (the last column) outside 0 to 4."""
    warned = False
    for values, place in rows:
        outside = np.flatnonzero((values[:, -1] < 0) | (values[:, -1] > 4))
        if outside.size and not warned:
            warned = True
            row = int(outside[0])
            log.warning(
                "%s, %s, column %r: a GPA of %g is outside 0 to 4",
                *(location, place(row), name, values[row, -1]),
            )
        yield values, place


def _with_constants_named(
    rows: Iterable[Rows], features: Sequence[str], location: str
) -> Iterator[Rows]:
    """Pass the rows on, with a warning at the end if features never differ."""
    first, constant, count = None, np.ones(len(features), bool), 0
    for values, place in rows:
        if first is None and len(values):
            first = values[0, :-1].copy()
        constant &= np.all(values[:, :-1] == first, axis=0)
        count += len(values)
        yield values, place
    if constant.any() and count > 1:
        same = [name for name, is_same in zip(features, constant, strict=True) if is_same]
        log.warning("%s: nothing to learn from constant column %s", location, listed(same))


def _joined(rows: Iterable[Rows], num_rows: int | None, width: int, location: str) -> Array:
    """Return all rows, of which there are ``num_rows``, as one array of shape (rows, width)."""
    if num_rows is None:
        parts = [values for values, _ in rows]
        num_rows = sum(map(len, parts))
        parts.reverse()
        # each part is freed when copied, so that memory holds the table once
        blocks = (parts.pop() for _ in range(len(parts)))
    else:
        blocks = (values for values, _ in rows)
    whole, end = np.empty((num_rows, width)), 0
    for values in blocks:
        whole[end : end + len(values)] = values
        end += len(values)
    if not end:
        raise DataError(f"{location}: there are no rows")
    return whole[:end]
