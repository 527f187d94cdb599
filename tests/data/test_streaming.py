"""Tables that are streamed: results as in memory, in little memory, from a shared cache."""

import gc
import hashlib
import logging
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from filelock import FileLock
from processes import PROJECT, Program, run
from runs import fit, long, run_folder, weights
from sklearn.preprocessing import StandardScaler

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands.train import train
from gpa_lightning.data import file_lock, split
from gpa_lightning.data.csv_file import CsvFile
from gpa_lightning.data.streaming import StreamedTable
from gpa_lightning.data.table import DataError
from gpa_lightning.data.twin import synthetic_twin

SMALL = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--max_epochs", "2"]
STREAMED = ["--data.in_memory", "false", "--data.cache_dir", "tables"]


@pytest.fixture
def tables(table: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The same students as CSV, as Parquet and as a folder, each read in many blocks."""
    monkeypatch.setattr(split, "BLOCK_ROWS", 100)
    monkeypatch.setattr(CsvFile, "BLOCK", 5_000)
    frame = pd.read_csv(table)
    frame.to_parquet("students.parquet", index=False, row_group_size=70)
    frame.to_csv("students.csv.gz", index=False)
    Path("students").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), 3)):
        columns = list(frame.columns)[:: -1 if number else 1]  # found by name
        frame.loc[rows, columns].to_parquet(f"students/part-{number}.parquet", index=False)
    Path("students/_SUCCESS").touch()
    return {
        "csv": table,
        "packed": Path("students.csv.gz"),
        "parquet": Path("students.parquet"),
        "folder": Path("students"),
    }


def set_up(path: Path, **settings: object) -> GPADataModule:
    data = GPADataModule(path=str(path), **settings)
    data.prepare_data()
    data.setup()
    return data


def streamed(path: Path, **settings: object) -> GPADataModule:
    return set_up(path, **{"in_memory": False, "cache_dir": "tables", **settings})


def entries(cache: str = "tables") -> list[str]:
    return sorted(path.name for path in Path(cache).iterdir() if not path.name.startswith("."))


def last_weights(version: int) -> dict[str, torch.Tensor]:
    path = run_folder(version) / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_sets(a: GPADataModule, b: GPADataModule) -> None:
    assert a.rows == b.rows
    for name in a.rows:
        rows = torch.randperm(a.rows[name])
        for chosen in (slice(None), slice(3, 50, 2), rows, rows.int(), rows[:0]):
            for left, right in zip(a.dataset(name)[chosen], b.dataset(name)[chosen], strict=True):
                assert torch.equal(left, right)


def test_training_is_that_of_a_table_in_memory_bit_for_bit(tables, capsys):
    flags = ["--data.path", str(tables["folder"]), *SMALL]
    assert train([*flags, "--data.in_memory", "true"]) == 0
    in_memory = capsys.readouterr().out
    assert train([*flags, *STREAMED]) == 0
    from_disk = capsys.readouterr().out
    before, after = last_weights(0), last_weights(1)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    results = [re.findall(r"(MSE|SHA|split|linear).*", out) for out in (in_memory, from_disk)]
    assert results[0] == results[1]
    assert len(results[0]) > 5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("csv", {}),
        ("packed", {"val_size": 0, "seed": 3}),
        ("parquet", {"batch_size": "full"}),
        ("folder", {}),
    ],
)
def test_sets_batches_and_scaler_are_those_of_a_table_in_memory(kind, settings, tables):
    whole, mapped = set_up(tables[kind], **settings), streamed(tables[kind], **settings)
    assert_same_sets(whole, mapped)
    state, other = whole.state_dict(), mapped.state_dict()
    for name in ("mean", "scale"):
        assert torch.equal(state.pop(name), other.pop(name))
    assert state == other
    for a, b in zip(whole.train_dataloader(), mapped.train_dataloader(), strict=True):
        assert all(map(torch.equal, a, b))


def test_scaler_is_scikit_learns_however_far_the_numbers_are_from_zero(tables):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal([1e9, -1e-6, 3], [1, 1e-9, 100], (1000, 3)))
    frame.set_axis(["a", "b", "y"], axis=1).to_csv("far.csv", index=False)
    data = streamed(Path("far.csv"), val_size=0)
    drawn = split.Split(0.2, 0, 0).draw(1000, "")
    expected = StandardScaler().fit(frame.to_numpy()[drawn.order[: drawn.training], :2])
    np.testing.assert_allclose(data.state_dict()["mean"], expected.mean_, rtol=1e-6)
    np.testing.assert_allclose(data.state_dict()["scale"], expected.scale_, rtol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_a_table_that_nobody_uses_any_more_leaves_no_file_open(tables):
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    streamed(tables["csv"])
    before = open_files()
    for _ in range(3):
        streamed(tables["csv"])
    assert open_files() == before


def test_the_cache_serves_later_runs_with_the_same_table_and_settings(tables, caplog):
    first = streamed(tables["csv"])
    assert re.search(r"537 rows are .* streamed, once, to tables.*: 0\.0 MB, and 0\.0", caplog.text)
    (entry,) = entries()
    written = Path("tables", entry, "features.f32").stat()
    caplog.clear()
    copy = Path("copy.csv")
    shutil.copy(tables["csv"], copy)
    again = streamed(copy, batch_size=7)
    assert entries() == [entry]
    assert Path("tables", entry, "features.f32").stat().st_mtime_ns == written.st_mtime_ns
    assert not caplog.text
    assert again.provenance.location == "copy.csv"
    assert_same_sets(first, again)

    streamed(tables["csv"], seed=1)
    streamed(tables["csv"], val_size=0.3)
    copy.write_text(copy.read_text().replace("1", "2"))
    assert not torch.equal(first.dataset("test")[:5][0], streamed(copy).dataset("test")[:5][0])
    assert len(entries()) == 4


def test_a_damaged_cache_is_named(tables):
    streamed(tables["csv"])
    (entry,) = entries()
    with Path("tables", entry, "target.f32").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=f"{entry}: is damaged, delete it"):
        streamed(tables["csv"])


def test_what_a_killed_process_left_behind_is_removed(tables):
    Path("tables/0.partial").mkdir(parents=True)
    streamed(tables["csv"])
    assert len(entries()) == 1


def test_another_process_that_writes_the_cache_is_waited_for(tables, monkeypatch):
    Path("tables").mkdir()
    other = FileLock("tables/.lock", thread_local=False)
    thread = Thread(target=other.acquire)
    thread.start()
    thread.join()
    said = []

    def hear(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        if "waiting" in said[-1]:
            other.release()
        return True

    monkeypatch.setattr(file_lock.log, "filters", [hear])
    assert_same_sets(streamed(tables["csv"]), set_up(tables["csv"]))
    assert said[0] == "tables: waiting for another process that writes there"


SET_UP = """
import sys
from gpa_lightning import GPADataModule

data = GPADataModule(path=sys.argv[1], in_memory=False, cache_dir="tables")
data.prepare_data()
data.setup()
print(data.dataset("test")[:][0].double().sum().item())
"""


def start(path: Path) -> Program:
    return Program("-c", SET_UP, path, env={"PYTHONPATH": str(PROJECT), "PATH": ""})


@pytest.mark.slow
def test_processes_at_once_write_the_cache_once(workplace):
    path = Path("twin.parquet")
    synthetic_twin(300_000).to_parquet(path, index=False)
    outcomes = [process.communicate() for process in (start(path), start(path))]
    assert outcomes[0][0] == outcomes[1][0] != ""
    errors = outcomes[0][1] + outcomes[1][1]
    assert errors.count("are not taken into memory but streamed") == 1
    assert "Traceback" not in errors
    assert len(entries()) == 1


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_lasts(workplace):
    path = Path("twin.parquet")
    synthetic_twin(300_000).to_parquet(path, index=False)
    process = start(path)
    while not (list(Path("tables").glob("*.partial/*")) or process.poll() is not None):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [name for name in entries() if name.endswith(".partial")]
    Path("tables", "0.partial").mkdir()  # of another table
    assert_same_sets(streamed(path), set_up(path))
    assert len(entries()) == 1


HOSTILE = {
    "empty": ("", "a value is missing, as in 1 of", "a value is missing, as in 1 of"),
    "text": ("tall", "'tall' is not a number", None),
    "NaN": ("nan", "a value is missing, as in 1 of 537 rows", "a value is missing, as in 1 of 537"),
    "too large": ("1e39", "'1e39' is too large", "1e+39 is too large"),
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_value_is_named_with_file_row_and_column(kind, in_memory, tables):
    cell, csv, parquet = HOSTILE[kind]
    frame = pd.read_csv(tables["csv"], dtype=str)
    frame.loc[500, "math"] = cell
    frame.to_csv("bad.csv", index=False)
    settings = {"in_memory": in_memory, "cache_dir": "tables"}
    with pytest.raises(DataError, match=rf"^bad\.csv, line 502, column 'math': {re.escape(csv)}"):
        set_up(Path("bad.csv"), **settings)
    if parquet:
        part = Path("students/part-2.parquet")
        part_rows = pd.read_parquet(part)
        part_rows.loc[7, "math"] = float(cell or "nan")
        part_rows.to_parquet(part, index=False)
        where = rf"^students(, |/)part-2\.parquet, row 8, column 'math': {re.escape(parquet)}"
        with pytest.raises(DataError, match=where):
            set_up(Path("students"), **settings)
    if not in_memory:
        assert entries() == []


def test_odd_values_are_named_as_in_memory(tables, caplog):
    part = Path("students/part-1.parquet")
    frame = pd.read_parquet(part)
    frame.loc[3, "gpa"] = 4.5
    frame.to_parquet(part, index=False)
    for path in Path("students").glob("*.parquet"):
        pd.read_parquet(path).assign(math=5.0).to_parquet(path, index=False)
    said = []
    for settings in ({"in_memory": True}, {"in_memory": False, "cache_dir": "tables"}):
        caplog.clear()
        set_up(Path("students"), **settings)
        said.append([line for line in caplog.messages if "streamed" not in line])
    assert (
        said[0]
        == said[1]
        == [
            "students, part-1.parquet, row 4, column 'gpa': a GPA of 4.5 is outside 0 to 4",
            "students: nothing to learn from constant column 'math'",
        ]
    )


def test_a_folder_is_its_files_in_the_order_of_their_names(tables):
    data = set_up(tables["folder"])
    parts = sorted(tables["folder"].glob("*.parquet"))
    content = b"".join(part.read_bytes() for part in parts)
    assert data.provenance.sha256 == hashlib.sha256(content).hexdigest()
    assert_same_sets(data, set_up(tables["parquet"]))


def test_a_folder_that_is_no_table_is_explained(tables):
    folder = tables["folder"]
    part = folder / "part-1.parquet"
    pd.read_parquet(part).drop(columns="math").to_parquet(part, index=False)
    with pytest.raises(DataError, match=r"part-1\.parquet: lacks the column 'math' of part-0"):
        set_up(folder)
    part.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"^students/part-1\.parquet: cannot be read: "):
        set_up(folder)
    part.unlink()
    (folder / "older").mkdir()
    with pytest.raises(DataError, match="students: holds the folder 'older'; the Parquet files"):
        set_up(folder)
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty: is a folder without \.parquet files"):
        set_up(Path("empty"))


def test_a_file_is_needed(workplace):
    with pytest.raises(DataError, match=r"--data\.in_memory false streams a file: say which"):
        GPADataModule(source="synthetic", in_memory=False).prepare_data()


def test_a_table_that_would_fill_the_memory_is_streamed_by_itself(tables, monkeypatch):
    values = 8 * pd.read_parquet(tables["folder"]).size  # bytes
    for share, is_streamed in ((0.24, False), (0.26, True)):
        memory = SimpleNamespace(total=round(values / share))
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        set_up(tables["folder"], cache_dir="tables")
        assert Path("tables").exists() == is_streamed
    assert len(entries()) == 1
    set_up(tables["folder"], cache_dir="elsewhere", in_memory=True)
    assert not Path("elsewhere").exists()


def test_a_run_goes_on_from_disk_or_memory_alike(tables, capsys):
    flags = ["--data.path", str(tables["folder"]), *SMALL, "--model.dropout", "0.2"]
    assert train([*flags, "--max_epochs", "3"]) == 0
    assert train([*flags, *STREAMED]) == 0
    on = ["--ckpt_path", str(run_folder(1) / "checkpoints/last.ckpt"), "--max_epochs", "3"]
    assert train([*flags, *on]) == 0
    uninterrupted, resumed = last_weights(0), last_weights(1)
    assert all(torch.equal(weight, resumed[name]) for name, weight in uninterrupted.items())
    (tables["folder"] / "part-2.parquet").unlink()
    assert train([*flags, *STREAMED, *on]) == 2
    assert "cannot resume: --data.data is" in capsys.readouterr().err


def test_another_tables_features_are_put_into_the_checkpoints_units(tables):
    frame = pd.read_csv(tables["csv"])
    frame.sample(200, random_state=1).to_csv("other.csv", index=False)
    state = set_up(tables["csv"]).state_dict()
    for val_size in (0, 0.2):
        whole, mapped = (f(Path("other.csv"), val_size=val_size) for f in (set_up, streamed))
        for data in (whole, mapped):
            data.load_state_dict(state)
        assert_same_sets(whole, mapped)
    # before the table is read
    whole, mapped = (
        GPADataModule(path="other.csv"),
        GPADataModule(path="other.csv", in_memory=False, cache_dir="tables"),
    )
    for data in (whole, mapped):
        data.load_state_dict(state)
        data.prepare_data()
        data.setup()
    assert_same_sets(whole, mapped)


def test_rows_go_to_other_processes_by_the_name_of_their_file(tables):
    data = streamed(tables["csv"], num_workers=2)
    copy = pickle.dumps(data.dataset("training"))
    assert len(copy) < 1000
    assert torch.equal(pickle.loads(copy)[:][0], data.dataset("training")[:][0])
    batches = [x for x, _ in data.train_dataloader()]
    alone = streamed(tables["csv"])
    assert all(map(torch.equal, batches, [x for x, _ in alone.train_dataloader()]))


def test_full_batches_are_trained_on_from_disk(tables):
    trained = []
    for data in (set_up, streamed):
        torch.manual_seed(0)
        model = GPARegressor(hidden_sizes=(16,))
        fit(model, data(tables["csv"], batch_size="full"))
        trained.append(weights(model))
    for before, after in zip(*trained, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_processes_of_a_node_share_the_cache(tables):
    flags = ["--data.path", tables["folder"], *SMALL, *STREAMED, "--trainer.logger", "false"]
    ddp = ["--devices", "2", "--strategy", "ddp", "--checkpoint", "null"]
    result = run(PROJECT / "scripts/train.py", *flags, *ddp)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("are not taken into memory but streamed") == 1
    assert len(entries()) == 1


@pytest.fixture
def tiny_disk(workplace: Path) -> Path:
    """A file system of 200 kB."""
    disk = workplace / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_found_before_anything_is_written(tables, tiny_disk, capsys):
    flags = ["--data.path", str(tables["csv"]), *SMALL, *STREAMED, "--data.cache_dir"]
    (tiny_disk / "filler").write_bytes(b"1" * 160_000)
    assert train([*flags, str(tiny_disk / "cache")]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"disk/cache: streaming .* takes 0\.1 MB there, .* only 0\.0 MB are free", error
    )
    assert "--data.cache_dir" in error
    assert entries(str(tiny_disk / "cache")) == []


WITH_LIMIT = """
import resource, sys

sys.dont_write_bytecode = True  # Python would write its first bytes, and trust them ever after
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from gpa_lightning.commands.train import train
sys.exit(train(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits as in POSIX")
def test_a_disk_that_fills_up_meanwhile_is_explained(tables):
    flags = ["--data.path", tables["csv"], *SMALL, *STREAMED]
    result = run("-c", WITH_LIMIT, *flags, env={"PYTHONPATH": str(PROJECT), "PATH": ""})
    assert result.returncode == 2, result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error"))
    assert line.startswith("error: tables: cannot be written: File too large")
    assert "--data.cache_dir" in line
    assert entries() == []


def test_a_cache_that_cannot_be_is_explained(tables):
    Path("tables").touch()
    with pytest.raises(DataError, match="tables: cannot be written: File exists; name another"):
        streamed(tables["csv"])


GROWTH = """
import sys
from pathlib import Path
import sklearn.preprocessing
import gpa_lightning.data.streaming
from gpa_lightning import GPADataModule

def kilobytes(field):
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])

before = kilobytes("VmRSS")
data = GPADataModule(path=sys.argv[1], in_memory=False, cache_dir="tables", batch_size=1000)
data.prepare_data()
data.setup()
rows = sum(len(x) for x, _ in data.train_dataloader())
rows += sum(len(x) for x, _ in data.val_dataloader())
print(rows, 1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory in /proc")
def test_memory_stays_below_the_size_of_the_table(workplace):
    rows = 2_000_000
    path = Path("numbers.parquet")
    numbers = pa.array(np.random.default_rng(0).random(rows))
    columns = {f"x{i}": numbers for i in range(10)}
    pa.parquet.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
    result = run("-c", GROWTH, path, env={"PYTHONPATH": str(PROJECT), "PATH": ""})
    assert result.returncode == 0, result.stderr
    used, growth = map(int, result.stdout.split())
    assert used == 0.8 * rows
    assert growth < rows * 10 * 8


@pytest.mark.long
@pytest.mark.minutes
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory in /proc")
def test_fifty_million_rows_are_trained_on_in_less_than_a_gigabyte(workplace):
    Path("twin").mkdir()
    parts = long(50)  # of a million rows each
    for part in range(parts):
        synthetic_twin(1_000_000, seed=part).to_parquet(f"twin/{part:02}.parquet", index=False)
    flags = ["--data.path", "twin", *STREAMED, "--data.batch_size", "4096", "--max_epochs", "1"]
    if parts < 50:  # what a share of the rows takes to learn from says nothing about them all
        flags += ["--model.hidden_sizes", "[16,8]"]
    process = Program(PROJECT / "scripts/train.py", *flags, "--accelerator", "cpu")
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM:" in status:  # not of a process that is about to end
            peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        time.sleep(0.1)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"{parts},000,000 rows" in output
    assert f"{parts * 640_000:,} training, {parts * 160_000:,} validation" in output
    assert 0 < peak < 1e9
    print(f"{parts} million rows: {peak:,} bytes resident at most")


@pytest.mark.parametrize("rows", [100, 300])
def test_a_table_that_changes_while_it_is_read_is_noticed(rows, tables, monkeypatch):
    path = tables["parquet"]
    frame = pd.read_parquet(path)
    frame[:200].to_parquet(path, index=False)
    count = StreamedTable._count_rows

    def count_and_change(table):
        found = count(table)
        frame[:rows].to_parquet(path, index=False)
        return found

    monkeypatch.setattr(StreamedTable, "_count_rows", count_and_change)
    with pytest.raises(DataError, match="was changed while it was read"):
        streamed(path)
    assert entries() == []


def test_how_a_streamed_table_was_read_is_told(table, workplace, caplog):
    text = table.read_text().replace(",", ";")
    Path("semicolons.csv").write_text(text)
    streamed(Path("semicolons.csv"))
    assert "semicolons.csv: read with semicolons between its columns" in caplog.text
