"""What the tests share: small tables that they make themselves, and the real one where it is."""

import gc
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpa_lightning.data.table import FEATURES

# A shell's background jobs ignore Ctrl-C, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Ignore a warning whose class takes seconds to import, where tests are run.

    What starts the processes of pytest-xdist runs none, and they have to wait for it.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        warning = "lightning.fabric.utilities.warnings.PossibleUserWarning"
        config.addinivalue_line("filterwarnings", f"ignore::{warning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process begin with one of the longest tests, beside which the others can be done.

    With ``--dist worksteal``, each has a stretch of the tests to begin with.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    longest = [item for item in items if item.get_closest_marker("minutes")]
    others = iter([item for item in items if not item.get_closest_marker("minutes")])
    ordered: list[pytest.Item] = []
    for process in range(processes):
        stretch = (len(items) - len(ordered)) // (processes - process)
        first = longest[process::processes]
        ordered += [*first, *islice(others, max(0, stretch - len(first)))]
    items[:] = ordered


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the libraries have imported, for good."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def real_table() -> str:
    """The path of the real table, which is not part of the project."""
    path = os.environ.get("GPA_CSV")
    if not path:
        pytest.skip("needs the real GPA table: set GPA_CSV to its path")
    return path


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 537 made-up students in the course's layout, whose GPA can be learnt."""
    random = np.random.default_rng(0)
    scores = random.normal(550, 100, size=(537, len(FEATURES)))
    gpa = 2.5 + (scores - 550) @ np.linspace(0, 0.002, len(FEATURES)) + random.normal(0, 0.2, 537)
    path = tmp_path_factory.mktemp("data") / "students.csv"
    frame = pd.DataFrame(scores, columns=list(FEATURES)).round(2).assign(gpa=gpa.clip(0, 4))
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with no real table in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPA_CSV", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(autouse=True)
def no_environment_left_behind() -> Iterator[None]:
    """Lightning leaves its seed in the environment, and with `ddp` what makes a program a child."""
    before = os.environ.copy()
    yield
    os.environ.clear()
    os.environ.update(before)
