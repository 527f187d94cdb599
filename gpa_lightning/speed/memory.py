"""Memory that a step frees, kept for the next one.

glibc returns freed memory to the system beyond a threshold, and gets it anew, page by page, when it
is asked for. It adjusts the threshold to the blocks that it sees, too low for a step of training,
which frees several large ones at once: thousands of page faults a step at 1,000 rows a batch.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_BLOCK = 32 << 20  # bytes; glibc's own adjustment goes as far, and to twice it for the rest


def keep_freed_memory() -> bool:
    """Keep up to 64 MiB of freed memory for the next step, for as long as the process lives.

    There is no way back to glibc's adjustment. Nothing is done where the user has set
    ``MALLOC_...`` or ``GLIBC_TUNABLES``, or without glibc (macOS, Windows, musl).

    Returns:
        Whether it was done.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_BLOCK)
    )
