"""A study's runs done by other processes, of which one is killed on the way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from runs import PROJECT

from gpa_lightning.commands.study import main

STUDY = [sys.executable, str(PROJECT / "scripts/study.py"), "more-data", "--quick"]


@pytest.fixture(scope="module")
def flags(table: Path) -> list[str]:
    return ["--accelerator", "cpu", "--data.path", str(table)]


@pytest.fixture(scope="module")
def expected(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of the study, done by this process alone."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["more-data", "--quick", *flags, "--output", str(folder)]) == 0
    return pd.read_csv(folder / "more-data/results.csv")


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finished() -> list[Path]:
    return list(Path("studies").glob("*/runs/*/outcome.json"))


def study_survives(
    flags: list[str], victim: Callable[[int], psutil.Process], expected: pd.DataFrame
) -> None:
    """Kill a process when the first run is done; the study must come out the same."""
    study = subprocess.Popen(
        [*STUDY, *flags, "--output", "studies"],  # a relative path, of which others know nothing
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: finished() or study.poll() is not None)
        victim(study.pid).kill()
        assert len(finished()) < len(expected)
        _, errors = study.communicate(timeout=240)
    finally:
        study.kill()
    assert study.returncode == 0, errors
    pd.testing.assert_frame_equal(pd.read_csv("studies/more-data/results.csv"), expected)


@pytest.fixture
def cluster(workplace: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler's address and its two workers, in another folder than the study."""
    pytest.importorskip("distributed", reason="needs Dask: pip install '.[cluster]'")
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    file = workplace / "scheduler.json"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = ["worker", "--nthreads", "1", "--no-nanny"]
    with (workplace / "cluster.log").open("w") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *role, "--no-dashboard", "--scheduler-file", file],
                cwd=elsewhere,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                stdout=log,
                stderr=log,
            )
            for role in (scheduler, worker, worker)
        ]
        try:
            until(file.exists)
            until(lambda: log_of(workplace).count("Registered to") == 2)
            yield json.loads(file.read_text())["address"], processes[1:]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def log_of(workplace: Path) -> str:
    return (workplace / "cluster.log").read_text()


def test_a_dask_cluster_that_loses_a_worker_gives_the_same_table(cluster, flags, expected):
    address, workers = cluster
    study_survives([*flags, "--dask", address], lambda _: psutil.Process(workers[0].pid), expected)
    assert workers[1].poll() is None


@pytest.mark.long
def test_n_jobs_that_lose_a_process_give_the_same_table(workplace, flags, expected):
    def process_that_trains(study: int) -> psutil.Process:
        children = psutil.Process(study).children()
        return next(child for child in children if "popen_loky" in " ".join(child.cmdline()))

    study_survives([*flags, "--n_jobs", "2"], process_that_trains, expected)


def refused(capsys: pytest.CaptureFixture[str], address: str) -> str:
    assert main(["more-data", "--quick", "--data.source", "synthetic", "--dask", address]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --dask ")
    assert error.count("\n") == 1
    return error


def test_a_scheduler_that_does_not_answer(workplace, capsys):
    pytest.importorskip("distributed", reason="needs Dask: pip install '.[cluster]'")
    assert "no scheduler answers there" in refused(capsys, "tcp://127.0.0.1:1")


def test_dask_that_is_not_installed(workplace, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install" in refused(capsys, "tcp://127.0.0.1:1")
