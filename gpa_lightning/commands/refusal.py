"""Refusals of every command line: one line, and exit code 2."""

from __future__ import annotations

import sys


def refuse(reason: object) -> int:
    """Print the reason of a refusal as one line on standard error.

    Args:
        reason: Error or text; its line breaks become spaces.

    Returns:
        2, the exit code for a mistake that the user can mend.
    """
    print("error:", " ".join(str(reason).split()), file=sys.stderr)  # noqa: T201
    return 2
