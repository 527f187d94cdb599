"""A study's runs done by other processes, of which one is killed on the way."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from processes import PROJECT, run_anew, until

from gpa_lightning.commands.study import main

KILLED_ONCE = """
import os, signal, sys
from contextlib import suppress

if {"worker", "joblib.externals.loky.backend.popen_loky_posix"} & set(sys.orig_argv):
    from gpa_lightning.studies import runs

    evaluation_mse = runs.evaluation_mse

    def killed_once(*args):
        with suppress(FileExistsError):
            open(os.environ["KILLED"], "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluation_mse(*args)

    runs.evaluation_mse = killed_once
"""
"""A `sitecustomize` module: the first process that has trained is killed before it says so."""


@pytest.fixture
def environment(workplace: Path) -> dict[str, str]:
    """The environment of processes of which one, whichever trains first, is killed."""
    folder = workplace / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(KILLED_ONCE)
    path = os.pathsep.join(map(str, (folder, PROJECT)))
    return {**os.environ, "PYTHONPATH": path, "KILLED": str(workplace / "killed")}


def study_survives(flags: list[str], environment: dict[str, str], everything: Path) -> None:
    """Do a study with processes of which one is killed; it must come out as with one process."""
    # the output is a relative path, of which others know nothing
    study = [PROJECT / "scripts/study.py", "more-data", "--tiny", "--output", "studies", *flags]
    done = run_anew(*study, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path("killed").exists()
    expected, results = (
        pd.read_csv(output / "more-data/results.csv") for output in (everything, Path("studies"))
    )
    pd.testing.assert_frame_equal(results, expected)


@pytest.fixture
def cluster(
    workplace: Path, environment: dict[str, str]
) -> Iterator[tuple[str, list[subprocess.Popen]]]:
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
                env=environment,
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


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_table(
    cluster, table, environment, everything
):
    address, workers = cluster
    flags = ["--accelerator", "cpu", "--data.path", str(table), "--dask", address]
    study_survives(flags, environment, everything)
    until(lambda: any(worker.poll() is not None for worker in workers))
    assert sorted(str(worker.poll()) for worker in workers) == ["-9", "None"]


@pytest.mark.slow
def test_n_jobs_that_lose_a_process_give_the_same_table(table, environment, everything):
    flags = ["--accelerator", "cpu", "--data.path", str(table), "--n_jobs", "2"]
    study_survives(flags, environment, everything)


def refused(capsys: pytest.CaptureFixture[str], address: str) -> str:
    assert main(["more-data", "--tiny", "--data.source", "synthetic", "--dask", address]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --dask ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "address", ["nonsense://a", pytest.param("tcp://127.0.0.1:1", marks=pytest.mark.slow)]
)
def test_a_scheduler_that_does_not_answer(address, workplace, capsys):
    pytest.importorskip("distributed", reason="needs Dask: pip install '.[cluster]'")
    assert "no scheduler answers there" in refused(capsys, address)


def test_dask_that_is_not_installed(workplace, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install" in refused(capsys, "tcp://127.0.0.1:1")
