"""How every command line refuses what it was given: in one line, and with exit code 2."""

from __future__ import annotations

import sys


def refuse(reason: object) -> int:
    """Print why, on standard error.

    Args:
        reason: An error or a text; its line breaks become spaces.

    Returns:
        The exit code for a mistake that the user can mend.
    """
    print("error:", " ".join(str(reason).split()), file=sys.stderr)  # noqa: T201
    return 2
