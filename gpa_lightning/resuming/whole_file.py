"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PREFIX = ".unfinished-"
"""Prefix of temporary folders, which a process leaves behind if it is killed while writing."""


class OutputError(ValueError):
    """A file that cannot or must not be written: one line, with what to do."""


@contextmanager
def whole_file(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Let a file be written under a temporary path, and move it to its place when it is complete.

    Enter it before the work whose result is to be written: what stands in the way is refused then.

    Args:
        path: The file to make, in a folder that exists.
        overwrite: Whether it may replace a file. That file's permissions are kept.

    Yields:
        Where to write: the same name in a temporary folder beside the file. If the body raises,
        nothing is kept of it, and a file to be replaced is left as it was.

    Raises:
        OutputError: If there is such a file and ``overwrite`` is false, or if it cannot be
            written.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with whole_file(folder / "report.md") as temporary:
        ...     _ = temporary.write_text("All is well.")
        >>> [path.name for path in folder.iterdir()]
        ['report.md']
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise OutputError(f"{path}: is not a regular file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: is there already; --overwrite replaces it")
        with TemporaryDirectory(prefix=PREFIX, dir=path.parent) as folder:
            temporary = Path(folder, path.name)
            yield temporary
            if path.exists():
                shutil.copymode(path, temporary)
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written: {reason}") from error
