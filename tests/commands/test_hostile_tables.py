"""Tables that go wrong, through the command lines of training and predicting."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from data.test_sources import (
    BOMBS,
    BOTH,
    COURSE,
    FIRST_ROWS,
    GOOD,
    LINES,
    NOT_NUMBERS,
    TRAINING,
    pack,
    table,
)
from processes import PROJECT
from runs import fit, long

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands import predict
from gpa_lightning.commands.train import train

TRAIN = ["--accelerator", "cpu", "--model.hidden_sizes", "[4]", "--max_epochs", "1"]
GIB = 2**30
Run = Callable[..., tuple[int, str, int]]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder in which every file lies, and a checkpoint of the course's table."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "good.csv").write_text(table(60))
    model = GPARegressor(hidden_sizes=(4,))
    trainer = fit(model, GPADataModule(path=str(folder / "good.csv")), epochs=1)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder


@pytest.fixture
def called(capsys) -> Run:
    """Programs run in this process, whose memory is not looked at."""

    def run(program: str, *arguments: str) -> tuple[int, str, int]:
        code = {"train": train, "predict": predict.main}[program](list(arguments))
        return code, capsys.readouterr().err, 0

    return run


@pytest.fixture(scope="module")
def forked(place) -> Iterator[Run]:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "tests/forked.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=place,
    )

    def run(*command: str) -> tuple[int, str, int]:
        print(json.dumps(command), file=process.stdin, flush=True)
        return tuple(json.loads(process.stdout.readline()))

    with process:
        yield run
        process.stdin.close()


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return path


def special() -> dict[str, tuple[str, object, str]]:
    """Name what is no text: a file's name, how it is made, and what is said of it."""
    whole = gzip.compress(table(2_000).encode())
    packed = "is no gzip file, or a damaged or incomplete one"
    wide = ",".join(f"x{i}" for i in range(10_000)) + "\n" + ",".join("1" * 10_000)
    cases = {
        "a folder": ("t.csv", Path.mkdir, "is a folder without .parquet files"),
        "a FIFO": ("t.csv", os.mkfifo, "is not a regular file"),
        "a missing file": ("t.csv", lambda path: None, "there is no such file"),
        "a truncated gzip": ("t.csv.gz", whole[: len(whole) // 2], packed),
        "a gzip without its end": ("t.csv.gz", whole[:-4], packed),
        "text named gzip": ("t.csv.gz", table(5), packed),
        "an unknown suffix": ("t.xls", table(5), "is not named .csv, .tsv, .csv.gz"),
        "text named Parquet": ("t.parquet", table(5), "cannot be read"),
        "an empty Parquet": ("t.parquet", b"", "cannot be read"),
        "ten thousand columns": ("t.csv", wide + "\n", ""),
    }
    for name, (values, message) in NOT_NUMBERS.items():
        columns = pa.table(FIRST_ROWS | {"math": values})
        make = (lambda c: lambda path: pyarrow.parquet.write_table(c, path))(columns)
        cases[f"Parquet with {name}"] = ("t.parquet", make, message)
    return cases


def bomb(name: str, path: Path) -> None:
    start, block, gigabytes, _ = BOMBS[name]
    pack(path, start, block, gigabytes * GIB)


TEXTS = {f"CSV: {name}": ("t.csv", *case) for name, case in BOTH.items()}
PACKED = {
    f"bomb: {name}": (
        "t.csv.gz",
        (lambda n: lambda path: bomb(n, path))(name),
        "" if name == "short rows" else case[-1],  # these lack the columns to predict from
    )
    for name, case in BOMBS.items()
}
REFUSED = {**TEXTS, **special(), **PACKED}
EVERYDAY = [
    "CSV: text in the 40,000th row",
    "CSV: UTF-16",
    "CSV: text without header",
    "a FIFO",
    "a folder",
    "bomb: zeros below a header",
]


def refused(case: str, folder: Path, call: Run) -> int:
    """Try a file; return the largest memory that a program took to refuse it."""
    name, content, message = REFUSED[case]
    (folder / "case").mkdir(exist_ok=True)
    path = write(folder / "case", name, content)
    output = folder / "case" / "out.csv"
    checkpoint = str(folder / "last.ckpt")
    commands = {
        "train": [*TRAIN, "--data.path", str(path)],
        "predict": ["--ckpt_path", checkpoint, "--input", str(path), "--output", str(output)],
    }
    largest = 0
    try:
        for program, arguments in commands.items():
            code, errors, memory = call(program, *arguments)
            assert code == 2, (case, program, errors)
            assert errors.startswith(f"error: {path}"), (case, program, errors)
            assert message.split(" (")[0][:20] in errors, (case, program, errors)
            assert errors.count("\n") == 1, (case, program, errors)
            assert not output.exists()
            largest = max(largest, memory)
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        assert not list((folder / "case").iterdir())
    return largest


@pytest.mark.parametrize("case", EVERYDAY)
def test_a_hostile_table_is_refused(case, place, called, monkeypatch):
    monkeypatch.chdir(place)
    refused(case, place, called)
    assert not Path("lightning_logs").exists()


@pytest.mark.long
def test_all_hostile_tables_are_refused(place, forked, monkeypatch):
    monkeypatch.chdir(place)
    cases = list(REFUSED)[:: max(1, round(len(REFUSED) / long(len(REFUSED))))]
    largest = 0
    for case in cases:
        # one row is too few for a split, and enough to predict the columns that are missing
        largest = max(largest, refused(case, place, forked))
    assert largest < 2 * GIB
    for name, (text, _) in list(TRAINING.items())[: long(len(TRAINING))]:
        path = write(place, "training.csv", text)
        code, errors, _ = forked("train", *TRAIN, "--data.path", str(path))
        assert (code, errors.count("\n")) == (2, 1), (name, errors)
    for rows in (1, 2, 3):
        path = write(place, "short.csv", "\n".join([COURSE, *LINES[:rows], ""]))
        code, errors, _ = forked("train", *TRAIN, "--data.path", str(path))
        assert code == 2
        assert f"{rows} rows are too few for a split" in errors
    assert not Path("lightning_logs").exists()
    print(f"{len(cases)} tables refused by train and by predict, {largest / GIB:.2f} GiB at most")


@pytest.mark.long
def test_all_harmless_forms_are_accepted(place, forked, monkeypatch):
    monkeypatch.chdir(place)
    for name, text in list(GOOD.items())[: long(len(GOOD))]:
        path = write(place, "form.csv", text)
        code, errors, _ = forked("train", *TRAIN, "--data.path", str(path))
        assert code == 0, (name, errors)
        flags = ["--ckpt_path", "last.ckpt", "--input", str(path), "--output", "out.csv"]
        code, errors, _ = forked("predict", *flags, "--overwrite")
        assert code == 0, (name, errors)
        assert len(Path("out.csv").read_text().splitlines()) == 21, name
    print(f"{long(len(GOOD))} harmless forms accepted by train and by predict")
