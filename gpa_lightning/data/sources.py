"""Where a table comes from: a file, the published table on the network, or the synthetic twin."""

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from platformdirs import user_cache_dir

from gpa_lightning.data.columns import choose_columns, training_columns
from gpa_lightning.data.download import DownloadError, fetch
from gpa_lightning.data.file_lock import file_lock
from gpa_lightning.data.formats import open_input, open_table, warn_of_remarks
from gpa_lightning.data.rows import join_rows, training_rows, warn_of_gaps
from gpa_lightning.data.table import (
    FEATURES,
    TARGET,
    Array,
    DataError,
    Provenance,
    Selection,
    Source,
    Table,
    explain_missing,
    list_names,
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
        frame: All columns of the table; those of a CSV file as the text that they are in the file.
            ``frame.attrs["decimal"]`` is the decimal separator, ``.`` or ``,``.
        features: The model's columns, float64 of shape ``(rows, in_features)``; NaN where a value
            is missing.
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
        selection: Columns and rows to train on.

    Returns:
        The table; the course's columns in the order of ``FEATURES``, whatever that in the file.

    Raises:
        DataError: If there is no such table or it is not valid.
    """
    file = training_file(source, path)
    if file:
        return _read_table(Path(file), "file", file, selection)
    if source != "auto":
        return _select_columns(_download() if source == "download" else _make_twin(), selection)
    try:
        table = _download()
    except DataError as error:
        log.warning(
            "TRAINING ON A SYNTHETIC TABLE: no student is in it, and no result on it is one about "
            "students. There is no data/GPA.csv, and %s. Give a table with --data.path FILE.",
            error,
        )
        table = _make_twin()
    return _select_columns(table, selection)


def training_file(source: Source, path: str | Path | None) -> str | None:
    """Return the path of the file or folder that `load_table` reads, or None if it reads none.

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
        feature_names: Names of the model's columns.

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
        rows = warn_of_gaps(table.rows([places[key] for key in wanted]), location)
        features = join_rows(rows, table.num_rows, len(wanted), location)
        frame = table.frame()
        warn_of_remarks(table, location)  # not in front of an error, which is one line
        frame.attrs["decimal"] = table.decimal
        return Scores(frame, features)


def _make_twin() -> Table:
    values = synthetic_twin()[[*FEATURES, TARGET]].to_numpy(np.float64)
    sha256 = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
    provenance = Provenance("synthetic", "the synthetic twin, seed 0", len(values), sha256)
    return Table(values[:, :-1], values[:, -1], FEATURES, TARGET, provenance)


def _download() -> Table:
    """Return the published table, from the cache or else from the network into the cache."""
    cache = Path(user_cache_dir("gpa-lightning", appauthor=False)) / "GPA.csv"
    try:
        return _read_published(cache, "cache", str(cache))
    except DataError as error:
        failures = [str(error)] if cache.exists() else []
    try:
        with file_lock(cache.parent):
            with suppress(DataError):  # another process may have downloaded it meanwhile
                return _read_published(cache, "cache", str(cache))
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
    """Read the published table in either layout, and check that it is whole."""
    table = _read_table(file, kind, location)
    if len(table.target) != STUDENTS or table.feature_names != FEATURES:
        raise DataError(f"{location}: is not the published table of {STUDENTS:,} students")
    return table


def _select_columns(table: Table, selection: Selection) -> Table:
    """Return the columns of the course's table that are asked for."""
    values = np.column_stack([table.features, table.target])
    names = (*table.feature_names, table.target_name)
    places, (*features, target) = choose_columns(names, selection, table.provenance.location)
    values = values[:, places]
    return Table(values[:, :-1], values[:, -1], tuple(features), target, table.provenance)


def _read_table(
    file: Path,
    kind: Literal["file", "cache", "download"],
    location: str,
    selection: Selection = Selection(),  # noqa: B008 - it cannot be changed
) -> Table:
    """Read a table with a target, which messages name by its ``location``."""
    with open_table(file, location) as table:
        columns = training_columns(table, selection, location)
        rows = training_rows(table, columns, selection, location)
        values = join_rows(rows, table.num_rows, len(columns.names), location)
        if kind == "file":
            warn_of_remarks(table, location)  # not in front of an error, which is one line
        provenance = Provenance(kind, location, len(values), table.sha256())
    *features, target = columns.names
    return Table(values[:, :-1], values[:, -1], tuple(features), target, provenance)
