"""``gpa-lightning``: all commands under one name."""

import pytest
from processes import run

from gpa_lightning.commands.program import COMMANDS, LIGHTNINGS, main
from gpa_lightning.resuming.checkpoint import VERSION

SMALL = ["--model.hidden_sizes", "[8]", "--max_epochs", "1", "--trainer.accelerator", "cpu"]


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_its_help_names_every_command(args, capsys):
    assert main(args) == 0
    output = capsys.readouterr().out
    for name in (*COMMANDS, *LIGHTNINGS):
        assert f"  {name} " in output


def test_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["gpa-lightning", VERSION]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("--versoin", "did you mean --version?"),
        ("nonsense", "choose from compare, export"),
    ],
)
def test_a_command_that_there_is_not(name, hint, capsys):
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: there is no command {name}; {hint}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", [*COMMANDS, *LIGHTNINGS])
def test_each_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert "usage:" in capsys.readouterr().out


def test_what_train_has_saved_is_tested_and_predicts(table, workplace, capsys):
    data = ["--data.path", str(table)]
    assert main(["train", *data, *SMALL]) == 0
    (best,) = workplace.glob("lightning_logs/*/checkpoints/best*.ckpt")
    assert main(["test", *data, "--ckpt_path", str(best)]) == 0
    flags = ["--ckpt_path", str(best), "--input", str(table), "--output", "gpas.csv"]
    assert main(["predict", *flags]) == 0
    assert len((workplace / "gpas.csv").read_text().splitlines()) == 538


@pytest.mark.slow
def test_without_installing(tmp_path):
    result = run("-m", "gpa_lightning", "--version")
    assert (result.returncode, result.stdout.split()) == (0, ["gpa-lightning", VERSION])
