"""Refusals of every command line: one line, and exit code 2."""

from __future__ import annotations

import sys


def refuse(reason: object) -> int:
    """Print an error or a text as one line on standard error, and return the exit code 2."""
    print("error:", " ".join(str(reason).split()), file=sys.stderr)  # noqa: T201
    return 2
