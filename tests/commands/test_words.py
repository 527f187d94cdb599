"""The words of the command line: what is short for what, what is refused, and how."""

import pytest
import yaml

from gpa_lightning.commands.run_names import short_name
from gpa_lightning.commands.train import train

SHORT = {
    "hidden_sizes": ("model", "64,32"),
    "dropout": ("model", "0.25"),
    "learning_rate": ("model", "0.01"),
    "penalty": ("model", "l2"),
    "penalty_weight": ("model", "0.5"),
    "batch_size": ("data", "full"),
    "patience": ("early_stopping", "7"),
    "accelerator": ("trainer", "cpu"),
    "devices": ("trainer", "1"),
    "strategy": ("trainer", "ddp"),
    "num_nodes": ("trainer", "1"),
    "precision": ("trainer", "bf16-mixed"),
    "max_epochs": ("trainer", "9"),
}


def parsed(flags, capsys):
    """What a command line means, as ``--print_config`` shows it."""
    with pytest.raises(SystemExit, match="0"):
        train([*flags, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


class TestShortFlags:
    @pytest.mark.parametrize("form", ["{} {}", "{}={}"])
    def test_they_are_the_long_ones(self, form, workplace, capsys):
        def flags(long):
            pairs = ((f"{owner}.{name}", value) for name, (owner, value) in SHORT.items())
            names = pairs if long else ((name, value) for name, (_, value) in SHORT.items())
            return [word for pair in names for word in form.format(*pair).split()]

        def dashed(words):
            return [f"--{word}" if word.partition("=")[0] in names else word for word in words]

        names = {*SHORT, *(f"{owner}.{name}" for name, (owner, _) in SHORT.items())}
        short = parsed(dashed(flags(long=False)), capsys)
        assert short == parsed(dashed(flags(long=True)), capsys)
        assert short["model"]["hidden_sizes"] == [64, 32]
        assert short["model"]["dropout"] == 0.25
        assert short["data"]["batch_size"] == "full"
        assert short["early_stopping"]["init_args"]["patience"] == 7
        assert short["trainer"]["max_epochs"] == 9

    @pytest.mark.parametrize("name", SHORT)
    def test_a_run_has_the_same_name(self, name):
        owner, value = SHORT[name]
        long = short_name([f"--{owner}.{name}", value])
        assert short_name([f"--{name}", value]) == short_name([f"--{name}={value}"]) == long

    def test_of_a_short_flag_and_a_long_one_the_last_names_the_run(self):
        assert short_name(["--dropout", "0.1", "--model.dropout", "0.2"]) == "dropout=0.2"

    @pytest.mark.parametrize(
        ("given", "sizes"),
        [("64,64", [64, 64]), ("64, 32,", [64, 32]), ("64", [64]), ("[8]", [8]), ("[]", [])],
    )
    def test_sizes_may_be_parted_by_commas(self, given, sizes, workplace, capsys):
        assert parsed(["--hidden_sizes", given], capsys)["model"]["hidden_sizes"] == sizes

    def test_a_value_that_looks_like_sizes_stays_as_it_is(self, workplace, capsys):
        assert parsed(["--name", "64,64"], capsys)["name"] == "64,64"
