"""How PyTorch's threads wait for each other: awake on free cores, asleep beside a busy program.

At the end of each operation GNU's OpenMP lets threads spin for some milliseconds before they
sleep, so that they are at hand for the next one. That is fastest where each has a core to itself.
Where another program computes on one of the cores, the spinning threads take the time that the one
they wait for needs, and a step takes many times as long. While OpenMP counts more threads than
processors, it lets them sleep at once; idle threads count, too. No result depends on it.
"""

from __future__ import annotations

import os
import time
from threading import Event, Thread
from typing import NamedTuple

import psutil
import torch

from gpa_lightning.speed.openmp import run_in_team

_INTERVAL = 0.25  # seconds; the kernel counts in hundredths
_CORES_WANTED = 0.4  # of a core beyond the free ones; much less is the machine's own housekeeping
_CORES_LEFT = 0.2


class _Usage(NamedTuple):
    """Seconds of the processors that this process may use."""

    clock: float
    idle: float
    own: float

    @classmethod
    def now(cls, processors: set[int]) -> _Usage:
        each = psutil.cpu_times(percpu=True)
        used = [each[i] for i in processors if i < len(each)]
        idle = sum(times.idle + getattr(times, "iowait", 0.0) for times in used)
        return cls(time.monotonic(), idle, time.process_time())


class WaitingThreads:
    """Has OpenMP's threads wait asleep for as long as other programs need their cores.

    Nothing is done where the user has decided it by ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY``,
    where PyTorch computes in one thread, or where it does not use GNU's OpenMP (macOS, Windows).

    Example:
        >>> waiting = WaitingThreads()
        >>> waiting.look()  # often: it looks at the machine's load four times a second
        >>> waiting.close()
    """

    def __init__(self) -> None:
        decided = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
        acts = hasattr(os, "sched_getaffinity") and not decided and torch.get_num_threads() > 1
        self._processors = os.sched_getaffinity(0) if acts else set()
        self._before = _Usage.now(self._processors) if acts else None
        self._idle_team: _IdleTeam | None = None

    @property
    def asleep(self) -> bool:
        """Whether the threads wait asleep now."""
        return self._idle_team is not None

    def look(self) -> None:
        """Decide by what other programs have used since the last look."""
        if self._before is None or time.monotonic() - self._before.clock < _INTERVAL:
            return
        now = _Usage.now(self._processors)
        before, self._before = self._before, now
        threads, processors = torch.get_num_threads(), len(self._processors)
        free_or_own = (now.idle - before.idle + now.own - before.own) / (now.clock - before.clock)
        lacking = threads - free_or_own
        if not self.asleep and lacking > _CORES_WANTED:
            self._idle_team = _IdleTeam(max(2, processors - threads + 2))
        elif self.asleep and lacking < _CORES_LEFT:
            self.close()

    def close(self) -> None:
        """Let the threads wait as they did before."""
        if self._idle_team:
            self._idle_team.close()
        self._idle_team = None


class _IdleTeam:
    """An OpenMP team that computes nothing, for OpenMP to count its threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._created, self._over = Event(), Event()
        self._thread = Thread(target=self._live, name="idle OpenMP team", daemon=True)
        self._thread.start()
        self._created.wait()

    def _live(self) -> None:
        run_in_team(lambda: None, self._threads)
        self._created.set()
        self._over.wait()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
