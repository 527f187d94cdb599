"""The choice of columns: which of a table's are the features, and which is the target."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import NamedTuple

from gpa_lightning.data.formats import TableFile
from gpa_lightning.data.table import (
    FEATURES,
    SEX,
    TARGET,
    DataError,
    Selection,
    drop_flag,
    explain_missing,
    list_names,
    quote,
)

log = logging.getLogger(__name__)


class Columns(NamedTuple):
    """The columns to train on.

    Attributes:
        places: Numbers of the columns in the file, the features' and, last, the target's.
        names: Names of these columns.
    """

    places: Sequence[int]
    names: tuple[str, ...]


def training_columns(table: TableFile, selection: Selection, location: str) -> Columns:
    """Choose the columns of an open table, with `choose_columns`.

    Raises:
        DataError: If the table has not the columns to train on.
    """
    if not table.named and TARGET not in table.columns:
        raise DataError(
            f"{location}: holds {len(table.columns)} numbers a line and no columns' names, without "
            "which only the published layout of 10 or 12 columns can be trained on"
        )
    columns = choose_columns(table.columns, selection, location, table.index)
    if selection.target is None and columns.names[-1] != TARGET and len(table.ends) > 1:
        log.warning(
            "%s: the target is %s, the last column of the first file; others end in %s; another is "
            "named with --data.target",
            *(location, quote(columns.names[-1])),
            list_names(sorted(table.ends - {columns.names[-1]})),
        )
    return columns


def choose_columns(
    columns: Sequence[str], selection: Selection, location: str, index: Sequence[str] = ()
) -> Columns:
    """Choose the features and the target.

    Args:
        columns: Names of all columns, which differ in more than letter case.
        selection: Target and columns to leave out. The target is by default the course's GPA, or
            else the last column.
        location: Name of the table for messages.
        index: Names of columns that only name the rows: left out unless they are the target.

    Raises:
        DataError: If a column is missing, unexpected, or asked for and dropped.
    """
    places = {name.casefold(): i for i, name in enumerate(columns)}
    asked = [*selection.drop, *([] if selection.target is None else [selection.target])]
    if missing := [name for name in asked if _key(name) not in places]:
        raise DataError(explain_missing(missing, columns, location))
    target = None if selection.target is None else _key(selection.target)
    dropped = {_key(name) for name in selection.drop}
    dropped |= _find_index(index, {*dropped, target}, location)
    left = {key: place for key, place in places.items() if key not in dropped}
    course = {name.casefold(): name for name in (*FEATURES, TARGET)}
    is_course = sum(name.casefold() in places for name in FEATURES) > len(FEATURES) // 2
    if is_course and target is None:
        if missing := [name for key, name in course.items() if key not in places]:
            raise DataError(explain_missing(missing, columns, location))
        if extra := [columns[i] for key, i in left.items() if key not in (*course, *SEX)]:
            remedy = f"leave it out with {drop_flag(extra)}"
            raise DataError(f"{location}: unexpected column {list_names(extra)}; {remedy}")
        target = TARGET
    if target is None:
        no_index = [key for key in places if key not in map(str.casefold, index)]
        if not no_index:
            raise DataError(f"{location}: has no columns but the rows' names")
        target = no_index[-1]
    if target not in left:
        raise DataError(
            f"{location}: the target {quote(columns[places[target]])} is dropped; "
            "name another with --data.target"
        )
    names = {key: columns[place] for key, place in left.items()}
    kept = {key: name for key, name in course.items() if key not in dropped}
    if is_course and left.keys() - SEX == kept.keys():
        names = kept  # in the course's order
    features = [key for key in names if key != target]
    if not features:
        raise DataError(
            f"{location}: {quote(names[target])} is the only column; a table has features and, "
            "in its last column or by --data.target, the target"
        )
    if selection.target is None and TARGET in features:
        log.warning(
            "%s: column %r counts as a feature, since the target is the last column, %s; "
            "--data.target %s changes that",
            *(location, TARGET, quote(names[target]), TARGET),
        )
    order = [*features, target]
    return Columns([places[key] for key in order], tuple(names[key] for key in order))


def _key(name: str) -> str:
    return name.strip().casefold()


def _find_index(index: Sequence[str], asked: Container[str | None], location: str) -> set[str]:
    """Return the columns that only name the rows and were not asked for; warn of them."""
    unasked = {name.casefold(): name for name in index if name.casefold() not in asked}
    for name in unasked.values():
        what = f"the index {quote(name)}" if name else "the first column, which has no name,"
        log.warning("%s: %s is taken for the rows' names and left out", location, what)
    return {*unasked}
