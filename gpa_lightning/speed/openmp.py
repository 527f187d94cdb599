"""GNU's OpenMP, by whose threads PyTorch computes on Linux.

`GOMP_parallel` is what compilers call for a parallel region. This file is the only one that knows
the name; other systems have other runtimes, for which nothing here acts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def run_in_team(function: Callable[[], object], threads: int) -> bool:
    """Call a function once in each thread of the calling thread's OpenMP team.

    Args:
        function: What is called; it must not raise.
        threads: Size of the team, the calling thread included. Threads that the team lacks are
            created; they wait for the next region, until the calling thread ends.

    Returns:
        Whether there is GNU's OpenMP in this process; if not, nothing has been called.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return False

    def call(_: int | None) -> None:
        function()

    parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(call), None, threads, 0)
    return True
