"""Tables, their columns, and the error for one that cannot be used."""

from __future__ import annotations

import difflib
import hashlib
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FEATURES = (
    "physics",
    "biology",
    "history",
    "English",
    "geography",
    "literature",
    "Portuguese",
    "math",
    "chemistry",
)
TARGET = "gpa"
SEX = ("male", "female")  # 0/1 columns in front of the exams in the second published layout

LARGEST = float(np.finfo(np.float32).max)  # training is in single precision
MISSING = [  # how files write that a value is missing, as pandas reads them
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
]

Source: TypeAlias = Literal["auto", "file", "download", "synthetic"]
Missing: TypeAlias = Literal["refuse", "drop"]
Array: TypeAlias = npt.NDArray[np.float64]

# a block of rows, shape (rows, columns), and a function that names the row of a given index
Rows: TypeAlias = tuple[Array, Callable[[int], str]]


class DataError(ValueError):
    """A mistake in the data or in how they are asked for: one printable line, with what to do."""

    def __init__(self, message: str) -> None:
        # names and cells come from the file: no line breaks or terminal codes out of them
        super().__init__(
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        )


class TextError(DataError):
    """Columns that hold something else than numbers.

    Args:
        location: Name of the table for messages.
        names: Names of the columns.
        content: What they hold instead.
    """

    def __init__(self, location: str, names: Sequence[str], content: str) -> None:
        super().__init__(f"{location}, column {list_names(names)}: holds {content}, not numbers")
        self.names = names


@dataclass(frozen=True)
class Provenance:
    """The data that a result stands on.

    Attributes:
        kind: ``file`` of the user's, ``cache`` of an earlier download, new ``download``, or
            ``synthetic`` twin.
        location: Path of the file, URL, or a description of the twin.
        rows: Number of rows.
        sha256: SHA-256 of the file's bytes (a folder's files one after the other, in the order of
            their names), or of the twin's float64 values, row by row.
    """

    kind: Literal["file", "cache", "download", "synthetic"]
    location: str
    rows: int
    sha256: str

    @property
    def arguments(self) -> dict[str, str | None]:
        """Arguments of `GPADataModule` that find the same data, from any working directory."""
        if self.kind == "file":
            return {"source": "file", "path": str(Path(self.location).absolute())}
        return {"source": "download" if self.kind == "cache" else self.kind, "path": None}


@dataclass(frozen=True)
class Selection:
    """Columns and rows of a table to train on.

    Attributes:
        target: Name of the target; None for the course's GPA, or else the last column.
        drop: Names of columns that are neither features nor target.
        missing: Treatment of rows that lack a value: ``refuse`` the table, or ``drop`` the rows.
    """

    target: str | None = None
    drop: tuple[str, ...] = ()
    missing: Missing = "refuse"


@dataclass(frozen=True)
class Table:
    """A valid table: every value is finite and within the range of single precision.

    Attributes:
        features: Exam scores, float64 of shape ``(rows, in_features)``.
        target: GPAs, float64 of shape ``(rows,)``.
        feature_names: Names of the feature columns.
        target_name: Name of the target column.
        provenance: Origin of the table.
    """

    features: Array
    target: Array
    feature_names: tuple[str, ...]
    target_name: str
    provenance: Provenance

    def sample(self, max_rows: int | None) -> Table:
        """Return a random sample of the rows in their order, the same one at every call.

        Args:
            max_rows: Number of rows at most; None for all.
        """
        if max_rows is None or max_rows >= len(self.target):
            return self
        rows = np.sort(np.random.default_rng(0).permutation(len(self.target))[:max_rows])
        return replace(self, features=self.features[rows], target=self.target[rows])


def quote(text: str) -> str:
    """Quote a cell or a name for a message, of which it shows 40 characters at most."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def list_names(names: Sequence[str]) -> str:
    """Quote the first five of some names for a message, and say how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(map(quote, names[:5])) + more


def explain_missing(missing: Sequence[str], columns: Sequence[str], location: str) -> str:
    """Return a message on missing columns: which there are, and which of them may be meant."""
    known = {name.casefold(): name for name in columns}
    meant = difflib.get_close_matches(missing[0].strip().casefold(), known, n=1)
    hint = f" (did you mean {quote(known[meant[0]])}?)" if meant and len(missing) == 1 else ""
    there = f"there are {list_names(columns)}"
    return f"{location}: there is no column {list_names(missing)}{hint}; {there}"


def drop_flag(names: Sequence[str]) -> str:
    """Return the flag that leaves columns out, as a shell takes it; at most thirty of them."""
    return " ".join(["--data.drop", *map(shlex.quote, names[:30]), *["..."] * (len(names) > 30)])


def clean_names(columns: Sequence[str], where: str) -> list[str]:
    """Strip blanks from columns' names, and check that they differ in more than letter case.

    Args:
        columns: The names. The first may be empty, as that of a column of row names.
        where: Place for messages.

    Raises:
        DataError: If one is missing or there twice.
    """
    names: dict[str, str] = {}
    for place, name in enumerate(map(str.strip, columns), start=1):
        if not name and place > 1:
            raise DataError(f"{where}: column {place} of {len(columns)} has no name")
        if name.casefold() in names:
            raise DataError(f"{where}: column {quote(name)} is there twice")
        names[name.casefold()] = name
    return list(names.values())


def sha256_of(files: Iterable[IO[bytes] | bytes]) -> str:
    """Hash bytes and those of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        if isinstance(file, bytes):
            digest.update(file)
            continue
        file.seek(0)
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
