"""What version 0.1.0 has left behind still works: a checkpoint, and the configuration of a run.

The folder ``version_0_1_0`` holds both, of a run on `HOUSES` with a network of four units; the
checkpoint as text, its tensors as lists or packed bytes.
"""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from runs import run_folder

from gpa_lightning import GPARegressor
from gpa_lightning.commands.cli import main
from gpa_lightning.commands.predict import main as predict
from gpa_lightning.commands.train import train

WRITTEN = Path(__file__).parent / "version_0_1_0"
ROWS = "\n".join(f"{i},{i * 7 % 13},{i % 5}" for i in range(60))
HOUSES = f"width,height,price\n{ROWS}\n"
CONFIG = ["--config", str(WRITTEN / "config.yaml")]
LAST = "checkpoints/last.ckpt"


def unpacked(value):
    """Undo how the checkpoint is written down as JSON."""
    if isinstance(value, list):
        return [unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {unpacked(key): unpacked(each) for key, each in value["dict"]}
    if "tuple" in value:
        return tuple(unpacked(each) for each in value["tuple"])
    dtype = getattr(torch, value["tensor"])
    if "values" in value:
        return torch.tensor(value["values"], dtype=dtype)
    content = zlib.decompress(base64.b64decode(value["packed"]))
    return torch.from_numpy(np.frombuffer(content, value["tensor"]).copy())


@pytest.fixture
def checkpoint(workplace) -> str:
    """The checkpoint, after two epochs, in an empty folder with the table."""
    Path("houses.csv").write_text(HOUSES)
    torch.save(unpacked(json.loads((WRITTEN / "checkpoint.json").read_text())), "old.ckpt")
    return "old.ckpt"


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_configuration_repeats_the_run(checkpoint):
    assert train(CONFIG) == 0
    repeated = weights(run_folder() / LAST)
    for name, weight in weights(checkpoint).items():
        torch.testing.assert_close(repeated[name], weight)


def test_a_configuration_keeps_what_was_changed_in_it(checkpoint):
    text = (WRITTEN / "config.yaml").read_text().replace("execution: 256", "execution: 3")
    Path("changed.yaml").write_text(text)
    assert train(["--config=changed.yaml", "--max_epochs", "1"]) == 0
    saved = (run_folder() / "config.yaml").read_text()
    assert "steps_per_execution: 3" in saved
    assert "gpa_lightning.callbacks.WeightNorms" in saved


def test_a_run_goes_on_from_a_checkpoint(checkpoint):
    longer = [*CONFIG, "--max_epochs", "4"]
    assert train([*longer, "--ckpt_path", checkpoint]) == 0
    assert train(longer) == 0
    resumed, whole = (weights(run_folder(n) / LAST) for n in (0, 1))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight)


def test_a_checkpoint_predicts_and_is_tested(checkpoint, capsys):
    flags = ["--ckpt_path", checkpoint, "--input", "houses.csv", "--output", "prices.csv"]
    assert predict(flags) == 0
    model = GPARegressor.load_from_checkpoint(checkpoint, weights_only=True).eval()
    scaler = torch.load(checkpoint, weights_only=True)["GPADataModule"]
    scores = pd.read_csv("houses.csv")[["width", "height"]].to_numpy(float)
    scaled = (scores - scaler["mean"].numpy()) / scaler["scale"].numpy()
    with torch.no_grad():
        expected = model(torch.tensor(scaled, dtype=torch.float32)).squeeze(1)
    found = pd.read_csv("prices.csv")["predicted_price"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    capsys.readouterr()
    assert main(["test", "--data.path", "houses.csv", "--ckpt_path", checkpoint]) == 0
    assert "7.298" in capsys.readouterr().out
