"""Errors of reading a table's file, each as one line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from gpa_lightning.data.table import DataError


@contextmanager
def explain_errors(location: str) -> Iterator[None]:
    """Turn any error of reading a table's file into a DataError that names its location."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{location}: there is no such file") from None
    except PermissionError:
        raise DataError(f"{location}: you have no permission to read it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{location}: is no gzip file, or a damaged or incomplete one") from None
    except MemoryError:
        raise DataError(f"{location}: does not fit into memory") from None
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{location}: cannot be read: {reason.splitlines()[0]}") from error
