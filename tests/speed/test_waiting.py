"""Threads that wait spin where the cores are free, and sleep beside a busy program."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from processes import until
from runs import fit, weights

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.speed.openmp import run_in_team
from gpa_lightning.speed.waiting import WaitingThreads, _IdleTeam, _Usage

processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
pytestmark = pytest.mark.skipif(
    processors < 2 or not run_in_team(lambda: None, 1),
    reason="needs GNU's OpenMP and a second processor",
)


@pytest.fixture(autouse=True)
def a_thread_a_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(processors)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """A program for each core, that needs all of it."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(processors)]
    yield
    for program in programs:
        program.kill()
        program.wait()


def idle_teams() -> int:
    return sum(thread.name == "idle OpenMP team" for thread in threading.enumerate())


def seconds_computed_while_waiting() -> float:
    """Processor time of threads that have nothing to do; the calling one sleeps."""
    computed = 0.0
    for _ in range(10):
        run_in_team(lambda: None, 2)
        before = time.process_time()
        time.sleep(0.02)
        computed += time.process_time() - before
    return computed


def test_beside_an_idle_team_threads_sleep_while_they_wait():
    spinning = seconds_computed_while_waiting()
    idle = _IdleTeam(processors)
    asleep = seconds_computed_while_waiting()
    idle.close()
    spinning_again = seconds_computed_while_waiting()
    assert asleep < spinning / 2
    assert asleep < spinning_again / 2
    assert not idle_teams()


def test_they_are_put_to_sleep_beside_a_busy_program(busy_cores):
    waiting = WaitingThreads()
    until(lambda: waiting.look() or waiting.asleep)
    assert idle_teams() == 1
    waiting.close()
    assert not waiting.asleep
    assert not idle_teams()


def test_what_its_own_threads_compute_is_not_another_programs():
    def compute() -> None:
        while time.thread_time() < 0.1:
            pass

    before = _Usage.now(set())
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert _Usage.now(set()).own - before.own >= 0.1


@pytest.mark.parametrize("variable", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_holds(variable, busy_cores, monkeypatch):
    monkeypatch.setenv(variable, "active" if variable == "OMP_WAIT_POLICY" else "300000")
    waiting = WaitingThreads()
    time.sleep(0.3)
    waiting.look()
    assert not waiting.asleep


class UntilAsleep(Callback):
    """Ends a fit after the epoch in which the threads have been put to sleep."""

    epochs = 0

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1
        trainer.should_stop = idle_teams() > 0


def test_a_fit_ends_with_the_same_weights_and_leaves_no_thread(table, busy_cores, monkeypatch):
    def fitted(*callbacks: Callback, epochs: int) -> list:
        seed_everything(0)
        model = GPARegressor(hidden_sizes=(64, 32))
        fit(model, GPADataModule(path=str(table), batch_size=50), *callbacks, epochs=epochs)
        assert not idle_teams()
        return weights(model)

    beside = UntilAsleep()
    asleep = fitted(beside, epochs=10_000)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # which keeps them as they are
    awake = fitted(epochs=beside.epochs)
    assert all((a == b).all() for a, b in zip(asleep, awake, strict=True))
