"""Predictions from a checkpoint alone, and what is refused."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback
from processes import PROJECT, run, run_anew
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands.predict import main
from gpa_lightning.data.table import FEATURES

SCRIPT = PROJECT / "scripts" / "predict.py"


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def trained(path: Path, data: GPADataModule, *callbacks: Callback, **flags) -> GPARegressor:
    """Train a small network, with all that prediction has to undo, into a checkpoint."""
    torch.manual_seed(0)
    model = GPARegressor(hidden_sizes=(4,), dropout=0.5)
    fit(model, data, *callbacks, epochs=1, **flags).save_checkpoint(path)
    return model.float().eval()


@pytest.fixture(scope="session")
def expected(table: Path, tmp_path_factory) -> SimpleNamespace:
    """A checkpoint, the table that it was trained on, and what is to be predicted for it."""
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    model = trained(path, GPADataModule(path=str(table)))
    frame = pd.read_csv(table, dtype=str)
    scaler = torch.load(path, weights_only=True)["GPADataModule"]
    scores = frame[list(FEATURES)].to_numpy(float)
    standardised = (scores - scaler["mean"].numpy()) / scaler["scale"].numpy()
    with torch.no_grad():
        gpas = model(torch.tensor(standardised, dtype=torch.float32)).squeeze(1).numpy()
    return SimpleNamespace(path=path, frame=frame, gpas=gpas)


@pytest.fixture
def here(expected, workplace) -> SimpleNamespace:
    """An empty current folder, but for the checkpoint and the table."""
    os.link(expected.path, workplace / "last.ckpt")
    expected.frame.to_csv("students.csv", index=False)
    return expected


def predict(*args: str, source: str = "students.csv", output: str = "predictions.csv") -> int:
    return main(["--ckpt_path", "last.ckpt", "--input", source, "--output", output, *args])


def same_gpas(found: object, expected: np.ndarray) -> None:
    found = np.asarray(found, np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def files() -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path().iterdir()}


def refused(capsys, message: str, *args: str, **paths: str) -> None:
    before = files()
    assert predict(*args, **paths) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out
    assert files() == before


def changed(name: str, **changes) -> None:
    """Change entries of the checkpoint, or of a dictionary in it; None takes one out."""
    checkpoint = torch.load("last.ckpt", weights_only=True)
    target = checkpoint[name] if name else checkpoint
    target.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del target[key]
    Path("last.ckpt").unlink()
    torch.save(checkpoint, "last.ckpt")


# The right predictions


@pytest.mark.slow
def test_script_predicts_in_a_process_of_its_own(here):
    flags = ("--ckpt_path", "last.ckpt", "--input", "students.csv", "--output", "predictions.csv")
    done = run(SCRIPT, *flags)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("537 rows written to predictions.csv; the checkpoint was trained")
    assert done.stdout.endswith("students.csv', 537 rows\n")
    assert done.stdout.count("\n") == 1
    written = pd.read_csv("predictions.csv", dtype=str)
    same_gpas(written.pop("predicted_gpa"), here.gpas)
    pd.testing.assert_frame_equal(written, here.frame)


def test_columns_are_matched_by_name_and_all_are_kept(here):
    frame = here.frame.drop(columns="gpa")[list(FEATURES[::-1])].rename(columns=str.upper)
    frame.insert(3, "name", 'Zoë, "Zo"\nDoe')
    frame.insert(0, "id", [f"{i:06}" for i in range(len(frame))])
    frame["remark"] = ""
    frame.to_csv("students.csv", index=False)
    assert predict() == 0
    written = pd.read_csv("predictions.csv", dtype=str, keep_default_na=False)
    assert list(written) == [*frame, "predicted_gpa"]
    same_gpas(written.pop("predicted_gpa"), here.gpas)
    pd.testing.assert_frame_equal(written, frame)


def test_file_without_header_is_in_the_published_layout(here):
    here.frame.to_csv("students.csv", index=False, header=False)
    assert predict() == 0
    written = pd.read_csv("predictions.csv")
    assert list(written) == [*FEATURES, "gpa", "predicted_gpa"]
    same_gpas(written["predicted_gpa"], here.gpas)


@pytest.mark.parametrize("read", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("written", ["csv", "CSV.GZ", "parquet"])
def test_every_format_is_read_and_written(here, read, written):
    numbers = here.frame.astype(float).assign(name="Zoë", age=20)
    source, result = f"in.{read}", f"out.{written}"
    numbers.to_parquet(source) if read == "parquet" else numbers.to_csv(source, index=False)
    assert predict(source=source, output=result) == 0
    again = pd.read_parquet(result) if written == "parquet" else pd.read_csv(result)
    same_gpas(again.pop("predicted_gpa"), here.gpas)
    if written == "parquet" and read != "parquet":
        assert all(pd.api.types.is_string_dtype(kind) for kind in again.dtypes)
        again = again.astype(numbers.dtypes)
    pd.testing.assert_frame_equal(again, numbers)


def test_a_folder_of_parquet_files_is_one_table(here):
    numbers = here.frame.astype(float)
    for number, part in enumerate(np.array_split(np.arange(len(numbers)), 3)):
        Path(f"students/year={number}").mkdir(parents=True)
        columns = [*numbers.columns][:: -1 if number else 1]
        numbers.loc[part, columns].to_parquet(f"students/year={number}/part.parquet", index=False)
    for output in ("predictions.csv", "predictions.parquet"):
        assert predict(source="students", output=output) == 0
    written = pd.read_csv("predictions.csv")
    assert [*written.columns] == ["year", *numbers.columns, "predicted_gpa"]
    same_gpas(written["predicted_gpa"], here.gpas)
    same_gpas(pd.read_parquet("predictions.parquet")["predicted_gpa"], here.gpas)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_comes_by_standard_input(here, kind, monkeypatch, capsys):
    here.frame.astype(float).to_parquet("students.parquet", index=False)
    content = io.BytesIO(Path(f"students.{kind}").read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    assert predict(source="-") == 0
    same_gpas(pd.read_csv("predictions.csv")["predicted_gpa"], here.gpas)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a,b\n1,2\n")))
    capsys.readouterr()
    assert predict(source="-", output="others.csv") == 2
    assert capsys.readouterr().err.startswith("error: standard input: there is no column 'physics'")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_row_that_lacks_a_value_gets_no_prediction_and_the_others_theirs(here, kind, caplog):
    frame = here.frame.copy()
    frame.loc[[4, 9], "math"] = None
    frame.loc[9, "physics"] = "NA" if kind == "csv" else None
    frame.loc[11, "gpa"] = None  # which nothing is predicted from
    if kind == "csv":
        frame.to_csv("gaps.csv", index=False)
    else:
        frame.astype(float).to_parquet("gaps.parquet", index=False)
    place = "line 6" if kind == "csv" else "row 5"
    for output in ("predictions.csv", "predictions.parquet"):
        caplog.clear()
        assert predict(source=f"gaps.{kind}", output=output) == 0
        assert caplog.messages == [
            f"gaps.{kind}: 2 of 537 rows lack a value and get no prediction, the first in {place}"
        ]
    for written in (pd.read_csv("predictions.csv"), pd.read_parquet("predictions.parquet")):
        found = written["predicted_gpa"]
        assert [*np.flatnonzero(found.isna())] == [4, 9]
        same_gpas(found.drop([4, 9]), np.delete(here.gpas, [4, 9]))


def test_decimal_commas_stay_decimal_commas(here):
    numbers = here.frame.astype(float).assign(name="Zoë; Zo")
    numbers.to_csv("students.csv", index=False, sep=";", decimal=",")
    assert predict() == 0
    written = pd.read_csv("predictions.csv", sep=";", decimal=",")
    same_gpas(written.pop("predicted_gpa"), here.gpas)
    pd.testing.assert_frame_equal(written, numbers)


def test_100_000_rows_are_predicted_in_blocks(here):
    numbers = here.frame.astype(float)
    rows = np.random.default_rng(0).integers(len(numbers), size=100_000)
    numbers.iloc[rows].to_parquet("students.parquet", index=False)
    assert predict(source="students.parquet", output="out.parquet") == 0
    gpas = pd.read_parquet("out.parquet")["predicted_gpa"]
    assert gpas.dtype == "float32"
    same_gpas(gpas, here.gpas[rows])


def test_double_precision_training_predicts_the_same_way(table, here):
    trained(Path("last.ckpt"), GPADataModule(path=str(table)), precision="64-true")
    assert predict("--accelerator", "cpu") == 0
    assert pd.read_csv("predictions.csv")["predicted_gpa"].between(-10, 10).all()


def test_code_that_the_command_line_records_is_not_imported(here):
    changed("hyper_parameters", _instantiator="no_such_module.run", _class_path="no.such.Class")
    assert predict() == 0


def test_synthetic_data_are_named_loudly(here, capsys):
    trained(Path("last.ckpt"), GPADataModule("synthetic", batch_size="full"), limit_val_batches=0)
    assert predict() == 0
    out, _ = capsys.readouterr()
    assert "trained on SYNTHETIC DATA, NOT ON REAL STUDENTS" in out
    assert out.count("\n") == 1


def test_a_new_process_imports_no_more_than_it_needs(here):
    program = """
import sys
from gpa_lightning.commands.program import main

main(["--help"])
assert "torch" not in sys.modules
main(["predict", *sys.argv[1:]])
print({"lightning", "sklearn", "tensorboard", "torch", "torchmetrics"} & sys.modules.keys())
"""
    flags = ["--ckpt_path", "last.ckpt", "--input", "students.csv", "--output", "predictions.csv"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = run_anew("-c", program, *flags, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("\n{'torch'}\n")
    assert Path("predictions.csv").exists()


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--input students.csv --output predictions.csv\n" in capsys.readouterr().out


# Output: all or nothing


def test_existing_output_is_replaced_on_request_only(here, capsys):
    Path("predictions.csv").write_text("precious")
    Path("last.ckpt").unlink()
    refused(capsys, "predictions.csv: is there already; --overwrite replaces it")
    assert Path("predictions.csv").read_text() == "precious"
    os.link(here.path, "last.ckpt")
    assert predict("--overwrite") == 0
    assert len(pd.read_csv("predictions.csv")) == len(here.frame)


def test_input_is_never_replaced(here, capsys):
    refused(
        capsys,
        "students.csv: is the input",
        "--overwrite",
        output=f"../{Path().resolve().name}/students.csv",
    )
    Path("link.csv").symlink_to("students.csv")
    refused(capsys, "link.csv: is the input", "--overwrite", output="link.csv")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("predictions.xlsx", "is not named .csv, .csv.gz or .parquet"),
        ("no/predictions.csv", "cannot be written: No such file or directory"),
        ("folder.csv", "is not a regular file"),
    ],
)
def test_impossible_output_is_refused(here, capsys, output, message):
    Path("folder.csv").mkdir()
    refused(capsys, f"{output}: {message}", "--overwrite", output=output)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_full_disk_leaves_the_old_output_as_it_was(here, capsys, suffix, monkeypatch):
    resource = pytest.importorskip("resource")
    # Python would write the first bytes of its bytecode files, and trust them ever after
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    output = f"predictions.{suffix}"
    Path(output).write_text("precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        refused(capsys, f"{output}: cannot be written: ", "--overwrite", output=output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path(output).read_text() == "precious"


# Input


def test_column_of_predictions_in_the_input_is_refused(here, capsys):
    here.frame.assign(Predicted_GPA="3").to_csv("students.csv", index=False)
    refused(capsys, "students.csv: there is a column 'predicted_gpa' already; leave it out")


def test_bad_tables_are_refused(here, capsys):
    refused(capsys, "no.csv: there is no such file", source="no.csv")
    here.frame.drop(columns="math").to_csv("missing.csv", index=False)
    refused(capsys, "missing.csv: there is no column 'math'", source="missing.csv")
    frame = here.frame.copy()
    frame.loc[100, "history"] = "absent"
    frame.to_csv("text.csv", index=False)
    refused(capsys, "text.csv, line 102, column 'history': 'absent'", source="text.csv")
    frame.assign(history="absent").to_csv("text.csv", index=False)
    refused(
        capsys,
        "text.csv, column 'history': holds text ('absent' in line 2), not",
        source="text.csv",
    )
    frame[["math", "physics"]].to_csv("two.csv", index=False)
    refused(capsys, "two.csv: there is no column 'biology', 'history'", source="two.csv")


def test_prediction_that_is_not_a_number_is_refused(here, capsys):
    frame = here.frame.copy()
    frame.loc[2, :] = "3e38"
    frame.to_csv("absurd.csv", index=False)
    changed("state_dict", **{"network.layers.fc2.weight": torch.full((1, 4), 1e30)})
    refused(capsys, "absurd.csv, row 3: the prediction is inf; its scores", source="absurd.csv")
    changed("state_dict", **{"network.layers.fc2.weight": torch.full((1, 4), torch.nan)})
    refused(capsys, "students.csv, row 1: the prediction is nan; its scores are out of all range")


def test_flags_are_checked(here, capsys, monkeypatch):
    refused(capsys, "accelerator", "--accelerator", "abacus")
    refused(capsys, "--batch_size", "--batch_size", "3")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    refused(capsys, "--accelerator gpu: there is no GPU", "--accelerator", "gpu")
    assert main([]) == 2
    assert "ckpt_path" in capsys.readouterr().err


# Checkpoint


def test_malicious_checkpoint_is_refused_and_runs_nothing(here, capsys):
    changed("", callbacks=Malicious(Path("victim").resolve()))
    refused(capsys, "last.ckpt: refused, since it holds more than numbers")
    assert not {"victim", "predictions.csv"} & files().keys()


def test_checkpoint_without_its_data_is_refused(here, capsys):
    changed("", GPADataModule={})
    refused(capsys, "last.ckpt: not a checkpoint of this project; give one that")


def test_unreadable_checkpoints_are_refused(here, capsys):
    whole = Path("last.ckpt").read_bytes()
    Path("last.ckpt").unlink()
    refused(capsys, "last.ckpt: cannot be read: No such file")
    Path("last.ckpt").write_bytes(whole[:-100])
    refused(capsys, "last.ckpt: not a checkpoint, or a damaged one")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("", {"state_dict": None}),
        ("", {"hyper_parameters": None}),
        ("GPADataModule", {"mean": None}),
        ("GPADataModule", {"scale": torch.ones(8)}),
        ("GPADataModule", {"provenance": {"kind": "file"}}),
        ("GPADataModule", {"feature_names": list("abcdefgh")}),
        ("hyper_parameters", {"in_features": 8}),
        ("hyper_parameters", {"hidden_sizes": (10**12, 10**30)}),
        ("hyper_parameters", {"hidden_sizes": "all"}),
        ("state_dict", {"network.layers.fc1.bias": None}),
        ("state_dict", {"network.layers.fc1.bias": "a tensor"}),
        ("state_dict", {"network.layers.fc3.bias": torch.zeros(1)}),
    ],
)
def test_checkpoint_that_contradicts_itself_is_refused(here, capsys, name, changes):
    changed(name, **changes)
    refused(capsys, "last.ckpt: is incomplete or contradicts itself")
