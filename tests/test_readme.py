"""Every command and program of the README and of "Change something", run on a small table."""

import inspect
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from processes import PROJECT, run

from gpa_lightning.commands import predict
from gpa_lightning.commands.compare import main as compare
from gpa_lightning.commands.program import main
from gpa_lightning.commands.study import main as study
from gpa_lightning.commands.train import train
from gpa_lightning.data import formats
from gpa_lightning.data.sources import load_table


def blocks(text: str) -> list[tuple[str, str]]:
    """The kind and the content of each block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


README = (PROJECT / "README.md").read_text()
BLOCKS = blocks(README)
CHANGES = blocks((PROJECT / "docs/change-something.md").read_text())
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "python scripts/train.py": train,
    "python scripts/predict.py": predict.main,
    "python -m gpa_lightning": main,
    "python scripts/study.py": study,
}
QUICK = ["--trainer.limit_train_batches", "2", "--max_epochs", "2"]


def arguments(command: str, program: str) -> list[str]:
    return shlex.split(command.removeprefix(program))


@pytest.fixture(scope="module")
def earlier_run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that one run of the recommended command has left."""
    folder = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GPA_CSV", str(table))
        flags = ["--max_epochs", "1", "--trainer.logger.version", "version_0"]
        assert train([*QUICK, *flags]) == 0
        best = folder / "lightning_logs/version_0/checkpoints/best-epoch-0.ckpt"
        shutil.copy(best, best.with_stem("best-epoch-8"))  # which the README's own run ends with
    return folder / "lightning_logs"


@pytest.fixture
def home(table: Path, earlier_run: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the README assumes it: a table, and the checkpoint of an earlier run."""
    shutil.copy(table, "students.csv")
    shutil.copytree(earlier_run, "lightning_logs")
    monkeypatch.setenv("GPA_CSV", str(table))
    return workplace


IN_PROCESS = [
    (command, program)
    for command in COMMANDS
    for program in PROGRAMS
    if command.startswith(program) and "--help" not in command and "--devices 2" not in command
]


@pytest.mark.parametrize(("command", "program"), IN_PROCESS)
def test_command(command, program, home, capsys):
    if "--accelerator gpu" in command and not torch.cuda.is_available():
        assert PROGRAMS[program](arguments(command, program)) == 2
        assert "gpu" in capsys.readouterr().err
        return
    if "synthetic" in command:
        (home / "students.csv").unlink()
    quick = QUICK if "train" in program or "gpa_lightning train" in command else []
    words = ["--tiny" if word == "--quick" else word for word in arguments(command, program)]
    assert PROGRAMS[program]([*words, *quick]) == 0
    if "study" in program:
        return
    if "predict" in program:
        assert "predicted_gpa" in (home / "predictions.csv").read_text()


@pytest.mark.slow
def test_several_processes(home):
    (command,) = (line for line in COMMANDS if "--devices 2" in line)
    flags = arguments(command, "python scripts/train.py")
    result = run(PROJECT / "scripts/train.py", *flags, *QUICK, cwd=home)
    assert result.returncode == 0, result.stderr
    assert "test MSE" in result.stdout
    assert "sync_dist" not in result.stderr


@pytest.mark.parametrize("program", [train, predict.main, study, compare])
def test_help_names_the_flags(program, capsys):
    with pytest.raises(SystemExit, match="0"):
        program(["--help"])
    flags = {train: "--data.path", predict.main: "--ckpt_path", study: "--seeds", compare: "--from"}
    assert flags[program] in capsys.readouterr().out


@pytest.mark.slow
def test_help():
    result = run("-X", "importtime", PROJECT / "scripts/train.py", "--help")
    assert result.returncode == 0
    assert "gpa_lightning.data.datamodule" in result.stderr
    for slow in ("pandas.core", "pyarrow.lib", "sklearn"):
        assert slow not in result.stderr
    for flag in ("--max_epochs", "--data.path", "--model.dropout", "--early_stopping"):
        assert flag in result.stdout


@pytest.mark.parametrize("program", [block for kind, block in BLOCKS if kind == "python"])
def test_python(program, home, capsys):
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    output = capsys.readouterr().out
    assert "test_loss" in output or "[-0." in output


def test_changes_in_python(home, capsys):
    parts = [block for kind, block in CHANGES if kind == "python"]
    program = "".join(parts).replace("rounds=3", "rounds=1").replace("epochs=2", "epochs=1")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "change-something.md", "exec"), names)
    numbers = dict(
        line.rsplit(maxsplit=3)[::3] for line in capsys.readouterr().out.splitlines()[-10:]
    )
    assert numbers.keys() == {*names["MEASURED"], "a loader of PyTorch's", "no FastTraining"}
    assert all(float(number) > 0 for number in numbers.values())
    assert load_table("file", "wages.parquet").target.tolist() == [10, 20, 15]


def test_changes_by_flags(home):
    (command,) = (block for kind, block in CHANGES if kind == "bash")
    assert train([*arguments(command.strip(), "python scripts/train.py"), *QUICK]) == 0


def test_a_further_file_format(home, monkeypatch):
    (lines,) = (block for kind, block in CHANGES if kind == "py")
    before, last, after = inspect.getsource(formats._open_by_name).rpartition("    raise DataError")
    exec(f"{before}{lines}{last}{after}", vars(formats), added := {})
    monkeypatch.setattr(formats, "_open_by_name", added["_open_by_name"])
    pd.DataFrame({"age": [20, 30, 45], "wage": [10, 20, 15]}).to_json("wages.json")
    assert load_table("file", "wages.json").target.tolist() == [10, 20, 15]


def test_yaml(home):
    (text,) = (block for kind, block in BLOCKS if kind == "yaml")
    Path("my.yaml").write_text(text)
    assert train(["--config", "my.yaml", *QUICK]) == 0


def test_make_targets_exist():
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    assert {"train", "test", "tensorboard"} <= targets
    for target in [*targets, "lint", "clean", "help"]:
        subprocess.run(["make", "--dry-run", target], cwd=PROJECT, check=True, capture_output=True)


@pytest.mark.slow
def test_make_train(home):
    (command,) = (line for line in COMMANDS if line.startswith("make train ARGS"))
    _, _, flags = shlex.split(command)
    elsewhere = ["--trainer.logger", "false", "--trainer.default_root_dir", str(home)]
    result = subprocess.run(
        ["make", "train", f"{flags} {shlex.join(QUICK + elsewhere)}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "test MSE" in result.stdout


def test_every_command_is_run_by_a_test():
    run_here = {command for command, _ in IN_PROCESS}
    rest = [line for line in COMMANDS if line not in run_here]
    known = ("make ", "python -m venv", ".venv/bin/", "python scripts/train.py --help")
    assert [line for line in rest if not line.startswith(known) and "--devices 2" not in line] == []


def test_the_recipes_in_the_table_are_all_there_are():
    listed = set(re.findall(r"^\| `([\w-]+)` \|", README, flags=re.MULTILINE))
    assert listed == {path.stem for path in (PROJECT / "gpa_lightning/recipes").glob("*.yaml")}


def test_files_that_are_named_exist():
    for path in re.findall(r"`((?:gpa_lightning|scripts|docs)/[\w./-]+)`", README):
        assert (PROJECT / path).exists(), path
