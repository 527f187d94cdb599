"""One file that takes raw scores: it predicts as `predict` does, and what is refused."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from processes import PROJECT, run
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands import predict
from gpa_lightning.commands.export import main
from gpa_lightning.data.table import FEATURES

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", (PROJECT / "docs/export.md").read_text(), re.M | re.S
)


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory) -> Path:
    """A checkpoint of a small network with dropout."""
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    torch.manual_seed(0)
    model = GPARegressor(hidden_sizes=(8, 4), dropout=0.5)
    fit(model, GPADataModule(path=str(table)), epochs=1).save_checkpoint(path)
    return path


@pytest.fixture
def here(trained: Path, table: Path, workplace: Path) -> Path:
    os.link(trained, workplace / "last.ckpt")
    os.link(table, workplace / "students.csv")
    return workplace


def exported(kind: str, *args: str, output: str = "") -> int:
    return main(
        ["--ckpt_path", "last.ckpt", "--format", kind, "--output", output or f"gpa.{kind}", *args]
    )


def predicted(table: str, output: str) -> np.ndarray:
    flags = [
        "--ckpt_path",
        "last.ckpt",
        "--input",
        table,
        "--output",
        output,
        "--accelerator",
        "cpu",
    ]
    assert predict.main(flags) == 0
    return pd.read_parquet(output)["predicted_gpa"].to_numpy()


def loaded(kind: str):
    """What computes GPAs from scores, and the names of its columns, by the format's own reader."""
    if kind == "pt2":
        extra = {"feature_names": ""}
        program = torch.export.load("gpa.pt2", extra_files=extra).module()
        return lambda x: program(torch.from_numpy(x)).detach().numpy(), json.loads(
            extra["feature_names"]
        )
    session = pytest.importorskip("onnxruntime").InferenceSession("gpa.onnx")
    (scores,), (gpas,) = session.get_inputs(), session.get_outputs()
    assert (scores.name, scores.shape, scores.type) == ("scores", ["batch", 9], "tensor(double)")
    assert (gpas.name, gpas.shape, gpas.type) == ("gpas", ["batch", 1], "tensor(float)")
    names = json.loads(session.get_modelmeta().custom_metadata_map["feature_names"])
    return lambda x: session.run(None, {"scores": x})[0], names


def needs(kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_it_predicts_as_predict_does_for_any_number_of_rows(here, kind, capfd):
    needs(kind)
    assert exported(kind) == 0
    out, err = capfd.readouterr()
    assert out.startswith(
        f"gpa.{kind} takes {', '.join(FEATURES)}, in this order; the checkpoint was"
    )
    assert (out.count("\n"), err) == (1, "")
    assert {path.name for path in here.iterdir()} == {"last.ckpt", "students.csv", f"gpa.{kind}"}

    expected = predicted("students.csv", "out.parquet")
    compute, names = loaded(kind)
    assert names == list(FEATURES)
    scores = pd.read_csv("students.csv")[names].to_numpy(float)
    for rows in (0, 1, 2, 537):
        gpas = compute(scores[:rows])
        assert (gpas.shape, gpas.dtype) == ((rows, 1), np.float32)
        np.testing.assert_allclose(gpas[:, 0], expected[:rows], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_in_a_process_of_its_own_it_says_one_line(here, kind):
    needs(kind)
    flags = ("--ckpt_path", "last.ckpt", "--format", kind, "--output", f"gpa.{kind}")
    done = run(PROJECT / "scripts/export.py", *flags)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_lectures_network_on_the_real_table(real_table, workplace, kind):
    needs(kind)
    torch.manual_seed(0)
    data = GPADataModule(path=real_table)
    fit(GPARegressor(), data, epochs=1).save_checkpoint("last.ckpt")
    assert exported(kind) == 0
    expected = predicted(real_table, "out.parquet")
    compute, names = loaded(kind)
    scores = pd.read_parquet("out.parquet")[names].to_numpy(float)
    assert np.abs(compute(scores)[:, 0] - expected).max() < 1e-5


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_page(here, example, capsys):
    kind = "pt2" if "gpa.pt2" in example else "onnx"
    needs(kind)
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    assert "gpa_lightning" not in example
    assert exported(kind) == 0
    found: dict[str, np.ndarray] = {}
    exec(compile(example, "export.md", "exec"), found)
    gpas = np.asarray(found["gpas"].detach() if kind == "pt2" else found["gpas"])[:, 0]
    np.testing.assert_allclose(gpas, predicted("students.csv", "out.parquet"), atol=1e-5)


def refused(capsys, message: str, kind: str = "pt2", *args: str, output: str = "") -> None:
    before = {path.name: path.stat().st_mtime_ns for path in Path().iterdir()}
    assert exported(kind, *args, output=output) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert message in err
    assert (err.count("\n"), out) == (1, "")
    assert {path.name: path.stat().st_mtime_ns for path in Path().iterdir()} == before


def test_a_missing_package_is_named(here, capsys, monkeypatch):
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)  # as Python has one that is not to be had
    refused(capsys, "--format onnx: needs onnx and onnxscript: pip install onnx onnxscript", "onnx")


def test_outputs_that_cannot_be_are_refused(here, capsys):
    refused(capsys, "gpa.onnx: is not named .pt2, as the format is", output="gpa.onnx")
    refused(capsys, "gpa: is not named .pt2", output="gpa")
    refused(capsys, "no/gpa.pt2: cannot be written: No such file", output="no/gpa.pt2")
    refused(capsys, "format", "tflite")


def test_an_existing_file_is_replaced_on_request_only(here, capsys):
    Path("gpa.pt2").write_text("precious")
    refused(capsys, "gpa.pt2: is there already; --overwrite replaces it")
    assert Path("gpa.pt2").read_text() == "precious"
    assert exported("pt2", "--overwrite") == 0
    assert loaded("pt2")[1] == list(FEATURES)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("victim"),)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("", {"callbacks": Malicious()}, "refused, since it holds more than numbers"),
        ("GPADataModule", {"scale": torch.ones(8)}, "is incomplete or contradicts itself"),
        (
            "GPADataModule",
            {"mean": torch.full((9,), torch.nan)},
            "the training that wrote it diverged",
        ),
        ("hyper_parameters", {"hidden_sizes": (10**12,)}, "is incomplete or contradicts itself"),
    ],
)
def test_hostile_checkpoints_are_refused(here, capsys, part, changes, message):
    checkpoint = torch.load("last.ckpt", weights_only=True)
    (checkpoint[part] if part else checkpoint).update(changes)
    Path("last.ckpt").unlink()
    torch.save(checkpoint, "last.ckpt")
    refused(capsys, f"last.ckpt: {message}")
    assert not Path("victim").exists()


def test_a_missing_checkpoint_is_refused(here, capsys):
    Path("last.ckpt").unlink()
    refused(capsys, "last.ckpt: cannot be read: No such file")


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_target_that_was_standardised_comes_in_its_own_units(table, workplace, kind):
    needs(kind)
    data = GPADataModule(path=str(table), target="math")
    model = GPARegressor(in_features=9, hidden_sizes=(8,))
    fit(model, data, epochs=1).save_checkpoint("last.ckpt")
    assert exported(kind) == 0
    flags = ["--input", str(table), "--output", "out.parquet", "--accelerator", "cpu"]
    assert predict.main(["--ckpt_path", "last.ckpt", *flags]) == 0
    expected = pd.read_parquet("out.parquet")["predicted_math"].to_numpy()
    assert 400 < expected.mean() < 700
    compute, names = loaded(kind)
    scores = pd.read_csv(table)[names].to_numpy(float)
    np.testing.assert_allclose(compute(scores)[:, 0], expected, rtol=1e-5)
