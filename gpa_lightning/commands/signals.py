"""Ctrl-C, SIGTERM, and processes that lose each other."""

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
    """Have SIGTERM noted and passed on to the processes that this one has started, no more.

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


def end_at_once(signal_number: int, frame: FrameType | None) -> None:
    """End this process by a signal, without any of the work that is left to do."""
    os._exit(128 + signal_number)


class SecondInterrupt(Callback):
    """Lets a second Ctrl-C end the program at once, which Lightning would ignore."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the next Ctrl-C for an order to end at once."""
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, end_at_once)


class LastWord(Callback):
    """Lets a process that has lost another say so, before Lightning kills it for that.

    A thread of Lightning's looks every five seconds whether one of the processes that it started
    has failed, and then kills all the others. Here it does so if they have not ended by then.
    """

    patience = 30  # seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have Lightning wait before it kills."""
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver) and stage == "fit":
                thread._terminate_all = partial(  # type: ignore[method-assign]
                    self._wait_and, thread._terminate_all
                )

    def _wait_and(self, kill: Callable[[], None]) -> None:
        time.sleep(self.patience)
        kill()
