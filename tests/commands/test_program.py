"""``gpa-lightning``: all commands under one name."""

import subprocess
import sys

import pytest
from processes import run

from gpa_lightning import __version__
from gpa_lightning.commands.program import COMMANDS, LIGHTNINGS, main

SMALL = ["--model.hidden_sizes", "[8]", "--max_epochs", "1", "--trainer.accelerator", "cpu"]


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_its_help_names_every_command(args, capsys):
    assert main(args) == 0
    output = capsys.readouterr().out
    for name in (*COMMANDS, *LIGHTNINGS):
        assert f"  {name} " in output


def test_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["gpa-lightning", __version__]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("validat", "did you mean validate?"),
        ("--versoin", "did you mean --version?"),
        ("nonsense", "choose from compare, completion"),
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


# what bash does when Tab is pressed behind the words that it is given
TAB = """
source completion.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p gpa-lightning | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
echo "${COMPREPLY[@]}"
"""


def test_a_shell_completes_commands_flags_and_values(workplace, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (workplace / "completion.bash").write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        command = ["bash", "-c", TAB, "bash", "gpa-lightning", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert {*COMMANDS, *LIGHTNINGS} == {*completed("")}
    assert completed("pre") == ["predict"]
    assert completed("train", "--max_ep") == ["--max_epochs"]
    assert completed("train", "--model.dro") == ["--model.dropout"]
    assert {*completed("compare", "--see")} == {"--seed_everything", "--seeds"}
    assert completed("study", "poly") == ["polynomial"]
    assert completed("export", "--format", "") == ["onnx", "pt2"]


def test_completion_refuses_in_a_line(capsys, monkeypatch):
    assert main(["completion", "cmd"]) == 2
    assert "bash" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)  # as Python has one that is not to be had
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "error: completion: needs shtab: pip install shtab\n"


@pytest.mark.slow
def test_without_installing(tmp_path):
    result = run("-m", "gpa_lightning", "--version")
    assert (result.returncode, result.stdout.split()) == (0, ["gpa-lightning", __version__])
