"""A lock on a folder, so that one process at a time writes to it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def file_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, and wait for it if another process does.

    The folder is made if it is missing; the lock is a hidden file in it.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: waiting for another process that writes there", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
