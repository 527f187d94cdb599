"""Which of a table's columns are the features, and which is the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from gpa_lightning.data.formats import TrainingFile
from gpa_lightning.data.table import (
    FEATURES,
    SEX,
    TARGET,
    DataError,
    Selection,
    absent,
    dropping,
    listed,
    quoted,
)

log = logging.getLogger(__name__)


class Columns(NamedTuple):
    """The columns to train on.

    Attributes:
        places: Where the features and, last, the target stand in the file.
        names: Their names.
    """

    places: Sequence[int]
    names: tuple[str, ...]


def training_columns(table: TrainingFile, selection: Selection, location: str) -> Columns:
    """Return which columns of an opened table are the features and the target.

    Raises:
        DataError: If the table has not the columns to train on.
    """
    if table.index:
        raise DataError(
            f"{location}: column {listed(table.index)} is an index of pandas, save without it"
        )
    return chosen_columns(table.columns, selection, location)


def chosen_columns(columns: Sequence[str], selection: Selection, location: str) -> Columns:
    """Return which columns are the features and the target.

    Args:
        columns: Names of all columns, which differ in more than letter case.
        selection: What is asked for. Without a target that is the course's GPA or else the last
            column.
        location: What messages call the table.

    Raises:
        DataError: If a column is missing, unexpected, or asked for and dropped.
    """
    places = {name.casefold(): i for i, name in enumerate(columns)}
    asked = [*selection.drop, *([selection.target] if selection.target is not None else [])]
    if missing := [name for name in asked if name.strip().casefold() not in places]:
        raise DataError(absent(missing, columns, location))
    dropped = {name.strip().casefold() for name in selection.drop}
    left = {key: place for key, place in places.items() if key not in dropped}
    course = {name.casefold(): name for name in (*FEATURES, TARGET)}
    is_course = sum(name.casefold() in places for name in FEATURES) > len(FEATURES) // 2
    if is_course and selection.target is None:
        if missing := [name for key, name in course.items() if key not in places]:
            raise DataError(absent(missing, columns, location))
        if extra := [columns[i] for key, i in left.items() if key not in (*course, *SEX)]:
            raise DataError(
                f"{location}: unexpected column {listed(extra)}; leave it out with "
                f"{dropping(extra)}"
            )
    last = TARGET if is_course else columns[-1].casefold()
    target = last if selection.target is None else selection.target.strip().casefold()
    if target not in left:
        raise DataError(
            f"{location}: the target {quoted(columns[places[target]])} is dropped; "
            "name another with --data.target"
        )
    kept = {key: name for key, name in course.items() if key not in dropped}
    if is_course and left.keys() - SEX == kept.keys():  # in the course's order
        names = kept
    else:
        names = {key: columns[place] for key, place in left.items()}
    features = [key for key in names if key != target]
    if not features:
        raise DataError(
            f"{location}: {quoted(names[target])} is the only column; a table has features and, "
            "in its last column or by --data.target, the target"
        )
    if selection.target is None and TARGET in features:
        log.warning(
            "%s: column %r counts as a feature, since the target is the last column, %s; "
            "--data.target %s changes that",
            *(location, TARGET, quoted(columns[-1]), TARGET),
        )
    order = [*features, target]
    return Columns([places[key] for key in order], tuple(names[key] for key in order))
