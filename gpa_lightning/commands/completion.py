"""``gpa-lightning completion``: what lets a shell complete commands, flags and their values."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from jsonargparse import ArgumentParser, capture_parser

from gpa_lightning.commands import export, predict
from gpa_lightning.commands.arguments import SHORT_FLAGS
from gpa_lightning.commands.compare import compare_parser
from gpa_lightning.commands.program import COMMANDS, LIGHTNINGS
from gpa_lightning.commands.quiet import quieten_third_parties
from gpa_lightning.commands.refusal import refuse
from gpa_lightning.commands.study import study_parser
from gpa_lightning.commands.train import TrainCLI

Shell = Literal["bash", "fish", "zsh"]


def main(args: Sequence[str] | None = None) -> int:
    """Run ``gpa-lightning completion``.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    parser = ArgumentParser(
        prog="gpa-lightning completion",
        description="Print a script that lets a shell complete gpa-lightning's commands and flags.",
        epilog='example: eval "$(gpa-lightning completion bash)"',
        exit_on_error=False,
    )
    parser.add_argument("shell", type=Shell, help="the shell that is to run the script")
    quieten_third_parties()
    try:
        print(completion_script(parser.parse_args(args).shell))  # noqa: T201
    except ArgumentError as error:
        return refuse(error)
    return 0


def completion_script(shell: Shell) -> str:
    """Return a script that completes every command, and the flags of all but Lightning's.

    Raises:
        ArgumentError: If shtab is not installed, which writes it.
    """
    if not find_spec("shtab"):
        raise ArgumentError(None, "completion: needs shtab: pip install shtab")
    train = capture_parser(TrainCLI, [], run=False)
    for short in SHORT_FLAGS:
        train.add_argument(f"--{short}")
    both = [compare_parser(), train]  # it takes the flags of all settings, too
    parsers = {
        "train": train,
        "predict": capture_parser(predict.main, []),
        "export": capture_parser(export.main, []),
        "compare": ArgumentParser(parents=both, add_help=False, conflict_handler="resolve"),
        "study": study_parser(),
    }
    program = ArgumentParser(prog="gpa-lightning")
    commands = program.add_subcommands()
    texts = {name: text for name, (_, text) in COMMANDS.items()} | LIGHTNINGS
    for name, text in texts.items():
        commands.add_subcommand(name, parsers.get(name, ArgumentParser()), help=text)
    return program.get_completion_script(f"shtab-{shell}")
