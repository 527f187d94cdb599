"""``gpa-lightning``: every command of the project under one name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from gpa_lightning import __version__
from gpa_lightning.commands.nearest import did_you_mean
from gpa_lightning.commands.refusal import refuse

# by name: where its function is, which is imported when it is called, and what it does
COMMANDS = {
    "train": ("train:train", "train the network, test it, and print a summary"),
    "predict": ("predict:main", "predict GPAs for a table, from a checkpoint"),
    "export": ("export:main", "export a checkpoint to ONNX or PyTorch's pt2"),
    "compare": ("compare:main", "train several settings on the same seeds, and compare them"),
    "study": ("study:main", "reproduce the lecture's claims"),
    "completion": ("completion:main", "print what lets a shell complete all this"),
}
LIGHTNINGS = {
    "fit": "train, and no more",
    "validate": "evaluate a checkpoint on the validation set",
    "test": "evaluate a checkpoint on the test set",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run ``gpa-lightning``: the command that its first argument names.

    Returns:
        The command's exit code; 2 if there is no such command.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(_help())  # noqa: T201
        return 0
    name, *rest = given
    if name == "--version":
        print(f"gpa-lightning {__version__}")  # noqa: T201
        return 0
    if name in LIGHTNINGS:
        return _function("cli:main")(given)
    if name not in COMMANDS:
        known = ["--help", "--version"] if name.startswith("-") else [*COMMANDS, *LIGHTNINGS]
        return refuse(f"there is no command {name}{did_you_mean(name, known, listed=False)}")
    place, _ = COMMANDS[name]
    return _function(place)(rest)


def _function(place: str) -> Callable[[Sequence[str]], int]:
    module, name = place.split(":")
    function: Callable[[Sequence[str]], int] = getattr(
        import_module(f"gpa_lightning.commands.{module}"), name
    )
    return function


def _help() -> str:
    lines = ["usage: gpa-lightning COMMAND ...", ""]
    lines += [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "  of Lightning's command line:"]
    lines += [f"  {name:<10} {text}" for name, text in LIGHTNINGS.items()]
    return "\n".join([*lines, "", "gpa-lightning COMMAND --help lists the flags of a command."])
