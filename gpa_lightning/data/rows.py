"""The rows of a table: which of them count, and what is odd in their values."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from gpa_lightning.data.columns import Columns
from gpa_lightning.data.formats import TableFile
from gpa_lightning.data.split import RowNumbers
from gpa_lightning.data.table import (
    TARGET,
    Array,
    DataError,
    Missing,
    Rows,
    Selection,
    TextError,
    drop_flag,
    list_names,
    quote,
)

log = logging.getLogger(__name__)


def training_rows(
    table: TableFile, columns: Columns, selection: Selection, location: str
) -> Iterator[Rows]:
    """Yield the rows to train on, the target last, and warn of what is odd in them.

    Raises:
        DataError: If a value is no number, or missing where that is not allowed.
    """
    rows = _check_gaps(_read_numbers(table, columns), columns.names, selection.missing, location)
    *features, target = columns.names
    if target.casefold() == TARGET:
        rows = _check_grades(rows, target, location)
    rows = _check_target(rows, target, location)
    return _check_features(rows, features, location)


def count_rows(table: TableFile, columns: Columns, selection: Selection) -> int:
    """Count the rows that `training_rows` yields."""
    if selection.missing == "refuse" and table.num_rows is not None:
        return table.num_rows
    return sum(
        int((~np.isnan(values).any(axis=1)).sum()) if selection.missing == "drop" else len(values)
        for values, _ in _read_numbers(table, columns)
    )


def _read_numbers(table: TableFile, columns: Columns) -> Iterator[Rows]:
    """Yield the rows; an error on columns of text comes with the flag that leaves them out."""
    try:
        yield from table.rows(columns.places)
    except TextError as error:
        raise DataError(f"{error}; leave out with {drop_flag(error.names)}") from None


def _check_gaps(
    rows: Iterable[Rows], names: Sequence[str], missing: Missing, location: str
) -> Iterator[Rows]:
    """Yield the rows that lack no value; the others are refused or, with a warning, left out."""
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


def warn_of_gaps(rows: Iterable[Rows], location: str) -> Iterator[Rows]:
    """Yield the rows, and warn at the end if some lack a value."""
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


def _check_grades(rows: Iterable[Rows], name: str, location: str) -> Iterator[Rows]:
    """Yield the rows, and warn of the first GPA (the last column) outside 0 to 4."""
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


def _check_target(rows: Iterable[Rows], target: str, location: str) -> Iterator[Rows]:
    """Yield the rows, and warn at the end if the target (the last column) only identifies them."""
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


def _check_features(rows: Iterable[Rows], features: Sequence[str], location: str) -> Iterator[Rows]:
    """Yield the rows, and warn at the end of features that are constant."""
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


def join_rows(rows: Iterable[Rows], num_rows: int | None, width: int, location: str) -> Array:
    """Join blocks of rows into one array of shape ``(rows, width)``.

    Args:
        rows: Blocks of rows.
        num_rows: Number of all rows, or None if it is not known.
        width: Number of columns.
        location: Name of the table for messages.
    """
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
