"""Where a table of students comes from, and what makes it valid."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from platformdirs import user_cache_dir

from gpa_lightning.data.columns import Columns, chosen_columns, training_columns
from gpa_lightning.data.download import DownloadError, fetch
from gpa_lightning.data.file_lock import file_lock
from gpa_lightning.data.formats import TableFile, open_input, open_table, warn_of_remarks
from gpa_lightning.data.split import RowNumbers
from gpa_lightning.data.table import (
    FEATURES,
    TARGET,
    Array,
    DataError,
    Missing,
    Provenance,
    Rows,
    Selection,
    Source,
    Table,
    TextError,
    drop_flag,
    explain_missing,
    list_names,
    quote,
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
            writing them out again changes nothing, with a point or comma in front of decimals, as
            ``frame.attrs["decimal"]`` says.
        features: The model's columns, float64 of shape (rows, n_features), in the model's order;
            NaN where a value is missing.
    """

    frame: pd.DataFrame
    features: Array


def load_table(
    source: Source = "auto",
    path: str | Path | None = None,
    selection: Selection = Selection(),  # noqa: B008 - it cannot be changed
) -> Table:
    """Load a table to train on.

    Args:
        source: ``file`` reads ``path``; ``download`` takes the copy that an earlier download left
            in the user's cache folder, or downloads; ``synthetic`` generates the twin; ``auto``
            takes the first there is of ``path``, ``data/GPA.csv``, cache, download and twin, and
            logs a warning when that is the twin.
        path: A ``.csv``, ``.tsv``, ``.csv.gz``, ``.tsv.gz``, ``.parquet`` or ``.xlsx`` file, or a
            folder of Parquet files. The environment variable ``GPA_CSV`` stands in for it with
            ``file`` and ``auto``.
        selection: Which of its columns to train on.

    Returns:
        The table. The course's columns are in the order of ``FEATURES``, whatever their order in
        the file.

    Raises:
        DataError: If there is no such table or it is not valid.
    """
    file = training_file(source, path)
    if file:
        return _read_table(Path(file), "file", file, selection)
    if source != "auto":
        return _selected(_downloaded() if source == "download" else _twin(), selection)
    try:
        table = _downloaded()
    except DataError as error:
        log.warning(
            "TRAINING ON A SYNTHETIC TABLE: no student is in it, and no result on it is one about "
            "students. There is no data/GPA.csv, and %s. Give a table with --data.path FILE.",
            error,
        )
        table = _twin()
    return _selected(table, selection)


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
        path: A file or folder as for `load_table`, or ``-`` for standard input, with the model's
            columns, in any order and among any others; letter case and blanks around a name are
            ignored. Without a header line, the course's nine exams, with or without male/female in
            front and the GPA behind.
        feature_names: The model's n_features columns.

    Returns:
        The table as it is in the file, and the model's columns as numbers.

    Raises:
        DataError: If the file cannot be read, one of the columns is missing, or a value in them is
            not a finite number within the range of single precision.
    """
    location = str(path)
    with open_input(location) as table:
        location = table.location
        places = {name.casefold(): i for i, name in enumerate(table.columns)}
        wanted = [name.strip().casefold() for name in feature_names]
        missing = [n for n, key in zip(feature_names, wanted, strict=True) if key not in places]
        if missing and not table.named:
            raise DataError(
                f"{location}: holds no columns' names, without which column {list_names(missing)} "
                "cannot be found"
            )
        if missing:
            raise DataError(explain_missing(missing, table.columns, location))
        rows = _with_gaps_counted(table.rows([places[key] for key in wanted]), location)
        features = _joined(rows, table.num_rows, len(wanted), location)
        frame = table.frame()
        warn_of_remarks(table, location)  # not in front of an error, which is one line
        frame.attrs["decimal"] = table.decimal
        return Scores(frame, features)


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


def _selected(table: Table, selection: Selection) -> Table:
    """Return the columns of the course's table that are asked for."""
    values = np.column_stack([table.features, table.target])
    names = (*table.feature_names, table.target_name)
    places, (*features, target) = chosen_columns(names, selection, table.provenance.location)
    values = values[:, places]
    return Table(values[:, :-1], values[:, -1], tuple(features), target, table.provenance)


def _read_table(
    file: Path,
    kind: Literal["file", "cache", "download"],
    location: str,
    selection: Selection = Selection(),  # noqa: B008 - it cannot be changed
) -> Table:
    """Read a table with a target; ``location`` is what messages call the file."""
    with open_table(file, location) as table:
        columns = training_columns(table, selection, location)
        rows = training_rows(table, columns, selection, location)
        values = _joined(rows, table.num_rows, len(columns.names), location)
        if kind == "file":
            warn_of_remarks(table, location)  # not in front of an error, which is one line
        provenance = Provenance(kind, location, len(values), table.sha256())
    *features, target = columns.names
    return Table(values[:, :-1], values[:, -1], tuple(features), target, provenance)


def training_rows(
    table: TableFile, columns: Columns, selection: Selection, location: str
) -> Iterator[Rows]:
    """Yield the rows of an opened table, the target last, and warn of what is odd in them.

    Raises:
        DataError: If a value is no number, or missing where that is not allowed.
    """
    rows = _complete(_numbers(table, columns), columns.names, selection.missing, location)
    *features, target = columns.names
    if target.casefold() == TARGET:
        rows = _grades(rows, target, location)
    rows = _with_a_counter_named(rows, target, location)
    return _with_constants_named(rows, features, location)


def count_rows(table: TableFile, columns: Columns, selection: Selection) -> int:
    """Count the rows of an opened table that `training_rows` yields."""
    if selection.missing == "refuse" and table.num_rows is not None:
        return table.num_rows
    return sum(
        int((~np.isnan(values).any(axis=1)).sum()) if selection.missing == "drop" else len(values)
        for values, _ in _numbers(table, columns)
    )


# Rows of any format


def _numbers(table: TableFile, columns: Columns) -> Iterator[Rows]:
    """Yield the rows, and say how to leave out columns that hold no numbers."""
    try:
        yield from table.rows(columns.places)
    except TextError as error:
        raise DataError(f"{error}; leave out with {drop_flag(error.names)}") from None


def _complete(
    rows: Iterable[Rows], names: Sequence[str], missing: Missing, location: str
) -> Iterator[Rows]:
    """Pass on the rows that lack no value; refuse a table of others, or leave them out."""
    first, total, incomplete, lacking = "", 0, 0, np.zeros(len(names), bool)
    for values, place in rows:
        gaps = np.isnan(values)
        complete = ~gaps.any(axis=1)
        if not complete.all() and not first:
            row = int(np.argmin(complete))
            first = f"{place(row)}, column {quote(names[int(np.argmax(gaps[row]))])}"
        total, incomplete = total + len(values), incomplete + int((~complete).sum())
        lacking |= gaps.any(axis=0)
        if not first:
            yield values, place
        elif missing == "drop":
            kept = np.flatnonzero(complete)

            def kept_place(
                row: int, place: Callable[[int], str] = place, kept: RowNumbers = kept
            ) -> str:
                return place(int(kept[row]))

            yield values[complete], kept_place
    if not first:
        return
    columns = [name for name, lacks in zip(names, lacking, strict=True) if lacks]
    where = f"in {len(columns):,} of {len(names):,} columns ({list_names(columns)})"
    if missing == "refuse" or incomplete == total:
        *features, target = names
        others = target not in columns and len(columns) < len(features)
        raise DataError(
            f"{location}, {first}: a value is missing, as in {incomplete:,} of {total:,} rows, "
            f"{where}; --data.missing drop leaves out such rows"
            + (f", {drop_flag(columns)} such columns" if others else "")
        )
    log.warning(
        "%s: %s of %s rows lack a value, %s, and are left out; the first is %s",
        *(location, f"{incomplete:,}", f"{total:,}", where, first),
    )


def _with_gaps_counted(rows: Iterable[Rows], location: str) -> Iterator[Rows]:
    """Pass the rows on, with a warning at the end if some lack a value."""
    first, total, incomplete = "", 0, 0
    for values, place in rows:
        gaps = np.isnan(values).any(axis=1)
        if gaps.any() and not first:
            first = place(int(np.argmax(gaps)))
        total, incomplete = total + len(values), incomplete + int(gaps.sum())
        yield values, place
    if first:
        log.warning(
            "%s: %s of %s rows lack a value and get no prediction, the first in %s",
            *(location, f"{incomplete:,}", f"{total:,}", first),
        )


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


# "id" as a word of its own, as in patient_id and PassengerId, or at the end of any, as in townid
_ID = re.compile(r"(?P<word>(?:.*[^A-Za-z])?[Ii][Dd]|.*[a-z]I[Dd]|[Ss]ubject|SUBJECT)|.*[Ii][Dd]")


def _with_a_counter_named(rows: Iterable[Rows], target: str, location: str) -> Iterator[Rows]:
    """Pass the rows on, with a warning at the end if the target (the last column) names them."""
    named = _ID.fullmatch(target)
    lowest, highest, whole = np.inf, -np.inf, named is not None
    last: Array = np.empty(0)
    count = 0
    for values, place in rows:
        column = values[:, -1]
        steps = np.diff(column, prepend=last)  # from row to row
        lowest = min(lowest, steps.min(initial=np.inf))
        highest = max(highest, steps.max(initial=-np.inf))
        whole = whole and bool((column == np.rint(column)).all())
        last, count = values[-1:, -1].copy(), count + len(values)
        yield values, place
    if count > 2 and lowest == highest != 0:
        log.warning(
            "%s: the target %s only counts the rows, by %g; another is named with --data.target",
            *(location, quote(target), lowest),
        )
    elif named and whole and (named["word"] or lowest >= 0):  # "paid" may fall, and be learnt
        log.warning(
            "%s: the target %s seems to name rows or groups of them, not to measure anything; "
            "another is named with --data.target",
            *(location, quote(target)),
        )


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
        log.warning("%s: nothing to learn from constant column %s", location, list_names(same))


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
