"""Running a program of the project as its users do, in a process of its own."""

import atexit
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

PROJECT = Path(__file__).parents[1]
HANGS = 3600
"""Seconds after which a process is taken to hang; nothing that ends by itself takes as long."""

# Importing the libraries takes longer than what most tests run, so a server imports them once and
# forks a process for each program; the project itself is imported by the program.
_LIBRARIES = [
    *("lightning.pytorch.cli", "matplotlib.figure", "pandas", "pyarrow.csv", "rich.progress"),
    *("sklearn.linear_model", "tensorboard.compat.proto.event_pb2", "torch.utils.tensorboard"),
    *("torchmetrics", "torch._dynamo"),
]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(_LIBRARIES)


class Program:
    """A running program, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(
        self, *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.args = [str(arg) for arg in args]
        folder = mkdtemp()
        # without a warning, which a test that happens to run then would take for its own
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._output, self._errors = Path(folder, "out"), Path(folder, "err")
        environment = dict(os.environ if env is None else env)
        outputs = (str(self._output), str(self._errors))
        self._process = _server.Process(
            target=_become, args=(self.args, str(cwd or Path.cwd()), environment, *outputs)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float = HANGS) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = HANGS) -> tuple[str, str]:
        self.wait(timeout)
        return self._output.read_text(), self._errors.read_text()


def run(
    *args: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run Python on a file, or with any other arguments, and return what came of it."""
    words = [str(arg) for arg in args]
    if words[0] != "-c" and not words[0].endswith(".py"):
        return run_anew(*args, cwd=cwd, env=env)
    program = Program(*words, cwd=cwd, env=env)
    output, errors = program.communicate()
    return subprocess.CompletedProcess(words, program.returncode, output, errors)


def run_anew(
    *args: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Do the same in a process that has imported nothing before."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=HANGS, check=False, cwd=cwd, env=env
    )


def _become(words: list[str], cwd: str, env: dict[str, str], output: str, error: str) -> None:
    """Do in a new process what Python does with a file, or with ``-c`` and a text."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, path in ((1, output), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = words
    try:
        if words[0] == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *words[2:]]
            sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(sys.modules["__main__"]))
        else:
            sys.path.insert(0, str(Path(words[0]).parent.resolve()))
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def until(holds: Callable[[], object], *processes: "subprocess.Popen | Program") -> None:
    """Wait until something holds, for as long as all of the given processes run."""
    deadline = time.monotonic() + HANGS
    while not holds():
        for process in processes:
            if process.poll() is not None:
                raise AssertionError(f"ended early: {process.communicate()[1]}")
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.02)
