"""A student edits a copy of the lesson: the edit takes effect, as under plain Lightning."""

import shutil

import pytest
import torch
from processes import PROJECT, run

PROGRAM = """
import sys
from gpa_lightning.commands.train import train

assert train(sys.argv[1:]) == 0
assert train([*sys.argv[1:], "--fast_training", "null"]) == 0
"""
FLAGS = ("--model.hidden_sizes", "[64,32]", "--accelerator", "cpu", "--max_epochs", "2")
EDITS = {
    "nothing": ("network.py", "", ""),
    "tanh": ("network.py", "nn.ReLU()", "nn.Tanh()"),
    "batch norm": ("network.py", "nn.ReLU()", "nn.BatchNorm1d(outputs)"),
    "output": ("network.py", "self.layers(x)", "4 * self.layers(x).sigmoid()"),
    "loss": ("regressor.py", "batch_mse(self, x, y)", "(self(x) - y).abs().mean()"),
    "forward": ("regressor.py", "self.network(x)", "4 * self.network(x).sigmoid()"),
}


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """Train with an edited copy, and plainly with the same; return both runs' last weights."""
    done = {}

    def get(edit):
        if edit not in done:
            folder = tmp_path_factory.mktemp("student")
            shutil.copytree(PROJECT / "gpa_lightning", folder / "gpa_lightning")
            file, old, new = EDITS[edit]
            path = folder / "gpa_lightning" / file
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
            program = folder / "program.py"
            program.write_text(PROGRAM)
            result = run(program, "--data.path", table, *FLAGS, cwd=folder)
            assert result.returncode == 0, result.stderr
            done[edit] = [
                torch.load(path, weights_only=True)["state_dict"]
                for path in sorted(folder.glob("lightning_logs/*/checkpoints/last.ckpt"))
            ]
        return done[edit]

    return get


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_takes_effect(edit, trained):
    fast, plain = trained(edit)
    assert fast.keys() == plain.keys()
    for name, weight in plain.items():
        assert torch.equal(fast[name], weight), name
    if edit != "nothing":
        (unedited, _) = trained("nothing")
        assert not torch.equal(fast["network.layers.fc1.bias"], unedited["network.layers.fc1.bias"])
