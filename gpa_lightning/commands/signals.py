"""Ctrl-C, SIGTERM, and processes that lose each other.

Lightning has no public names for its answer to a signal, nor for the thread that watches the
processes: those with an underscore are its own. The tests of several processes notice a change.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, LightningModule, Trainer


def answer_sigterm_without_waiting(trainer: Trainer) -> None:
    """Note SIGTERM and pass it on to the processes that this one has started, no more.

    Lightning's handler also broadcasts it, and so waits for the other processes in the middle of
    whatever they exchange, possibly for ever (since its pull request 20825). Its loop broadcasts
    what has been noted before each round anyway.
    """
    connector = trainer._signal_connector

    def note(signum: int, _: FrameType | None) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = note  # type: ignore[method-assign]


def exit_at_once(signal_number: int, frame: FrameType | None) -> None:
    """Exit with a signal's code, without any of the work that is left to do."""
    os._exit(128 + signal_number)


class SecondInterrupt(Callback):
    """Lets a second Ctrl-C end the program at once, which Lightning would ignore."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the next Ctrl-C for an order to end at once."""
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, exit_at_once)


class DelayedKill(Callback):
    """Delays Lightning's kill of a training that has lost a process, so that the others can say so.

    A thread of Lightning's looks every five seconds whether one of the processes that it started
    has failed, and then kills all the others. With this it waits, and kills those that are left.
    """

    delay = 30  # seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put a wait before the kill."""
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver) and stage == "fit":
                thread._terminate_all = partial(  # type: ignore[method-assign]
                    self._kill_later, thread._terminate_all
                )

    def _kill_later(self, kill: Callable[[], None]) -> None:
        time.sleep(self.delay)
        kill()
